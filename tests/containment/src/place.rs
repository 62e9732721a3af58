//! What a row is about: files of its own, servers that nobody may reach, and the processes that it must not touch.
//!
//! Runs in a host. Owns the words in braces that a row's texts may have, and whether what was not granted is as it was.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

/// What stands in every file that is not to be read.
pub const SECRET: &str = "a secret of the host's";
/// What stands in the file that may be read, where something is granted.
pub const CONTENTS: &str = "contents";

/// A folder for one attempt. In it: `granted`, with a `file`, links out of it, and a `deep/er` folder; and `outside`, with a
/// `secret`.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
    path: String,
    before: BTreeMap<PathBuf, String>,
    words: Vec<(&'static str, String)>,
}

impl Place {
    /// A new one, in which `words` stand for these texts beside `{dir}`.
    ///
    /// # Errors
    /// That it cannot be made.
    pub fn new(mut words: Vec<(&'static str, String)>) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("containment.").tempdir()?;
        // An ordinary user's plugin reaches it too. The sandbox judges where a name really leads: /tmp may be a link.
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let at = folder.path().canonicalize()?;
        let path = at.to_string_lossy().into_owned();
        fs::create_dir_all(at.join("granted/deep/er"))?;
        fs::create_dir(at.join("outside"))?;
        fs::create_dir(at.join("granted-too"))?;
        for (name, contents) in [
            ("granted/file", CONTENTS),
            ("granted/one", "1"),
            ("outside/two", "2"),
            ("outside/secret", SECRET),
            ("granted-too/secret", SECRET),
        ] {
            fs::write(at.join(name), contents)?;
        }
        for (name, target) in [
            ("granted/link", "../outside/secret"),
            ("granted/link-to-folder", "../outside"),
            ("granted/link-by-root", "/proc/self/root/etc/passwd"),
            ("granted/link-to-link", "link"),
            ("granted/link-to-itself", "link-to-itself"),
        ] {
            std::os::unix::fs::symlink(target, at.join(name))?;
        }
        let fifo = at.join("granted/fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )?;
        words.push(("{dir}", path.clone()));
        let before = tree(&at.join("outside"));
        Ok(Self { folder, path, before, words })
    }

    /// `text` with every word in braces replaced.
    pub fn filled(&self, text: &[u8]) -> Vec<u8> {
        // Bytes of frames are no text, and have no words.
        let Ok(text) = std::str::from_utf8(text) else { return text.to_vec() };
        let filled = self.words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
        filled.into_bytes()
    }

    /// The path of `name` in it.
    pub fn at(&self, name: &str) -> PathBuf {
        Path::new(&self.path).join(name)
    }

    /// What has changed outside of what may be granted, if something has.
    pub fn changed(&self) -> Option<String> {
        debug_assert!(self.folder.path().exists());
        let now = tree(&self.at("outside"));
        (now != self.before).then(|| format!("files outside were {:?}, and are {now:?}", self.before))
    }
}

/// Every file below `folder`, with all that says what it is.
fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(of) = fs::symlink_metadata(&path) else { continue };
        let bytes = if of.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        found.insert(path.clone(), format!("{:o} {} {} {text:?}", of.mode(), of.uid(), of.nlink()));
        if of.is_dir() {
            found.extend(tree(&path));
        }
    }
    found
}

/// Sockets of the host's at which nobody ever takes a connection: whoever comes is found waiting.
#[derive(Debug)]
pub struct Servers {
    tcp: TcpListener,
    udp: UdpSocket,
    by_path: UnixListener,
    by_name: UnixListener,
    name: String,
    folder: TempDir,
}

impl Servers {
    /// New ones, at the loopback address and at names of their own.
    ///
    /// # Errors
    /// That they cannot be had.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let folder = tempfile::Builder::new().prefix("containment.").tempdir()?;
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let path = folder.path().join("socket");
        let by_path = UnixListener::bind(&path)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
        let name = format!("containment-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        by_path.set_nonblocking(true)?;
        by_name.set_nonblocking(true)?;
        Ok(Self { tcp, udp, by_path, by_name, name, folder })
    }

    /// The words for where they are.
    ///
    /// # Errors
    /// That a socket does not tell.
    pub fn words(&self) -> io::Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("{tcp}", self.tcp.local_addr()?.port().to_string()),
            ("{udp}", self.udp.local_addr()?.port().to_string()),
            ("{unix}", self.folder.path().join("socket").to_string_lossy().into_owned()),
            ("{abstract}", self.name.clone()),
        ])
    }

    /// How many have come since this was last asked.
    pub fn visitors(&self) -> usize {
        let mut count = 0;
        while self.tcp.accept().is_ok() {
            count += 1;
        }
        while self.udp.recv(&mut [0; 16]).is_ok() {
            count += 1;
        }
        while self.by_path.accept().is_ok() {
            count += 1;
        }
        while self.by_name.accept().is_ok() {
            count += 1;
        }
        count
    }
}
