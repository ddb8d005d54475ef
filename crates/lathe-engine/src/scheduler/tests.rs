//! The scheduler under random traffic: its invariants at every step, and what it does in the cases that made it so.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn scheduler(max_tokens: usize, max_sequences: usize, context: usize, pages: usize) -> Scheduler {
    Scheduler::new(Limits {
        max_tokens,
        max_sequences,
        max_rows: max_sequences + 3,
        context,
        pages,
        swap_pages: 0,
    })
}

fn job(prompt: Vec<u32>, max_tokens: usize) -> Job {
    Job {
        longest: prompt.len() + max_tokens,
        prompt,
        samples: 1,
        scored: false,
        adapter: AdapterId::NONE,
        flow: Flow::default(),
    }
}

/// Prompts of a kind are all the same up to their end; kinds differ.
fn prompt(kind: u32, tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| kind * 1000 + i).collect()
}

/// Runs one step as an engine would: every sequence that may choose gets a token, and ends at its longest. Says who ended.
fn step(s: &mut Scheduler) -> (Plan, Vec<SequenceId>) {
    step_with(s, &mut Groups::new())
}

/// Beam searches: by the first sequence of each, how many beams it has, those whose logits are there, and the tokens that it may
/// have.
type Groups = BTreeMap<SequenceId, (usize, BTreeSet<SequenceId>, usize)>;

/// The same with beam searches: one goes on when the logits of all its beams are there, and some beams have several successors.
fn step_with(s: &mut Scheduler, groups: &mut Groups) -> (Plan, Vec<SequenceId>) {
    let plan = s.plan();
    check(s, &plan);
    s.done(&plan);
    let mut ended = vec![];
    for row in &plan.rows {
        if s.tokens(row.sequence).unwrap().len() > row.position + 1 {
            continue;
        }
        let group = groups.range_mut(..=row.sequence).next_back();
        if let Some((&first, (beams, there, longest))) = group
            && row.sequence < first.sample(*beams)
        {
            there.extend((0..row.samples).map(|i| row.sequence.sample(i)));
            if there.len() < *beams {
                continue;
            }
            there.clear();
            let ids = (0..*beams).map(|i| first.sample(i));
            let known = s.tokens(row.sequence).unwrap().len();
            assert!(ids.clone().all(|id| s.tokens(id).unwrap().len() == known), "beams are equally long");
            if known < *longest {
                // Fewer and fewer successors of more and more beams, all different.
                let next: Vec<(usize, u32)> = (0..*beams).map(|i| (i * i / *beams, 100 + i as u32)).collect();
                let tokens = |id| s.tokens(id).unwrap().to_vec();
                let expected =
                    next.iter().map(|(parent, token)| [tokens(first.sample(*parent)), vec![*token]].concat());
                let expected: Vec<Vec<u32>> = expected.collect();
                s.branch(first, *beams, &next);
                assert!(ids.zip(expected).all(|(id, expected)| s.tokens(id).unwrap() == expected));
            } else {
                ids.clone().for_each(|id| assert!(s.remove(id)));
                ended.extend(ids);
                groups.remove(&first);
            }
            continue;
        }
        for id in (0..row.samples).map(|i| row.sequence.sample(i)) {
            let longest = s.running.iter().chain(s.waiting.iter()).find(|s| s.id == id).unwrap().longest;
            if s.tokens(id).unwrap().len() < longest {
                // Samples differ.
                s.push(id, 7 + id.0 as u32);
            }
            if s.tokens(id).unwrap().len() >= longest {
                assert!(s.remove(id));
                ended.push(id);
            }
        }
    }
    (plan, ended)
}

