//! Calls that name a file: read what they name, find it, judge it, do it.
//!
//! Runs in the host, on a worker. Each kind of call has a file of its own; `tree` owns the judgement, which is always of the
//! object that is then used.

mod change;
mod folders;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::host) mod fuzzing;
mod held;
mod look;
mod named;
mod open;
mod own;
mod scratch;
mod service;
mod tree;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

pub(crate) use self::folders::Folders;
pub(super) use self::look::stat_bytes;
pub(super) use self::open::memory_file;
pub(super) use self::own::{keep_folder, open_again, resolved_path};
pub(crate) use self::scratch::Scratch;
pub(super) use self::tree::{Lost, find_in_sight, find_plain, find_real};
use super::requests::{Answer, Request};

/// Serves a call that names a file; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    open::serve(request)
        .or_else(|| look::serve(request))
        .or_else(|| folders::serve(request))
        .or_else(|| change::serve(request))
        .or_else(|| held::serve(request))
}

/// The name by which this process reaches the very object behind `handle`, through the mount that it was found in.
fn by_handle(handle: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}
