//! The GGUF reader: what it reads back, what it says of damaged files, and that it never panics on any of them.

use lathe_diagnostic::Diagnose;
use lathe_models::{Format, GgmlType, GgufError, GgufErrorKind, GgufWriter, ModelFile, StrArray, dequantize};
use proptest::prelude::*;

/// Zeros after the last tensor of the sample, which a reader does not need.
const PADDING: usize = 96 - 68;

/// A small file with one of everything.
fn sample() -> Vec<u8> {
    let mut w = GgufWriter::new();
    w.str("general.architecture", "llama").u32("a.u32", 7).u64("a.u64", 1 << 40).i32("a.i32", -3);
    w.f32("a.f32", 0.5).bool("a.bool", true).strs("a.strs", &["one", "", "three"]).i32s("a.i32s", &[1, -2]);
    w.f32s("a.f32s", &[1.0, 2.0]).u32s("a.empty", &[]);
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q8_0] {
        let bytes = (0..ty.bytes_for(64).expect("64 is whole blocks")).map(|i| i as u8).collect();
        w.tensor(&format!("t.{ty}"), &[2, 32], ty, bytes);
    }
    w.to_bytes().expect("the sample is well formed")
}

/// Uses everything of a file that opened.
fn walk(file: &ModelFile) {
    for key in file.keys() {
        let _ = file.find::<u32>(key);
        let _ = file.find::<f32>(key);
        let _ = file.find::<bool>(key);
        let _ = file.find::<&str>(key);
        let _ = file.find::<Vec<i32>>(key);
        let _ = file.find::<Vec<f32>>(key);
        if let Ok(Some(strings)) = file.find::<StrArray<'_>>(key) {
            assert_eq!(strings.iter().count(), strings.len());
        }
    }
    for t in file.tensors() {
        let mut out = vec![0.0; t.elements()];
        assert_eq!(dequantize(t.ty(), &file.data(t), &mut out), t.elements());
        file.drop_pages(t);
    }
}

fn fails(bytes: Vec<u8>) -> String {
    match ModelFile::from_bytes(bytes) {
        Ok(_) => "no error".to_owned(),
        Err(e) => {
            assert!(!e.to_string().contains('\n'), "one line: {e}");
            e.diagnostic().to_string()
        }
    }
}

#[test]
fn reads_back_what_was_written() -> Result<(), GgufError> {
    let file = ModelFile::from_bytes(sample())?;
    assert_eq!(file.format(), Format::Gguf(3));
    assert_eq!(file.get_str("general.architecture")?, "llama");
    assert_eq!(file.get_u32("a.u32")?, 7);
    assert_eq!(file.get::<u64>("a.u64")?, 1 << 40);
    assert_eq!(file.get::<i32>("a.i32")?, -3);
    assert_eq!(file.get_f32("a.f32")?, 0.5);
    assert!(file.get::<bool>("a.bool")?);
    assert_eq!(file.get::<Vec<i32>>("a.i32s")?, [1, -2]);
    assert_eq!(file.get::<Vec<f32>>("a.f32s")?, [1.0, 2.0]);
    assert!(file.get::<Vec<u32>>("a.empty")?.is_empty());
    let strings: Vec<&[u8]> = file.get::<StrArray<'_>>("a.strs")?.iter().collect();
    assert_eq!(strings, [&b"one"[..], b"", b"three"]);
    assert!(matches!(file.get_u32("no.such.key").map_err(|e| e.kind), Err(GgufErrorKind::MissingKey(_))));
    let wrong = file.get_u32("a.u64").expect_err("does not fit");
    assert_eq!(
        wrong.to_string(),
        "metadata key 'a.u64' holds a value of type U64, where an integer from 0 to 4294967295 is needed"
    );
    let t = file.tensor("t.Q4_0").expect("it was written");
    assert_eq!((t.dims(), t.shape(), t.ty()), (&[32, 2][..], vec![2, 32], GgmlType::Q4_0));
    assert_eq!(*file.data(t), (0..36).collect::<Vec<u8>>());
    assert!(file.tensor("t.none").is_none());
    walk(&file);
    Ok(())
}

#[test]
fn version_2_reads_the_same() -> Result<(), GgufError> {
    let mut bytes = sample();
    bytes[4] = 2;
    let file = ModelFile::from_bytes(bytes)?;
    assert_eq!(file.format(), Format::Gguf(2));
    walk(&file);
    Ok(())
}

