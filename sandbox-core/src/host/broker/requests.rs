//! What becomes of one notified system call.
//!
//! Runs in the host, on a worker. Owns how a request is read, decided, recorded and answered; each kind of call has a file
//! of its own, which says what it does.

use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use super::parked::Wait;
use super::prompts::MOST_FOR_ONE;
use super::{Brokered, fault, files, forbidden, machine, memory, network, processes, programs, refused};
use crate::host::decider::{AccessRequest, Ruling};
use crate::host::end::report::Refusal;
use crate::host::events::{EventKind, escape, escape_path};
use crate::host::instance::Instance;
use crate::host::lifecycle::PluginState;
use crate::host::procfs;
use crate::shared::errno::from_rustix;
use crate::shared::policy::{Grants, Layer, PluginPermission};
use crate::shared::sys::seccomp::{self, Notification};

/// What the caller gets.
pub(super) enum Answer {
    Value(i64),
    Errno(Errno),
    /// The call goes on. Only for calls whose outcome is confined whatever they name by now.
    Continue,
    File {
        file: OwnedFd,
        cloexec: bool,
    },
    /// Nothing yet: somebody is asked first, and then the request is served anew.
    Ask(Box<AccessRequest>),
    /// Nothing yet: what it waits for comes first, and then the request is served anew.
    Later(Wait),
    /// It has been answered.
    Given,
}

impl From<Result<i64, Errno>> for Answer {
    fn from(result: Result<i64, Errno>) -> Self {
        result.map_or_else(Self::Errno, Self::Value)
    }
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// A caller's memory.
pub(super) enum Memory<'a> {
    /// The helper's, as it was opened when that was made.
    Helpers(&'a File),
    /// That of a process which it has started.
    Others(File),
}

impl Deref for Memory<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Helpers(file) => file,
            Self::Others(file) => file,
        }
    }
}

/// Why a call by descriptor is refused where the host cannot look what the descriptor is of.
const NO_COPIES: &str =
    "the kernel does not let this host have copies of a plugin's descriptors (pidfd_getfd)";

/// One notified call of one helper, or of what it has started.
pub(super) struct Request<'a> {
    pub(super) instance: &'a Arc<Instance>,
    pub(super) brokered: &'a Arc<Brokered>,
    pub(super) notification: &'a Notification,
    /// What was said by whoever was asked about this very request.
    pub(super) rulings: &'a [(PluginPermission, Ruling)],
    /// How many revokes there had been when the first of it was said.
    pub(super) revokes_before: u64,
    /// Since when its caller waits, if this is not the first time that it is served.
    pub(super) waited_since: Option<Instant>,
}

/// What came of serving a request.
pub(super) enum Served {
    /// Its caller goes on.
    Answered,
    /// Its caller waits until somebody has said whether it may.
    Undecided(Box<AccessRequest>),
    /// Its caller waits until something is so.
    Later(Wait),
}

/// Serves one request.
pub(super) fn serve(request: &Request<'_>) -> Served {
    let _act = request.brokered.under_way.begin();
    let listener = request.brokered.listener.as_fd();
    let id = request.notification.id;
    // An error here is a caller that has ended meanwhile: there is nobody left to be answered.
    let _ = match request.answer() {
        Answer::Value(value) => seccomp::answer(listener, id, Ok(value)),
        Answer::Errno(errno) => seccomp::answer(listener, id, Err(errno)),
        Answer::Continue => seccomp::let_continue(listener, id),
        Answer::File { file, cloexec } => {
            match seccomp::answer_with_fd(listener, id, file.as_fd(), cloexec) {
                Ok(_) => Ok(()),
                // EMFILE: the plugin is at its limit.
                Err(errno) => seccomp::answer(listener, id, Err(errno)),
            }
        }
        Answer::Ask(wish) => return Served::Undecided(wish),
        Answer::Later(wait) => return Served::Later(wait),
        Answer::Given => Ok(()),
    };
    Served::Answered
}

/// What a plugin tried, for the record.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) permission: &'static str,
    pub(super) action: &'static str,
    /// As the plugin names it.
    pub(super) object: &'a [u8],
}

/// Why something is not done, and what would have opened it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    /// What was refused, once links were followed.
    pub(crate) resolved: Option<String>,
    /// The decision that counted.
    pub(crate) rule: String,
    /// The narrowest permission that would open it, if nobody has decided about it: it may be asked for.
    pub(crate) wanted: Option<Box<PluginPermission>>,
    /// Whether the permissions allow it, and it fails for what is there or not: that is no denial.
    pub(crate) allowed: bool,
}