fn check(s: &Scheduler, plan: &Plan) {
    let batch = &plan.batch;
    let limits = s.limits;
    assert!(batch.tokens.len() <= limits.max_tokens && batch.pages.len() <= limits.max_sequences);
    assert!(batch.rows.len() <= limits.max_rows.max(1));
    assert_eq!(batch.tokens.is_empty(), s.is_idle(), "a step does something while there is something to do");
    assert_eq!(batch.rows.len(), plan.rows.len());
    let (mut rows, mut written) = (plan.rows.iter().zip(&batch.rows), BTreeSet::new());
    for (row, &(id, end)) in plan.computed.iter().enumerate() {
        let sequence = s.running.iter().find(|s| s.id == id).expect("only running sequences are computed");
        let tokens: Vec<usize> =
            (0..batch.tokens.len()).filter(|&t| batch.sequence[t] as usize == row).collect();
        assert_eq!(tokens.len(), end - sequence.computed);
        assert!(!tokens.is_empty());
        assert_eq!(batch.pages[row], sequence.table.pages()[..end.div_ceil(PAGE)]);
        for (position, token) in (sequence.computed..end).zip(tokens) {
            assert_eq!(batch.position[token] as usize, position);
            assert_eq!(batch.tokens[token], sequence.known[position]);
            let page = batch.pages[row][position / PAGE];
            assert_eq!(batch.slot[token] as usize, page as usize * PAGE + position % PAGE);
            assert!(written.insert(batch.slot[token]), "two tokens are written to one slot");
            // The last known token's logits are wanted, and of a scored prompt all others' once.
            let last = position + 1 == sequence.known.len();
            if last || position >= sequence.rows_from {
                let (found, &at) = rows.next().expect("there is a row");
                assert_eq!((found.sequence, found.position, at as usize), (id, position, token));
                assert_eq!(found.samples, if last { sequence.samples } else { 1 });
            }
        }
    }
    assert!(rows.next().is_none());
    // Nobody writes where another reads.
    for page in written.iter().map(|slot| slot / PAGE as u32) {
        let holders = s.running.iter().filter(|s| s.table.pages().contains(&page)).count();
        assert_eq!(holders, 1, "a shared page is written");
    }
    let away: Vec<&Sequence> = s.waiting.iter().chain(&s.resting).collect();
    let stored = away.iter().flat_map(|s| s.stored.pages()).copied().collect::<BTreeSet<u32>>();
    let sound = |s: &Sequence| s.table.pages().is_empty() && s.computed == 0;
    assert!(away.into_iter().all(|s| sound(s) && s.stored.pages().len() == s.stored_tokens.div_ceil(PAGE)));
    assert!(s.running.iter().all(|s| s.stored.pages().is_empty() && s.stored_tokens == 0));
    let usage = s.below.usage();
    assert_eq!(
        (stored.len(), usage.held + s.below.free()),
        (usage.held, limits.swap_pages),
        "no page below is lost"
    );
    // Pages that go are read before any page is written, and no page comes back that goes in the same step.
    let reads: BTreeSet<u32> = plan.back.iter().map(|copy| copy.from).collect();
    assert!(plan.out.iter().all(|copy| !reads.contains(&copy.to)), "a page is overwritten before it is read");
    assert!(s.running.is_sorted_by_key(|s| s.id));
    let held: BTreeSet<u32> = s.running.iter().flat_map(|s| s.table.pages()).copied().collect();
    let usage = s.pages.usage();
    assert_eq!((held.len(), usage.held + s.pages.free()), (usage.held, limits.pages), "no page is lost");
    // Beams share pages; any of them may be the last that writes one.
    let room: usize = s.running.iter().map(|s| s.table.pages().len()).sum();
    let needed: usize = s.running.iter().map(|s| s.room().max(s.computed).div_ceil(PAGE)).sum();
    assert!(room <= needed, "at most the page of the next token is held and not written");
}

#[test]
fn prompts_come_in_chunks_and_share_steps_with_decoding() {
    let mut s = scheduler(8, 4, 100, 20);
    let a = s.add(job(vec![1; 3], 90)).unwrap();
    let b = s.add(job(vec![2; 10], 90)).unwrap();
    let tokens = |s: &mut Scheduler| step(s).0.batch.tokens;
    let chosen = |plan: &Plan| plan.rows.iter().map(|row| row.sequence).collect::<Vec<_>>();
    let (plan, _) = step(&mut s);
    assert_eq!((plan.batch.tokens.as_slice(), chosen(&plan)), (&[1, 1, 1, 2, 2, 2, 2, 2][..], vec![a]));
    let (plan, _) = step(&mut s);
    assert_eq!((plan.batch.tokens.as_slice(), chosen(&plan)), (&[7, 2, 2, 2, 2, 2][..], vec![a, b]));
    assert_eq!(tokens(&mut s), [7, 8]);
    assert!(s.remove(a) && !s.remove(a));
    assert_eq!(step(&mut s).0.batch.position, [11]);
}

