//! Waiting, always for something and never longer than a deadline.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long anything may take on a busy machine before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A process, held by a pidfd so that its number cannot come to mean another.
#[derive(Debug)]
pub struct Watched {
    pid: u32,
    pidfd: OwnedFd,
}

/// Takes hold of a process that lives.
///
/// # Panics
/// If there is none with this id.
#[track_caller]
pub fn watch(pid: u32) -> Watched {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).expect("the process lives");
    Watched { pid, pidfd }
}

/// Takes hold of a process, if it lives.
pub fn watch_if_alive(pid: u32) -> Option<Watched> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
    Some(Watched { pid, pidfd })
}

impl Watched {
    /// Whether it has ended, without waiting.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it has not ended after [`PATIENCE`].
    #[track_caller]
    pub fn ended(&self) {
        assert!(self.ends_within(PATIENCE), "process {} still lives", self.pid);
    }

    fn ends_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("seconds, not centuries");
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => panic!("poll of a pidfd: {errno}"),
            }
        }
    }
}

/// Waits until `found` is something, for what nothing announces: /proc has no events.
///
/// # Panics
/// With `what`, if it is nothing after [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::yield_now();
    }
}