#[test]
fn mapped_file_survives_dropping_its_pages() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.gguf");
    let mut w = GgufWriter::new();
    let big: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    let copy = big.clone();
    w.tensor("small", &[1], GgmlType::F32, vec![1, 2, 3, 4]);
    w.tensor_with("big", &[1 << 18], GgmlType::F32, move |out| out.write_all(&copy));
    w.write(&path)?;
    let file = ModelFile::open(&path)?;
    let handle = file.clone();
    for name in ["big", "small", "big"] {
        let t = file.tensor(name).expect("it was written");
        let before = file.data(t).to_vec();
        handle.drop_pages(t);
        assert!(*file.data(t) == before);
    }
    assert!(*file.data(file.tensor("big").expect("it was written")) == big);
    Ok(())
}

/// What the process holds of mapped files, in KiB.
#[cfg(target_os = "linux")]
fn resident_file_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|l| l.starts_with("RssFile:")).expect("it has this line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[cfg(target_os = "linux")]
#[test]
fn dropped_pages_leave_memory() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.gguf");
    let mut w = GgufWriter::new();
    w.tensor("t", &[1 << 23], GgmlType::F32, vec![1; 1 << 25]);
    w.write(&path)?;
    let file = ModelFile::open(&path)?;
    let t = file.tensor("t").expect("it was written");
    assert_eq!(file.data(t).iter().map(|&b| u64::from(b)).sum::<u64>(), 1 << 25);
    let full = resident_file_kib();
    file.drop_pages(t);
    let freed = full - resident_file_kib();
    assert!(freed > 30_000, "of 32768 KiB {freed} were freed");
    Ok(())
}

#[test]
fn each_fault_has_its_own_line() {
    let good = sample();
    let patched = |at: usize, with: &[u8]| {
        let mut b = good.clone();
        b[at..at + with.len()].copy_from_slice(with);
        fails(b)
    };
    let find =
        |needle: &[u8]| good.windows(needle.len()).position(|w| w == needle).expect("it is in the sample");
    assert!(fails(vec![]).starts_with("error[gguf-magic]: this is not a GGUF file (it begins with nothing"));
    assert!(fails(b"PK\x03\x04....".to_vec()).contains("it begins with \"PK\\x03\\x04\""));
    assert!(patched(4, &[1]).starts_with("error[gguf-version]: GGUF version 1 is not supported"));
    assert!(patched(4, &[0, 0, 0, 3]).starts_with("error[gguf-big-endian]"));
    assert!(patched(8, &u64::MAX.to_le_bytes()).contains("it claims 18446744073709551615 tensors"));
    assert!(patched(16, &(1u64 << 33).to_le_bytes()).contains("it claims 8589934592 metadata entries"));
    assert!(
        fails(good[..good.len() - PADDING - 1].to_vec()).contains("the file ends inside tensor 't.Q8_0'")
    );
    assert!(fails(good[..400].to_vec()).starts_with("error[gguf-truncated]: the file ends inside"));
    // A tensor entry: name, rank (4 bytes), dimensions (8 each), type (4), offset (8).
    let entry = find(b"t.Q4_0") + 6;
    assert!(patched(entry, &9u32.to_le_bytes()).contains("'t.Q4_0' has 9 dimensions"));
    assert!(patched(entry + 4, &33u64.to_le_bytes()).contains("has rows of 33, not a multiple of 32"));
    assert!(patched(entry + 4, &0u64.to_le_bytes()).contains("has an empty dimension"));
    assert!(patched(entry + 4, &(1u64 << 63).to_le_bytes()).contains("'t.Q4_0' is too large"));
    let q8 = patched(entry + 20, &15u32.to_le_bytes());
    assert!(q8.contains("tensor 't.Q4_0' is in Q8_K, which is not supported yet"), "{q8}");
    assert!(patched(entry + 20, &999u32.to_le_bytes()).contains("has the unknown type 999"));
    assert!(patched(entry + 24, &1u64.to_le_bytes()).contains("lies at offset 1, not a multiple of 32"));
    assert!(patched(entry + 24, &(u64::MAX - 31).to_le_bytes()).contains("is too large"));
    assert!(
        patched(entry + 24, &(1u64 << 40).to_le_bytes()).contains("the file ends inside tensor 't.Q4_0'")
    );
    assert!(patched(entry - 1, b"1").contains("tensor 't.Q4_1' appears twice"));
    assert!(patched(find(b"a.f32") + 4, b"\xff").contains("not UTF-8"));
    assert!(patched(find(b"a.bool"), b"a.i32s").contains("metadata key 'a.i32s' appears twice"));
}

