//! The kernel cache: builds once, survives damage, races and bad folders, and explains what it cannot do.

use lathe_diagnostic::{Diagnose, Fault};
use lathe_machine::Target;
use lathe_runtime::{BuildRequest, KernelCache, Library, RuntimeError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn unit(name: &str, value: i32) -> String {
    format!(
        "struct lathe_ctx {{ unsigned thread, threads; }};\nint {name}(struct lathe_ctx *c, char **b, long long *d, char *w, \
         long long begin, long long end) {{ return {value}; }}\n"
    )
}

fn request(units: Vec<String>) -> BuildRequest {
    BuildRequest::new(units, &Target::portable())
}

fn load(dir: &Path, request: &BuildRequest) -> Result<Library, RuntimeError> {
    KernelCache::new(dir).load(request, 2, &mut |_, _| ())
}

/// The only cached library in `dir`.
fn cached(dir: &Path) -> PathBuf {
    let is_library = |path: &PathBuf| path.extension().is_some_and(|end| end == "so");
    let mut files = fs::read_dir(dir.join("kernels")).unwrap().map(|e| e.unwrap().path()).filter(is_library);
    let file = files.next().unwrap();
    assert!(files.next().is_none());
    file
}

/// Writes an executable script. Another process writes it: were it open here while another test starts a process, that one
/// would hold it open too, and it could not be run.
fn program(path: &Path, text: &str) {
    let write = "printf %s \"$1\" > \"$2\" && chmod +x \"$2\"";
    let status = Command::new("sh").args(["-c", write, "sh", text]).arg(path).status().unwrap();
    assert!(status.success());
}

/// A compiler that notes each time it is started to compile, after a pause.
fn counting_compiler(dir: &Path) -> (String, PathBuf) {
    let (script, log) = (dir.join("slow-cc"), dir.join("log"));
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) ;; *) echo \"$*\" >> '{}'; sleep 0.2 ;; esac\nexec cc \"$@\"\n",
        log.display()
    );
    program(&script, &text);
    (script.display().to_string(), log)
}

fn starts(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().lines().count()
}

#[test]
fn builds_once_with_progress_then_loads() {
    let dir = tempfile::tempdir().unwrap();
    let request = request((0..5).map(|i| unit(&format!("kernel_{i}"), i)).collect());
    let cache = KernelCache::new(dir.path());
    let mut steps = Vec::new();
    let first = cache.load(&request, 2, &mut |done, total| steps.push((done, total))).unwrap();
    assert_eq!(steps, (0..=6).map(|done| (done, 6)).collect::<Vec<_>>());
    assert!(!first.is_from_cache() && first.warning().is_none());
    for i in 0..5 {
        first.kernel(&format!("kernel_{i}")).unwrap();
    }
    let error = first.kernel("kernel_5").unwrap_err();
    assert_eq!(error, RuntimeError::NoKernel { name: "kernel_5".into() });
    assert!(first.kernel("nul\0").is_err() && first.kernel("").is_err());
    let again = cache.load(&request, 2, &mut |_, _| panic!("nothing is to be built")).unwrap();
    assert!(again.is_from_cache());
    let left: Vec<_> = fs::read_dir(dir.path().join("kernels")).unwrap().collect();
    assert_eq!(left.len(), 1, "only the library is left: {left:?}");
}

#[test]
fn what_decides_the_code_decides_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let base = request(vec![unit("f", 1)]);
    let mut others = vec![base.clone(); 4];
    others[1].flags.push("-O1".into());
    others[2].features.push_str(" more");
    others[3].units.push(unit("g", 1));
    for request in &others {
        assert!(!load(dir.path(), request).unwrap().is_from_cache());
    }
    assert!(load(dir.path(), &base).unwrap().is_from_cache());
}

