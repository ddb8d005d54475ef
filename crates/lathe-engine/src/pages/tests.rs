//! The block manager under random use, beside a cache that remembers what was written.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    /// A table that adopts what it can of tokens made from this.
    Start(usize),
    /// Rewrites so many unpublished positions, then adds tokens.
    Write {
        table: usize,
        back: usize,
        tokens: usize,
    },
    Publish(usize),
    Fork(usize),
    Release(usize),
    Forget,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0usize..3).prop_map(Action::Start),
        8 => (0usize..8, 0usize..20, 1usize..50)
            .prop_map(|(table, back, tokens)| Action::Write { table, back, tokens }),
        4 => (0usize..8).prop_map(Action::Publish),
        2 => (0usize..8).prop_map(Action::Fork),
        3 => (0usize..8).prop_map(Action::Release),
        1 => Just(Action::Forget),
    ]
}

/// A table, the tokens it holds, and the kind that they are of.
struct Held {
    table: PageTable,
    tokens: Vec<u32>,
    kind: usize,
}

/// The token of a kind at a position; kinds begin alike.
fn token(kind: usize, position: usize) -> u32 {
    (if position < 24 { position } else { position * 7 + kind }) as u32
}

/// Pages are blank, idle, or held by exactly as many tables as the count says; what is published is where it is said to be.
fn check(pages: &Pages, tables: &[Held]) {
    let mut holders = vec![0; pages.total()];
    tables.iter().flat_map(|held| held.table.pages()).for_each(|&page| holders[page as usize] += 1);
    assert_eq!(holders, pages.each.iter().map(|page| page.holders).collect::<Vec<_>>());
    let free: BTreeSet<u32> =
        pages.blank.iter().copied().chain(pages.idle.iter().map(|&(_, page)| page)).collect();
    assert_eq!(free.len(), pages.free(), "no page is free twice");
    assert!(free.iter().all(|&page| holders[page as usize] == 0));
    assert_eq!(holders.iter().filter(|&&n| n == 0).count(), pages.free());
    assert!(pages.blank.iter().all(|&page| pages.each[page as usize].content.is_none()));
    assert!(pages.idle.iter().all(|&(_, page)| pages.each[page as usize].content.is_some()));
    assert_eq!(pages.published.len(), pages.each.iter().filter(|page| page.content.is_some()).count());
    assert!(
        pages.published.iter().all(|(content, &page)| pages.each[page as usize].content == Some(*content))
    );
    assert_eq!(pages.usage().shared, holders.iter().filter(|&&n| n > 1).count());
    assert_eq!(pages.usage().held + pages.free(), pages.total());
}

proptest! {
    /// Every sequence reads back what it wrote, whoever shares its pages, and no page is lost.
    #[test]
    fn sharing_is_never_seen_and_nothing_leaks(actions in prop::collection::vec(action(), 1..150)) {
        let mut pages = Pages::new(12);
        let mut cache = [u32::MAX; 12 * PAGE];
        let mut tables: Vec<Held> = Vec::new();
        for action in actions {
            match action {
                Action::Start(kind) if tables.len() < 8 => {
                    let wanted: Vec<u32> = (0..64).map(|position| token(kind, position)).collect();
                    let mut table = PageTable::default();
                    let adopted = pages.adopt(&mut table, &wanted);
                    tables.push(Held { table, tokens: wanted[..adopted].to_vec(), kind });
                }
                Action::Write { table, back, tokens } if table < tables.len() => {
                    let Held { table, tokens: known, kind } = &mut tables[table];
                    let start = known.len().saturating_sub(back).max(table.contents.len() * PAGE);
                    let before = (table.pages().to_vec(), pages.free());
                    match pages.reserve(table, start, start + tokens) {
                        Err(_) => prop_assert_eq!(before, (table.pages().to_vec(), pages.free())),
                        Ok(copies) => {
                            for PageCopy { from, to } in copies {
                                let from = from as usize * PAGE;
                                cache.copy_within(from..from + PAGE, to as usize * PAGE);
                            }
                            known.truncate(start);
                            for position in start..start + tokens {
                                known.push(token(*kind, position));
                                let slot = table.pages()[position / PAGE] as usize * PAGE + position % PAGE;
                                cache[slot] = token(*kind, position);
                            }
                        }
                    }
                }
                Action::Publish(table) if table < tables.len() => {
                    let held = &mut tables[table];
                    pages.publish(&mut held.table, &held.tokens);
                }
                Action::Fork(table) if table < tables.len() && tables.len() < 8 => {
                    let Held { table, tokens, kind } = &tables[table];
                    let twin = pages.fork(table, tokens.len());
                    let twin = Held { table: twin, tokens: tokens.clone(), kind: *kind };
                    tables.push(twin);
                }
                Action::Release(table) if table < tables.len() => {
                    pages.release(&mut tables.swap_remove(table).table);
                }
                Action::Forget => {
                    pages.forget();
                    prop_assert_eq!(pages.usage().kept, 0);
                }
                _ => {}
            }
            check(&pages, &tables);
            for Held { table, tokens, .. } in &tables {
                for (position, &value) in tokens.iter().enumerate() {
                    let slot = table.pages()[position / PAGE] as usize * PAGE + position % PAGE;
                    prop_assert_eq!(cache[slot], value);
                }
            }
        }
        tables.iter_mut().for_each(|held| pages.release(&mut held.table));
        prop_assert_eq!(pages.free(), pages.total());
    }
}

