//! What a check of a plugin's health tells, and what is seen of its process from outside.
//!
//! Runs in the host. Reads `/proc` on the thread that asked. Decides nothing.

use std::time::Duration;

use crate::host::instance::Instance;
use crate::host::lifecycle::{Operation, PluginState};
use crate::host::procfs;

/// How a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Where it stands.
    pub state: PluginState,
    /// What the helper answered.
    pub answer: Answer,
    /// Its process; `None` if it has just ended.
    pub process: Option<ProcessHealth>,
}

/// What a helper answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It is there, and waits for its next order.
    Answered {
        /// How long that took.
        after: Duration,
    },
    /// It was not asked: an operation is under way, or a restart.
    Busy {
        /// Which.
        operation: Operation,
        /// For how long.
        since: Duration,
    },
}

/// A helper's process, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessHealth {
    /// The CPU time of all its threads, and of what it has started, so far.
    pub cpu_time: Duration,
    /// How many threads it has.
    pub threads: usize,
    /// Whether it is stopped, by SIGSTOP or the like.
    pub stopped: bool,
}

impl ProcessHealth {
    pub(in crate::host) fn of(instance: &Instance) -> Option<Self> {
        let state = procfs::first_thread(instance.pid)?;
        let threads = procfs::threads(instance.pid).len();
        Some(Self { cpu_time: instance.cpu_time()?, threads, stopped: state == 'T' })
    }
}

impl Instance {
    /// Why nobody could call it, if that is so: as seen from outside, without asking it.
    pub(in crate::host) fn is_hung(&self) -> Option<&'static str> {
        // The host itself stops it for a moment when it revokes.
        let _not_by_us = self.stopping.try_lock().ok()?;
        match procfs::first_thread(self.pid)? {
            'T' => Some("it stopped itself"),
            // The process as a whole ends with its last thread, and is reaped then.
            'Z' if procfs::threads(self.pid).len() > 1 => Some("the thread that it is called on ended"),
            _ => None,
        }
    }
}