#[test]
fn damaged_entries_are_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(vec![unit("f", 0)]);
    drop(load(dir.path(), &request).unwrap());
    let file = cached(dir.path());
    let good = fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged =
        [vec![], good[..10].to_vec(), good[..good.len() - 1].to_vec(), flipped(0), flipped(good.len() / 2)];
    for (case, bytes) in
        damaged.into_iter().chain([flipped(good.len() - 1), flipped(good.len() - 20)]).enumerate()
    {
        fs::write(&file, bytes).unwrap();
        let library = load(dir.path(), &request).unwrap();
        assert!(!library.is_from_cache(), "case {case}");
        library.kernel("f").unwrap();
    }
    assert!(load(dir.path(), &request).unwrap().is_from_cache());
}

#[test]
fn threads_that_want_the_same_build_once() {
    let dir = tempfile::tempdir().unwrap();
    let (compiler, log) = counting_compiler(dir.path());
    let request = BuildRequest { compiler: Some(compiler), ..request(vec![unit("f", 0)]) };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load(dir.path(), &request).unwrap().kernel("f").unwrap());
        }
    });
    assert_eq!(starts(&log), 2, "one compilation and one link");
}

#[test]
fn processes_that_want_the_same_build_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_, log) = counting_compiler(dir.path());
    let child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child_process", "--ignored"]).env("LATHE_TEST_DIR", dir.path());
        command.spawn().unwrap()
    };
    let mut children: Vec<_> = (0..3).map(|_| child()).collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(starts(&log), 2, "one compilation and one link");
}

#[test]
#[ignore = "started as a process of its own by the test above"]
fn child_process() {
    let dir = PathBuf::from(std::env::var("LATHE_TEST_DIR").unwrap());
    let compiler = Some(dir.join("slow-cc").display().to_string());
    let request = BuildRequest { compiler, ..request(vec![unit("f", 0)]) };
    load(&dir, &request).unwrap().kernel("f").unwrap();
}

#[test]
fn a_warm_start_does_not_start_the_compiler() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("cc");
    let log = dir.path().join("log");
    program(&script, &format!("#!/bin/sh\necho x >> '{}'\nexec cc \"$@\"\n", log.display()));
    let compiler = Some(script.display().to_string());
    let request = BuildRequest { compiler, ..request(vec![unit("f", 0)]) };
    load(dir.path(), &request).unwrap();
    assert_eq!(starts(&log), 3, "version, compilation, link");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "warm_child", "--ignored"]).env("LATHE_TEST_DIR", dir.path());
    assert!(child.status().unwrap().success());
    assert_eq!(starts(&log), 3);
}

#[test]
#[ignore = "started as a process of its own by the test above"]
fn warm_child() {
    let dir = PathBuf::from(std::env::var("LATHE_TEST_DIR").unwrap());
    let compiler = Some(dir.join("cc").display().to_string());
    let request = BuildRequest { compiler, ..request(vec![unit("f", 0)]) };
    assert!(load(&dir, &request).unwrap().is_from_cache());
}

#[test]
fn no_compiler_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let request = BuildRequest { compiler: Some("/nonexistent".into()), ..request(vec![unit("f", 0)]) };
    let diagnostic = load(dir.path(), &request).unwrap_err().diagnostic();
    assert_eq!((diagnostic.code, diagnostic.fault), ("no-compiler", Fault::Environment));
    assert!(diagnostic.to_string().contains("apt install gcc"));
}

#[test]
fn refused_source_is_a_bug_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(vec![unit("f", 0), "int g( {\n".into()]);
    let error = load(dir.path(), &request).unwrap_err();
    let RuntimeError::CompileFailed { message, source_path } = &error else { panic!("{error}") };
    assert!(message.contains("error"), "{message}");
    assert_eq!(fs::read_to_string(source_path).unwrap(), request.units[1]);
    assert_eq!(error.diagnostic().fault, Fault::Bug);
}

#[test]
fn a_folder_of_a_killed_build_is_removed_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("kernels/build-old"), dir.path().join("kernels/build-new"));
    for folder in [&old, &new] {
        fs::create_dir_all(folder).unwrap();
    }
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    fs::File::open(&old).unwrap().set_modified(yesterday).unwrap();
    load(dir.path(), &request(vec![unit("f", 0)])).unwrap();
    assert_eq!((old.exists(), new.exists()), (false, true));
}

