//! Groups that still have members when their helper has ended.
//!
//! Runs in the host: for a moment on the thread that puts a helper away, and for longer on one of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host::lock::lock;
use crate::shared::sys::signals;

/// How long a group may still have members that have been killed, at once and afterwards, and in which steps it is looked:
/// /sys/fs/cgroup has no event for it in version 1.
const AT_ONCE: Duration = Duration::from_millis(5);
const LOOK_AT_ONCE: Duration = Duration::from_millis(1);
pub(super) const EMPTIED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long the last of a host waits for the groups that are left.
const AT_THE_END: Duration = Duration::from_secs(2);

/// Removes a group whose members have ended, or are about to: where the zygote itself was killed, or a helper could not be taken
/// over, nobody has seen them end.
pub(super) fn remove_empty(folder: &Path) -> io::Result<()> {
    let deadline = Instant::now() + AT_ONCE;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(LOOK_AT_ONCE),
            other => return other,
        }
    }
}

pub(super) fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

pub(super) fn told(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "a helper's cgroup stays behind; the next host here removes it");
    }
}

/// Groups that still had members when their helper had ended. A thread of their own tries again, for as long as there are any.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    list: Mutex<Left>,
    none_left: Condvar,
}

#[derive(Debug, Default)]
struct Left {
    /// Each with when it is given up.
    folders: Vec<(PathBuf, Instant)>,
    has_thread: bool,
}

impl Leftovers {
    pub(super) fn add(self: &Arc<Self>, folder: PathBuf) {
        let mut left = lock(&self.list);
        left.folders.push((folder, Instant::now() + EMPTIED_WITHIN));
        if !left.has_thread {
            let leftovers = Arc::clone(self);
            let thread = std::thread::Builder::new().name("plugin-cgroups".to_owned());
            // Where there is none the next that is left tries again.
            left.has_thread = thread.spawn(move || leftovers.remove()).is_ok();
        }
    }

    /// Waits for the thread to have removed them all, or for long enough.
    pub(super) fn wait(&self) {
        let left = lock(&self.list);
        let is_at_work = |left: &mut Left| left.has_thread;
        let waited = self.none_left.wait_timeout_while(left, AT_THE_END, is_at_work);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn remove(&self) {
        signals::block_all();
        loop {
            std::thread::sleep(LOOK_AGAIN);
            let mut left = lock(&self.list);
            left.folders.retain(|(folder, deadline)| match fs::remove_dir(folder) {
                Err(error) if is_busy(&error) && Instant::now() < *deadline => true,
                other => {
                    told(other);
                    false
                }
            });
            if left.folders.is_empty() {
                left.has_thread = false;
                self.none_left.notify_all();
                return;
            }
        }
    }
}