/// A table that holds these tokens, published.
fn filled(pages: &mut Pages, tokens: &[u32]) -> PageTable {
    let mut table = PageTable::default();
    let adopted = pages.adopt(&mut table, tokens);
    pages.reserve(&mut table, adopted, tokens.len()).unwrap();
    pages.publish(&mut table, tokens);
    table
}

#[test]
fn what_was_left_longest_ago_goes_first_and_ends_before_beginnings() {
    let mut pages = Pages::new(6);
    let (a, b): (Vec<u32>, Vec<u32>) = ((0..48).collect(), (100..148).collect());
    for tokens in [&a, &b] {
        let mut table = filled(&mut pages, tokens);
        pages.release(&mut table);
    }
    assert_eq!(pages.usage(), PageUse { total: 6, held: 0, shared: 0, kept: 6 });
    let mut table = PageTable::default();
    pages.reserve(&mut table, 0, 20).unwrap();
    let mut adopted = |tokens: &[u32]| {
        let mut table = PageTable::default();
        let found = pages.adopt(&mut table, tokens);
        pages.release(&mut table);
        found
    };
    // The two last pages of the older sequence are gone.
    assert_eq!((adopted(&a), adopted(&b)), (16, 48));
    // A beginning alone is no match for what is behind another beginning.
    assert_eq!(adopted(&b[16..]), 0);
}

#[test]
fn two_that_computed_the_same_keep_one() {
    let mut pages = Pages::new(8);
    let tokens: Vec<u32> = (0..40).collect();
    let mut tables = [PageTable::default(), PageTable::default()];
    for table in &mut tables {
        pages.reserve(table, 0, tokens.len()).unwrap();
    }
    assert_eq!(pages.free(), 2);
    tables.iter_mut().for_each(|table| pages.publish(table, &tokens));
    assert_eq!((pages.free(), pages.usage().shared), (4, 2));
    assert_eq!(tables[0].pages()[..2], tables[1].pages()[..2]);
    assert_ne!(tables[0].pages()[2], tables[1].pages()[2]);
}

/// A step reads pages fastest in the order of memory: also those that forget what an earlier sequence left, one at a time.
#[test]
fn new_pages_lie_in_order() {
    let (mut pages, mut first) = (Pages::new(1024), PageTable::new(0));
    let tokens: Vec<u32> = (0..1024 * PAGE as u32).collect();
    pages.reserve(&mut first, 0, tokens.len()).unwrap();
    assert!(first.pages().is_sorted());
    pages.publish(&mut first, &tokens);
    pages.release(&mut first);
    assert_eq!(pages.usage().kept, 1024, "all of them are remembered");
    let mut next = PageTable::new(1);
    for page in 0..RUN {
        pages.reserve(&mut next, page * PAGE, (page + 1) * PAGE).unwrap();
    }
    assert!(next.pages().windows(2).all(|w| w[1] == w[0] + 1), "{:?}", next.pages());
    // What is not needed for that is remembered still.
    let mut again = PageTable::new(0);
    assert_eq!(pages.adopt(&mut again, &tokens), (1024 - RUN) * PAGE);
}
