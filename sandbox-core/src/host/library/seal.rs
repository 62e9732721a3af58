//! Opens a library's file and takes its bytes into a sealed memory file, which nobody can change any more.
//!
//! Runs in the application's process. Owns the descriptor that the helper will load from: the facts are read from the
//! sealed bytes themselves, so a file that is exchanged or rewritten after the check changes nothing.
//! Never blocks on a FIFO, never opens more than it closes, never holds a whole library in the host's own memory.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use object::read::{ReadCache, ReadCacheOps};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::retry_on_intr;

use super::digest::LibraryDigest;
use super::elf::{self, ElfFacts, Metadata};
use super::error::LibraryError;

/// The largest library that is read.
pub const MAX_LIBRARY_BYTES: u64 = 512 * 1024 * 1024;

/// A plugin's library: its bytes in a sealed memory file, and what they say.
#[derive(Debug)]
pub struct SealedLibrary {
    /// Where it came from: absolute, symbolic links not resolved, so that `$ORIGIN` is what the vendor meant.
    pub path: PathBuf,
    /// The memory file, sealed against writing, growing, shrinking and further seals. Its offset is 0; it is one open
    /// description, so whoever loads it twice opens `/proc/self/fd` afresh.
    pub fd: Arc<OwnedFd>,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// What was read from the sealed bytes, the metadata section included.
    pub facts: ElfFacts,
    /// Its digest, once somebody wanted it.
    pub(super) digest: Arc<OnceLock<LibraryDigest>>,
}

impl SealedLibrary {
    /// Copies the regular file at `path`, of at most [`MAX_LIBRARY_BYTES`], seals the copy and reads its headers.
    ///
    /// May block as long as the file system does.
    ///
    /// # Errors
    /// [`LibraryError::NotFound`], [`Unreadable`](LibraryError::Unreadable),
    /// [`NotARegularFile`](LibraryError::NotARegularFile), [`TooLarge`](LibraryError::TooLarge) about the file,
    /// [`Seal`](LibraryError::Seal) if the host lacks descriptors or memory, and
    /// [`NotALibrary`](LibraryError::NotALibrary), [`WrongArchitecture`](LibraryError::WrongArchitecture),
    /// [`Truncated`](LibraryError::Truncated), [`Malformed`](LibraryError::Malformed),
    /// [`UnsafeLayout`](LibraryError::UnsafeLayout) about its bytes.
    pub fn open(path: &Path) -> Result<Self, LibraryError> {
        let file = open_regular(path)?;
        let identity = Identity::of(&file).map_err(|error| unreadable(path, &error))?;
        let mut copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
        copies.retain(|copy| copy.fd.strong_count() > 0);
        let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let known = copies.iter().find(|copy| copy.identity == identity);
        if let Some((copy, fd)) = known.and_then(|copy| Some((copy, copy.fd.upgrade()?))) {
            let (size_bytes, facts, digest) = (copy.size_bytes, copy.facts.clone(), Arc::clone(&copy.digest));
            return Ok(Self { path: absolute(), fd, size_bytes, facts, digest });
        }
        drop(copies);
        let settled = identity.is_settled();
        let (sealed, size_bytes) = seal(&file, path)?;
        let facts = facts_of(&sealed, path, Metadata::Read)?;
        let fd = Arc::new(OwnedFd::from(sealed));
        let digest = Arc::default();
        if settled && Identity::of(&file).is_ok_and(|after| after == identity) {
            let (weak, facts, digest) = (Arc::downgrade(&fd), facts.clone(), Arc::clone(&digest));
            let copy = Copy { identity, fd: weak, size_bytes, facts, digest };
            COPIES.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        }
        Ok(Self { path: absolute(), fd, size_bytes, facts, digest })
    }

    /// The last part of the path: the name that starts every chain in a message.
    pub fn file_name(&self) -> String {
        match self.path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => self.path.to_string_lossy().into_owned(),
        }
    }
}

/// A copy that some plugin still uses: the next one that is loaded from the same file shares its pages.
#[derive(Debug)]
struct Copy {
    identity: Identity,
    fd: Weak<OwnedFd>,
    size_bytes: u64,
    facts: ElfFacts,
    digest: Arc<OnceLock<LibraryDigest>>,
}

static COPIES: Mutex<Vec<Copy>> = Mutex::new(Vec::new());

/// A file with these contents. Every write moves the time of change, which nobody can set.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), size: metadata.size(), changed })
    }

    /// Whether the time of change is so long ago that another change could not have the same: it ticks by milliseconds,
    /// on some file systems by two seconds.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        u64::try_from(self.changed.0).is_ok_and(|changed| changed.saturating_add(3) < now)
    }
}

