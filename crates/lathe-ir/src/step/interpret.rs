//! The interpreter of step programs: one step after the other in one of the orders that the events allow, kernels by the
//! tensor interpreter, storage as bytes.

use super::{Bytes, Cost, Op, Program, Side, Unrolled, check_ranks, divide, order, unroll};
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
            Op::Hold(held, offsets, beside) => {
                let full = |offsets: &Option<Bytes>| {
                    let words = offsets.map_or(vec![], |o| words(&storage[name(&o)][range(&o)]));
                    occupied(&words).map_err(|m| IrError::run(&*unit.place, m))
                };
                let (full, stay) = (full(offsets)?, full(beside)?);
                for h in held {
                    bring(r, storage, h, &full, &stay);
                }
            }
            Op::Split(held, s) => {
                let [offsets, index] = s.reads().map(|b| words(&storage[name(b)][range(b)]));
                // Any choice is as good: one that differs from step to step.
                let segments = offsets.len().saturating_sub(1);
                let turn = t.index + index.iter().take(4).map(|i| *i as usize).sum::<usize>();
                let side = |s: usize| [Side::Here, Side::Away, Side::Come][(turn + s) % 3];
                let sides: Vec<Side> = (0..segments).map(side).collect();
                let by: Vec<i64> = s.rows.iter().map(|(_, by)| *by).collect();
                let wrong = |m| IrError::run(&*unit.place, m);
                let all = divide(&offsets, &index, &sides, &by).map_err(wrong)?;
                let here = occupied(&all[0]).map_err(wrong)?;
                for h in held {
                    bring(r, storage, h, &here, &[]);
                }
                for (to, words) in s.writes().zip(all) {
                    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                    let start = to.offset as usize;
                    put(storage, name(to), start..start + bytes.len(), &bytes);
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

/// Copies pages to where they are held, and forgets what may be forgotten: all but them and those that stay.
fn bring(
    r: &Unrolled<'_>,
    storage: &mut HashMap<Name, Vec<u8>>,
    (from, to, page): &(Bytes, Bytes, i64),
    pages: &[u32],
    stay: &[u32],
) {
    let name = |b: &Bytes| &r.program.buffers[b.buffer as usize].name;
    for p in (0..(to.len / page) as u32).filter(|p| !stay.contains(p)) {
        let bytes = match pages.contains(&p) {
            true => storage[name(from)][piece(from, p, *page)].to_vec(),
            false => vec![0xa5; *page as usize],
        };
        put(storage, name(to), piece(to, p, *page), &bytes);
    }
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