#[test]
fn the_last_to_arrive_gives_way_and_comes_back_first() {
    let mut s = scheduler(64, 4, 100, 5);
    let a = s.add(job(prompt(1, 30), 4)).unwrap();
    let b = s.add(job(prompt(2, 30), 5)).unwrap();
    let c = s.add(job(prompt(3, 2), 1)).unwrap();
    let chosen = |(plan, _): (Plan, _)| plan.rows.iter().map(|row| row.sequence).collect::<Vec<_>>();
    assert_eq!(chosen(step(&mut s)), [a, b]);
    assert_eq!(chosen(step(&mut s)), [a, b]);
    // The next step's tokens need a page each, and one is left.
    assert_eq!(chosen(step(&mut s)), [a]);
    assert_eq!((s.load().running, s.load().waiting, s.load().preemptions), (1, 2, 1));
    assert_eq!(step(&mut s).1, [a]);
    // Of what it had computed it finds the full page again.
    let (plan, ended) = step(&mut s);
    assert_eq!((plan.batch.tokens.len(), ended), (32 - 16 + 2, vec![c]));
    (0..2).for_each(|_| assert_eq!(chosen(step(&mut s)), [b]));
    assert!(s.is_idle());
}

/// What gives way goes where that is cheaper than to compute it again, and comes back whole but for what the cache still has.
#[test]
fn pages_are_swapped_where_that_is_cheaper() {
    for (page_s, swaps) in [(1.0, true), (20.0, false)] {
        let mut s = Scheduler::new(Limits { swap_pages: 4, ..scheduler(64, 4, 100, 5).limits });
        s.set_costs(SwapCosts { write_s: page_s, read_s: page_s, token_s: 1.0 });
        let a = s.add(job(prompt(1, 30), 4)).unwrap();
        let b = s.add(job(prompt(2, 30), 5)).unwrap();
        (0..2).for_each(|_| drop(step(&mut s)));
        // Two pages of 32 tokens: 2 pages * 2 seconds or 32 tokens * 1 second.
        let (plan, _) = step(&mut s);
        assert_eq!((plan.out.len(), s.load().swap.held), if swaps { (2, 2) } else { (0, 0) });
        let (plan, ended) = step(&mut s);
        assert_eq!((ended, plan.back.len()), (vec![a], 0));
        // The full first page is still in the cache.
        let (plan, _) = step(&mut s);
        let tokens = if swaps { 1 } else { 32 - 16 };
        assert_eq!((plan.back.len(), plan.batch.tokens.len()), (usize::from(swaps), tokens));
        assert_eq!(s.load().swap.held, 0);
        assert!(s.remove(b) && s.is_idle());
    }
    // One that is cancelled while its pages are away gives them back.
    let mut s = Scheduler::new(Limits { swap_pages: 4, ..scheduler(64, 4, 100, 5).limits });
    s.set_costs(SwapCosts { token_s: 1.0, ..SwapCosts::default() });
    s.add(job(prompt(1, 30), 4)).unwrap();
    let b = s.add(job(prompt(2, 30), 5)).unwrap();
    (0..3).for_each(|_| drop(step(&mut s)));
    assert_eq!(s.load().swap.held, 2);
    assert!(s.remove(b) && s.load().swap.held == 0);
}

#[test]
fn prompts_that_can_never_be_served_are_refused() {
    let mut s = scheduler(8, 4, 40, 2);
    assert_eq!(s.add(job(vec![], 1)), Err(EngineError::EmptyPrompt));
    assert_eq!(s.add(job(vec![0; 40], 1)), Err(EngineError::PromptTooLong { tokens: 40, context: 40 }));
    assert_eq!(s.add(job(vec![0; 32], 1)), Err(EngineError::OutOfPages { needed: 3, pages: 2 }));
    assert!(s.is_idle() && s.add(job(vec![0; 31], 1)).is_ok() && s.add(job(vec![0; 32], 0)).is_ok());
}

/// Of `n` answers to one prompt, the prompt's full pages are shared, and nothing else is held.
#[test]
fn samples_use_exactly_the_pages_that_differ() {
    for (tokens, samples, generated) in
        [(512, 8, 64), (500, 8, 64), (37, 8, 128), (15, 3, 2), (16, 3, 1), (1, 8, 15), (31, 2, 33)]
    {
        let mut s = scheduler(600, 8, 1000, 500);
        s.add(Job { samples, ..job(prompt(1, tokens), generated) }).unwrap();
        let mut most = 0;
        while !s.is_idle() {
            let plan = s.plan();
            most = most.max(s.load().pages.held);
            s.done(&plan);
            for id in plan.rows.iter().flat_map(|row| (0..row.samples).map(|i| row.sequence.sample(i))) {
                s.push(id, id.0 as u32);
                if s.tokens(id).is_some_and(|known| known.len() == tokens + generated) {
                    s.remove(id);
                }
            }
        }
        // With one token each, the samples end before they part.
        let apart = if generated == 1 { 1 } else { samples };
        let exact = tokens / PAGE + apart * (tokens % PAGE + generated).div_ceil(PAGE);
        assert_eq!(most, exact, "{tokens} tokens, {generated} more, {samples} times");
    }
}

