//! Storms: the zygote is killed, and takes every helper along, in the middle of whatever any thread does.
//!
//! Owns what that excuses, and for how long. A storm lasts from before the kill until the host has noticed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts storms. Odd while there is one.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    turns: AtomicU64,
    /// One storm at a time.
    one: Mutex<BTreeSet<(u32, String)>>,
}

/// When something began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(u64);

/// A storm; over when it is dropped.
pub(crate) struct Storm<'a> {
    weather: &'a Weather,
    killed: MutexGuard<'a, BTreeSet<(u32, String)>>,
}

impl Weather {
    pub(crate) fn now(&self) -> Since {
        Since(self.turns.load(Ordering::SeqCst))
    }

    /// Whether there was a storm at any moment since then.
    pub(crate) fn was_stormy(&self, since: Since) -> bool {
        !since.0.is_multiple_of(2) || self.now() != since
    }

    /// Begins a storm, unless there is one.
    pub(crate) fn storm(&self) -> Option<Storm<'_>> {
        let killed = match self.one.try_lock() {
            Ok(killed) => killed,
            Err(std::sync::TryLockError::Poisoned(killed)) => killed.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        self.turns.fetch_add(1, Ordering::SeqCst);
        Some(Storm { weather: self, killed })
    }

    /// Whether this zygote was killed by a storm that is over.
    pub(crate) fn has_killed(&self, zygote: u32) -> bool {
        // One that is gone has no start: nothing but a storm ends a zygote here.
        let Some(start) = start_of(zygote) else { return true };
        self.one.lock().unwrap_or_else(PoisonError::into_inner).contains(&(zygote, start))
    }
}

impl Storm<'_> {
    pub(crate) fn kills(&mut self, zygote: u32) {
        self.killed.extend(start_of(zygote).map(|start| (zygote, start)));
    }
}

impl Drop for Storm<'_> {
    fn drop(&mut self) {
        self.weather.turns.fetch_add(1, Ordering::SeqCst);
    }
}

/// When a process was started, in the kernel's ticks: numbers come round within minutes here.
fn start_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}
