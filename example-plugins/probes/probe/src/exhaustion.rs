//! Attempts to take more than a share, each of one kind of thing, until it is refused or there is as much as was wanted.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use crate::{Attempt, check, split_line, text};

const MIB: usize = 1 << 20;

/// What is taken, and kept until the call ends.
enum Taken {
    Mapped(*mut libc::c_void),
    #[expect(dead_code, reason = "held, and not looked at")]
    Descriptors([Option<OwnedFd>; 2]),
    Nothing,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Self::Mapped(at) = self {
            // SAFETY: mapped below with this length, and not used any more.
            unsafe { libc::munmap(*at, MIB) };
        }
    }
}

/// A kind, a newline and how many at most. Fails with what refused the first that could not be had; answers how many there
/// were where none was refused.
pub(crate) fn take(payload: &[u8]) -> Attempt {
    let (kind, most) = split_line(payload);
    let (kind, most) = (text(kind)?, crate::number(most)?);
    let mut taken = Vec::new();
    for _ in 0..most {
        taken.push(one(kind)?);
    }
    Ok(taken.len().to_string().into_bytes())
}

fn one(kind: &str) -> io::Result<Taken> {
    let pair = |call: &dyn Fn(*mut i32) -> i32| {
        let mut pair = [-1; 2];
        check(call(pair.as_mut_ptr()))?;
        // SAFETY: made just now, and nothing else knows of them.
        Ok(Taken::Descriptors(pair.map(|fd| Some(unsafe { OwnedFd::from_raw_fd(fd) }))))
    };
    match kind {
        "pages" => pages(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
        "populated pages" => pages(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE),
        "break" => {
            // SAFETY: moves the end of the data, which nobody else here does meanwhile.
            let before = unsafe { libc::sbrk(isize::try_from(MIB).unwrap_or(0)) };
            if before.addr() == usize::MAX {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the new part of the data, this long.
            unsafe { ptr::write_bytes(before.cast::<u8>(), 1, MIB) };
            Ok(Taken::Nothing)
        }
        // SAFETY: fills the pair that it is given.
        "pipes" => pair(&|fds| unsafe { libc::pipe2(fds, libc::O_CLOEXEC) }),
        "sockets" => {
            // SAFETY: as above.
            pair(&|fds| unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds) })
        }
        // SAFETY: an integer.
        "copies" => descriptor(unsafe { libc::dup(0) }),
        // SAFETY: two integers.
        "counters" => descriptor(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }),
        // SAFETY: an integer.
        "pollers" => descriptor(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }),
        // SAFETY: two integers.
        "clocks" => descriptor(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) }),
        other => Err(io::Error::other(format!("does not know what {other} are"))),
    }
}

fn descriptor(fd: i32) -> io::Result<Taken> {
    check(fd)?;
    // SAFETY: made just now, and nothing else knows of it.
    Ok(Taken::Descriptors([Some(unsafe { OwnedFd::from_raw_fd(fd) }), None]))
}

fn pages(flags: i32) -> io::Result<Taken> {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice, of no file.
    let at = unsafe { libc::mmap(ptr::null_mut(), MIB, rights, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: mapped just now, this long.
    unsafe { ptr::write_bytes(at.cast::<u8>(), 1, MIB) };
    Ok(Taken::Mapped(at))
}

/// A page that is made longer and longer, up to so many MiB.
pub(crate) fn stretch(payload: &[u8]) -> Attempt {
    let most = crate::number(payload)? * MIB;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mut len = MIB;
    // SAFETY: a new mapping at a place of the kernel's choice, of no file.
    let mut at = unsafe { libc::mmap(ptr::null_mut(), len, rights, kind, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut came_to = Ok(Vec::new());
    while len < most {
        // SAFETY: the mapping of that length, which may move.
        let longer = unsafe { libc::mremap(at, len, len * 2, libc::MREMAP_MAYMOVE) };
        if longer == libc::MAP_FAILED {
            came_to = Err(io::Error::last_os_error());
            break;
        }
        (at, len) = (longer, len * 2);
    }
    // SAFETY: mapped above with this length, and not used any more.
    unsafe { libc::munmap(at, len) };
    came_to
}

/// Calls itself until the stack is at its end.
pub(crate) fn recurse() -> Attempt {
    #[inline(never)]
    fn deeper(depth: usize) -> usize {
        let room = std::hint::black_box([depth; 512]);
        if depth == usize::MAX { 0 } else { deeper(depth + 1) + room[0] }
    }
    Ok(deeper(0).to_string().into_bytes())
}

/// Spins on so many threads, for ever.
pub(crate) fn spin_on(payload: &[u8]) -> Attempt {
    for _ in 0..crate::number(payload)? {
        std::thread::Builder::new().stack_size(64 << 10).spawn(|| crate::threads::spin_forever())?;
    }
    crate::threads::spin_forever()
}

/// Makes a file of so many bytes: a path, and a newline before them. Without `sparse` each is written.
pub(crate) fn big_file(payload: &[u8], sparse: bool) -> Attempt {
    let (bytes, path) = split_line(payload);
    let bytes = crate::number(bytes)?;
    // SAFETY: a disposition, no handler: a write over the limit is to be an error.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut file = std::fs::File::create(text(path)?)?;
    if sparse {
        file.set_len(bytes as u64)?;
    } else {
        let piece = vec![7; 64 << 10];
        for _ in 0..bytes.div_ceil(piece.len()) {
            io::Write::write_all(&mut file, &piece)?;
        }
    }
    Ok(Vec::new())
}
