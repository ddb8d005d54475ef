//! Models that are larger than the memory they may use: packed weights lie in a store on a disk, as many as fit are kept, and the
//! others come through a window in each step (`lathe_rewrite::Stream`); keys and values lie there too where they must
//! (`lathe_rewrite::Spill`). Where the memory is a device's, its host's is in the place of the disk: a device that is described but
//! not here computes on this processor, in as much memory and over as slow a link as it has. What has no room there lies on the
//! disk below it: weights come through a relay in the host's memory, ahead of their use; experts, keys and values go between
//! the disk and the device.

use crate::error::below;
use crate::lower::Lower;
use crate::store::Store;
use crate::{Batch, EngineError, Footprint, PAGE};
use lathe_compile::Compiled;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_exec::{HeldRoom, held_bytes};
use lathe_ir::Name;
use lathe_ir::tensor::HOST;
use lathe_machine::Link;
use lathe_plan::experts::Runs;
use lathe_plan::load_bytes;
use lathe_rewrite::{Extent, Hold, Sliced, Spill, Split, Stream, read_once};
use lathe_runtime::{Arena, BLOCK, Buffer, DiskFile, Reserved, View};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The memory of a device's host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMemory {
    /// Bytes that a model may use.
    pub bytes: u64,
    /// The way to the device, and the one back.
    pub links: [Link; 2],
    /// Whether there is a disk below it, for what it has no room for.
    pub disk: bool,
    /// Processors that are here, of which the host computes with those that the device, not being here, has no threads for.
    pub processors: usize,
    /// Where experts are computed that the device does not hold.
    pub experts: Runs,
}

/// What lies below the memory of a model: weights that come, experts, and what else has to go there.
#[derive(Default)]
pub(crate) struct Below {
    pub stream: Option<Streamed>,
    pub hold: Option<(Hold, Lower)>,
    /// Room for what is computed with experts there.
    pub away: Option<View>,
    pub beside: Option<Lower>,
}

/// Weights that come, and where they lie.
pub(crate) struct Streamed {
    pub stream: Stream,
    pub lower: Lower,
    /// Through what those come that the host's memory has no room for.
    pub relay: Option<Relay>,
}

impl Streamed {
    /// Bytes that a step reads from a disk.
    pub fn disk_bytes(&self) -> u64 {
        let stream = match (&self.relay, &self.lower) {
            (Some(relay), _) => &relay.stream,
            (None, Lower::File(_)) => &self.stream,
            (None, Lower::Memory(_)) => return 0,
        };
        stream.copied() as u64
    }
}

/// Weights that come from a disk to a host's memory.
pub(crate) struct Relay {
    pub stream: Stream,
    pub file: Arc<DiskFile>,
    pub window: View,
}

/// The memory that a model may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Bytes that the whole process may hold, what the system can take back (pages of mapped files) apart.
    pub bytes: u64,
    /// Those of them that are not the model's.
    pub reserved: u64,
    /// The folder for what does not fit.
    pub folder: PathBuf,
    /// Bytes a second at which the disk is read at most, to stand for a slower one.
    pub bandwidth: Option<u64>,
    /// The keys and values of at least so many layers lie on the disk, so that more weights are kept: as a plan says. Without
    /// one they lie there where they must.
    pub spilled_layers: usize,
    /// Where the memory is a device's: its host's, which what does not fit lies in, instead of on the disk.
    pub host: Option<HostMemory>,
}

/// What allocations in a host's memory may take more than was asked for, bytes.
const ROUNDING: usize = 4096;

/// The tier of a device's host.
pub(crate) const BELOW: &str = "below";

/// The tier of files.
pub(crate) const DISK: &str = "disk";

/// What a process may need beside a model and what it holds before one is loaded, bytes: requests, texts, the compiler's own
/// data, the threads' stacks.
const SLACK: u64 = 40 << 20;

/// The most bytes of code that is in use: without them in memory, a process that may hold no more reads them again and again.
const CODE: u64 = 24 << 20;

