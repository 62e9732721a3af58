//! When a plugin that has ended is to be looked at again: to write down that it crashed, and to load it anew.
//!
//! Runs in the host, on at most four threads, started when something is due and ended when nothing is. Owns that time, and
//! nothing of a plugin: its state is `host::subject`'s, its turns are `host::entry`'s. Never used for anything but restarts,
//! since it waits for the disk and for plugins, and runs the services that a plugin calls while it is activated again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::host::entry::Entry;
use crate::host::lock::lock;
use crate::shared::sys::signals;

/// How many plugins may be restarted at once. Others wait a little longer.
const MOST_THREADS: usize = 4;

/// What is to be looked at, and who looks.
struct Queue {
    items: Vec<(Instant, Weak<Entry>)>,
    threads: usize,
    /// Threads that wait for something to be due.
    idle: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { items: Vec::new(), threads: 0, idle: 0 });
static CHANGED: Condvar = Condvar::new();

/// Has the plugin looked at at that time.
pub(in crate::host) fn look_at(entry: &Weak<Entry>, due: Instant) {
    let mut queue = lock(&QUEUE);
    queue.items.push((due, Weak::clone(entry)));
    queue.more_threads();
    CHANGED.notify_all();
}

/// Does not look at it any more, unless that has begun.
pub(in crate::host) fn forget(entry: *const Entry) {
    lock(&QUEUE).items.retain(|(_, other)| !std::ptr::eq(other.as_ptr(), entry));
    // A thread that has nothing to wait for any more ends.
    CHANGED.notify_all();
}

impl Queue {
    /// Starts a thread if none is free to wait for what there is.
    fn more_threads(&mut self) {
        if self.items.is_empty() || self.idle > 0 || self.threads >= MOST_THREADS {
            return;
        }
        let started = std::thread::Builder::new().name("plugin-restarts".to_owned()).spawn(work);
        match started {
            Ok(_) => self.threads += 1,
            Err(error) if self.threads == 0 => {
                tracing::error!(%error, "no thread could be had: plugins that crashed stay as they are");
            }
            Err(_) => {} // one that works will come to it
        }
    }

    /// What is due now, or when something is.
    fn next(&mut self) -> Result<Weak<Entry>, Option<Instant>> {
        let first = self.items.iter().enumerate().min_by_key(|(_, (due, _))| *due);
        match first.map(|(at, (due, _))| (at, *due)) {
            Some((at, due)) if due <= Instant::now() => Ok(self.items.swap_remove(at).1),
            other => Err(other.map(|(_, due)| due)),
        }
    }
}

fn work() {
    signals::block_all();
    let mut queue = lock(&QUEUE);
    loop {
        match queue.next() {
            Ok(entry) => {
                queue.more_threads();
                drop(queue);
                // A panic, such as of somebody who listens to `tracing`, ends this look and nothing else.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    if let Some(entry) = entry.upgrade() {
                        entry.look_after();
                    }
                }));
                queue = lock(&QUEUE);
            }
            Err(Some(due)) => {
                queue.idle += 1;
                let wait = due.saturating_duration_since(Instant::now());
                queue = CHANGED.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
                queue.idle -= 1;
            }
            Err(None) => {
                queue.threads -= 1;
                return;
            }
        }
    }
}
