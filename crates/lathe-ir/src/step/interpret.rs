//! The interpreter of step programs: one step after the other in one of the orders that the events allow, kernels by the
//! tensor interpreter, storage as bytes.

use super::{Bytes, Cost, Op, Program, Unrolled, check_ranks, order, unroll};
use crate::tensor::{self, Kernel, Memory};
use crate::{IrError, Name};
use std::collections::{HashMap, VecDeque};

/// Runs a program over the storage of its buffers (created when missing), with its dimensions bound.
pub fn interpret(
    p: &Program,
    kernels: &HashMap<Name, Kernel>,
    dims: &HashMap<Name, i64>,
    storage: &mut HashMap<Name, Vec<u8>>,
) -> Result<(), IrError> {
    interpret_ranks(&[p], kernels, dims, std::slice::from_mut(storage))
}

/// Runs the programs of all ranks together, each over its own storage.
pub fn interpret_ranks(
    programs: &[&Program],
    kernels: &HashMap<Name, Kernel>,
    dims: &HashMap<Name, i64>,
    storage: &mut [HashMap<Name, Vec<u8>>],
) -> Result<(), IrError> {
    let get = |n: &str| dims.get(n).copied();
    let mut ranks: Vec<Unrolled<'_>> = vec![];
    for (p, storage) in programs.iter().zip(storage.iter_mut()) {
        let r = unroll(p, &get)?;
        for (b, n) in p.buffers.iter().zip(&r.sizes) {
            let bytes = storage.entry(b.name.clone()).or_insert_with(|| vec![0; *n as usize]);
            if (bytes.len() as i64) < *n {
                let what = format!("it has {} bytes, not {n}", bytes.len());
                return Err(IrError::run(format!("{}/{}", p.name, b.name), what));
            }
        }
        ranks.push(r);
    }
    check_ranks(&ranks)?;
    let mut messages: HashMap<(u32, u32, u64), VecDeque<Vec<u8>>> = HashMap::new();
    for t in order(&ranks, &mut |_, _| Ok(Cost::default()))? {
        let (r, storage) = (&ranks[t.rank], &mut storage[t.rank]);
        let name = |b: &Bytes| &r.program.buffers[b.buffer as usize].name;
        let range = |b: &Bytes| b.offset as usize..(b.offset + b.len) as usize;
        let unit = &r.queues[t.queue][t.index];
        match &unit.op {
            Op::Meet | Op::Signal(_) | Op::Wait(_) => {}
            Op::Copy(from, to) => {
                let bytes = storage[name(from)][range(from)].to_vec();
                put(storage, name(to), range(to), &bytes);
            }
            Op::Pages(from, to, page, list) => {
                let words = words(&storage[name(list)][range(list)]);
                let pages = listed(&words, from.len / page).map_err(|m| IrError::run(&*unit.place, m))?;
                for p in pages {
                    let bytes = storage[name(from)][piece(from, *p, *page)].to_vec();
                    put(storage, name(to), piece(to, *p, *page), &bytes);
                }
            }
            Op::Hold(held, offsets) => {
                let words = offsets.map_or(vec![], |o| words(&storage[name(&o)][range(&o)]));
                let full = occupied(&words).map_err(|m| IrError::run(&*unit.place, m))?;
                for (from, to, page) in held {
                    // What may be forgotten is.
                    put(storage, name(to), range(to), &vec![0xa5; to.len as usize]);
                    for p in &full {
                        let bytes = storage[name(from)][piece(from, *p, *page)].to_vec();
                        put(storage, name(to), piece(to, *p, *page), &bytes);
                    }
                }
            }
            Op::Send(from, to, tag) => {
                let bytes = storage[name(from)][range(from)].to_vec();
                messages.entry((t.rank as u32, *to, *tag)).or_default().push_back(bytes);
            }
            Op::Receive(to, from, tag) => {
                let bytes = messages.get_mut(&(*from, t.rank as u32, *tag)).and_then(VecDeque::pop_front);
                match bytes {
                    Some(bytes) if bytes.len() as i64 == to.len => put(storage, name(to), range(to), &bytes),
                    Some(bytes) => {
                        let what = format!("{} bytes came, not {}", bytes.len(), to.len);
                        return Err(IrError::run(&*unit.place, what));
                    }
                    None => return Err(IrError::run(&*unit.place, format!("there is no rank {from}"))),
                }
            }
            Op::Call(kernel, args) => {
                let k = kernels
                    .get(*kernel)
                    .ok_or_else(|| IrError::run(&***kernel, "there is no such kernel"))?;
                let mut m = Memory { dims: dims.clone(), params: HashMap::new() };
                for (param, (a, _)) in k.params.iter().zip(args) {
                    m.params.insert(param.name.clone(), storage[name(a)][range(a)].to_vec());
                }
                tensor::interpret(k, &mut m)?;
                for (param, (a, _)) in k.params.iter().zip(args) {
                    if param.access != tensor::Access::In
                        && let Some(bytes) = m.params.remove(&param.name)
                    {
                        put(storage, name(a), range(a), &bytes);
                    }
                }
            }
        }
    }
    Ok(())
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().expect("four bytes"))).collect()
}

/// The bytes of a page of a part.
fn piece(b: &Bytes, p: u32, page: i64) -> std::ops::Range<usize> {
    let start = b.offset + i64::from(p) * page;
    start as usize..(start + page) as usize
}

/// The segments with something in them, by where each begins and the last one ends.
pub fn occupied(offsets: &[u32]) -> Result<Vec<u32>, String> {
    match offsets.windows(2).all(|w| w[0] <= w[1]) {
        true => Ok((0..).zip(offsets.windows(2)).filter(|(_, w)| w[0] < w[1]).map(|(i, _)| i).collect()),
        false => Err("the offsets of segments do not rise".into()),
    }
}

/// The pages, of so many, that a list of words names: their count, then the numbers, rising.
pub fn listed(words: &[u32], pages: i64) -> Result<&[u32], String> {
    let (count, rest) = words.split_first().ok_or("the list of pages is empty")?;
    let named = rest.get(..*count as usize).ok_or("the list of pages is shorter than it says")?;
    let rising = named.windows(2).all(|w| w[0] < w[1]);
    match named.last() {
        Some(last) if !rising || i64::from(*last) >= pages => {
            Err(format!("the list of pages does not rise, or names one behind the last of {pages}"))
        }
        _ => Ok(named),
    }
}

fn put(storage: &mut HashMap<Name, Vec<u8>>, name: &Name, range: std::ops::Range<usize>, bytes: &[u8]) {
    let target = storage.get_mut(name).expect("every buffer has storage");
    target[range].copy_from_slice(bytes);
}
