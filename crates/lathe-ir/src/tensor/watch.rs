//! What a run shows beside its results: whether loops are what they are marked as, whether what is read was written, and
//! whether arithmetic was exact.
//!
//! Two accesses to one element, one of them a write, are told apart by the loops around them: the outermost loop in which they
//! are in different iterations must be one that orders its iterations. The last write and the reads since then are enough to
//! compare with: iterations come in order, so of three accesses the first and the last are apart in the outer one of the loops
//! in which the neighbours are.

use super::{CORE, For, Iter, SERIAL, SWEEP, UNROLLED};
use crate::{DType, Name};
use std::collections::HashMap;
use std::rc::Rc;

/// What a run showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether the run came to its end within its work; if not, nothing else counts.
    pub ended: bool,
    /// Statements that were run, and elements of temporaries that were made.
    pub work: u64,
    /// Whether every operation on floats had a finite result without rounding, so that sums are the same in any order.
    pub exact: bool,
    /// The first operation that C leaves open: signed integers that overflow, shifts by more than the width, and floats
    /// converted to integers that do not hold them, all of which are defined here; or the side of a choice that is not taken and
    /// has no value, as C may compute both. Or the first number that is written where others are promised.
    pub open: Option<String>,
    /// The first read of what nobody wrote: of a temporary, or of a parameter that is only written.
    pub unwritten: Option<String>,
    /// The first loop whose iterations meet although it is spatial, or a reduction and they do more than accumulate.
    pub meet: Option<String>,
    /// The same of loops that are not run one iteration after the other; those of cores write no byte together, either.
    pub parallel: Option<String>,
}

/// What is done with an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    Read,
    Write,
    /// By the reducer of this name.
    Accumulate(&'static str),
}

/// An iteration of one execution of a loop.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Turn {
    execution: u64,
    iteration: i64,
    iter: Iter,
    parallel: bool,
    core: bool,
    var: Name,
}

#[derive(Default)]
struct Element {
    write: Option<(Rc<Vec<Turn>>, Touch)>,
    reads: Vec<Rc<Vec<Turn>>>,
}

/// Watches a run.
pub(super) struct Watch {
    pub seen: Seen,
    limit: u64,
    /// Whether accesses do not count now.
    pub aside: bool,
    /// Whether loops and accesses count at all.
    network: bool,
    executions: u64,
    path: Rc<Vec<Turn>>,
    /// By allocation and bit.
    elements: HashMap<(u64, i64), Element>,
}

impl Watch {
    pub fn new(limit: u64, network: bool) -> Watch {
        let seen = Seen {
            ended: true,
            work: 0,
            exact: true,
            open: None,
            unwritten: None,
            meet: None,
            parallel: None,
        };
        Watch {
            seen,
            limit,
            aside: false,
            network,
            executions: 0,
            path: Rc::default(),
            elements: HashMap::new(),
        }
    }

    /// Counts work; whether there is any left.
    pub fn work(&mut self, n: u64) -> bool {
        self.seen.work = self.seen.work.saturating_add(n);
        self.seen.ended &= self.seen.work <= self.limit;
        self.seen.ended
    }

    /// A loop's first iteration begins.
    pub fn enter(&mut self, l: &For) {
        if self.network {
            return;
        }
        self.executions += 1;
        let parallel = ![SERIAL, UNROLLED, SWEEP].contains(&&*l.level);
        let (core, var) = (&*l.level == CORE, l.var.clone());
        let turn = Turn { execution: self.executions, iteration: 0, iter: l.iter, parallel, core, var };
        Rc::make_mut(&mut self.path).push(turn);
    }

    /// The innermost loop's next iteration begins.
    pub fn next(&mut self, iteration: i64) {
        if let Some(t) = Rc::make_mut(&mut self.path).last_mut() {
            t.iteration = iteration;
        }
    }

    /// The innermost loop ends.
    pub fn leave(&mut self) {
        Rc::make_mut(&mut self.path).pop();
    }

    /// An access to `width` bits.
    pub fn touch(&mut self, name: &Name, storage: Storage, address: i64, width: i64, touch: Touch) {
        if self.aside || self.network {
            return;
        }
        let Storage { place, given, fine } = storage;
        let bits = address..address + width;
        if fine && touch != Touch::Read && self.seen.parallel.is_none() {
            // A core writes whole bytes, and with them what others have there.
            let bytes = address.div_euclid(8) * 8..(address + width + 7).div_euclid(8) * 8;
            let others = bytes.filter(|bit| !bits.contains(bit));
            let mut written = others.filter_map(|bit| self.elements.get(&(place, bit))?.write.as_ref());
            if let Some(t) = written.find_map(|(path, _)| apart(path, &self.path).filter(|t| t.core)) {
                self.seen.parallel =
                    Some(format!("iterations of '{}' write bytes of '{name}' together", t.var));
            }
        }
        for bit in bits.step_by(if fine { 1 } else { 8 }) {
            let e = self.elements.entry((place, bit)).or_default();
            if touch != Touch::Write && e.write.is_none() && !given && self.seen.unwritten.is_none() {
                self.seen.unwritten = Some(format!("'{name}' is read before it is written"));
            }
            let last = e.write.as_ref().map(|(p, t)| (p, *t));
            let reads = e.reads.iter().map(|p| (p, Touch::Read)).filter(|_| touch != Touch::Read);
            for (path, before) in last.into_iter().chain(reads) {
                let Some(t) = apart(path, &self.path) else { continue };
                let accumulates = matches!(touch, Touch::Accumulate(_)) && before == touch;
                let free = match t.iter {
                    Iter::Spatial => true,
                    Iter::Reduce => !accumulates,
                    Iter::Scan | Iter::Sequential => false,
                };
                // Lanes and cores have no order, whatever the mark.
                let parallel = t.parallel && !(t.iter == Iter::Reduce && accumulates);
                let what = || format!("iterations of '{}' meet at '{name}'", t.var);
                if free && self.seen.meet.is_none() {
                    self.seen.meet = Some(what());
                }
                if parallel && self.seen.parallel.is_none() {
                    self.seen.parallel = Some(what());
                }
            }
            match touch {
                Touch::Read if e.reads.last() == Some(&self.path) => {}
                Touch::Read => e.reads.push(self.path.clone()),
                _ => {
                    e.write = Some((self.path.clone(), touch));
                    e.reads.clear();
                }
            }
        }
    }

    /// An operation on floats.
    pub fn float(&mut self, exact: bool) {
        self.seen.exact &= exact;
    }

    /// An operation that C leaves open, unless it does not.
    pub fn open(&mut self, open: bool, what: impl Fn() -> String) {
        if open && self.seen.open.is_none() {
            self.seen.open = Some(what());
        }
    }
}

/// The outermost loop in whose different iterations two accesses are, if there is one.
fn apart<'a>(a: &[Turn], b: &'a [Turn]) -> Option<&'a Turn> {
    let (x, y) = a.iter().zip(b).find(|(x, y)| x != y)?;
    (x.execution == y.execution).then_some(y)
}

/// An allocation as it is watched.
#[derive(Clone, Copy, Default)]
pub(super) struct Storage {
    /// Its number.
    pub place: u64,
    /// Whether it has values from the start.
    pub given: bool,
    /// Whether elements are parts of bytes: then bits are told apart.
    pub fine: bool,
}

/// Whether C's arithmetic of a type is open where the result does not fit.
pub(super) fn overflow_is_open(t: DType) -> bool {
    matches!(t, DType::Int { signed: true, bits } if bits >= 32)
}