/// Opens `path` for reading if it is a regular file of a size that is read, whatever else it may name.
pub(super) fn open_regular(path: &Path) -> Result<File, LibraryError> {
    // Without O_NONBLOCK, a FIFO would hold this thread until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(error) => {
            let path = path.to_owned();
            return Err(match errno(&error.into()) {
                errno @ (Errno::ENOENT | Errno::ENOTDIR) => LibraryError::NotFound { path, errno },
                Errno::ENXIO => LibraryError::NotARegularFile { path, what: "a socket or a device" },
                errno => LibraryError::Unreadable { path, errno },
            });
        }
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_char_device() || kind.is_block_device() {
            "a device"
        } else {
            "something else"
        };
        return Err(LibraryError::NotARegularFile { path: path.to_owned(), what });
    }
    if metadata.len() > MAX_LIBRARY_BYTES {
        return Err(LibraryError::TooLarge { path: path.to_owned(), limit_bytes: MAX_LIBRARY_BYTES });
    }
    Ok(file)
}

/// Copies what a loader needs of `file` into a memory file of the same length, and seals that. The rest reads as zeros.
/// Returns it, at offset 0, and its size.
///
/// Which bytes those are is asked of the file, which may change meanwhile: what counts is read from the copy, later.
pub(super) fn seal(file: &File, path: &Path) -> Result<(File, u64), LibraryError> {
    let memory = memory_file(path).map_err(|error| seal_error(path, "memfd_create", error))?;
    let size_bytes = file.metadata().map_err(|error| unreadable(path, &error))?.len();
    let wanted = elf::wanted_ranges(&ReadCache::new(ReadAt { file, at: 0, failed: &Cell::new(None) }));
    memory.set_len(size_bytes).map_err(|error| seal_error(path, "ftruncate of memfd", error))?;
    for (from, end) in wanted.unwrap_or_else(|| vec![(0, size_bytes)]) {
        rustix::fs::seek(&memory, rustix::fs::SeekFrom::Start(from))
            .map_err(|error| seal_error(path, "lseek", error.into()))?;
        let mut at = from;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX);
            match retry_on_intr(|| rustix::fs::sendfile(&memory, file, Some(&mut at), count)) {
                // It has become shorter: the parser shall say so.
                Ok(0) => {
                    memory.set_len(at).map_err(|error| seal_error(path, "ftruncate of memfd", error))?;
                    break;
                }
                Ok(_) => {}
                Err(errno) => return Err(unreadable(path, &errno.into())),
            }
        }
    }
    // The loader reads from where the offset stands, which a passed descriptor takes along.
    rustix::fs::seek(&memory, rustix::fs::SeekFrom::Start(0))
        .map_err(|error| seal_error(path, "lseek", error.into()))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)
        .map_err(|error| seal_error(path, "fcntl F_ADD_SEALS", error.into()))?;
    Ok((memory, size_bytes))
}

/// Reads the headers of `file`, without moving its offset. Only what is looked at is read: a hundred kilobytes at most
/// for an ordinary library, and bounded for any other.
pub(super) fn facts_of(file: &File, path: &Path, metadata: Metadata) -> Result<ElfFacts, LibraryError> {
    let failed = Cell::new(None);
    let facts = {
        let cache = ReadCache::new(ReadAt { file, at: 0, failed: &failed });
        elf::read_facts(&cache, path, metadata)
    };
    match failed.into_inner() {
        // The parser saw only that something could not be read; why is the better answer.
        Some(errno) if facts.is_err() => Err(LibraryError::Unreadable { path: path.to_owned(), errno }),
        _ => facts,
    }
}

fn memory_file(path: &Path) -> io::Result<File> {
    // Shown in /proc/PID/maps of the helper; the kernel takes up to 249 bytes.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(char::is_ascii_graphic).take(200).collect();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // A library is mapped, never exec'd. Linux before 6.3 does not know the flag.
    let created = rustix::fs::memfd_create(name.as_str(), flags | MemfdFlags::NOEXEC_SEAL);
    let created = match created {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name.as_str(), flags),
        other => other,
    };
    Ok(File::from(created?))
}

/// Reads by position: the descriptor's own offset stays 0, for whoever it is handed to.
struct ReadAt<'f> {
    file: &'f File,
    at: u64,
    failed: &'f Cell<Option<Errno>>,
}

impl ReadAt<'_> {
    fn note<T>(&self, result: io::Result<T>) -> Result<T, ()> {
        result.map_err(|error| {
            if error.raw_os_error().is_some() {
                self.failed.set(Some(errno(&error)));
            }
        })
    }
}

