//! Whose turn it is: operations on one plugin are serial, and not everybody is let in at all.
//!
//! Runs in the host, on any thread. Never waits for a turn that the same thread has.

use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::thread::ThreadId;
use std::time::Instant;

use super::held::Entry;
use crate::error::PluginSandboxError;
use crate::host::lifecycle::Operation;
use crate::host::lock::lock;

/// Who has the turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operator {
    pub(super) thread: ThreadId,
    pub(super) operation: Operation,
    pub(super) since: Instant,
}

/// Who has been let in: an operation that has its turn, or waits for it.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub(super) inside: usize,
    /// How many wait for all to leave.
    pub(super) waiting: usize,
    /// How many wait for all to leave, and let nobody in meanwhile.
    pub(super) draining: usize,
    /// Nobody is let in ever again.
    pub(super) shut: bool,
}

pub(super) struct Admitted<'a>(&'a Entry);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut admission = lock(&self.0.admission);
        admission.inside -= 1;
        // A call is no place for a system call that wakes nobody.
        let is_awaited = admission.inside == 0 && admission.waiting > 0;
        drop(admission);
        if is_awaited {
            self.0.left.notify_all();
        }
    }
}

/// The turn to do something with the plugin: calls into one plugin are serial.
pub(super) struct Turn<'a> {
    pub(super) entry: &'a Entry,
    pub(super) _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.entry.operator) = None;
    }
}

impl Entry {
    /// Lets an operation in, which then waits for its turn; not once all are to leave.
    pub(super) fn admit(&self, operation: Operation) -> Result<Admitted<'_>, PluginSandboxError> {
        let mut admission = lock(&self.admission);
        if admission.shut || admission.draining > 0 {
            return Err(PluginSandboxError::ShuttingDown { plugin: self.subject.id().clone(), operation });
        }
        admission.inside += 1;
        Ok(Admitted(self))
    }

    /// Waits until all have left, or for so long. Whether they have.
    pub(crate) fn wait_idle(&self, until: Instant) -> bool {
        let mut admission = lock(&self.admission);
        admission.waiting += 1;
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.left.wait_timeout_while(admission, left, |admission| admission.inside > 0);
        let mut admission = waited.unwrap_or_else(PoisonError::into_inner).0;
        admission.waiting -= 1;
        admission.inside == 0
    }

    /// Whether this thread runs a service for the operation under way.
    pub(crate) fn is_operated_here(&self) -> bool {
        lock(&self.operator).is_some_and(|operator| operator.thread == std::thread::current().id())
    }

    /// Waits for the plugin to be free. A service that it waits for on this very thread would wait for ever.
    pub(super) fn turn(&self, operation: Operation) -> Result<Turn<'_>, PluginSandboxError> {
        if self.is_operated_here() {
            return Err(PluginSandboxError::Reentrant { plugin: self.subject.id().clone(), operation });
        }
        let turn = lock(&self.turn);
        Ok(self.taken(turn, operation))
    }

    /// The turn, if nobody has it.
    pub(super) fn free_turn(&self, operation: Operation) -> Option<Turn<'_>> {
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.taken(turn, operation))
    }

    pub(super) fn taken<'a>(&'a self, turn: MutexGuard<'a, ()>, operation: Operation) -> Turn<'a> {
        let (thread, since) = (std::thread::current().id(), Instant::now());
        *lock(&self.operator) = Some(Operator { thread, operation, since });
        Turn { entry: self, _turn: turn }
    }
}