#[test]
fn a_prompt_that_was_computed_before_is_found() {
    let mut s = scheduler(600, 8, 1000, 100);
    let whole = |s: &mut Scheduler, tokens: Vec<u32>| {
        let longest = tokens.len() + 1;
        s.add(Job { longest, ..job(tokens, 1) }).unwrap();
        step(s).0.batch.tokens.len()
    };
    assert_eq!(whole(&mut s, prompt(1, 100)), 100);
    assert_eq!(whole(&mut s, prompt(1, 100)), 4);
    // The last token is computed again in any case.
    assert_eq!(whole(&mut s, prompt(1, 96)), 16);
    assert_eq!(whole(&mut s, prompt(1, 130)), 130 - 96);
    assert_eq!(whole(&mut s, prompt(2, 100)), 100);
    assert_eq!((s.load().prefix_tokens, s.load().prefix_hits), (526, 96 + 80 + 96));
    assert_eq!(s.load().pages.held, 0);
    // Where all tokens' logits are wanted, all are computed.
    s.add(Job { scored: true, ..job(prompt(1, 5), 0) }).unwrap();
    assert_eq!(step(&mut s).0.rows.len(), 4);
}

#[test]
fn flows_share_by_weight_and_none_waits_for_the_rest_of_another() {
    let mut s = scheduler(64, 1, 100, 8);
    let flow = |client, priority| Flow { client, priority };
    let add =
        |s: &mut Scheduler, flow| s.add(Job { flow, ..job(prompt(flow.client as u32, 10), 10) }).unwrap();
    let greedy: Vec<_> = (0..20).map(|_| add(&mut s, flow(1, 0))).collect();
    let mut order = vec![];
    let run = |s: &mut Scheduler, order: &mut Vec<SequenceId>, count| {
        while order.len() < count {
            order.extend(step(s).1);
        }
    };
    run(&mut s, &mut order, 3);
    let late: Vec<_> = (0..4).map(|_| add(&mut s, flow(2, 0))).collect();
    let urgent: Vec<_> = (0..4).map(|_| add(&mut s, flow(1, 2))).collect();
    run(&mut s, &mut order, 28);
    let place = |id: &SequenceId| order.iter().position(|other| other == id).unwrap();
    // The late client takes turns with the greedy one; the urgent flow is four times as fast.
    assert!(late.iter().map(place).is_sorted() && place(&late[3]) <= 3 + 4 + 9, "{order:?}");
    assert!(place(&urgent[3]) <= 3 + 4 + 3, "{order:?}");
    assert_eq!(greedy.iter().map(place).max(), Some(27));
}

/// Of beams, pages are shared as far as their tokens are the same and a page is full, and nothing else is held.
#[test]
fn beams_share_the_pages_of_what_they_have_in_common() {
    let mut s = scheduler(64, 4, 1000, 100);
    let first = s.add(Job { samples: 4, ..job(prompt(1, 40), 40) }).unwrap();
    let mut groups = Groups::from([(first, (4, BTreeSet::new(), 80))]);
    let mut shared = vec![];
    while !s.is_idle() {
        let plan = s.plan();
        s.done(&plan);
        let tables: Vec<&[u32]> = s.running.iter().map(|s| s.table.pages()).collect();
        let distinct: BTreeSet<u32> = tables.iter().flat_map(|t| t.iter().copied()).collect();
        shared.push((s.load().pages.held, distinct.len(), tables.len()));
        let known = s.tokens(first).unwrap().len();
        let ids: Vec<SequenceId> = (0..4).map(|i| first.sample(i)).collect();
        match known < 80 {
            // The best one has all successors in every tenth step: what the others had alone comes back.
            true => s.branch(
                first,
                4,
                &[0, 1, 2, 3].map(|i| (if known.is_multiple_of(10) { 0 } else { i }, 5 + i as u32)),
            ),
            false => ids.iter().for_each(|id| assert!(s.remove(*id))),
        }
    }
    groups.clear();
    assert!(shared.iter().all(|(held, distinct, _)| held == distinct), "{shared:?}");
    // At 40 and 80 known tokens: one table's pages; between, each beam has its own last page or two.
    assert_eq!(shared[0], (3, 3, 4));
    assert!(shared.iter().all(|(held, ..)| *held <= 80 / PAGE + 2 * 3), "{shared:?}");
    assert_eq!((s.load().preemptions, s.pages.free()), (0, 100));
}

#[derive(Clone, Debug)]
enum Action {
    Add { kind: u32, tokens: usize, more: usize, samples: usize, scored: bool, beams: bool, flow: (u64, i8) },
    Step(usize),
    Remove(u64),
    Fail,
}