impl ReadCacheOps for ReadAt<'_> {
    fn len(&mut self) -> Result<u64, ()> {
        self.note(self.file.metadata()).map(|metadata| metadata.len())
    }

    fn seek(&mut self, pos: u64) -> Result<u64, ()> {
        self.at = pos;
        Ok(pos)
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ()> {
        let read = self.note(self.file.read_at(buf, self.at))?;
        self.at = self.at.saturating_add(read as u64);
        Ok(read)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ()> {
        self.note(self.file.read_exact_at(buf, self.at))?;
        self.at = self.at.saturating_add(buf.len() as u64);
        Ok(())
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> LibraryError {
    LibraryError::Unreadable { path: path.to_owned(), errno: errno(error) }
}

fn seal_error(path: &Path, call: &'static str, error: io::Error) -> LibraryError {
    LibraryError::Seal { path: path.to_owned(), call, errno: errno(&error) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::super::search::{self, SystemFolders};
    use super::*;

    fn some_library() -> PathBuf {
        let found = search::find("libm.so.6", SystemFolders::of_this_system().folders());
        found.expect("system folders can be read").expect("every glibc system has libm").path
    }

    #[test]
    fn a_sealed_copy_has_the_bytes_of_the_file_and_cannot_be_changed() {
        let path = some_library();
        let sealed = SealedLibrary::open(&path).expect("libm is a library");
        assert_eq!(sealed.facts.soname.as_deref(), Some("libm.so.6"));
        let mut copy = Vec::new();
        File::from(sealed.fd.try_clone().unwrap()).read_to_end(&mut copy).unwrap();
        let original = fs::read(&path).unwrap();
        assert_eq!((sealed.size_bytes, copy.len()), (original.len() as u64, original.len()));
        let same = |(from, end): (u64, u64)| {
            copy[from as usize..end as usize] == original[from as usize..end as usize]
        };
        let wanted = elf::wanted_ranges(original.as_slice()).unwrap();
        assert!(wanted.into_iter().all(same), "the copy starts at offset 0 and has what a loader maps");

        let file = File::from(sealed.fd.try_clone().unwrap());
        let refused = Some(Errno::EPERM as i32);
        assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), refused);
        assert_eq!(file.set_len(1).unwrap_err().raw_os_error(), refused);
        assert_eq!(file.set_len(1 << 30).unwrap_err().raw_os_error(), refused);
        assert!(rustix::fs::fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).is_err());
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_its_kind_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo.so");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let socket = folder.path().join("socket.so");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let cases = [
            (folder.path(), "a directory"),
            (&fifo, "a FIFO"),
            (Path::new("/dev/null"), "a device"),
            (&socket, "a socket or a device"),
        ];
        for (path, expected) in cases {
            match SealedLibrary::open(path) {
                Err(LibraryError::NotARegularFile { what, .. }) => assert_eq!(what, expected),
                other => panic!("{}: {other:?}", path.display()),
            }
        }
    }

    #[test]
    fn files_that_cannot_be_opened_say_which_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.so");
        let error = SealedLibrary::open(&missing).unwrap_err();
        assert!(matches!(&error, LibraryError::NotFound { path, errno: Errno::ENOENT } if *path == missing));
        assert!(error.to_string().contains("missing.so: ENOENT"), "{error}");
        let file = folder.path().join("file");
        fs::write(&file, b"x").unwrap();
        let below = SealedLibrary::open(&file.join("x.so")).unwrap_err();
        assert!(matches!(below, LibraryError::NotFound { errno: Errno::ENOTDIR, .. }));
        let looped = folder.path().join("loop.so");
        std::os::unix::fs::symlink(&looped, &looped).unwrap();
        let error = SealedLibrary::open(&looped).unwrap_err();
        assert!(matches!(error, LibraryError::Unreadable { errno: Errno::ELOOP, .. }));
    }

    #[test]
    fn empty_and_oversized_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.so");
        fs::write(&empty, b"").unwrap();
        let error = SealedLibrary::open(&empty).unwrap_err();
        assert!(matches!(error, LibraryError::NotALibrary { why: "the file is empty", .. }));
        let large = folder.path().join("large.so");
        File::create(&large).unwrap().set_len(MAX_LIBRARY_BYTES + 1).unwrap();
        let error = SealedLibrary::open(&large).unwrap_err();
        assert!(matches!(error, LibraryError::TooLarge { limit_bytes: MAX_LIBRARY_BYTES, .. }));
    }
}
