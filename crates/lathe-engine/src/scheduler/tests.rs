//! The scheduler under random traffic: its invariants at every step, and what it does in the cases that made it so.

use super::*;
use proptest::prelude::*;

fn scheduler(max_tokens: usize, max_sequences: usize, context: usize, pages: usize) -> Scheduler {
    Scheduler::new(Limits { max_tokens, max_sequences, context, pages })
}

/// Runs one step as an engine would: every sampled sequence gets a token, and ends at `length`.
fn step(s: &mut Scheduler, length: usize) -> Plan {
    let plan = s.plan();
    check(s, &plan);
    s.done(&plan);
    for &id in &plan.sampled {
        s.push(id, 7);
        if s.tokens(id).unwrap().len() >= length.min(s.longest()) {
            assert!(s.remove(id));
        }
    }
    plan
}

fn check(s: &Scheduler, plan: &Plan) {
    let batch = &plan.batch;
    let limits = s.limits;
    assert!(batch.tokens.len() <= limits.max_tokens && batch.pages.len() <= limits.max_sequences);
    assert_eq!(batch.tokens.is_empty(), s.is_idle(), "a step does something while there is something to do");
    assert_eq!(batch.rows.len(), plan.sampled.len());
    let (mut rows, mut written) = (0, std::collections::BTreeSet::new());
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
            // The last known token's logits are wanted, no other's.
            let last = position + 1 == sequence.known.len();
            assert_eq!(batch.rows.get(rows) == Some(&(token as u32)), last);
            rows += usize::from(last);
        }
    }
    assert_eq!(rows, batch.rows.len());
    assert!(s.waiting.iter().all(|s| s.table.pages().is_empty() && s.computed == 0));
    let held: usize = s.running.iter().map(|s| s.table.pages().len()).sum();
    assert!(held + s.pages.free() >= s.pages.total());
}

#[test]
fn prompts_come_in_chunks_and_share_steps_with_decoding() {
    let mut s = scheduler(8, 4, 100, 20);
    let a = s.add(vec![1; 3]).unwrap();
    let b = s.add(vec![2; 10]).unwrap();
    let plan = step(&mut s, 100);
    assert_eq!(
        (plan.batch.tokens.as_slice(), plan.sampled.as_slice()),
        (&[1, 1, 1, 2, 2, 2, 2, 2][..], &[a][..])
    );
    let plan = step(&mut s, 100);
    assert_eq!(
        (plan.batch.tokens.as_slice(), plan.sampled.as_slice()),
        (&[7, 2, 2, 2, 2, 2][..], &[a, b][..])
    );
    assert_eq!(step(&mut s, 100).batch.tokens, [7, 7]);
    assert!(s.remove(a) && !s.remove(a));
    assert_eq!(step(&mut s, 100).batch.position, [11]);
}

#[test]
fn the_latest_gives_way_and_comes_back_first() {
    let mut s = scheduler(64, 4, 100, 4);
    let a = s.add(vec![1; 30]).unwrap();
    let b = s.add(vec![2; 31]).unwrap();
    let c = s.add(vec![3; 2]).unwrap();
    assert_eq!(step(&mut s, 100).sampled, [a, b]);
    assert_eq!(step(&mut s, 100).sampled, [a, b]);
    // Both are at 32 and 33 tokens; the next page is one too many.
    assert_eq!(step(&mut s, 34).sampled, [a]);
    assert_eq!((s.load(), s.tokens(b).unwrap().len()), ((1, 2), 33));
    assert_eq!(step(&mut s, 34).sampled, [a]);
    let plan = step(&mut s, 35);
    assert_eq!((plan.sampled.as_slice(), plan.batch.tokens.len()), (&[b, c][..], 35));
}

#[test]
fn prompts_that_can_never_be_served_are_refused() {
    let mut s = scheduler(8, 4, 40, 2);
    assert_eq!(s.add(vec![]), Err(EngineError::EmptyPrompt));
    assert_eq!(s.add(vec![0; 40]), Err(EngineError::PromptTooLong { tokens: 40, context: 40 }));
    assert_eq!(s.add(vec![0; 32]), Err(EngineError::OutOfPages { needed: 3, pages: 2 }));
    assert!(s.is_idle() && s.add(vec![0; 31]).is_ok());
}

#[test]
fn a_fork_shares_what_is_computed_and_copies_what_it_writes() {
    let mut s = scheduler(64, 4, 100, 8);
    let a = s.add(vec![1; 20]).unwrap();
    step(&mut s, 100);
    let b = s.fork(a).unwrap();
    assert_eq!(s.pages.free(), 6);
    let plan = step(&mut s, 100);
    assert_eq!((plan.copies.len(), plan.batch.tokens.len(), s.pages.free()), (1, 2, 5));
    assert_eq!(plan.batch.pages[0][0], plan.batch.pages[1][0]);
    assert_ne!(plan.batch.pages[0][1], plan.batch.pages[1][1]);
    assert!(s.remove(a) && s.remove(b) && s.fork(a).is_none());
    assert_eq!(s.pages.free(), 8);
}

#[derive(Clone, Debug)]
enum Action {
    Add(usize),
    Step,
    Fork(usize),
    Remove(usize),
    Fail,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (1usize..60).prop_map(Action::Add),
        6 => Just(Action::Step),
        1 => (0usize..20).prop_map(Action::Fork),
        1 => (0usize..20).prop_map(Action::Remove),
        1 => Just(Action::Fail),
    ]
}

proptest! {
    /// Under any traffic each step is sound, everything ends, and all pages come back.
    #[test]
    fn everything_ends_and_nothing_leaks(
        actions in prop::collection::vec(action(), 0..60),
        (max_tokens, max_sequences, context, pages) in (1usize..40, 1usize..6, 2usize..70, 1usize..9),
        length in 1usize..70,
    ) {
        let mut s = scheduler(max_tokens, max_sequences, context, pages);
        let mut ids = Vec::new();
        for action in actions {
            let pick = |i: usize| ids.get(i % ids.len().max(1)).copied();
            match action {
                Action::Add(tokens) => {
                    let added = s.add(vec![1; tokens]);
                    prop_assert_eq!(added.is_ok(), tokens < s.longest());
                    ids.extend(added.ok());
                }
                Action::Step => drop(step(&mut s, length)),
                Action::Fork(i) => {
                    let twin = pick(i).and_then(|id| s.fork(id));
                    ids.extend(twin);
                }
                Action::Remove(i) => {
                    pick(i).map(|id| s.remove(id));
                }
                Action::Fail => {
                    s.plan();
                    s.preempt_all();
                    prop_assert_eq!(s.pages.free(), s.pages.total());
                }
            }
        }
        let mut steps = 0;
        while !s.is_idle() {
            step(&mut s, length);
            steps += 1;
            prop_assert!(steps < 20_000, "it never ends");
        }
        prop_assert_eq!(s.pages.free(), s.pages.total());
    }
}