/// A number of bytes as text: of whole MiB that are no fewer, or KiB where it is small.
fn enough(bytes: u64) -> String {
    match bytes < 16 << 20 {
        true => format!("{} KiB", bytes.div_ceil(1 << 10)),
        false => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

impl Budget {
    /// So many bytes for all of this process.
    pub fn of_process(bytes: u64, folder: PathBuf, bandwidth: Option<u64>) -> Budget {
        Budget {
            bytes,
            reserved: Budget::reserved_by_process(),
            folder,
            bandwidth,
            spilled_layers: 0,
            host: None,
        }
    }

    /// Bytes that this process needs beside a model, its code among them. What is freed goes back to the system first.
    pub fn reserved_by_process() -> u64 {
        lathe_runtime::release_freed_memory();
        let anonymous = lathe_runtime::anonymous_rss_bytes().unwrap_or(0);
        let files = lathe_runtime::current_rss_bytes().unwrap_or(0).saturating_sub(anonymous);
        anonymous + files.min(CODE) + SLACK
    }

    /// What is left beside another model.
    pub fn beside(self, other: &Footprint) -> Budget {
        Budget { reserved: self.reserved + other.held_bytes(), ..self }
    }

    /// Bytes for the model.
    pub fn left(&self) -> usize {
        usize::try_from(self.bytes.saturating_sub(self.reserved)).unwrap_or(usize::MAX)
    }

    /// That the model needs so many bytes for itself.
    pub(crate) fn too_small(&self, needed: usize) -> EngineError {
        let what = format!(
            "the model does not run in {}, {} is the least that these sizes need",
            enough(self.bytes),
            enough(self.reserved + needed as u64)
        );
        let d = Diagnostic::new("memory-budget", Fault::User, what);
        let raise = if self.host.is_some() { "take a device with more memory" } else { "raise --memory" };
        let less = "fewer sequences, a shorter --context, a smaller --kv-type";
        below(d.fix(format!("{raise}, or ask for less: {less}")))
    }

    /// That the host of a device has too little memory for what does not fit there.
    fn host_too_small(&self, needed: usize, has: u64) -> EngineError {
        let (needed, has) = (enough(needed as u64), enough(has));
        let what =
            format!("what does not fit into the device needs {needed} of its host's memory, which has {has}");
        below(Diagnostic::new("memory-budget", Fault::User, what).fix("raise --memory, or ask for less"))
    }

    /// Room below for weights of a store, as they are copied, for experts, for so many bytes that are computed with them if there is
    /// any left, and for so many beside them.
    pub(crate) fn lower(
        &self,
        store: Option<&Store>,
        stream: Option<Stream>,
        hold: Option<Hold>,
        away: usize,
        beside: Option<usize>,
    ) -> Result<Below, EngineError> {
        let disk = || &store.expect("weights that are copied are of a store").disk;
        let on_disk = |bytes: usize| {
            let scratch = DiskFile::scratch(&self.folder, bytes as u64).map_err(below)?;
            Ok::<_, EngineError>(Lower::File(Arc::new(scratch)))
        };
        let Some(host) = &self.host else {
            let file = || Lower::File(disk().clone());
            let stream = stream.map(|stream| Streamed {
                stream: Stream { tier: DISK.into(), ..stream },
                lower: file(),
                relay: None,
            });
            let hold = hold.map(|hold| (Hold { tier: DISK.into(), ..hold }, file()));
            return Ok(Below { stream, hold, away: None, beside: beside.map(on_disk).transpose()? });
        };
        // What comes at least once in each step has the host's memory first where it goes there as a whole.
        let largest = stream.iter().flat_map(|s| &s.loads).map(|l| l.len()).max().unwrap_or(0) as usize;
        let copied = stream.as_ref().map_or(0, |stream| stream.copied() as usize);
        let least = if host.disk { copied.min(2 * largest) } else { copied };
        let experts = hold.as_ref().map_or(0, |hold| hold.window() as usize);
        let capacity = (host.bytes as usize).saturating_sub(ROUNDING);
        let mut used = least;
        let mut fits = |bytes: usize| {
            let fits = used + bytes <= capacity;
            used += if fits { bytes } else { 0 };
            fits
        };
        let (beside_fits, experts_fit) = (fits(beside.unwrap_or(0)), fits(experts));
        let whole = beside_fits && experts_fit;
        let away_fits = hold.is_some() && experts_fit && away > 0 && fits(away);
        if used > capacity || !(whole || host.disk) {
            let all = copied + experts + beside.unwrap_or(0);
            let needed = if host.disk { least } else { all };
            return Err(self.host_too_small(needed + ROUNDING, host.bytes));
        }
        let arena = Arena::new(BELOW, host.bytes as usize);
        let alloc = |n: usize| arena.alloc_sparse(n.max(64)).map(Buffer::into_view).map_err(below);
        // Pieces of the store: where each goes, its bytes, where it is.
        let read = |memory: &View, pieces: Vec<(i64, i64, i64)>| {
            pieces.into_iter().try_for_each(|(to, len, from)| {
                let part = memory.part(to as usize, len as usize).map_err(below)?;
                disk().read(from as u64, &part).map_err(below)
            })
        };
        let beside = match beside {
            Some(bytes) if beside_fits => Some(Lower::Memory(alloc(bytes)?)),
            beside => beside.map(on_disk).transpose()?,
        };
        let hold = match hold {
            Some(hold) if experts_fit => {
                let ((compact, from), memory) = (hold.compact(), alloc(experts)?);
                let weights = compact.weights.iter().zip(from);
                read(&memory, weights.map(|(w, from)| (w.from, w.page * w.pages, from)).collect())?;
                Some((Hold { tier: BELOW.into(), ..compact }, Lower::Memory(memory)))
            }
            hold => hold.map(|hold| (Hold { tier: DISK.into(), ..hold }, Lower::File(disk().clone()))),
        };
        let stream = stream.map(|stream| {
            let room = (capacity - used + least) as u64;
            let placed =
                place(&stream.as_constants(), &|_| true, disk().len() as i64, room).map_err(|needed| {
                    self.host_too_small(used - least + needed as usize + ROUNDING, host.bytes)
                })?;
            let relay = placed.stream.map(|relay| Stream { tier: DISK.into(), ..relay });
            let stream = relay.as_ref().map_or(stream.clone(), |relay| stream.relayed_by(relay));
            let (compact, from) = Stream { tier: BELOW.into(), ..stream }.compact();
            let memory = alloc(compact.bytes as usize)?;
            let own = compact.loads.iter().zip(from).filter(|(load, _)| !load.relayed);
            read(&memory, own.map(|(load, from)| (load.offset(), load.len(), from)).collect())?;
            let relay = relay.map(|stream| {
                let window = alloc(stream.window as usize)?;
                Ok::<_, EngineError>(Relay { stream, file: disk().clone(), window })
            });
            let relay = relay.transpose()?;
            Ok::<_, EngineError>(Streamed { stream: compact, lower: Lower::Memory(memory), relay })
        });
        let away = away_fits.then(|| alloc(away)).transpose()?;
        Ok(Below { stream: stream.transpose()?, hold, away, beside })
    }

    /// What copies to and from what is below go over.
    pub(crate) fn links(&self) -> Vec<Link> {
        // Without a bound a copy takes as long as the disk needs.
        let disk = self.bandwidth.map_or(1e18, |b| b.max(1) as f64);
        let between = |from: &str, to: &str, link: &Link, most: f64| Link {
            from: from.into(),
            to: to.into(),
            bandwidth: link.bandwidth.min(most),
            ..*link
        };
        let free = Link { from: String::new(), to: String::new(), bandwidth: 1e18, latency_seconds: 0.0 };
        let Some(host) = &self.host else {
            return vec![between(DISK, HOST, &free, disk), between(HOST, DISK, &free, disk)];
        };
        let [to, back] = &host.links;
        vec![
            between(BELOW, HOST, to, f64::INFINITY),
            between(HOST, BELOW, back, f64::INFINITY),
            between(DISK, HOST, to, disk),
            between(HOST, DISK, back, disk),
            between(DISK, BELOW, &free, disk),
        ]
    }
}

/// Which weights are kept, and how the others come.
#[derive(Debug)]
pub(crate) struct Placement {
    /// Those that are kept.
    pub kept: Vec<Extent>,
    /// How the others come; none when all are kept.
    pub stream: Option<Stream>,
    /// How experts come, the bytes of memory for those that stay, and the least that they need.
    pub hold: Option<(Hold, [u64; 2])>,
}

impl Placement {
    /// The least bytes that [`Placement::choose`] needs.
    pub fn least(compiled: &Compiled, store: &Store) -> usize {
        Placement::choose(compiled, store, 0).map_or_else(|needed| needed as usize, |_| 0)
    }

    /// Places weights in `room` bytes, so that a step reads as few from the disk as can be; or says how many bytes are needed.
    pub fn choose(compiled: &Compiled, store: &Store, room: u64) -> Result<Placement, u64> {
        let names: HashSet<&Name> = store.extents.iter().map(|e| &e.name).collect();
        let once: HashMap<Name, usize> =
            read_once(&compiled.classes[0].plan.run, &names).into_iter().collect();
        let read = |e: &Extent| Extent { reader: once.get(&e.name).copied().unwrap_or(0), ..e.clone() };
        let extents: Vec<Extent> = store.extents.iter().map(read).collect();
        let bytes = store.disk.len() as i64;
        let alone = |extents: &[Extent], room| place(extents, &|e| once.contains_key(&e.name), bytes, room);
        let hold = Hold::new(&compiled.graph, &compiled.classes[0].plan.run, BELOW, bytes, &extents);
        let all: i64 = extents.iter().map(|e| e.len).sum();
        if hold.weights.is_empty() || all as u64 <= room {
            return alone(&extents, room);
        }
        // What every step reads is kept first; experts have what is left, at least one layer's, which a long prompt needs together.
        let held: HashSet<&Name> = hold.weights.iter().map(|w| &w.name).collect();
        let dense: Vec<Extent> = extents.iter().filter(|e| !held.contains(&e.name)).cloned().collect();
        let layer = |l: Vec<&Sliced>| l[0].pages as u64 * expert_bytes(&l);
        let least = hold.layers().into_iter().map(layer).max().unwrap_or(0);
        let mut placement =
            alone(&dense, room.saturating_sub(least)).map_err(|needed| needed.saturating_add(least))?;
        let window = placement.stream.as_ref().map_or(0, |s| s.window);
        let kept: i64 = placement.kept.iter().map(|e| e.len).sum();
        let left = room.saturating_sub((kept + window) as u64);
        if left < least {
            return Err((kept + window) as u64 + least);
        }
        placement.hold = Some((hold, [left, least]));
        Ok(placement)
    }
}

/// As [`Placement::choose`], of the weights that `once` says may come through a window. A large weight costs its bytes once when it
/// is kept and twice in the window, so the largest are kept first; the rest of the room is spread over all layers, so that the
/// disk works all the time.
fn place(
    extents: &[Extent],
    once: &dyn Fn(&Extent) -> bool,
    bytes: i64,
    room: u64,
) -> Result<Placement, u64> {
    let all: i64 = extents.iter().map(|e| e.len).sum();
    let room = i64::try_from(room).unwrap_or(i64::MAX);
    if all <= room {
        return Ok(Placement { kept: extents.to_vec(), stream: None, hold: None });
    }
    let mut sizes: Vec<i64> = extents.iter().filter(|e| once(e)).map(|e| e.len).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut least = i64::MAX;
    // Small loads where only they fit.
    for enough in [load_bytes(room as u64) as i64, BLOCK as i64] {
        let mut best: Option<(i64, Placement)> = None;
        for limit in &sizes {
            let must = |e: &Extent| !once(e) || e.len > *limit;
            let (forced, free): (Vec<&Extent>, Vec<&Extent>) = extents.iter().partition(|e| must(e));
            let forced_bytes: i64 = forced.iter().map(|e| e.len).sum();
            let free: Vec<Extent> = free.into_iter().cloned().collect();
            // What loads would be without keeping any more, and the smallest window that they go through; all of them go through one
            // that holds all.
            let through = |parts: &[Extent], window| Stream::new(BELOW, bytes, parts, enough, window);
            let whole = through(&free, i64::MAX / 4).expect("the window is large");
            let most = whole.loads.iter().map(lathe_rewrite::Load::len).max().unwrap_or(0);
            let mut window = 2 * most;
            while through(&free, window).is_none() {
                window += most;
            }
            least = least.min(forced_bytes + window);
            let spare = room - forced_bytes - window;
            if spare < 0 {
                continue;
            }
            // What is left when some are kept may not go through the same window: then fewer are.
            let keep = |spent: i64| {
                let (mut due, mut more) = (0, 0);
                let mut kept: Vec<Extent> = forced.iter().map(|e| (*e).clone()).collect();
                let mut streamed = vec![];
                for l in &whole.loads {
                    // In proportion: as much of what has been seen is kept as of all.
                    due += l.len();
                    let share = i128::from(spent) * i128::from(due) / i128::from(whole.copied().max(1));
                    if i128::from(more + l.len()) <= share {
                        more += l.len();
                        kept.extend(l.parts.iter().cloned());
                    } else {
                        streamed.extend(l.parts.iter().cloned());
                    }
                }
                kept.sort_by_key(|e| e.offset);
                // What could not be kept makes the window larger: more is under way while kernels compute.
                let larger = window + (spare - more) / BLOCK as i64 * BLOCK as i64;
                let stream = through(&streamed, larger).or_else(|| through(&streamed, window))?;
                Some((stream.copied(), Placement { kept, stream: Some(stream), hold: None }))
            };
            let placed = [spare, spare / 2, 0].into_iter().find_map(keep);
            let (copied, placement) = placed.expect("all go through this window");
            if best.as_ref().is_none_or(|(c, _)| copied < *c) {
                best = Some((copied, placement));
            }
        }
        if let Some((_, placement)) = best {
            return Ok(placement);
        }
    }
    Err(least as u64)
}

/// Memory of one expert of a layer, whose weights these are.
fn expert_bytes(layer: &[&Sliced]) -> u64 {
    held_bytes(layer.iter().map(|w| w.page as usize)) as u64
}

/// Experts of which some are in memory.
pub(crate) struct Holding {
    /// Which, and how.
    pub hold: Hold,
    /// Where all of them lie.
    pub lower: Lower,
    /// How they are computed there, too.
    pub split: Option<Split>,
    /// The memory for those that stay.
    pub room: Arc<HeldRoom>,
    /// That it is taken from the memory of the model.
    pub _taken: Reserved,
}

/// Weights that come through a window.
pub(crate) struct Streaming {
    /// Which, how, and where they lie.
    pub streamed: Streamed,
    /// The memory that they come through.
    pub window: View,
    /// Whether windows hold what a run begins with.
    pub ready: bool,
}

impl Streaming {
    /// Brings what a run begins with, where it is not there.
    pub fn make_ready(&mut self) -> Result<(), EngineError> {
        if self.ready {
            return Ok(());
        }
        let Streamed { stream, lower, relay } = &self.streamed;
        for l in &stream.loads[..stream.carried] {
            let part = self.window.part(l.place as usize, l.len() as usize).map_err(below)?;
            match relay.as_ref().filter(|_| l.relayed) {
                Some(relay) => relay.file.read(l.offset() as u64, &part).map_err(below)?,
                None => lower.read(l.offset() as u64, &part)?,
            }
        }
        for (relay, l) in
            relay.iter().flat_map(|r| r.stream.loads[..r.stream.carried].iter().map(move |l| (r, l)))
        {
            let part = relay.window.part(l.place as usize, l.len() as usize).map_err(below)?;
            relay.file.read(l.offset() as u64, &part).map_err(below)?;
        }
        self.ready = true;
        Ok(())
    }

    /// The file that weights are read from, where they are.
    pub fn path(&self) -> Option<&Path> {
        self.streamed.relay.as_ref().map(|relay| relay.file.path()).or_else(|| self.streamed.lower.path())
    }
}

/// Keys and values of which a layer at a time is in memory.
pub(crate) struct Spilling {
    /// Which, and how.
    pub spill: Spill,
    /// Where they lie.
    pub lower: Lower,
    /// The lists of pages that a step uses, and that it writes.
    pub used: View,
    pub new: View,
    /// Where one is copied through.
    pub page: View,
}

impl Spilling {
    /// Says which pages a step uses, and which it writes.
    pub fn list(&self, b: &Batch) -> Result<(), EngineError> {
        let write = |list: &View, pages: BTreeSet<u32>| {
            let words: Vec<u32> = std::iter::once(pages.len() as u32).chain(pages).collect();
            list.write(0, &words).map_err(below)
        };
        write(&self.used, b.pages.iter().flatten().copied().collect())?;
        write(&self.new, b.slot.iter().map(|slot| slot / PAGE as u32).collect())
    }

    /// Bytes of what lies on the disk of a page.
    pub fn page_bytes(&self) -> usize {
        self.spill.layers.iter().flatten().map(|s| s.page as usize).sum()
    }

    /// What lies on the disk of a page, layer behind layer: where in the file, where in memory from `at` on, bytes.
    fn pieces(&self, page: u32, at: usize) -> Vec<(u64, usize, usize)> {
        let mut end = at;
        let layers = self.spill.layers.iter().flatten().map(|s| {
            let at = end;
            end += s.page as usize;
            ((s.offset + i64::from(page) * s.page) as u64, at, s.page as usize)
        });
        layers.collect()
    }

    /// Reads what lies on the disk of a page to memory, from `at` on.
    pub fn read_page(&self, page: u32, to: &View, at: usize) -> Result<(), EngineError> {
        self.lower.read_pieces(&self.pieces(page, at), to)
    }

    /// Writes it from there.
    pub fn write_page(&self, page: u32, from: &View, at: usize) -> Result<(), EngineError> {
        self.lower.write_pieces(&self.pieces(page, at), from)
    }

    /// Copies what lies on the disk of a page to another.
    pub fn copy_page(&self, from: u32, to: u32) -> Result<(), EngineError> {
        for s in self.spill.layers.iter().flatten() {
            let at = |page: u32| (s.offset + i64::from(page) * s.page) as u64;
            self.lower.read_pieces(&[(at(from), 0, s.page as usize)], &self.page)?;
            self.lower.write_pieces(&[(at(to), 0, s.page as usize)], &self.page)?;
        }
        Ok(())
    }
}

/// The least that a window of the disk has, bytes.
pub(crate) const DIRECT: usize = lathe_plan::DIRECT_BYTES as usize;

/// How many layers' caches lie on the disk, from `asked` on, so that what is `fixed` fits into `room`, as few as can be: what is fixed then, and
/// which they are. Or the least that they can be.
pub(crate) fn spilled(
    compiled: &Compiled,
    states: &[(Name, i64)],
    pages: usize,
    asked: usize,
    fixed: usize,
    room: usize,
) -> Result<(usize, Option<Spill>), usize> {
    if fixed <= room && asked == 0 {
        return Ok((fixed, None));
    }
    let run = &compiled.classes[0].plan.run;
    let mut least = fixed;
    for layers in asked.max(1)..=states.len() {
        let spill = Spill::new(run, BELOW, states, pages as i64, layers);
        if spill.layers.len() < layers {
            break;
        }
        let all = spill.layers.iter().flatten();
        let (gone, page) =
            all.fold((0, 0), |(gone, most), s| (gone + s.page * pages as i64, most.max(s.page)));
        let lists = 2 * ((pages + 1) * 4).next_multiple_of(64);
        let extra = (spill.window() as usize).max(DIRECT) + (page as usize).max(DIRECT) + lists + 64;
        let now = fixed - gone as usize + extra;
        least = least.min(now);
        if now <= room {
            return Ok((now, Some(spill)));
        }
    }
    Err(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_placement_fits_and_leaves_little_unused(
            blocks in prop::collection::vec((1i64..40, any::<bool>(), 0i64..2), 1..60),
            together in 1usize..6,
            room in 0u64..2000,
        ) {
            let room = room * BLOCK as u64;
            let mut extents = vec![];
            let (mut at, mut all) = (0, 0);
            for (i, (n, _, gap)) in blocks.iter().enumerate() {
                let len = n * BLOCK as i64;
                let name = format!("w{i}").as_str().into();
                extents.push(Extent { name, offset: at, len, reader: i / together });
                // Between them others lie, experts say.
                at += len + gap * BLOCK as i64;
                all += len;
            }
            let often = |e: &Extent| e.name[1..].parse::<usize>().is_ok_and(|i| blocks[i].1 && i % 7 == 0);
            match place(&extents, &|e| !often(e), at, room) {
                Ok(p) => {
                    let kept: i64 = p.kept.iter().map(|e| e.len).sum();
                    let window = p.stream.as_ref().map_or(0, |s| s.window);
                    prop_assert!((kept + window) as u64 <= room);
                    let streamed = p.stream.as_ref().map_or(0, Stream::copied);
                    prop_assert_eq!(kept + streamed, all);
                    prop_assert!(p.kept.windows(2).all(|w| w[0].offset < w[1].offset));
                    if let Some(s) = &p.stream {
                        prop_assert!(s.loads.iter().flat_map(|l| &l.parts).all(|e| !often(e)));
                        // What is not used is less than the window and a load, where a step's weights are one load.
                        let most = s.loads.iter().map(lathe_rewrite::Load::len).max().unwrap_or(0);
                        let whole = together < 3 && all == at;
                        prop_assert!(!whole || streamed <= all - room as i64 + 3 * most.max(40 * BLOCK as i64));
                    }
                }
                Err(needed) => {
                    prop_assert!(needed > room);
                    prop_assert!(place(&extents, &|e| !often(e), at, needed).is_ok());
                }
            }
        }
    }
}