impl Refused {
    pub(crate) fn new(errno: Errno, resolved: Option<&Path>, rule: impl Into<String>) -> Self {
        let resolved = resolved.map(escape_path);
        Self { errno, resolved, rule: rule.into(), wanted: None, allowed: false }
    }

    /// What `rule` allows, and what fails all the same.
    pub(crate) fn failed(errno: Errno, resolved: Option<&Path>, rule: impl Into<String>) -> Self {
        let rule = format!("{}; {errno:?}", rule.into());
        Self { allowed: true, ..Self::new(errno, resolved, rule) }
    }

    /// The same, which somebody may be asked about.
    pub(crate) fn wanting(self, wanted: Option<PluginPermission>) -> Self {
        Self { wanted: wanted.map(Box::new), ..self }
    }
}

/// The rule by which something was allowed, in words: what was allowed for this request alone is no grant.
pub(crate) fn worded(rule: &str, rulings: &[(PluginPermission, Ruling)]) -> String {
    let once = |(permission, ruling): &(PluginPermission, Ruling)| {
        let by = rule.strip_prefix("granted: ")?.strip_prefix(permission.to_string().as_str())?;
        let is_this = *ruling == Ruling::AllowOnce && (by.is_empty() || by.starts_with("; "));
        is_this.then(|| format!("allowed when asked: {permission}{by}"))
    };
    rulings.iter().find_map(once).unwrap_or_else(|| rule.to_owned())
}

