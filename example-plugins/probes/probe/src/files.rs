//! Attempts at files: by the standard library, by the C library, and by paths that change while they are read.

use std::ffi::{CString, OsStr, c_char};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::{Attempt, check, number, split_line, split_space, text};

const ONE_PAGE: usize = 4096;

fn path(payload: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(payload))
}

fn c_path(payload: &[u8]) -> io::Result<CString> {
    CString::new(payload).map_err(io::Error::other)
}

pub(crate) fn open(payload: &[u8]) -> Attempt {
    fs::read(path(payload))
}

/// As a C plugin does it: `fopen` and what is behind it, byte by byte as far as the buffer goes.
pub(crate) fn open_c(payload: &[u8]) -> Attempt {
    let name = c_path(payload)?;
    // SAFETY: both are terminated strings that live until the call returns.
    let file = unsafe { libc::fopen(name.as_ptr(), c"r".as_ptr()) };
    if file.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut bytes = vec![0_u8; ONE_PAGE];
    // SAFETY: the buffer has as many bytes as are asked for, and the stream was opened above.
    let got = unsafe { libc::fread(bytes.as_mut_ptr().cast(), 1, bytes.len(), file) };
    // SAFETY: opened above, and not used afterwards.
    unsafe { libc::fclose(file) };
    bytes.truncate(got);
    Ok(bytes)
}

pub(crate) fn read_dir(payload: &[u8]) -> Attempt {
    let count = fs::read_dir(path(payload))?.count();
    Ok(count.to_string().into_bytes())
}

pub(crate) fn stat(payload: &[u8]) -> Attempt {
    fs::metadata(path(payload)).map(|of| format!("{} {:o}", of.size(), of.mode()).into_bytes())
}

pub(crate) fn lstat(payload: &[u8]) -> Attempt {
    fs::symlink_metadata(path(payload)).map(|of| format!("{} {:o}", of.size(), of.mode()).into_bytes())
}

pub(crate) fn access(payload: &[u8]) -> Attempt {
    let name = c_path(payload)?;
    // SAFETY: a terminated string that lives until the call returns.
    check(unsafe { libc::access(name.as_ptr(), libc::R_OK) })?;
    Ok(Vec::new())
}

/// Keeps whoever answers busy.
pub(crate) fn stat_forever(payload: &[u8]) -> ! {
    loop {
        let _ = fs::metadata(path(payload));
    }
}

pub(crate) fn readlink(payload: &[u8]) -> Attempt {
    fs::read_link(path(payload)).map(|target| target.into_os_string().into_encoded_bytes())
}

pub(crate) fn mkdir(payload: &[u8]) -> Attempt {
    fs::create_dir(path(payload)).map(|()| Vec::new())
}

pub(crate) fn write_file(payload: &[u8]) -> Attempt {
    fs::write(path(payload), b"written by a plugin").map(|()| Vec::new())
}

/// A number of bytes, a newline and a path: writes so many. Answers how many there was room for, and what refused the next.
pub(crate) fn fill(payload: &[u8]) -> Attempt {
    let (bytes, name) = split_line(payload);
    let (bytes, mut file) = (number(bytes)?, File::create(path(name))?);
    let (block, mut written) = (vec![7; 64 << 10], 0);
    while written < bytes {
        match file.write(&block[..block.len().min(bytes - written)]) {
            Ok(more) => written += more,
            Err(error) => return Ok(format!("{written} {}", error.raw_os_error().unwrap_or(-1)).into_bytes()),
        }
    }
    Ok(format!("{written} 0").into_bytes())
}

/// A number, a newline and a path: makes so many empty files, each called as the path and a number. Answers how many there was
/// room for, and what refused the next.
pub(crate) fn make_many(payload: &[u8]) -> Attempt {
    let (count, name) = split_line(payload);
    let (count, name) = (number(count)?, text(name)?);
    for made in 0..count {
        if let Err(error) = File::create_new(format!("{name}{made}")) {
            return Ok(format!("{made} {}", error.raw_os_error().unwrap_or(-1)).into_bytes());
        }
    }
    Ok(format!("{count} 0").into_bytes())
}

pub(crate) fn unlink(payload: &[u8]) -> Attempt {
    fs::remove_file(path(payload)).map(|()| Vec::new())
}

fn opened(name: &[u8]) -> io::Result<File> {
    File::open(path(name)).map_err(|error| io::Error::other(format!("not even opened: {error}")))
}

/// A command of fcntl(2), a newline and a path: asks for a shared lock of its first byte, or about who has one.
pub(crate) fn lock(payload: &[u8]) -> Attempt {
    let (command, name) = split_line(payload);
    let command = i32::try_from(number(command)?).map_err(io::Error::other)?;
    let file = opened(name)?;
    let mut lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the tests name commands that read and write the one structure that they are given.
    check(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) })?;
    Ok(Vec::new())
}

pub(crate) fn lock_whole(payload: &[u8]) -> Attempt {
    let file = opened(payload)?;
    // SAFETY: two integers.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) })?;
    Ok(Vec::new())
}

