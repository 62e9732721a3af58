//! Files that are kept: as descriptors, as mappings, and by threads that use them without a pause.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use crate::{Attempt, check, number, split_line};

const ONE_PAGE: usize = 4096;

/// What the plugin keeps, each under its number.
#[derive(Default)]
pub(crate) struct Held {
    files: Vec<Option<File>>,
    maps: Vec<Map>,
    looper: Option<Arc<Looper>>,
}

/// One page of a file in memory.
struct Map(NonNull<u8>);

// SAFETY: a page that is mapped for as long as the process lives, and read and written byte by byte only.
unsafe impl Send for Map {}

/// A thread that does one thing over and over.
#[derive(Default)]
struct Looper {
    tries: AtomicU64,
    successes: AtomicU64,
    errno: AtomicI32,
    stop: AtomicBool,
    /// What it opened last.
    opened: Mutex<Vec<File>>,
}

impl Looper {
    fn count<T>(&self, attempt: io::Result<T>) -> Option<T> {
        let got = match attempt {
            Ok(got) => {
                self.successes.fetch_add(1, Ordering::SeqCst);
                Some(got)
            }
            Err(error) => {
                self.errno.store(error.raw_os_error().unwrap_or(-1), Ordering::SeqCst);
                None
            }
        };
        self.tries.fetch_add(1, Ordering::SeqCst);
        got
    }
}

impl Held {
    /// Serves a method of these; `None` if it is another.
    pub(crate) fn serve(&mut self, method: &str, payload: &[u8]) -> Option<Attempt> {
        let attempt = match method {
            "held_open" => self.open(payload),
            "held_dup" => self.file(payload).and_then(File::try_clone).map(|file| self.keep(file)),
            "held_close" => number(payload).map(|at| {
                self.files[at] = None;
                Vec::new()
            }),
            "held_read" => self.file(payload).and_then(read),
            "held_write" => {
                let (at, bytes) = split_line(payload);
                self.file(at).and_then(|file| file.write_all_at(bytes, 0)).map(|()| Vec::new())
            }
            "held_append" => {
                let (at, bytes) = split_line(payload);
                self.file(at).and_then(|mut file| io::Write::write_all(&mut file, bytes)).map(|()| Vec::new())
            }
            "held_chmod" => {
                let (at, mode) = split_line(payload);
                self.file(at).and_then(|file| {
                    let mode = u32::try_from(number(mode)?).map_err(io::Error::other)?;
                    file.set_permissions(PermissionsExt::from_mode(mode)).map(|()| Vec::new())
                })
            }
            "held_date" => self.file(payload).and_then(|file| {
                let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
                file.set_modified(long_ago).map(|()| Vec::new())
            }),
            "held_truncate" => self.file(payload).and_then(|file| file.set_len(3)).map(|()| Vec::new()),
            "held_sync" => self.file(payload).and_then(File::sync_all).map(|()| Vec::new()),
            "held_stat" => self
                .file(payload)
                .and_then(File::metadata)
                .map(|of| format!("{} {:o} {} {}", of.len(), of.mode(), of.uid(), of.mtime()).into_bytes()),
            "held_map" => self.map(payload),
            "held_peek" => self.map_at(payload).map(|map| map.peek()),
            "held_poke" => {
                let (at, bytes) = split_line(payload);
                self.map_at(at).map(|map| map.poke(bytes)).map(|()| Vec::new())
            }
            "held_unmap" => self.unmap(),
            "loop_read" => self.file(payload).and_then(File::try_clone).map(|file| {
                self.start(move |looper| drop(looper.count(read(&file))));
                Vec::new()
            }),
            "loop_open" => {
                let path = PathBuf::from(OsStr::from_bytes(payload));
                self.start(move |looper| drop(looper.count(File::open(&path))));
                Ok(Vec::new())
            }
            "loop_open_and_keep" => {
                let path = PathBuf::from(OsStr::from_bytes(payload));
                self.start(move |looper| {
                    let Some(file) = looper.count(File::open(&path)) else { return };
                    let mut opened = looper.opened.lock().unwrap_or_else(PoisonError::into_inner);
                    opened.push(file);
                    if opened.len() > 3 {
                        opened.remove(0);
                    }
                });
                Ok(Vec::new())
            }
            "loop_counts" => self.counts(),
            "loop_read_opened" => self.read_opened(),
            _ => return None,
        };
        Some(attempt)
    }

