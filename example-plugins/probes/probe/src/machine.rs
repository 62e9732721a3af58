//! What the system says of the machine.

use std::mem::MaybeUninit;

use crate::{Attempt, check};

/// The host's name: gethostname(3).
pub(crate) fn host_name() -> Attempt {
    let mut name = [0_u8; 256];
    // SAFETY: fills at most as many bytes as the array has.
    check(unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) })?;
    Ok(name.iter().take_while(|byte| **byte != 0).copied().collect())
}

/// The machine's memory in bytes, how long it has run, and how many processes it has: sysinfo(2).
pub(crate) fn sysinfo() -> Attempt {
    let mut info = MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: fills the one structure that it is given.
    check(unsafe { libc::sysinfo(info.as_mut_ptr()) })?;
    // SAFETY: integers only, for which zeroes are valid too.
    let info = unsafe { info.assume_init() };
    let bytes = info.totalram.saturating_mul(info.mem_unit.into());
    Ok(format!("{bytes} {} {}", info.uptime, info.procs).into_bytes())
}