#[test]
fn a_broken_compiler_is_not_a_bug_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("cc");
    program(&script, "#!/bin/sh\ncase $1 in --version) echo cc 1;; *) echo no cc1 >&2; exit 1;; esac\n");
    let compiler = Some(script.display().to_string());
    let error = load(dir.path(), &BuildRequest { compiler, ..request(vec![unit("f", 0)]) }).unwrap_err();
    assert_eq!((error.diagnostic().code, error.diagnostic().fault), ("compiler-broken", Fault::Environment));
    assert!(error.to_string().contains("no cc1"), "{error}");
}

#[test]
fn an_unusable_folder_falls_back_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let cache = KernelCache::new(file.join("cache")); // cannot be made, by the superuser either
    let request = request(vec![unit("f", 0)]);
    let library = cache.load(&request, 1, &mut |_, _| ()).unwrap();
    let warning = library.warning().unwrap().to_string();
    assert!(warning.starts_with("error[cache-unwritable]"), "{warning}");
    library.kernel("f").unwrap();
    assert!(
        cache.load(&request, 1, &mut |_, _| ()).unwrap().is_from_cache(),
        "the private folder is used again"
    );
}

#[test]
fn a_full_cache_that_is_read_only_still_serves() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(vec![unit("f", 0)]);
    load(dir.path(), &request).unwrap();
    for folder in [dir.path().join("kernels"), dir.path().to_path_buf()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let library = load(dir.path(), &request).unwrap();
    assert!(library.is_from_cache() && library.warning().is_none());
    for folder in [dir.path().to_path_buf(), dir.path().join("kernels")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A compiler that ends with `message` where `condition`, of the shell, holds for its arguments, and else is the machine's own.
fn picky_compiler(folder: &Path, condition: &str, message: &str) -> String {
    let path = folder.join("picky-cc");
    program(
        &path,
        &format!("#!/bin/sh\nif {condition}; then echo '{message}' >&2; exit 1; fi\nexec cc \"$@\"\n"),
    );
    path.display().to_string()
}

#[test]
fn a_compiler_that_fails_on_itself_is_asked_for_less() {
    let dir = tempfile::tempdir().unwrap();
    let condition = "case \"$*\" in *-O1*) false;; *' -c '*) true;; *) false;; esac";
    let compiler =
        Some(picky_compiler(dir.path(), condition, "0.c:1: internal compiler error: in f, at g.cc:1"));
    let request = BuildRequest { compiler, ..request(vec![unit("f", 0)]) };
    load(dir.path(), &request).unwrap().kernel("f").unwrap();
}

#[test]
fn a_compiler_without_a_target_gets_the_next_one_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let condition = "case \"$*\" in *-mavxvnni*|*-mavx512vnni*) true;; *) false;; esac";
    let compiler = picky_compiler(dir.path(), condition, "unrecognized option");
    let cache = KernelCache::new(dir.path());
    for (name, next) in [("avx512vnni", "avx512"), ("avxvnni", "avx2"), ("portable", "portable")] {
        let wanted = Target::named(name).unwrap();
        let (target, warning) = cache.compilable(wanted, Some(&compiler)).unwrap();
        let expected = if cfg!(target_arch = "x86_64") { next } else { "portable" };
        assert_eq!(target.dialect, expected);
        assert_eq!(warning.map(|w| w.code), (name != "portable").then_some("old-compiler"));
    }
}

#[test]
fn built_kernels_are_loaded_from_their_bytes_without_a_compiler() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = KernelCache::new(dir.path()).build(&request(vec![unit("f", 0)]), 1, &mut |_, _| {}).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for known in [false, true] {
        let library = KernelCache::new(elsewhere.path()).load_built(&bytes).unwrap();
        library.kernel("f").unwrap();
        assert_eq!(library.is_from_cache(), known);
    }
    assert!(!elsewhere.path().join("compilers").exists());
}