pub(crate) fn sync(payload: &[u8]) -> Attempt {
    opened(payload)?.sync_all().map(|()| Vec::new())
}

pub(crate) fn sync_data(payload: &[u8]) -> Attempt {
    opened(payload)?.sync_data().map(|()| Vec::new())
}

/// Duplicates standard input up to `most` times; answers how many there were at once, and what refused the next one.
pub(crate) fn open_many(most: usize) -> Attempt {
    let mut held = Vec::new();
    let mut refused = 0;
    while held.len() < most {
        // SAFETY: an integer; whether it is open is for the kernel to say.
        match check(unsafe { libc::dup(0) }) {
            // SAFETY: a descriptor that was made just now and that nothing else knows of.
            Ok(fd) => held.push(unsafe { File::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) }),
            Err(error) => {
                refused = error.raw_os_error().unwrap_or(-1);
                break;
            }
        }
    }
    Ok(format!("{} {refused}", held.len()).into_bytes())
}

/// `THREADS COUNT` and a path: that many threads each open it that often. Answers how often it opened.
pub(crate) fn open_storm(payload: &[u8]) -> Attempt {
    let (head, name) = split_line(payload);
    let (threads, count) = split_space(head)?;
    let opened: usize = std::thread::scope(|scope| {
        let storm = |_| {
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, || (0..count).filter(|_| File::open(path(name)).is_ok()).count())
        };
        let running: Vec<_> = (0..threads).map(storm).filter_map(Result::ok).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    Ok(opened.to_string().into_bytes())
}

/// A count, a newline and the start of a path: opens it with each number behind it. Answers how often it opened.
pub(crate) fn open_numbered(payload: &[u8]) -> Attempt {
    let (count, start) = split_line(payload);
    let numbered = |n: usize| [start, n.to_string().as_bytes()].concat();
    let opened = (0..number(count)?).filter(|n| File::open(path(&numbered(*n))).is_ok()).count();
    Ok(opened.to_string().into_bytes())
}

/// A count, then two paths of one length, each on its line. Opens a buffer that another thread keeps changing between the
/// two, and answers how often each was read, told apart by the first byte of its contents.
pub(crate) fn race(payload: &[u8]) -> Attempt {
    let (count, paths) = split_line(payload);
    let (first, second) = split_line(paths);
    let count = number(count)?;
    if first.len() != second.len() {
        return Err(io::Error::other("the two paths differ in length"));
    }
    let buffer: Vec<AtomicU8> =
        first.iter().map(|byte| AtomicU8::new(*byte)).chain([AtomicU8::new(0)]).collect();
    let (done, changing) = (AtomicBool::new(false), Barrier::new(2));
    let mut read_first = 0;
    let mut read_second = 0;
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, || {
            changing.wait();
            while !done.load(Ordering::Relaxed) {
                for path in [second, first] {
                    buffer.iter().zip(path).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
                }
            }
        })?;
        changing.wait();
        for _ in 0..count {
            // On a busy machine the other thread's turn may not come by itself.
            std::thread::yield_now();
            // SAFETY: the buffer outlives the call and its last byte is always 0. That its other bytes change meanwhile
            // is what this is about: only the kernel reads them.
            let fd =
                unsafe { libc::open(buffer.as_ptr().cast::<c_char>(), libc::O_RDONLY | libc::O_CLOEXEC) };
            if fd < 0 {
                continue;
            }
            // SAFETY: opened just now, and nothing else knows of it.
            let mut file = unsafe { File::from_raw_fd(fd) };
            let mut byte = [0];
            match file.read(&mut byte) {
                Ok(1) if byte[0] == b'1' => read_first += 1,
                Ok(1) if byte[0] == b'2' => read_second += 1,
                _ => {}
            }
        }
        done.store(true, Ordering::Relaxed);
        Ok::<(), io::Error>(())
    })?;
    Ok(format!("{read_first} {read_second}").into_bytes())
}

fn map(file: &File, protection: libc::c_int) -> io::Result<*mut libc::c_void> {
    // SAFETY: a new mapping at a place of the kernel's choice, of a descriptor that is open.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), ONE_PAGE, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
    };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
}

/// Maps a file that it may read as code.
pub(crate) fn map_exec(payload: &[u8]) -> Attempt {
    let file =
        File::open(path(payload)).map_err(|error| io::Error::other(format!("not even opened: {error}")))?;
    map(&file, libc::PROT_READ | libc::PROT_EXEC).map(|_| Vec::new())
}

/// The same in two steps.
pub(crate) fn map_then_exec(payload: &[u8]) -> Attempt {
    let file =
        File::open(path(payload)).map_err(|error| io::Error::other(format!("not even opened: {error}")))?;
    let at = map(&file, libc::PROT_READ)?;
    // SAFETY: the page was mapped just now, and nothing else uses it.
    check(unsafe { libc::mprotect(at, ONE_PAGE, libc::PROT_READ | libc::PROT_EXEC) })?;
    Ok(Vec::new())
}
