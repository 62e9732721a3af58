//! One crate's error numbers as the other's: system calls are made through both `rustix` and `nix`.
//!
//! Runs in any process.

use nix::errno::Errno;

/// The same number.
pub(crate) fn from_rustix(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
