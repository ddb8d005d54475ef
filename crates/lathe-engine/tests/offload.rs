//! A model that is larger than its memory: the logits are the same to the last bit, wherever weights, keys and values lie, in
//! ragged steps over scattered pages, after a page is copied and after pages went to the tier below and came back; what is too small or damaged is told.

use lathe_diagnostic::Diagnose;
use lathe_engine::{
    Batch, Budget, Encoder, EngineError, Forward, HostMemory, PAGE, PageCopy, Precision, Runner,
    RunnerOptions,
};
use lathe_machine::Link;
use lathe_models::{GgufWriter, KvType, ModelFile};
use lathe_plan::experts::Runs;
use std::path::{Path, PathBuf};

const PAGES: usize = 1024;

/// A tiny model made deep: each block twice and more, so that layers stream one after the other.
fn deep(name: &str, layers: u32, folder: &Path) -> ModelFile {
    deep_and_wide(name, layers, 1, folder)
}

/// The same with experts of f32 that are so many times as wide: what they make is added up so often.
fn deep_and_wide(name: &str, layers: u32, times: usize, folder: &Path) -> ModelFile {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny");
    let file = ModelFile::open(data.join(format!("{name}.gguf"))).unwrap();
    let family = lathe_models::family(&file).unwrap();
    let blocks = format!("{family}.block_count");
    let mut writer = GgufWriter::new();
    let width = format!("{family}.feed_forward_length");
    let wide = file.find::<u32>(&width).unwrap().unwrap() * times as u32;
    file.copy_metadata(&mut writer, &[&blocks, &width]);
    writer.u32(&blocks, layers);
    writer.u32(&width, wide);
    for t in file.tensors() {
        let (mut shape, mut data) = (t.shape(), file.data(t).to_vec());
        if t.name().contains("_exps") {
            // Rows of the first two products, columns of the third.
            let axis = if t.name().contains("down") { 2 } else { 1 };
            let piece = shape[axis..].iter().product::<usize>() * 4;
            data = if times == 1 { data } else { data.chunks(piece).flat_map(|c| c.repeat(times)).collect() };
            shape[axis] *= times;
        }
        let mut put = |name: &str| {
            writer.tensor(name, &shape, t.ty(), data.clone());
        };
        match t.name().strip_prefix("blk.0.") {
            Some(rest) => (0..layers).for_each(|l| put(&format!("blk.{l}.{rest}"))),
            None if t.name().starts_with("blk.") => {}
            None => put(t.name()),
        }
    }
    let path = folder.join(format!("{name}.gguf"));
    writer.write(&path).unwrap();
    ModelFile::open(&path).unwrap()
}

fn options(cache: &Path, bytes: Option<u64>, kv: KvType) -> RunnerOptions {
    let budget = |bytes| Budget {
        bytes,
        reserved: 0,
        folder: cache.join("weights"),
        bandwidth: None,
        spilled_layers: 0,
        host: None,
    };
    RunnerOptions {
        precision: Precision::Fast,
        threads: 2,
        context: 64,
        pages: PAGES,
        max_tokens: 32,
        max_sequences: 4,
        max_rows: 4,
        kv_type: Some(kv),
        adapters: None,
        cache: cache.into(),
        budget: bytes.map(budget),
    }
}

/// A host with so much memory, over a link of 4 GB/s, with a disk or without.
fn host(bytes: u64, disk: bool) -> HostMemory {
    let link = |from: &str, to: &str| Link {
        from: from.into(),
        to: to.into(),
        bandwidth: 4e9,
        latency_seconds: 1e-6,
    };
    let links = [link("dram", "vram"), link("vram", "dram")];
    HostMemory { bytes, links, disk, processors: 2, experts: Runs::Best }
}

