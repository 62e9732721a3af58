//! The file system that a guest runs out of: our programs, the libraries that they need, and a few of the system's own.
//!
//! Owns what is in it. The programs are those of this very machine, so that the guest has its C library.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cpio::newc::{Builder, trailer};

/// Programs of the system's that the tests of plugins' processes start, and what a C library reads.
const SYSTEM: [&str; 12] = [
    "/bin/sh",
    "/bin/cat",
    "/bin/true",
    "/bin/echo",
    "/bin/sleep",
    "/bin/mount",
    "/usr/bin/env",
    "/usr/bin/id",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/localtime",
];

/// Libraries that are opened by name, by the C library and by tests, and so are in nobody's list.
const OPENED_BY_NAME: [&str; 5] =
    ["libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libz.so.1", "libnss_files.so.2"];

/// What the plugin `probe-modules` needs, and is tried without.
const NEVER_HAD: &str = "libprobe_near.so";

const TEXTS: [(&str, u32, &str); 5] = [
    ("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"),
    ("etc/shadow", 0o600, "root:*::::::\nuser:*::::::\n"),
    ("etc/group", 0o644, "root:x:0:\nuser:x:1000:\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", 0o644, "guest\n"),
];

const FOLDERS: [&str; 9] = ["dev", "proc", "sys", "tmp", "root", "run", "var/tmp", "w", "modules"];

/// A file of the guest's.
pub(crate) struct Extra {
    pub(crate) from: PathBuf,
    /// Below the root, without a slash in front.
    pub(crate) at: String,
}

/// Writes one with `init` as the first process, and with these files.
pub(crate) fn write(to: &Path, init: &Path, extras: &[Extra]) -> Result<()> {
    let mut image = Image { bytes: Vec::new(), known: BTreeSet::new() };
    for folder in FOLDERS {
        image.folder(folder)?;
    }
    for (at, mode, text) in TEXTS {
        image.bytes(at, mode, text.as_bytes())?;
    }
    // Those of Debian's are links into /usr: files are put where their paths lead.
    image.file(init, "init")?;
    for path in SYSTEM.map(Path::new) {
        if path.exists() {
            image.file(path, relative(path))?;
        }
    }
    for path in extras {
        image.file(&path.from, &path.at)?;
    }
    let folders = ["/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
    for name in OPENED_BY_NAME {
        if let Some(path) =
            folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
        {
            image.file(&path, relative(&path))?;
        }
    }
    let whole = trailer(image.bytes)?;
    fs::write(to, whole).with_context(|| format!("writing {}", to.display()))
}

fn relative(path: &Path) -> &str {
    path.to_str().unwrap_or_default().trim_start_matches('/')
}

struct Image {
    bytes: Vec<u8>,
    known: BTreeSet<String>,
}

impl Image {
    /// A folder, and those above it.
    fn folder(&mut self, at: &str) -> Result<()> {
        let mut path = String::new();
        for part in at.split('/').filter(|part| !part.is_empty()) {
            path = if path.is_empty() { part.to_owned() } else { format!("{path}/{part}") };
            let mode = if matches!(path.as_str(), "tmp" | "var/tmp") { 0o1777 } else { 0o755 };
            if self.known.insert(path.clone()) {
                self.entry(&path, libc::S_IFDIR | mode, &[])?;
            }
        }
        Ok(())
    }

    /// A file of this machine's, with the libraries that it needs.
    fn file(&mut self, from: &Path, at: &str) -> Result<()> {
        if self.known.contains(at) {
            return Ok(());
        }
        let metadata = fs::metadata(from).with_context(|| format!("{} is wanted", from.display()))?;
        let contents = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.bytes(at, metadata.permissions().mode() & 0o755, &contents)?;
        if contents.starts_with(b"\x7fELF") {
            for library in libraries(from)? {
                self.file(&library, relative(&library))?;
            }
        }
        Ok(())
    }

    fn bytes(&mut self, at: &str, mode: u32, contents: &[u8]) -> Result<()> {
        if let Some((folder, _)) = at.rsplit_once('/') {
            self.folder(folder)?;
        }
        if self.known.insert(at.to_owned()) {
            self.entry(at, libc::S_IFREG | mode, contents)?;
        }
        Ok(())
    }

    fn entry(&mut self, at: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let number = u32::try_from(self.known.len())?;
        let mut writer = Builder::new(at)
            .ino(number)
            .mode(mode)
            .nlink(1)
            .write(&mut self.bytes, u32::try_from(contents.len())?);
        writer.write_all(contents)?;
        writer.finish()?;
        Ok(())
    }
}

/// What the loader of this machine loads with it.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let is_missing = |line: &str| line.contains("not found") && !line.contains(NEVER_HAD);
    ensure!(!text.lines().any(is_missing), "{}: {text}", program.display());
    let words = text.lines().flat_map(str::split_whitespace);
    Ok(words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
