//! The processes of one plugin: its helper, and what that has started.
//!
//! Runs in the host, on any thread. Owns how many there may be. What the kernel shows of them is asked anew each time, and
//! only of plugins that have ever started one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::lock::lock;
use super::procfs::{self, HostPid, Times};

/// After how long a start of which nothing is seen has come to nothing, or ended too soon to be seen.
const UNSEEN: Duration = Duration::from_secs(1);

/// What is known of a plugin's processes.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// Whether the helper's root is empty but for what it is shown.
    may_start: AtomicBool,
    has_started: AtomicBool,
    /// What the helper's root holds, by the paths there.
    pub(super) shown: Mutex<HashMap<PathBuf, Shown>>,
    starting: Mutex<Vec<Starting>>,
    spent: Mutex<Spent>,
    /// The most processes that were seen, or started, at once.
    most: AtomicU64,
}

/// A program in a helper's root.
#[derive(Debug)]
pub(super) struct Shown {
    /// Which file it is, by device and inode.
    pub(super) identity: (u64, u64),
    /// Where that is in the host's tree.
    pub(super) resolved: PathBuf,
}

/// A start that was let through and of which nothing has been seen yet.
#[derive(Debug)]
struct Starting {
    tid: i32,
    children_before: Vec<HostPid>,
    since: Instant,
}

/// CPU time as it was seen when it was last looked at.
#[derive(Debug, Default)]
struct Spent {
    living: HashMap<HostPid, Duration>,
    gone: Duration,
}

impl Family {
    /// From now on `yes` is whether programs may be started at all.
    pub(crate) fn may_start(&self, yes: bool) {
        self.may_start.store(yes, Ordering::Release);
    }

    pub(crate) fn can_start(&self) -> bool {
        self.may_start.load(Ordering::Acquire)
    }

    /// Whether there ever was a process beside the helper.
    pub(crate) fn has_started(&self) -> bool {
        self.has_started.load(Ordering::Acquire)
    }

    /// Whether the thread `tid` may start one more process than `helper` has now, of at most `most`; counts it if so. The
    /// broker asks for one at a time.
    pub(crate) fn start(&self, helper: HostPid, tid: i32, most: Option<u64>) -> bool {
        let mut starting = lock(&self.starting);
        starting.retain(|other| other.tid != tid && other.is_under_way());
        let living = procfs::descendants(helper).len().saturating_add(starting.len());
        if most.is_some_and(|most| u64::try_from(living).is_ok_and(|living| living >= most)) {
            return false;
        }
        let children_before = procfs::children_of_thread(tid);
        starting.push(Starting { tid, children_before, since: Instant::now() });
        self.has_started.store(true, Ordering::Release);
        let most = u64::try_from(living).unwrap_or(u64::MAX).saturating_add(1);
        self.most.fetch_max(most, Ordering::AcqRel);
        true
    }

    /// The most processes that there were at once beside the helper, as far as it was seen.
    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Acquire)
    }

    /// The CPU time of everything that `helper` has started, as far as it was seen: at least that much was spent.
    pub(crate) fn cpu_time(&self, helper: HostPid) -> Duration {
        let waited_for = procfs::times(helper).map(|Times { waited_for, .. }| waited_for).unwrap_or_default();
        let (mut below, mut now) = (Duration::ZERO, HashMap::new());
        for pid in procfs::descendants(helper) {
            let Some(Times { own, waited_for }) = procfs::times(pid) else { continue };
            below += own + waited_for;
            now.insert(pid, own);
        }
        let mut spent = lock(&self.spent);
        let before = std::mem::replace(&mut spent.living, now);
        let gone: Duration =
            before.iter().filter(|(pid, _)| !spent.living.contains_key(pid)).map(|(_, time)| *time).sum();
        spent.gone += gone;
        let seen = spent.gone + spent.living.values().sum::<Duration>();
        // A parent that does not wait for its children is not told of their time: what was seen of them counts then.
        (waited_for + below).max(seen)
    }
}

impl Starting {
    fn is_under_way(&self) -> bool {
        self.since.elapsed() < UNSEEN
            && procfs::children_of_thread(self.tid).iter().all(|child| self.children_before.contains(child))
    }
}