/// The logits of a few steps: two prompts, a page that is copied, then both go on, one of them on the copy. Where there is a tier
/// below, the other's pages are swapped in between, and come back in other places.
fn logits(runner: &mut Runner) -> Vec<f32> {
    let token = |i: usize| (i * 37 % 59) as u32 + 3;
    let mut tables: [Vec<u32>; 2] = [vec![5, 900, 3, 17], vec![1023, 2, 511, 8]];
    let mut all = vec![];
    let mut step = |runner: &mut Runner, tables: &[Vec<u32>; 2], spans: [(usize, usize); 2]| {
        let mut b = Batch::default();
        for (row, (from, to)) in spans.into_iter().enumerate().filter(|(_, (from, to))| from < to) {
            let sequence = b.pages.len() as u32;
            for p in from..to {
                b.tokens.push(token(p + row * 50));
                b.sequence.push(sequence);
                b.position.push(p as u32);
                b.slot.push(tables[row][p / PAGE] * PAGE as u32 + (p % PAGE) as u32);
            }
            b.rows.push(b.tokens.len() as u32 - 1);
            b.pages.push(tables[row][..to.div_ceil(PAGE)].to_vec());
            b.adapters.push(0);
        }
        let mut out = vec![];
        runner.forward(&b, &mut out).unwrap();
        all.extend(out);
    };
    step(runner, &tables, [(0, 19), (0, 0)]);
    step(runner, &tables, [(19, 20), (0, 30)]);
    runner.copy_page(900, 700).unwrap();
    tables[0][1] = 700;
    if runner.swap_pages() > 5 {
        let copy = |from, to| PageCopy { from, to };
        runner.swap_out(&[copy(1023, 5), copy(2, 0)]).unwrap();
        runner.swap_in(&[copy(0, 600), copy(5, 44)]).unwrap();
        tables[1][..2].copy_from_slice(&[44, 600]);
    }
    for i in 0..4 {
        step(runner, &tables, [(20 + i, 21 + i), (30 + i, 31 + i)]);
    }
    step(runner, &tables, [(0, 0), (34, 35)]);
    all
}

fn load(file: &ModelFile, options: &RunnerOptions) -> Result<Runner, EngineError> {
    Runner::load(file, options, &mut |_, _, _| {})
}

#[test]
fn vectors_do_not_depend_on_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = deep("bert-f16", 40, folder.path());
    let within = |bytes: Option<u64>| {
        let options = options(folder.path(), bytes, KvType::F32);
        RunnerOptions { context: 32, pages: 8, ..options }
    };
    let texts: Vec<Vec<u32>> = vec![vec![2, 9, 8, 3], vec![2, 30, 31, 32, 33, 3], vec![2; 20]];
    let mut plain = Encoder::load(&file, &within(None), &mut |_, _, _| {}).unwrap();
    let want = plain.embed(&texts).unwrap();
    let all = plain.footprint();
    let all = all.held_bytes();
    let (mut streamed, mut refused) = (0, 0);
    for eighths in [3, 6, 8] {
        match Encoder::load(&file, &within(Some(all * eighths / 8)), &mut |_, _, _| {}) {
            Ok(mut encoder) => {
                assert_eq!(encoder.embed(&texts).unwrap(), want);
                streamed += usize::from(encoder.footprint().streamed_bytes > 0);
            }
            Err(error) => {
                assert_eq!(error.diagnostic().code, "memory-budget");
                refused += 1;
            }
        }
    }
    println!("{streamed} streamed, {refused} refused");
    assert!(refused < 3 && streamed > 0);
}

