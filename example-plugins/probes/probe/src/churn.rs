//! Random changes of a tree by several threads: names are made, moved, linked and removed, and whatever opens is read.
//!
//! Every file's first line names the place that it was made in, so that what is read says where it came from.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Attempt, check, split_line, split_space};

/// The places that a churned folder holds, and what may be called anything in them.
const PLACES: [&str; 6] = ["tree", "tree/part", "tree/toggled", "ro", "wo", "outside"];
const NAMES: [&str; 6] = ["a", "b", "c", "part", "toggled", "deep"];

/// A small generator of numbers that look random: splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % sides
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }

    /// A path in a place or just outside it, of up to three names and steps back.
    fn path(&mut self) -> PathBuf {
        let mut path = PathBuf::from(self.pick(&PLACES));
        for _ in 0..self.roll(4) {
            path.push(if self.roll(6) == 0 { ".." } else { self.pick(&NAMES) });
        }
        path
    }
}

/// What was found.
#[derive(Default)]
struct Found {
    tags: Mutex<BTreeSet<String>>,
    changes: AtomicU64,
    reads: AtomicU64,
}

impl Found {
    fn read(&self, mut file: File) {
        let mut contents = String::new();
        if (&mut file).take(64).read_to_string(&mut contents).is_ok() {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut tags) = self.tags.lock() {
                tags.insert(contents.lines().next().unwrap_or_default().to_owned());
            }
        }
    }

    fn changed(&self, change: io::Result<()>) {
        if change.is_ok() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// `SEED STEPS` and a folder. Answers how often something changed, how often something was read, and the first lines of that.
pub(crate) fn churn(payload: &[u8]) -> Attempt {
    let (head, folder) = split_line(payload);
    let (seed, steps) = split_space(head)?;
    let folder = Path::new(OsStr::from_bytes(folder));
    let found = Found::default();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let found = &found;
            let mut dice = Dice(seed as u64 ^ (thread << 32));
            let work = move || (0..steps).for_each(|_| step(folder, &mut dice, found));
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work)?;
        }
        Ok::<(), io::Error>(())
    })?;
    let tags: Vec<_> = found.tags.into_inner().map(|tags| tags.into_iter().collect()).unwrap_or_default();
    let (changes, reads) = (found.changes.into_inner(), found.reads.into_inner());
    Ok(format!("{changes} {reads}\n{}", tags.join("\n")).into_bytes())
}

/// One random thing.
fn step(folder: &Path, dice: &mut Dice, found: &Found) {
    let (one, other) = (folder.join(dice.path()), folder.join(dice.path()));
    match dice.roll(16) {
        0..4 => {
            if let Ok(file) = File::open(&one) {
                found.read(file);
            }
        }
        4 => {
            if let Ok(file) = OpenOptions::new().read(true).write(true).open(&one) {
                found.read(file);
            }
        }
        5 => found.changed(
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&one)
                .and_then(|mut file| file.write_all(b"made\n")),
        ),
        6 => found.changed(fs::create_dir(&one)),
        7 => found.changed(fs::rename(&one, &other)),
        8 => found.changed(exchange(&one, &other)),
        9 => found.changed(fs::hard_link(&one, &other)),
        10 => found.changed(std::os::unix::fs::symlink(&one, &other)),
        11 => {
            let mut back = PathBuf::from("..");
            back.push(dice.path());
            found.changed(std::os::unix::fs::symlink(&back, &other));
        }
        12 => found.changed(fs::remove_file(&one).or_else(|_| fs::remove_dir(&one))),
        13 => {
            if std::env::set_current_dir(&one).is_ok()
                && let Ok(file) = File::open(dice.path())
            {
                found.read(file);
            }
        }
        14 => {
            if let Ok(held) = File::open(&one).and_then(|held| from_there(&held, &dice.path())) {
                found.read(held);
            }
        }
        _ => {
            for entry in fs::read_dir(&one).into_iter().flatten().flatten() {
                if let Ok(file) = File::open(entry.path()) {
                    found.read(file);
                }
            }
        }
    }
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let c = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (one, other) = (c(one)?, c(other)?);
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: terminated strings that live until the call returns.
    check(unsafe { libc::renameat2(here, one.as_ptr(), here, other.as_ptr(), flags) }).map(drop)
}

/// What is at `path` from a folder that is held.
fn from_there(folder: &File, path: &Path) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a terminated string that lives until the call returns.
    let fd = check(unsafe { libc::openat(folder.as_raw_fd(), path.as_ptr(), flags) })?;
    // SAFETY: opened just now, and nothing else knows of it.
    Ok(unsafe { File::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// What a folder's descriptor shows by the calls that go past the broker: whether the paths, a line each, lead anywhere but to
/// the folder itself. The first line is the folder.
pub(crate) fn look_past(payload: &[u8]) -> Attempt {
    let (folder, paths) = split_line(payload);
    let held = File::open(OsStr::from_bytes(folder))?;
    let stat = |path: &[u8], flags: libc::c_int| {
        let path = CString::new(path).map_err(io::Error::other)?;
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        let fd = held.as_raw_fd();
        // SAFETY: a terminated string, and room for what is written.
        let rc = unsafe { libc::syscall(libc::SYS_newfstatat, fd, path.as_ptr(), stat.as_mut_ptr(), flags) };
        check(rc)?;
        // SAFETY: the call went well, so it was written.
        let stat = unsafe { stat.assume_init() };
        Ok::<_, io::Error>((stat.st_dev, stat.st_ino))
    };
    let own = stat(b"", libc::AT_EMPTY_PATH)?;
    let mut lines = Vec::new();
    for path in paths.split(|byte| *byte == b'\n') {
        lines.push(match stat(path, libc::AT_EMPTY_PATH) {
            Ok(found) if found == own => "itself".to_owned(),
            Ok(_) => "something".to_owned(),
            Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
        });
    }
    Ok(lines.join(" ").into_bytes())
}
