//! Stopping a plugin's processes for a moment, to look through what they hold while none of their threads runs.
//!
//! Runs in the host, on the thread that asked. Owns that they go on afterwards, whatever came of the look. Never used on a
//! worker or the reactor: it waits for the kernel to stop threads.
use std::collections::HashMap;
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};

use super::instance::Instance;
use super::lock::lock;
use super::procfs::{self, HostPid};

/// How long the threads of a plugin may take to stop: each must come to a processor once.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before looking again whether they have: nothing announces it.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// The plugin's processes could not be stopped, so that nothing can be said of what they hold.
#[derive(Debug)]
pub(crate) struct NotStopped;

/// One process of a plugin's, held so that its number cannot come to mean another.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: HostPid,
    pidfd: OwnedFd,
}

impl Process {
    /// A copy of one of its descriptors: pidfd_getfd(2).
    pub(crate) fn descriptor(&self, number: RawFd) -> Result<OwnedFd, rustix::io::Errno> {
        pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty())
    }

    /// Its descriptors, and what `/proc` says each leads to: `/a/path`, `socket:[inode]`.
    pub(crate) fn descriptors(&self) -> std::io::Result<Vec<(RawFd, PathBuf)>> {
        descriptors(self.pid)
    }

    /// Ends it; while it is stopped, before it is back in its own code.
    pub(crate) fn kill(&self) {
        let _ = self.signal(Signal::KILL);
    }

    /// Whether there was still somebody to be signalled.
    fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.pidfd, signal).is_ok()
    }
}

/// The descriptors of the process `pid`, and what each leads to.
pub(crate) fn descriptors(pid: HostPid) -> std::io::Result<Vec<(RawFd, PathBuf)>> {
    let entries = fs::read_dir(format!("/proc/{}/fd", pid.0))?;
    // One that is closed meanwhile leads nowhere any more.
    let held = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?))
    });
    Ok(held.collect())
}

/// The plugin's processes at this moment: its helper, and what it has started.
pub(crate) fn processes(instance: &Instance) -> Vec<HostPid> {
    std::iter::once(instance.pid).chain(procfs::descendants(instance.pid)).collect()
}

/// Runs `look` while no thread of the plugin's runs: again, if one has run meanwhile. Of threads that wait in the kernel
/// without being stopped, such as for an answer of the broker's, none comes back to the plugin's code meanwhile.
///
/// # Errors
/// [`NotStopped`] if they do not stop in time, the helper has ended, or one of them hides what it holds. They run on.
pub(crate) fn stopped<T>(
    instance: &Instance,
    mut look: impl FnMut(&[Process]) -> T,
) -> Result<T, NotStopped> {
    let _one_at_a_time = lock(&instance.stopping);
    let mut stopped = Stopped(Vec::new());
    let deadline = Instant::now() + STOP_TIMEOUT;
    stopped.0.push(Process { pid: instance.pid, pidfd: instance.process().ok_or(NotStopped)? });
    loop {
        // Again each time: one that still ran may have let another go on, or started one. The number of one that is gone may
        // be another's by now.
        stopped.0.retain(|process| process.signal(Signal::STOP));
        for pid in processes(instance) {
            if stopped.0.iter().all(|process| process.pid != pid)
                && let Some(raw) = Pid::from_raw(pid.0)
                && let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty())
                && processes(instance).contains(&pid)
            {
                let process = Process { pid, pidfd };
                let _ = process.signal(Signal::STOP);
                stopped.0.push(process);
            }
        }
        if stopped.all_stand_still(instance) {
            if stopped.0.iter().any(|process| has_lost_its_first_thread(process.pid)) {
                return Err(NotStopped);
            }
            let before = stopped.runs();
            let seen = look(&stopped.0);
            // A timer of the plugin's own can send it SIGCONT, at any moment.
            if instance.is_being_ended() || stopped.all_stand_still(instance) && stopped.runs() == before {
                return Ok(seen);
            }
        }
        if Instant::now() >= deadline {
            return Err(NotStopped);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The processes that were told to stop; they go on when it goes.
struct Stopped(Vec<Process>);

impl Stopped {
    /// Whether these are all of the plugin's processes, and none runs.
    fn all_stand_still(&self, instance: &Instance) -> bool {
        let known = |pid: &HostPid| self.0.iter().any(|process| process.pid == *pid);
        // Twice: one that ends while its children are looked for leaves them to the helper, which was looked at before.
        self.0.iter().all(|process| stands_still(process.pid))
            && (0..2).all(|_| processes(instance).iter().all(known))
    }

    /// How often each of their threads has come off a processor.
    fn runs(&self) -> HashMap<i32, u64> {
        let threads = self.0.iter().flat_map(|process| procfs::threads(process.pid));
        threads.map(|tid| (tid, procfs::switches(tid))).collect()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for process in &self.0 {
            let _ = process.signal(Signal::CONT);
        }
    }
}

/// The state of one thread: proc_pid_stat(5). `None` of one that is gone.
fn state(pid: HostPid, task: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/task/{task}/stat", pid.0)).ok()?;
    // Behind the name, which may have any byte in it.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether no thread of this process runs, or would run before it stops.
fn stands_still(pid: HostPid) -> bool {
    // Who waits and cannot be interrupted stops before it is back in its own code.
    let still = |state| matches!(state, 'T' | 't' | 'D' | 'Z' | 'X');
    procfs::threads(pid).into_iter().all(|task| state(pid, task).is_none_or(still))
}

/// Whether the thread by which the kernel shows a process has ended, and others go on: it then shows no descriptors and no
/// mappings, though the others hold them.
fn has_lost_its_first_thread(pid: HostPid) -> bool {
    let has_ended = |task| state(pid, task).is_none_or(|state| matches!(state, 'Z' | 'X'));
    has_ended(pid.0) && procfs::threads(pid).into_iter().any(|task| !has_ended(task))
}