#[test]
fn logits_do_not_depend_on_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    for (name, kv) in [
        ("llama-q8_0", KvType::F32),
        ("llama-q4_0", KvType::F16),
        ("heads32-f16", KvType::Q8),
        ("mixtral-f32", KvType::F16),
        ("gemma3-q8_0", KvType::F32),
        ("gpt2-f16", KvType::F32),
    ] {
        let file = deep(name, 9, folder.path());
        let mut plain = load(&file, &options(folder.path(), None, kv)).unwrap();
        let want = logits(&mut plain);
        assert!(want.iter().all(|v| v.is_finite()));
        let all = plain.footprint();
        let all = all.held_bytes();
        let (mut streamed, mut spilled, mut hosted, mut refused) = (0, 0, 0, 0);
        let (mut experts, mut enough) = (vec![], 0);
        for eighths in 1..=9 {
            let bytes = all * eighths / 8;
            let mut options = options(folder.path(), Some(bytes), kv);
            // Two are a device's memory, with the rest in its host's.
            let on_device = matches!(eighths, 5 | 6);
            if on_device {
                options.budget.as_mut().unwrap().host = Some(host(4 * all, false));
            }
            let mut runner = match load(&file, &options) {
                Ok(runner) => runner,
                Err(e) => {
                    let text = e.diagnostic().to_string();
                    let fix = if on_device { "take a device with more" } else { "raise --memory" };
                    assert!(text.contains("memory-budget") && text.contains(fix), "{text}");
                    assert!(enough == 0, "{name}: {enough} bytes are enough, and {bytes} are not: {text}");
                    refused += 1;
                    continue;
                }
            };
            enough = bytes;
            if eighths % 2 == 0 {
                runner.set_swap(folder.path(), 2 << 20, None).unwrap();
                assert!(runner.swap_pages() > 5);
                let refused = runner.set_swap(folder.path(), 100, None).unwrap_err().diagnostic();
                assert!(refused.code == "swap-too-small", "{refused}");
            }
            let f = runner.footprint();
            assert!(f.held_bytes() <= bytes, "{name}: {f:?}");
            assert!(logits(&mut runner) == want, "{name} in {bytes} bytes: {f:?}");
            if on_device && f.streamed_bytes + f.experts_bytes + f.spilled_bytes > 0 {
                assert_eq!(runner.store(), None, "nothing is read from a disk");
                options.budget.as_mut().unwrap().host = Some(host(1000, false));
                let text = load(&file, &options).err().unwrap().diagnostic().to_string();
                assert!(text.contains("of its host's memory, which has 1"), "{text}");
                hosted += 1;
            }
            streamed += usize::from(f.streamed_bytes > 0);
            spilled += usize::from(f.spilled_bytes > 0);
            if let Some(counts) = runner.experts() {
                assert!(f.experts_bytes > 0 && counts.needed >= counts.brought, "{counts:?}");
                experts.push(counts.brought as f64 / counts.needed as f64);
            }
        }
        println!(
            "{name}: of 9 budgets {refused} refused, {streamed} with streamed weights, {spilled} with spilled caches, {hosted} of them on a host; experts brought: {experts:.2?}"
        );
        assert!(refused < 9 && hosted > 0 && (streamed > 0 || spilled > 0 || !experts.is_empty()));
        assert!(experts.is_empty() == (name != "mixtral-f32"), "{experts:?}");
    }
}

#[test]
fn experts_are_computed_on_a_device_and_on_its_host() {
    let folder = tempfile::tempdir().unwrap();
    let file = deep_and_wide("mixtral-f32", 9, 16, folder.path());
    let sized = |bytes| RunnerOptions { threads: 1, ..options(folder.path(), bytes, KvType::F16) };
    let mut plain = load(&file, &sized(None)).unwrap();
    let (want, all) = (logits(&mut plain), plain.footprint().held_bytes());
    // Bytes a second to the device, and seconds until something is at the host.
    let settings =
        [(Runs::OnHost, 1e12, 0.0), (Runs::Best, 1e12, 0.0), (Runs::Best, 4e6, 0.0), (Runs::Best, 1e12, 0.1)];
    for (experts, bandwidth, latency_seconds) in settings {
        for less in [2, 4] {
            let bytes = all - (less << 20);
            let mut options = sized(Some(bytes));
            let mut host = HostMemory { experts, ..host(4 * all, false) };
            (host.links[0].bandwidth, host.links[1].latency_seconds) = (bandwidth, latency_seconds);
            options.budget.as_mut().unwrap().host = Some(host);
            let mut runner = load(&file, &options).unwrap();
            assert!(runner.warnings().all(|w| w.code != "experts-move"));
            let f = runner.footprint();
            assert!(f.held_bytes() <= bytes, "{f:?}");
            let what = format!("{experts:?} over {bandwidth:e} B/s, {latency_seconds} s: {f:?}");
            assert!(logits(&mut runner) == want, "{what}");
            let counts = runner.experts().unwrap();
            println!("{what}: {counts:?}");
            assert!(counts.needed >= counts.brought + counts.away, "{counts:?}");
            match (experts, bandwidth, latency_seconds) {
                // What is computed there comes while the link is idle.
                (Runs::OnHost, ..) => {
                    assert!(counts.away > 0 && counts.brought == 0 && counts.bytes > 0, "{counts:?}");
                }
                // Both, as it is soonest.
                (_, 1e12, 0.0) => {}
                (_, _, 0.0) => assert!(counts.away > 0 && counts.brought == 0, "{counts:?}"),
                _ => assert!(counts.away == 0 && counts.brought > 0, "{counts:?}"),
            }
        }
    }
    // Where the host has no processor left, experts only move, and it says so unless that was asked for.
    for (experts, told) in [(Runs::Best, true), (Runs::Moved, false)] {
        let bytes = all - (4 << 20);
        let mut options = RunnerOptions { threads: 2, ..sized(Some(bytes)) };
        options.budget.as_mut().unwrap().host = Some(HostMemory { experts, ..host(4 * all, false) });
        let mut runner = load(&file, &options).unwrap();
        assert_eq!(runner.warnings().any(|w| w.code == "experts-move"), told);
        assert!(logits(&mut runner) == want && runner.experts().unwrap().away == 0);
    }
}

