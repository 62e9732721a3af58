//! Which requests of a plugin are being served at this moment.
//!
//! Runs in the host. Whoever decides by the grants and acts by that holds an [`Act`] from before it reads them until it has
//! acted, so that a revoke can wait until nothing is left that was decided by what was granted before.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host::lock::lock;

/// The requests of one plugin.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    acts: Mutex<Acts>,
    one_has_ended: Condvar,
}

#[derive(Debug, Default)]
struct Acts {
    next: u64,
    /// In the order in which they began.
    served: Vec<u64>,
    /// How many wait for one to end.
    waiting: usize,
}

/// A request that is being served.
pub(crate) struct Act<'a> {
    of: &'a UnderWay,
    number: u64,
}

impl UnderWay {
    /// A request is served from now until this is dropped.
    pub(crate) fn begin(&self) -> Act<'_> {
        let mut acts = lock(&self.acts);
        let number = acts.next;
        acts.next += 1;
        acts.served.push(number);
        Act { of: self, number }
    }

    /// Waits until those that have begun have ended; whether they have in time.
    pub(crate) fn settled(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut acts = lock(&self.acts);
        let begun = acts.next;
        while acts.served.first().is_some_and(|first| *first < begun) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            acts.waiting += 1;
            let waited = self.one_has_ended.wait_timeout(acts, left);
            acts = waited.unwrap_or_else(PoisonError::into_inner).0;
            acts.waiting -= 1;
        }
        true
    }
}

impl Drop for Act<'_> {
    fn drop(&mut self) {
        let mut acts = lock(&self.of.acts);
        acts.served.retain(|number| *number != self.number);
        // It is a system call, whether anybody waits or not.
        if acts.waiting > 0 {
            self.of.one_has_ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_is_waited_for_and_what_begins_later_is_not() {
        let under_way = UnderWay::default();
        assert!(under_way.settled(Duration::ZERO));
        let first = under_way.begin();
        assert!(!under_way.settled(Duration::ZERO));
        let (begun, has_begun) = crossbeam_channel::bounded::<()>(0);
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| {
                begun.send(()).unwrap();
                under_way.settled(Duration::from_secs(60))
            });
            has_begun.recv().unwrap();
            drop(first);
            assert!(settled.join().unwrap());
        });
        let _later = under_way.begin();
        drop(under_way.begin());
    }
}