fn action() -> impl Strategy<Value = Action> {
    let add = (0u32..3, 1usize..60, 0usize..50, 1usize..5, any::<(bool, bool)>(), (0u64..3, -1i8..2));
    prop_oneof![
        5 => add.prop_map(|(kind, tokens, more, samples, (scored, beams), flow)| {
            Action::Add { kind, tokens, more, samples, scored, beams, flow }
        }),
        6 => (1usize..6).prop_map(Action::Step),
        1 => (0u64..20).prop_map(Action::Remove),
        1 => Just(Action::Fail),
    ]
}

proptest! {
    /// Under any traffic each step is sound and within its bounds, whoever was there first goes on, everything ends, and all
    /// pages come back.
    #[test]
    fn everything_ends_and_nothing_leaks(
        actions in prop::collection::vec(action(), 0..60),
        (max_tokens, max_sequences, context, pages) in (1usize..40, 1usize..6, 2usize..70, 1usize..9),
        (swap_pages, write_s, read_s) in (0usize..12, 0.0f64..20.0, 0.0f64..20.0),
    ) {
        let limits = Limits { swap_pages, ..scheduler(max_tokens, max_sequences, context, pages).limits };
        let mut s = Scheduler::new(limits);
        s.set_costs(SwapCosts { write_s, read_s, token_s: 1.0 });
        let mut ids: Vec<(SequenceId, usize)> = Vec::new();
        let mut ended = BTreeSet::new();
        let mut all = BTreeSet::new();
        let mut groups = Groups::new();
        for action in actions {
            match action {
                Action::Add { kind, tokens, more, samples, scored, beams, flow: (client, priority) } => {
                    let flow = Flow { client, priority };
                    let added = s.add(Job { samples, scored, flow, ..job(prompt(kind, tokens), more) }).ok();
                    prop_assert_eq!(added.is_some(), tokens + usize::from(more > 0) <= s.longest());
                    ids.extend(added.map(|id| (id, samples)));
                    let longest = (tokens + more).min(s.longest());
                    groups.extend(added.filter(|_| beams).map(|id| (id, (samples, BTreeSet::new(), longest))));
                    all.extend(added.iter().flat_map(|id| (0..samples).map(move |i| id.sample(i))));
                }
                Action::Step(steps) => (0..steps).for_each(|_| ended.extend(step_with(&mut s, &mut groups).1)),
                Action::Remove(i) if !ids.is_empty() => {
                    let (id, samples) = ids[i as usize % ids.len()];
                    groups.remove(&id);
                    for id in (0..samples).map(|i| id.sample(i)) {
                        s.remove(id);
                        prop_assert!(s.tokens(id).is_none());
                        all.remove(&id);
                    }
                }
                Action::Remove(_) => {}
                Action::Fail => {
                    s.plan();
                    s.preempt_all();
                    prop_assert_eq!((s.pages.free(), s.load().pages.kept), (s.pages.total(), 0));
                }
            }
        }
        let mut steps = 0;
        while !s.is_idle() {
            ended.extend(step_with(&mut s, &mut groups).1);
            steps += 1;
            prop_assert!(steps < 20_000, "it never ends");
        }
        prop_assert!(all.is_subset(&ended), "all that was not taken back has ended");
        prop_assert_eq!((s.pages.free(), s.below.free()), (s.pages.total(), s.below.total()));
    }

    /// With new requests in every step and memory for few of them, none waits much longer than those before it and with it took.
    #[test]
    fn nobody_starves(
        pages in 4usize..8,
        max_tokens in 4usize..40,
        shape in prop::collection::vec((1usize..40, 1usize..24, 0u64..3, -1i8..2), 8),
    ) {
        let mut s = scheduler(max_tokens, 4, 64, pages);
        let mut born = BTreeMap::new();
        let mut worst = 0;
        for now in 0..1500usize {
            // A step's work comes in as fast as it is done: the queue stays full.
            let (tokens, more, client, priority) = shape[now % shape.len()];
            if s.load().waiting < 12 {
                let flow = Flow { client, priority };
                let id = s.add(Job { flow, ..job(prompt(now as u32, tokens), more) }).unwrap();
                born.insert(id, now);
            }
            for id in step(&mut s).1 {
                worst = worst.max(now - born.remove(&id).unwrap());
            }
            worst = born.values().map(|at| now - at).max().unwrap_or(0).max(worst);
        }
        // Sixteen requests of at most 64 tokens, of which the least weighty gets a seventh.
        prop_assert!(worst < 1200, "one waited {worst} steps");
    }
}
