//! Split GGUF sets: any part opens the set, and parts that do not belong together are refused.

use std::fs;
use std::path::{Path, PathBuf};

use lathe_diagnostic::Diagnose;
use lathe_models::{GgmlType, GgufWriter, ModelFile};

/// Part `no` of `count`, with one tensor of a single value each.
fn part(no: u32, count: u32, total: u32, tensor: &str) -> Vec<u8> {
    let mut w = GgufWriter::new();
    if no == 0 {
        w.str("general.architecture", "llama");
    }
    w.u32("split.no", no).u32("split.count", count).u32("split.tensors.count", total);
    w.tensor(tensor, &[1], GgmlType::F32, (no as f32).to_le_bytes().to_vec());
    w.to_bytes().expect("it is well formed")
}

fn place(folder: &Path, number: u32, count: u32) -> PathBuf {
    folder.join(format!("m-{number:05}-of-{count:05}.gguf"))
}

/// Three parts in a new folder.
fn set() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for no in 0..3 {
        let bytes = part(no, 3, 3, &format!("t{no}"));
        fs::write(place(folder.path(), no + 1, 3), bytes).expect("it can be written");
    }
    folder
}

#[test]
fn any_part_opens_the_set() {
    let folder = set();
    for number in 1..=3 {
        let file = ModelFile::open(place(folder.path(), number, 3)).expect("the set is whole");
        assert_eq!(file.files(), 3);
        assert_eq!(file.get_str("general.architecture").expect("the first part has it"), "llama");
        for no in 0..3u32 {
            let t = file.tensor(&format!("t{no}")).expect("each part has one");
            assert_eq!(*file.data(t), (no as f32).to_le_bytes());
            assert!(file.mapping(t).is_some());
        }
    }
}

/// tests/scripts/make_split.py
#[test]
fn sets_of_the_gguf_package_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/split");
    for number in 1..=3 {
        let part = folder.join(format!("set-{number:05}-of-00003.gguf"));
        let file = ModelFile::open(part).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(file.get_u32("llama.block_count").expect("the first part has it"), 7);
        assert_eq!((file.tensors().len(), file.files()), (5, 3));
        for n in 0..5u8 {
            let t = file.tensor(&format!("t{n}")).expect("it is in some part");
            assert_eq!(*file.data(t), f32::from(n).to_le_bytes().repeat(32));
        }
    }
}

#[test]
fn sets_that_do_not_fit_are_refused() {
    let fails = |what: &str, change: &dyn Fn(&Path)| {
        let folder = set();
        change(folder.path());
        let error = ModelFile::open(place(folder.path(), 1, 3)).expect_err(what).diagnostic().to_string();
        assert!(error.starts_with("error[gguf-split]") && !error.contains('\n'), "{what}: {error}");
        assert!(error.contains(what), "{what}: {error}");
    };
    let write = |folder: &Path, number: u32, bytes: Vec<u8>| {
        fs::write(place(folder, number, 3), bytes).expect("it can be written");
    };
    fails("part 2 of 3 cannot be opened", &|f| fs::remove_file(place(f, 2, 3)).expect("it is there"));
    fails("its split.count is 4", &|f| write(f, 2, part(1, 4, 3, "t1")));
    fails("its split.no is 2, by its name it is 1", &|f| write(f, 2, part(2, 3, 3, "t1")));
    fails("its split.no is 7, but the set has 3", &|f| write(f, 2, part(7, 3, 3, "t1")));
    fails("tensor 't0' is in an earlier part", &|f| write(f, 2, part(1, 3, 3, "t0")));
    fails("the parts have 3 tensors, split.tensors.count is 5", &|f| write(f, 1, part(0, 3, 5, "t0")));
    fails("its split.count is none", &|f| write(f, 3, GgufWriter::new().to_bytes().expect("a file")));
    fails("its name must end in -00002-of-00003.gguf", &|f| write(f, 1, part(1, 3, 3, "t0")));
    // A count that no set has is not walked through.
    fails("its name must end in", &|f| write(f, 1, part(0, u32::MAX, 3, "t0")));
}