#[test]
fn keys_and_values_go_after_weights() {
    let folder = tempfile::tempdir().unwrap();
    let file = deep("llama-q8_0", 9, folder.path());
    let of = |bytes| RunnerOptions { max_rows: 64, ..options(folder.path(), bytes, KvType::F32) };
    let all = load(&file, &of(None)).unwrap().footprint().held_bytes();
    // Copies of logits are beside what it holds.
    let whole = (0..8).filter(|k| {
        let f = load(&file, &of(Some(all + (k << 14)))).unwrap().footprint();
        assert!(f.spilled_bytes == 0, "{all} bytes and {k} times 16 KiB: {f:?}");
        f.streamed_bytes == 0
    });
    assert!((1..8).contains(&whole.count()));
}

fn store(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder.join("weights")).unwrap();
    entries.map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "store")).unwrap()
}

/// The logits of the second of two steps.
fn two_steps(runner: &mut Runner) -> Result<Vec<f32>, EngineError> {
    let mut b = Batch::default();
    (b.tokens, b.sequence, b.position, b.slot) = (vec![7], vec![0], vec![0], vec![0]);
    (b.rows, b.pages, b.adapters) = (vec![0], vec![vec![0]], vec![0]);
    let mut out = vec![];
    runner.forward(&b, &mut out)?;
    runner.forward(&b, &mut out)?;
    Ok(out)
}

#[test]
fn what_a_host_has_no_room_for_comes_from_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    for (name, kv) in [("llama-q8_0", KvType::F32), ("mixtral-f32", KvType::F16)] {
        let file = deep(name, 24, folder.path());
        let sized = |bytes| RunnerOptions { pages: 64, ..options(folder.path(), bytes, kv) };
        let mut plain = load(&file, &sized(None)).unwrap();
        let (want, all) = (two_steps(&mut plain).unwrap(), plain.footprint().held_bytes());
        let (mut relayed, mut experts, mut spilled, mut refused) = (0, 0, 0, 0);
        for (device, below) in [(11, 500), (11, 2500), (15, 40), (15, 1000)] {
            let mut options = sized(Some(all * device / 16));
            options.budget.as_mut().unwrap().host = Some(host(below << 10, true));
            let mut runner = match load(&file, &options) {
                Ok(runner) => runner,
                Err(error) => {
                    assert!(error.diagnostic().to_string().contains("of its host's memory"));
                    refused += 1;
                    continue;
                }
            };
            let f = runner.footprint();
            assert!(two_steps(&mut runner).unwrap() == want, "{name}, {device}/16 over {below} KiB: {f:?}");
            relayed += usize::from(f.disk_bytes > 0 && f.disk_bytes < f.streamed_bytes);
            experts += usize::from(f.experts_bytes > 0);
            spilled += usize::from(f.spilled_bytes > 0);
        }
        println!(
            "{name}: {relayed} relayed, {experts} with experts, {spilled} with spilled caches, {refused} refused"
        );
        assert!(relayed > 0 && refused == 1 && (experts > 0) == (name == "mixtral-f32"));
    }
}

#[test]
fn a_damaged_store_is_told_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = deep("llama-q8_0", 24, folder.path());
    let sized = |bytes| RunnerOptions { pages: 8, ..options(folder.path(), bytes, KvType::F32) };
    let all = load(&file, &sized(None)).unwrap().footprint();
    let all = all.held_bytes();
    let run = || {
        let mut runner = load(&file, &sized(Some(all * 15 / 16)))?;
        assert!(runner.footprint().streamed_bytes > 0, "{:?}", runner.footprint());
        two_steps(&mut runner)
    };
    let want = run().unwrap();
    let path = store(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let mut told = 0;
    for at in (0..whole.len()).step_by(whole.len() / 23) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        match run() {
            // What is damaged is in no block that this run reads.
            Ok(got) => assert!(got == want),
            Err(e) => {
                let text = e.diagnostic().to_string();
                assert!(text.contains("remove it, it is made again"), "{text}");
                told += 1;
            }
        }
    }
    assert!(told > 12, "{told} of 23 were told");
    std::fs::remove_file(&path).unwrap();
    assert!(run().unwrap() == want);
}
