//! Attempts at memory: more of it than allowed, memory that is code, memory that is shared.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::{Attempt, check};

const MIB: usize = 1 << 20;
const ONE_PAGE: usize = 4096;

/// Allocates, writes to every page, and keeps it until `free`. A refusal is ENOMEM.
pub(crate) fn allocate(kept: &mut Vec<Vec<u8>>, mib: usize) -> Attempt {
    let mut block = Vec::new();
    block.try_reserve_exact(mib * MIB).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    block.resize(mib * MIB, 1);
    kept.push(block);
    Ok(Vec::new())
}

/// As most code allocates: a refusal aborts.
pub(crate) fn allocate_or_abort(kept: &mut Vec<Vec<u8>>, mib: usize) -> Vec<u8> {
    kept.push(vec![1; mib * MIB]);
    Vec::new()
}

pub(crate) fn free(kept: &mut Vec<Vec<u8>>) -> Vec<u8> {
    kept.clear();
    Vec::new()
}

fn map(protection: libc::c_int, kind: libc::c_int) -> io::Result<*mut libc::c_void> {
    // SAFETY: a new mapping at a place of the kernel's choice, of no file.
    let at = unsafe { libc::mmap(ptr::null_mut(), ONE_PAGE, protection, kind | libc::MAP_ANONYMOUS, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
}

/// Writes a page, then turns it into code.
pub(crate) fn make_executable() -> Attempt {
    let at = map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)?;
    // SAFETY: one byte of a page that was mapped writable just now.
    unsafe { at.cast::<u8>().write(0xc3) };
    // SAFETY: that same page, which nothing else uses.
    check(unsafe { libc::mprotect(at, ONE_PAGE, libc::PROT_READ | libc::PROT_EXEC) })?;
    Ok(Vec::new())
}

pub(crate) fn map_executable() -> Attempt {
    map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE).map(|_| Vec::new())
}

pub(crate) fn map_shared() -> Attempt {
    map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED).map(|_| Vec::new())
}

/// Memory that is shared without being anonymous.
pub(crate) fn map_shared_device() -> Attempt {
    let zero = File::options().read(true).write(true).open("/dev/zero");
    let zero = zero.map_err(|error| io::Error::other(format!("not even opened: {error}")))?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice, of a descriptor that is open.
    let at =
        unsafe { libc::mmap(ptr::null_mut(), ONE_PAGE, protection, libc::MAP_SHARED, zero.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Vec::new()) }
}

/// Memory that grows as a stack does.
pub(crate) fn map_growing() -> Attempt {
    map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN).map(|_| Vec::new())
}

pub(crate) fn segfault() -> ! {
    // SAFETY: none. A write to an address where nothing is mapped is what this is here to make.
    unsafe { ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
    std::process::abort()
}
