//! Calls that change an object by a descriptor of it: fchmod(2), fchown(2), futimens(3).
//!
//! Runs in the host, on a worker. The descriptor says which object is meant, and nothing else: whether it may be changed is
//! judged by where it is now, as if it had been named. One of a file that the host serves stands for the file behind it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::fs::ResolveFlags;

use super::super::requests::{Answer, Request};
use super::change::Times;
use super::named::{Named, Walk};

/// Serves a call by descriptor; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let number = request.int(0).cast_signed();
    let answer = match request.nr() {
        libc::SYS_fchmod => request.change_held(number, |named| request.chmod(named, request.int(1))),
        libc::SYS_fchown => {
            request.change_held(number, |named| request.chown(named, request.int(1), request.int(2)))
        }
        // With a path, it is the path's.
        libc::SYS_utimensat => request.times_by(number, Times::Nanoseconds),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_futimesat => request.times_by(number, Times::Microseconds),
        _ => return None,
    };
    Some(answer.unwrap_or_else(Answer::Errno))
}

impl Request<'_> {
    fn times_by(&self, number: i32, written: Times) -> Result<Answer, Errno> {
        let times = self.times(self.arg(2), written)?;
        self.change_held(number, |named| self.set_times(named, &times))
    }

    /// Does `change` to what the caller holds this descriptor of.
    fn change_held(&self, number: i32, change: impl FnOnce(&Named) -> Answer) -> Result<Answer, Errno> {
        let held = self.file_descriptor(number, "file-write")?;
        let served = self.brokered.handles.view().and_then(|view| Some((view, view.number_of(&held)?)));
        let Some((view, file)) = served else { return Ok(change(&self.name_of(number, &held)?)) };
        let answer = change(&self.name_of(number, &view.behind(file)?)?);
        view.changed(file);
        Ok(answer)
    }

    /// The name of `object`, which the caller's descriptor leads to.
    fn name_of(&self, number: i32, object: &OwnedFd) -> Result<Named, Errno> {
        let (path, object) = self.held(number, object)?;
        let walk = Walk { follow: false, resolve: ResolveFlags::NO_SYMLINKS };
        let path = path.into_os_string().into_encoded_bytes();
        Ok(Named { path, walk, object: Some(object) })
    }
}
