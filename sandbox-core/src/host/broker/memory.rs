//! Reads what a request points at in the helper's memory, and writes answers there.
//!
//! Runs in the host, on a worker. Reads through `/proc/PID/mem` as it was opened when the helper was made: a number may be
//! another process's by now, that file never is. Of a process that the helper has started it is opened for each request. Everything read is hostile, read once, and bounded.

use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;

/// The longest path, its NUL included: PATH_MAX of the kernel.
const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;

/// The memory of the process that the thread `tid` is of, whoever that is by now: to be held against whether the caller
/// still waits before anything that was read counts.
pub(crate) fn open(tid: i32) -> Result<File, Errno> {
    let opened = File::options().read(true).write(true).open(format!("/proc/{tid}/mem"));
    opened.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EFAULT)))
}

/// The path at `address`, without its NUL.
pub(crate) fn read_path(memory: &File, address: u64) -> Result<Vec<u8>, Errno> {
    let mut path = Vec::with_capacity(256);
    let mut at = address;
    while path.len() < PATH_MAX {
        // Never past the end of a page: the next one need not be there.
        let to_page_end = PAGE - at % PAGE;
        let want = usize::try_from(to_page_end).unwrap_or(PATH_MAX).min(PATH_MAX - path.len()).min(256);
        let mut piece = [0; 256];
        let piece = piece.get_mut(..want).ok_or(Errno::EFAULT)?;
        let got = memory.read_at(piece, at).map_err(|_| Errno::EFAULT)?;
        let piece = piece.get(..got).filter(|piece| !piece.is_empty()).ok_or(Errno::EFAULT)?;
        if let Some(nul) = piece.iter().position(|byte| *byte == 0) {
            path.extend_from_slice(piece.get(..nul).unwrap_or_default());
            return Ok(path);
        }
        path.extend_from_slice(piece);
        at = at.checked_add(got as u64).ok_or(Errno::EFAULT)?;
    }
    Err(Errno::ENAMETOOLONG)
}

/// The `len` bytes at `address`; the caller bounds how many.
pub(crate) fn read_bytes(memory: &File, address: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    memory.read_exact_at(&mut bytes, address).map_err(|_| Errno::EFAULT)?;
    Ok(bytes)
}

/// The number at `address`.
pub(crate) fn read_u64(memory: &File, address: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, address).map_err(|_| Errno::EFAULT)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Writes `bytes` to `address` of the thread `tid`, which waits for it: process_vm_writev(2).
///
/// Not through `/proc/PID/mem`, which writes where the process itself may not: a plugin could have its own code written.
/// Where the host may not trace the helper, as an ordinary user without user namespaces or in a container, there is no other
/// way than that file, and the filter alone keeps code from being written.
pub(crate) fn write(memory: &File, tid: i32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    let place = [RemoteIoVec { base, len: bytes.len() }];
    match process_vm_writev(Pid::from_raw(tid), &[IoSlice::new(bytes)], &place) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(Errno::EFAULT),
        Err(Errno::EPERM) => memory.write_all_at(bytes, address).map_err(|_| Errno::EFAULT),
        Err(errno) => Err(errno),
    }
}
