//! The probes' libraries as files in one folder, and copies of them put wrong.
//!
//! Runs in a host. Never builds anything: whoever runs the table says where the libraries are.

use std::fs;
use std::path::{Path, PathBuf};

/// The packages whose libraries the table loads.
pub const PACKAGES: [&str; 4] = ["probe", "probe-constructor", "probe-life", "probe-modules"];

/// The file's name of a package's library.
pub fn file_name(package: &str) -> String {
    format!("lib{}.so", package.replace('-', "_"))
}

/// The files that are not in `folder`.
pub fn missing_in(folder: &Path) -> Vec<String> {
    PACKAGES.into_iter().map(file_name).filter(|name| !folder.join(name).is_file()).collect()
}

/// `bytes` in which every `old` is `new`.
///
/// # Errors
/// There is no `old`, or it has another length than `new`: nothing in a library may move.
pub fn replaced(mut bytes: Vec<u8>, old: &[u8], new: &[u8]) -> Result<Vec<u8>, String> {
    if old.len() != new.len() {
        return Err("nothing in a library may move".to_owned());
    }
    let places: Vec<usize> =
        bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old).map(|(at, _)| at).collect();
    if places.is_empty() {
        return Err(format!("nothing to replace: {:?}", String::from_utf8_lossy(old)));
    }
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    Ok(bytes)
}

/// Bytes of the library of `package` in `folder`.
///
/// # Errors
/// That it cannot be read.
pub fn bytes_of(folder: &Path, package: &str) -> Result<Vec<u8>, String> {
    let path: PathBuf = folder.join(file_name(package));
    fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The plugin `probe-constructor`, whose constructor does `act`.
///
/// # Errors
/// As [`bytes_of`] and [`replaced`].
pub fn constructor_that(folder: &Path, act: &str) -> Result<Vec<u8>, String> {
    let place = |act: &str| format!("{:32}", format!("PROBE-CONSTRUCTOR:{act}"));
    replaced(bytes_of(folder, "probe-constructor")?, place("open").as_bytes(), place(act).as_bytes())
}
