//! Starting processes and programs, and signals among them: clone(2), execve(2), kill(2).
//!
//! Runs in the host, on a worker. These calls alone are let go on after they were judged, since nobody can do them for a
//! process: of a clone the flags decide, which sit in registers; an execve finds in the helper's root nothing but programs
//! that were judged for this very plugin, whatever its path has become meanwhile, and what it starts is confined all the same.

use std::path::Path;

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::programs;
use super::requests::{Answer, Attempt, Refused, Request};
use crate::host::entry::apply_limits;
use crate::host::procfs::{self, HostPid};
use crate::shared::errno::from_rustix;

const PERMISSION: &str = "process";
const NO_EMPTY_ROOT: &str = "programs are started only where the helper's root is empty";
const NO_MEMORY: &str = "the kernel does not let this host read the memory of what a plugin starts, so that no call of a program's \
                         could be judged";

/// What fork(3), vfork(3) and posix_spawn(3) ask of clone(2), in glibc and musl.
const SHAPES: [i32; 3] = [
    libc::SIGCHLD,
    libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD,
    libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
];

/// Serves a call about processes; `None` if this is none, or one that nobody may make.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    match request.nr() {
        libc::SYS_clone => {
            let wanted = request.arg(0);
            let known = SHAPES.iter().any(|shape| u64::from(shape.cast_unsigned()) == wanted);
            known.then(|| request.start("clone"))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork => Some(request.start("fork")),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => Some(request.start("vfork")),
        libc::SYS_execve => Some(request.execute("execve", request.arg(0))),
        libc::SYS_execveat => {
            let by_path = request.int(4) == 0 && request.int(0).cast_signed() == libc::AT_FDCWD;
            by_path.then(|| request.execute("execveat", request.arg(1)))
        }
        libc::SYS_kill => request.signal("kill", request.int(0), request.int(1)),
        libc::SYS_tkill => request.signal("tkill", request.int(0), request.int(1)),
        libc::SYS_tgkill => request.signal("tgkill", request.int(0), request.int(2)),
        // Groups and sessions are of the plugin's processes alone: the helper is in a session of its own.
        libc::SYS_setpgid if request.instance.family.has_started() => Some(Answer::Continue),
        libc::SYS_setsid if !request.is_helper() => Some(Answer::Continue),
        // A program asks for, and changes, what is its own: for these its number is not the helper's.
        libc::SYS_prlimit64 if request.arg(2) == 0 => request.about_itself(request.int(0)),
        libc::SYS_sched_setaffinity => request.about_itself(request.int(0)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_arch_prctl => Some(Answer::Errno(Errno::EINVAL)), // as on a kernel that knows no more of them
        _ => None,
    }
}

impl Request<'_> {
    fn start(&self, action: &'static str) -> Answer {
        let subject = &self.instance.subject;
        let attempt = Attempt { permission: PERMISSION, action, object: b"" };
        let refuse = |errno, rule: &str| self.refuse(attempt, Refused::new(errno, None, rule));
        if !self.may_start() {
            return refuse(Errno::EPERM, "not granted");
        }
        if !self.instance.family.can_start() {
            let has_empty_root = self.brokered.zygote.launch.namespaces;
            return match self.brokered.was_handed_over && has_empty_root {
                true => refuse(Errno::EACCES, NO_MEMORY),
                false => refuse(Errno::EPERM, NO_EMPTY_ROOT),
            };
        }
        let (limits, first) = (subject.limits(), !self.instance.family.has_started());
        if !self.instance.family.start(self.instance.pid, self.notification.tid, limits.max_processes) {
            let rule = format!("max_processes is {}", limits.max_processes.unwrap_or_default());
            return refuse(Errno::EAGAIN, &rule);
        }
        if first && let Err(error) = apply_limits(self.instance, &limits) {
            tracing::warn!(plugin = %subject.id(), %error, "its processes count with its threads");
        }
        self.brokered.folders.forget_ended();
        let held = subject.holds_named(PERMISSION);
        let rule = if held { "granted: process" } else { "whoever is asked is asked about the program" };
        self.event(attempt, None, true, rule);
        Answer::Continue
    }

    /// Whether a process may be started for the sake of a program. Whoever is asked is asked about that program, whose name
    /// comes with a later call.
    fn may_start(&self) -> bool {
        self.may_ask() || self.instance.subject.holds_named(PERMISSION)
    }

    fn execute(&self, action: &'static str, path: u64) -> Answer {
        let path = match self.read_path(path) {
            Ok(path) if path.is_empty() => return Answer::Errno(Errno::ENOENT),
            Ok(path) => path,
            Err(errno) => return Answer::Errno(errno),
        };
        let attempt = Attempt { permission: PERMISSION, action, object: &path };
        if self.is_helper() {
            let held = self.instance.subject.holds_named(PERMISSION);
            let rule = if held { "the plugin's own process stays what it is" } else { "not granted" };
            return self.refuse(attempt, Refused::new(Errno::EACCES, None, rule));
        }
        if !self.instance.family.can_start() {
            return self.refuse(attempt, Refused::new(Errno::EACCES, None, NO_EMPTY_ROOT));
        }
        let judged = programs::judge(self, &path);
        match judged.and_then(|judged| programs::show(self, &judged).map(|()| judged)) {
            Ok(judged) => {
                for programs::Judged { at, resolved, rule, .. } in &judged {
                    let Some(rule) = rule else { continue };
                    let attempt = Attempt { object: at.as_os_str().as_encoded_bytes(), ..attempt };
                    self.event(attempt, Some(resolved), true, rule);
                }
                Answer::Continue
            }
            Err(refused) => self.refuse(attempt, refused),
        }
    }

    /// Signals a process of the plugin's own; `None` if the plugin has no such process.
    fn signal(&self, action: &'static str, number: u32, signal: u32) -> Option<Answer> {
        if !self.instance.family.has_started() {
            return None;
        }
        let helper = self.instance.pid;
        let family = || std::iter::once(helper).chain(procfs::descendants(helper));
        let is_it = |pid: &HostPid| procfs::own_number(*pid) == Some(number.cast_signed());
        let pid = family().find(is_it)?;
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid.0)?, PidfdFlags::empty()).ok()?;
        // The number could have become another process's before it was taken hold of.
        if !is_it(&pid) || !family().any(|member| member == pid) {
            return Some(Answer::Errno(Errno::ESRCH));
        }
        let object = number.to_string();
        let attempt = Attempt { permission: PERMISSION, action, object: object.as_bytes() };
        self.event(attempt, None, true, "a process of the plugin's own");
        if signal == 0 {
            return Some(Answer::Value(0));
        }
        let Some(signal) = Signal::from_named_raw(signal.cast_signed()) else {
            return Some(Answer::Errno(Errno::EINVAL));
        };
        let sent = rustix::process::pidfd_send_signal(pidfd, signal);
        Some(sent.map(|()| 0).map_err(from_rustix).into())
    }

    /// Lets a call go on that is about the process `number`, if that is the caller.
    fn about_itself(&self, number: u32) -> Option<Answer> {
        if self.is_helper() {
            return None;
        }
        let caller = procfs::process_of(self.notification.tid)?;
        (procfs::own_number(caller) == Some(number.cast_signed()) && self.still_waits())
            .then_some(Answer::Continue)
    }
}

/// Where a call that is let go on finds what it names: every folder of the helper's root is a real one.
pub(super) fn as_the_kernel_walks(path: &Path) -> std::path::PathBuf {
    use std::path::Component;
    let mut walked = std::path::PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => drop(walked.pop()),
            Component::Normal(name) => walked.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    walked
}