#[test]
fn nested_arrays_are_bounded() {
    let mut b = b"GGUF".to_vec();
    b.extend(3u32.to_le_bytes());
    b.extend([0u64.to_le_bytes(), 1u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
    b.push(b'k');
    b.extend(9u32.to_le_bytes());
    for _ in 0..100_000 {
        b.extend(9u32.to_le_bytes());
        b.extend(1u64.to_le_bytes());
    }
    assert!(fails(b).contains("nests arrays more than 4 deep"));
}

#[test]
fn opening_something_else_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let none = ModelFile::open(folder.path().join("none.gguf")).expect_err("no such file").diagnostic();
    assert_eq!(none.code, "gguf-open");
    let dir = ModelFile::open(folder.path()).expect_err("a folder without a model").diagnostic();
    assert_eq!(dir.code, "safetensors-missing");
}

#[test]
fn every_truncation_is_an_error() {
    let good = sample();
    for len in 0..good.len() - PADDING {
        assert!(ModelFile::from_bytes(good[..len].to_vec()).is_err(), "cut at {len}");
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let good = sample();
    let header = good.len() - 6 * 64;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut b = good.clone();
        for _ in 0..=next() % 4 {
            let at = next() as usize % header;
            b[at] = match next() % 4 {
                0 => 0xff,
                1 => 0,
                2 => b[at] ^ (1 << (next() % 8)),
                _ => next() as u8,
            };
        }
        match ModelFile::from_bytes(b) {
            Ok(file) => {
                opened += 1;
                walk(&file);
            }
            Err(e) => {
                refused += 1;
                assert!(!e.diagnostic().to_string().is_empty());
            }
        }
    }
    assert!(
        opened > 100 && refused > 100,
        "the damage should matter sometimes: {opened} opened, {refused} refused"
    );
}

/// Bit for bit what the `gguf` Python package decodes; tests/scripts/make_dequantize.py wrote the file.
#[test]
fn dequantize_matches_the_reference() {
    let mut rest = &include_bytes!("data/dequantize.bin")[..];
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at(n);
        rest = tail;
        head
    };
    let int = |b: &[u8]| u32::from_le_bytes(b.try_into().expect("four bytes"));
    for &expected_type in GgmlType::ALL {
        let ty = GgmlType::from_id(int(take(4))).expect("a supported type");
        assert_eq!(ty, expected_type);
        let len = int(take(4)) as usize;
        let bytes = take(len);
        let count = int(take(4)) as usize;
        let expected: Vec<u32> = take(4 * count).chunks(4).map(int).collect();
        let mut out = vec![f32::NAN; count];
        assert_eq!(dequantize(ty, bytes, &mut out), count);
        let got: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
        assert_eq!(got, expected, "{ty}");
    }
}

proptest! {
    #[test]
    fn any_metadata_and_shape_round_trip(
        text in ".{0,40}",
        ints in prop::collection::vec(any::<i32>(), 0..20),
        strings in prop::collection::vec(".{0,12}", 0..20),
        shape in prop::collection::vec(1usize..5, 0..4),
        seed in any::<u8>(),
    ) {
        let elements: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..elements * 2).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        let mut w = GgufWriter::new();
        w.str("s", &text).i32s("i", &ints).strs("ss", &strings).tensor("t", &shape, GgmlType::F16, bytes.clone());
        let file = ModelFile::from_bytes(w.to_bytes().expect("writable")).expect("readable");
        prop_assert_eq!(file.get_str("s").expect("s"), text);
        prop_assert_eq!(file.get::<Vec<i32>>("i").expect("i"), ints);
        let read: Vec<&[u8]> = file.get::<StrArray<'_>>("ss").expect("ss").iter().collect();
        prop_assert_eq!(read, strings.iter().map(String::as_bytes).collect::<Vec<_>>());
        let t = file.tensor("t").expect("t");
        prop_assert_eq!(t.shape(), shape);
        prop_assert_eq!(file.data(t), bytes);
    }

    #[test]
    fn any_bytes_after_the_magic_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ModelFile::from_bytes([b"GGUF\x03\0\0\0".to_vec(), tail].concat());
    }
}