impl Request<'_> {
    pub(super) fn nr(&self) -> i64 {
        self.notification.nr
    }

    pub(super) fn arg(&self, index: usize) -> u64 {
        self.notification.args.get(index).copied().unwrap_or_default()
    }

    /// An argument of which the kernel reads the lower half.
    pub(super) fn int(&self, index: usize) -> u32 {
        self.arg(index) as u32
    }

    fn answer(&self) -> Answer {
        let subject = &self.instance.subject;
        if subject.policy().layers.sabotage.takes(Layer::Seccomp) && subject.state() != PluginState::Loading {
            return Answer::Continue; // a test's helper, of which nothing but the load is the broker's
        }
        let served = forbidden::serve(self).or_else(|| fault::serve(self)).or_else(|| processes::serve(self));
        let served = served.or_else(|| programs::serve(self));
        let served = served.or_else(|| files::serve(self)).or_else(|| network::serve(self));
        served.or_else(|| machine::serve(self)).unwrap_or_else(|| refused::serve(self))
    }

    /// Whether the caller is the helper's own process, and not one that it has started.
    pub(super) fn is_helper(&self) -> bool {
        !self.instance.family.has_started() || procfs::is_thread_of(self.instance.pid, self.notification.tid)
    }

    /// The caller's memory, for as long as the caller waits.
    pub(super) fn memory(&self) -> Result<Memory<'_>, Errno> {
        if self.is_helper() {
            return Ok(Memory::Helpers(&self.brokered.memory));
        }
        // Opened now: what it is, is seen by the caller's still waiting afterwards.
        memory::open(self.notification.tid).map(Memory::Others)
    }

    /// Whether the caller still waits, so that what was read of its memory was read of its.
    pub(super) fn still_waits(&self) -> bool {
        seccomp::still_waits(self.brokered.listener.as_fd(), self.notification.id)
    }

    /// The path at `address`.
    pub(super) fn read_path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        let memory = self.memory()?;
        self.read_of(&memory, memory::read_path(&memory, address)?)
    }

    /// The number at `address`.
    pub(super) fn read_u64(&self, address: u64) -> Result<u64, Errno> {
        let memory = self.memory()?;
        self.read_of(&memory, memory::read_u64(&memory, address)?)
    }

    /// What was read of `memory`, if that is the caller's. The helper's stays the helper's.
    pub(super) fn read_of<T>(&self, memory: &Memory<'_>, what: T) -> Result<T, Errno> {
        let is_callers = matches!(memory, Memory::Helpers(_)) || self.still_waits();
        if is_callers { Ok(what) } else { Err(Errno::EINTR) }
    }

    /// Answers 0, with `bytes` at `address`.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Answer {
        self.put(address, bytes).map(|()| 0).into()
    }

    /// Writes `bytes` to `address`.
    pub(super) fn put(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let memory = self.memory()?;
        if !self.still_waits() {
            return Err(Errno::EINTR);
        }
        memory::write(&memory, self.notification.tid, address, bytes)
    }

    /// The process whose thread calls.
    pub(super) fn process(&self) -> i32 {
        let (tid, helper) = (self.notification.tid, self.instance.pid.0);
        if self.is_helper() { helper } else { procfs::process_of(tid).map_or(tid, |process| process.0) }
    }

    /// A copy of one of the caller's descriptors.
    pub(super) fn descriptor(&self, number: RawFd) -> Result<OwnedFd, Errno> {
        let copy = if self.is_helper() {
            self.instance.descriptor(number)
        } else {
            procfs::descriptor_of(self.notification.tid, number)
        };
        let copy = copy.map_err(from_rustix)?;
        if self.still_waits() { Ok(copy) } else { Err(Errno::EINTR) }
    }

    /// The same, for a call about files: where the host may have no copies, a refusal that says so.
    pub(super) fn file_descriptor(&self, number: RawFd, permission: &'static str) -> Result<OwnedFd, Errno> {
        self.descriptor(number).map_err(|errno| match errno {
            Errno::EPERM | Errno::ENOSYS => {
                let object = number.to_string();
                let attempt = Attempt { permission, action: "by-descriptor", object: object.as_bytes() };
                self.event(attempt, None, false, NO_COPIES);
                Errno::EACCES
            }
            errno => errno,
        })
    }

    /// Answers with a descriptor at once, for who must see it done before going on.
    pub(super) fn answer_with(&self, file: OwnedFd, cloexec: bool) -> Answer {
        let listener = self.brokered.listener.as_fd();
        match seccomp::answer_with_fd(listener, self.notification.id, file.as_fd(), cloexec) {
            Ok(_) => Answer::Given,
            Err(errno) => Answer::Errno(errno),
        }
    }

    /// The grants as they are at this moment, with what was allowed for this request alone and not taken back since.
    pub(super) fn grants(&self) -> Arc<Grants> {
        let mut grants = self.instance.subject.policy().grants();
        if grants.revokes() != self.revokes_before {
            return grants;
        }
        for (permission, ruling) in self.rulings {
            if *ruling == Ruling::AllowOnce {
                Arc::make_mut(&mut grants).grant(permission.clone(), permission.scope().cloned());
            }
        }
        grants
    }

    /// Whether a refusal can still become something else by asking.
    pub(super) fn may_ask(&self) -> bool {
        self.rulings.len() < MOST_FOR_ONE && self.instance.subject.has_decider()
    }

    /// Refuses `attempt`, or asks about it if somebody wants to be asked.
    pub(super) fn refuse(&self, attempt: Attempt<'_>, refused: Refused) -> Answer {
        let Refused { errno, resolved, mut rule, wanted, allowed } = refused;
        let opened_by = wanted.as_deref().cloned();
        if let Some(wanted) = wanted {
            if self.rulings.iter().any(|(ruled, _)| *ruled == *wanted) {
                "not granted, and denied when asked".clone_into(&mut rule);
            } else if self.may_ask() {
                return Answer::Ask(Box::new(AccessRequest {
                    plugin: self.instance.subject.id().clone(),
                    permission: *wanted,
                    action: attempt.action,
                    object: escape(attempt.object),
                    resolved,
                }));
            }
        }
        self.publish_with(attempt, resolved, allowed, &rule, opened_by.as_ref());
        Answer::Errno(errno)
    }

    /// Records what was decided about `attempt`.
    pub(super) fn event(&self, attempt: Attempt<'_>, resolved: Option<&Path>, granted: bool, rule: &str) {
        struct Escaped<'a>(&'a Path);
        impl fmt::Display for Escaped<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&escape_path(self.0))
            }
        }
        // Escaped only if somebody is told.
        self.publish(attempt, resolved.map(Escaped), granted, rule);
    }

    /// The same, of an object that is no path.
    pub(super) fn publish(
        &self,
        attempt: Attempt<'_>,
        resolved: Option<impl fmt::Display>,
        granted: bool,
        rule: &str,
    ) {
        self.publish_with(attempt, resolved, granted, rule, None);
    }

    fn publish_with(
        &self,
        attempt: Attempt<'_>,
        resolved: Option<impl fmt::Display>,
        granted: bool,
        rule: &str,
        opened_by: Option<&PluginPermission>,
    ) {
        if !granted {
            let refusal = Refusal {
                permission: attempt.permission.to_owned(),
                action: attempt.action.to_owned(),
                object: escape(attempt.object),
                rule: worded(rule, self.rulings),
                opened_by: None,
            };
            self.instance.was_refused(refusal.opened_by(opened_by));
        }
        let subject = &self.instance.subject;
        subject.publish_decision(Some(attempt.permission), granted, || EventKind::Access {
            permission: attempt.permission,
            action: attempt.action,
            object: escape(attempt.object),
            resolved: resolved.map(|resolved| resolved.to_string()),
            granted,
            rule: worded(rule, self.rulings),
        });
    }
}