    fn keep(&mut self, file: File) -> Vec<u8> {
        self.files.push(Some(file));
        (self.files.len() - 1).to_string().into_bytes()
    }

    /// `r`, `w`, `rw` or `a`, a newline and a path. Answers the file's number.
    fn open(&mut self, payload: &[u8]) -> Attempt {
        let (how, path) = split_line(payload);
        let (reads, writes) = (how.contains(&b'r'), how.contains(&b'w'));
        let mut options = OpenOptions::new();
        options.read(reads).write(writes).append(how.contains(&b'a'));
        let file = options.open(OsStr::from_bytes(path))?;
        Ok(self.keep(file))
    }

    fn file(&self, payload: &[u8]) -> io::Result<&File> {
        let file = self.files.get(number(payload)?).and_then(Option::as_ref);
        file.ok_or_else(|| io::Error::other("no such file is held"))
    }

    /// A file's number, a newline and `shared`, `private`, or `shared to write`. Answers the mapping's number.
    fn map(&mut self, payload: &[u8]) -> Attempt {
        let (at, how) = split_line(payload);
        let (rights, flags) = match how {
            b"shared" => (libc::PROT_READ, libc::MAP_SHARED),
            b"shared to write" => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            _ => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
        };
        let file = self.file(at)?;
        // SAFETY: a new mapping where the kernel likes it, of a file that is open.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), ONE_PAGE, rights, flags, file.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.maps.push(Map(NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?));
        Ok((self.maps.len() - 1).to_string().into_bytes())
    }

    fn map_at(&self, payload: &[u8]) -> io::Result<&Map> {
        self.maps.get(number(payload)?).ok_or_else(|| io::Error::other("no such mapping"))
    }

    fn unmap(&mut self) -> Attempt {
        for map in self.maps.drain(..) {
            // SAFETY: mapped by `map`, and not used any more.
            check(unsafe { libc::munmap(map.0.as_ptr().cast(), ONE_PAGE) })?;
        }
        Ok(Vec::new())
    }

    fn start(&mut self, work: impl Fn(&Looper) + Send + 'static) {
        if let Some(before) = self.looper.take() {
            before.stop.store(true, Ordering::SeqCst);
        }
        let looper = Arc::new(Looper::default());
        self.looper = Some(Arc::clone(&looper));
        thread::spawn(move || {
            while !looper.stop.load(Ordering::SeqCst) {
                work(&looper);
            }
        });
    }

    fn looper(&self) -> io::Result<&Looper> {
        self.looper.as_deref().ok_or_else(|| io::Error::other("nothing runs"))
    }

    /// How often it was tried, how often it went well, and the last errno.
    fn counts(&self) -> Attempt {
        let of = self.looper()?;
        let (tries, successes) = (of.tries.load(Ordering::SeqCst), of.successes.load(Ordering::SeqCst));
        Ok(format!("{tries} {successes} {}", of.errno.load(Ordering::SeqCst)).into_bytes())
    }

    /// How many of the files that were opened last can be read.
    fn read_opened(&self) -> Attempt {
        let opened = self.looper()?.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let readable = opened.iter().filter(|file| read(file).is_ok()).count();
        Ok(format!("{readable} of {}", opened.len()).into_bytes())
    }
}

impl Map {
    fn peek(&self) -> Vec<u8> {
        // SAFETY: a page that is mapped. Volatile, since somebody else may change or take it.
        (0..16)
            .map(|at| unsafe { self.0.as_ptr().wrapping_add(at).read_volatile() })
            .take_while(|byte| *byte != 0)
            .collect()
    }

    fn poke(&self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().take(ONE_PAGE).enumerate() {
            // SAFETY: a page that is mapped with the right to write, or else the fault is what is asked for.
            unsafe { self.0.as_ptr().wrapping_add(at).write_volatile(*byte) };
        }
    }
}

/// The file's bytes from its beginning, one page of them.
fn read(file: &File) -> Attempt {
    let mut bytes = vec![0; ONE_PAGE];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}
