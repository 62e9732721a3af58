//! One helper, seen from the host: what it may be sent, what it has said, and how it ends.
//!
//! Runs in the host, on any thread. Owns the rule of what a helper may say when: a message that nobody waits for ends it.
//! A helper is used for one load and never again.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{PidfdGetfdFlags, Signal};

use super::app::App;
use super::broker::Brokered;
use super::decider::Questions;
use super::end::cause::{self, Cause, Evidence, Violation};
use super::end::report::{self, EndReport, FaultReport, Refusal};
use super::events::escape;
use super::family::Family;
use super::lifecycle::Operation;
use super::limits::cgroup::Group;
use super::limits::cpu::CpuBudget;
use super::limits::output::Printed;
use super::limits::usage::ResourceUsage;
use super::lock::lock;
use super::outbox::{Outbox, Written};
use super::procfs::{self, HostPid};
use super::runtime::Core;
use super::services::calls::{Backlog, ServiceCall};
use super::services::messages::Mailbox;
use super::subject::Subject;
use crate::shared::wire::control::{Bytes, CallId, Fault, FromHelper, LoadFault, ToHelper};
use crate::shared::wire::frame::{self, ENVELOPE_BYTES};
use crate::shared::wire::report::HelperReport;
use crate::shared::wire::zygote::{HelperId, Reaped};

/// How many of the largest messages may lie in the host's memory, either way, for a plugin that calls services faster than
/// they are run or reads slower than they answer. An honest one holds what it sends and gets in its own memory too.
pub(super) const MOST_LARGEST_MESSAGES: usize = 4;

/// How long a killed helper may take to be gone. The kernel needs milliseconds; a machine in trouble longer.
pub(super) const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Report,
    Loaded,
    Activated,
    Deactivated,
    Returned(CallId),
    Pong(CallId),
}

/// What a caller gets.
#[derive(Debug)]
pub(crate) enum Reply {
    Report(Box<HelperReport>),
    Loaded(Result<(), LoadFault>),
    /// Of `activate` or `deactivate`.
    Done(Result<(), Fault>),
    Returned(Result<Bytes, Fault>),
    Pong,
}

/// What comes to a waiting caller.
pub(super) enum Incoming {
    Reply(Reply),
    Service(ServiceCall),
    Ended,
}

pub(super) struct Waiting {
    expect: Expect,
    pub(super) caller: Sender<Incoming>,
}

/// The helper's process, its end of everything, and who owns it.
pub(crate) struct Instance {
    pub(crate) id: HelperId,
    pub(crate) pid: HostPid,
    pub(crate) subject: Arc<Subject>,
    pub(crate) core: Weak<Core>,
    pub(crate) max_message_bytes: u64,
    pub(crate) cgroup: Group,
    /// Whether `RLIMIT_NPROC` counts this helper alone.
    pub(crate) counts_alone: bool,
    /// It, and what it has started.
    pub(crate) family: Family,
    /// `None` once it has ended.
    pidfd: Mutex<Option<OwnedFd>>,
    outbox: Outbox,
    /// `None` before it is confined, and once it has ended.
    brokered: Mutex<Option<Arc<Brokered>>>,
    pub(super) waiting: Mutex<Option<Waiting>>,
    pub(super) app: Mutex<App>,
    next_call: AtomicU64,
    pub(super) backlog: Mutex<Backlog>,
    pub(super) mailbox: Mutex<Mailbox>,
    /// Set while a service runs for the operation under way: there can be only one.
    pub(super) in_service: AtomicBool,
    /// Nanoseconds that the helper's first thread has waited for the broker.
    host_time: AtomicU64,
    /// How long it has waited for a person's answer, and since when it does now.
    person: Mutex<(Duration, Option<Instant>)>,
    questions: Mutex<Questions>,
    pub(super) ending: Mutex<Evidence>,
    finishing: AtomicBool,
    end: Mutex<Option<Cause>>,
    ended: Condvar,
    /// The last fault that its process has shown, and the last refusal.
    fault: Mutex<Option<FaultReport>>,
    looks: AtomicU32,
    looking: Mutex<()>,
    refused: Mutex<Option<Refusal>>,
    pub(super) printed: Mutex<Printed>,
    pub(super) usage: Mutex<ResourceUsage>,
    pub(super) cpu: Mutex<CpuBudget>,
    /// Held while its processes are stopped.
    pub(super) stopping: Mutex<()>,
}

/// What an instance is made of.
pub(crate) struct Parts {
    pub(crate) id: HelperId,
    pub(crate) pid: HostPid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) input: OwnedFd,
    pub(crate) cgroup: Group,
    pub(crate) counts_alone: bool,
    pub(crate) subject: Arc<Subject>,
    pub(crate) core: Weak<Core>,
    pub(crate) max_message_bytes: u64,
    pub(crate) memory_limit_mb: Option<u64>,
    pub(crate) cpu_limit_sec: Option<u64>,
}

impl Instance {
    pub(crate) fn new(parts: Parts) -> Self {
        let largest =
            usize::try_from(parts.max_message_bytes).unwrap_or(usize::MAX).saturating_add(ENVELOPE_BYTES);
        let ending = Evidence { memory_limit_mb: parts.memory_limit_mb, ..Evidence::default() };
        let cpu = CpuBudget { base: Duration::ZERO, limit_sec: parts.cpu_limit_sec };
        Self {
            id: parts.id,
            pid: parts.pid,
            subject: parts.subject,
            core: parts.core,
            max_message_bytes: parts.max_message_bytes,
            cgroup: parts.cgroup,
            counts_alone: parts.counts_alone,
            family: Family::default(),
            pidfd: Mutex::new(Some(parts.pidfd)),
            outbox: Outbox::new(parts.input, largest.saturating_mul(MOST_LARGEST_MESSAGES)),
            brokered: Mutex::default(),
            waiting: Mutex::new(None),
            app: Mutex::default(),
            next_call: AtomicU64::new(1),
            backlog: Mutex::default(),
            mailbox: Mutex::default(),
            in_service: AtomicBool::new(false),
            host_time: AtomicU64::new(0),
            person: Mutex::default(),
            questions: Mutex::default(),
            ending: Mutex::new(ending),
            finishing: AtomicBool::new(false),
            end: Mutex::new(None),
            ended: Condvar::new(),
            fault: Mutex::default(),
            looks: AtomicU32::new(0),
            looking: Mutex::new(()),
            refused: Mutex::default(),
            printed: Mutex::default(),
            usage: Mutex::default(),
            cpu: Mutex::new(cpu),
            stopping: Mutex::new(()),
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// A pidfd of its own of the helper's process; `None` once it has ended.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        lock(&self.pidfd).as_ref()?.try_clone().ok()
    }

    /// Whether its process has ended or is about to, though perhaps nobody has been told yet.
    pub(crate) fn is_gone(&self) -> bool {
        let Some(process) = self.process() else { return true };
        if procfs::is_exiting(self.pid) {
            return true;
        }
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// A copy of one of the helper's descriptors: pidfd_getfd(2).
    pub(crate) fn descriptor(&self, number: RawFd) -> Result<OwnedFd, rustix::io::Errno> {
        let pidfd = lock(&self.pidfd);
        let pidfd = pidfd.as_ref().ok_or(rustix::io::Errno::SRCH)?;
        rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())
    }

    /// What the broker works with; `None` before the helper is confined, and once it has ended.
    pub(crate) fn brokered(&self) -> Option<Arc<Brokered>> {
        lock(&self.brokered).clone()
    }

    /// From now on the broker can serve it.
    pub(crate) fn set_brokered(&self, brokered: Brokered) {
        *lock(&self.brokered) = Some(Arc::new(brokered));
    }

    pub(crate) fn set_app(&self, app: App) {
        *lock(&self.app) = app;
    }

    /// Takes the services away; to be dropped where no lock is held, since a service may own anything.
    pub(crate) fn take_app(&self) -> App {
        std::mem::take(&mut *lock(&self.app))
    }

    pub(crate) fn next_call(&self) -> CallId {
        CallId(self.next_call.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends an order. What the pipe does not take, the reactor writes later; a closed one is noticed by its other end.
    pub(crate) fn send(&self, order: &ToHelper) {
        let Ok(frame) = frame::encode(order) else { return };
        match self.outbox.send(&frame) {
            Written::Partly => {
                if let Some(core) = self.core.upgrade() {
                    core.reactor.want_write(self);
                }
            }
            Written::TooMuch => {
                let violation = Violation::of("replies", "it does not read what it asked for");
                self.kill(Some(violation.into()));
            }
            Written::All | Written::Closed => {}
        }
    }

    /// Sends `order`, if any, and waits for what answers it, serving the plugin's calls of services meanwhile.
    ///
    /// The time that the plugin waits for the host does not count, but for what it computes meanwhile on other threads; nor
    /// does the time that it waits for the broker, up to once more the timeout: it can make as many requests as it likes. The
    /// time that it waits for another plugin's message counts.
    /// Past the timeout the helper is killed.
    pub(crate) fn transact(
        &self,
        order: Option<&ToHelper>,
        expect: Expect,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Reply, Cause> {
        self.transact_since(order, expect, operation, timeout, Instant::now())
    }

    /// The same for a part of an operation that began at `started`: the timeout is for the whole of it.
    pub(crate) fn transact_since(
        &self,
        order: Option<&ToHelper>,
        expect: Expect,
        operation: Operation,
        timeout: Duration,
        started: Instant,
    ) -> Result<Reply, Cause> {
        let (caller, incoming) = bounded(4);
        *lock(&self.waiting) = Some(Waiting { expect, caller });
        if let Some(cause) = self.end() {
            lock(&self.waiting).take();
            return Err(cause);
        }
        let (broker_before, person_before) = (self.host_time.load(Ordering::Relaxed), self.person_time());
        if let Some(order) = order {
            self.send(order);
        }
        let mut in_services = Duration::ZERO;
        loop {
            let in_broker =
                Duration::from_nanos(self.host_time.load(Ordering::Relaxed).wrapping_sub(broker_before));
            let for_person = self.person_time().saturating_sub(person_before);
            let waited = in_services + in_broker.min(timeout) + for_person;
            let spent = started.elapsed().saturating_sub(waited);
            let left = timeout.saturating_sub(spent);
            match incoming.recv_timeout(left) {
                Ok(Incoming::Reply(reply)) => return Ok(reply),
                // One that came just as the time was up: others could follow it without an end.
                Ok(Incoming::Service(_)) if left.is_zero() => {
                    self.kill(Some(Cause::Deadline { operation, timeout }));
                    break;
                }
                Ok(Incoming::Service(call)) => {
                    let (began, used) = (Instant::now(), self.cpu_time());
                    self.serve(call);
                    // Who computes does not wait: a service can be called in the name of a thread that goes on.
                    let computed = self.cpu_time().zip(used).map(|(now, then)| now.saturating_sub(then));
                    in_services += began.elapsed().saturating_sub(computed.unwrap_or_default());
                }
                Ok(Incoming::Ended) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    self.kill(Some(Cause::Deadline { operation, timeout }));
                    break;
                }
                // The time was not up, once the waits for the broker and for a person are taken off.
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        lock(&self.waiting).take();
        Err(self.wait_end())
    }

    /// A message has come. Says what was wrong with it if no helper says that now.
    pub(crate) fn receive(self: &Arc<Self>, message: FromHelper) -> Result<(), Violation> {
        let (got, reply) = match message {
            FromHelper::Service { id, during_operation, service, payload } => {
                return self.called(ServiceCall { id, service, payload }, during_operation);
            }
            FromHelper::Report(report) => (Expect::Report, Reply::Report(report)),
            FromHelper::Loaded(result) => (Expect::Loaded, Reply::Loaded(result)),
            FromHelper::Activated(result) => (Expect::Activated, Reply::Done(result)),
            FromHelper::Deactivated(result) => (Expect::Deactivated, Reply::Done(result)),
            FromHelper::Returned { id, result } => (Expect::Returned(id), Reply::Returned(result)),
            FromHelper::Pong { id } => (Expect::Pong(id), Reply::Pong),
        };
        let mut waiting = lock(&self.waiting);
        let expected = waiting.as_ref().map(|waiting| waiting.expect);
        match waiting.take_if(|waiting| waiting.expect == got) {
            Some(Waiting { caller, .. }) => {
                drop(waiting);
                // A caller that has given up meanwhile has killed the helper.
                let _ = caller.try_send(Incoming::Reply(reply));
                Ok(())
            }
            None => {
                let id = matches!((got, expected), (Expect::Returned(_), Some(Expect::Returned(_))));
                Err(Violation::of(if id { "call id" } else { "kind" }, "a reply that nobody waits for"))
            }
        }
    }

    /// Counts time that the helper's first thread spent waiting for the broker.
    pub(crate) fn add_host_time(&self, tid: i32, time: Duration) {
        if tid == self.pid.0 {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            self.host_time.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    /// What it has caused somebody to be asked.
    pub(crate) fn questions(&self) -> MutexGuard<'_, Questions> {
        lock(&self.questions)
    }

    /// From now until the value is dropped the thread `tid` waits for a person. Bounded by the questions' own bounds.
    pub(crate) fn waits_for_a_person(&self, tid: i32) -> impl Drop + '_ {
        struct Waits<'a>(Option<&'a Instance>);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                let Some(instance) = self.0 else { return };
                let mut person = lock(&instance.person);
                let since = person.1.take();
                person.0 += since.map(|since| since.elapsed()).unwrap_or_default();
            }
        }
        let concerned = tid == self.pid.0;
        if concerned {
            lock(&self.person).1 = Some(Instant::now());
        }
        Waits(concerned.then_some(self))
    }

    fn person_time(&self) -> Duration {
        let person = lock(&self.person);
        person.0 + person.1.map(|since| since.elapsed()).unwrap_or_default()
    }

    // ---- how it ends

    /// Ends the helper; `why` counts unless it has ended, or was being ended, already.
    pub(crate) fn kill(&self, why: Option<Cause>) {
        if let Some(why) = why {
            lock(&self.ending).decided.get_or_insert(why);
        }
        if let Some(pidfd) = &*lock(&self.pidfd) {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
        // A thread of its that waits for a served file does not die before it is answered.
        if let Some(brokered) = self.brokered()
            && let Some(view) = brokered.handles.view()
        {
            view.abort();
        }
    }

    /// Ends it for what it has done, which counts even where its end was asked for and it is on its way out.
    pub(crate) fn kill_guilty(&self, why: Cause) {
        let mut ending = lock(&self.ending);
        if ending.decided.as_ref().is_none_or(Cause::was_asked_for) {
            ending.decided = Some(why);
        }
        drop(ending);
        self.kill(None);
    }

    /// Whether its end was asked for.
    pub(crate) fn is_being_ended(&self) -> bool {
        lock(&self.ending).decided.is_some()
    }

    /// Ends it although its end was asked for already: `why` counts now.
    pub(crate) fn kill_for_good(&self, why: Cause) {
        lock(&self.ending).decided = Some(why);
        self.kill(None);
    }

    /// Ends it since the host shuts down, also if it was being unloaded already.
    pub(crate) fn kill_for_shutdown(&self) {
        let mut ending = lock(&self.ending);
        if ending.decided.as_ref().is_none_or(|decided| *decided == Cause::Unloaded) {
            ending.decided = Some(Cause::HostShutdown);
        }
        drop(ending);
        self.kill(None);
    }

    /// From now on an end is what the host asked for.
    pub(crate) fn expect_end(&self) {
        lock(&self.ending).decided.get_or_insert(Cause::Unloaded);
    }

    /// The zygote has reaped it.
    pub(crate) fn has_exited(self: &Arc<Self>, reaped: &Reaped) {
        let Reaped { status, max_rss_kib, cpu_time } = *reaped;
        if let Some(core) = self.core.upgrade() {
            core.reactor.forget(self.id); // reads what it had printed last
        }
        self.end_usage(Some((cpu_time, max_rss_kib)));
        let said_out_of_memory = {
            let tail = self.printed_last(4096);
            let tail = String::from_utf8_lossy(&tail);
            tail.contains("memory allocation of ") || tail.contains("std::bad_alloc")
        };
        let mut evidence = lock(&self.ending).clone();
        evidence.said_out_of_memory = said_out_of_memory;
        let refused = self.brokered().and_then(|brokered| brokered.handles.view()?.refused());
        evidence.refused = refused.map(|refused| Cause::Revoked {
            permission: Box::new(refused.permission),
            object: escape(refused.path.as_os_str().as_encoded_bytes()),
        });
        let fault = lock(&self.fault).take();
        evidence.fault = fault.as_ref().map(|fault| (fault.signal, fault.address));
        // That is how the kernel ends it then.
        evidence.group_out_of_memory = status & 0x7f == libc::SIGKILL && self.cgroup.was_out_of_memory();
        let cause = cause::derive(status, max_rss_kib, &evidence);
        // One that was survived, or made up, is not what ended it.
        let fault = fault.filter(|fault| fault.signal == status & 0x7f);
        let report = EndReport { fault, ..self.end_report(cause) };
        // With the listener gone, none of those that are left can start another.
        let brokered = lock(&self.brokered).take();
        match brokered.filter(|_| self.family.has_started()) {
            Some(brokered) => {
                let (zygote, instance) = (Arc::clone(&brokered.zygote), Arc::clone(self));
                drop(brokered);
                zygote.sweep(Box::new(move || instance.finish(report)));
            }
            None => self.finish(report),
        }
    }

    /// The zygote is gone, and the kernel has taken this one along.
    pub(crate) fn zygote_lost(&self) {
        let decided = lock(&self.ending).decided.clone();
        self.kill(None);
        if let Some(core) = self.core.upgrade() {
            core.reactor.forget(self.id);
        }
        self.end_usage(None);
        self.finish(self.end_report(decided.unwrap_or(Cause::ZygoteLost)));
    }

    /// What the host knows of its end, but for a fault.
    fn end_report(&self, cause: Cause) -> EndReport {
        EndReport {
            refused: lock(&self.refused).take().map(Refusal::completed),
            printed: report::tail(self.printed()),
            usage: self.look(),
            ..EndReport::of(cause)
        }
    }

    /// It was refused this.
    pub(crate) fn was_refused(&self, refusal: Refusal) {
        *lock(&self.refused) = Some(refusal);
    }

    /// Counts a thread of its that wants to be looked at.
    pub(crate) fn count_look(&self) -> u32 {
        self.looks.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Held while one of its threads is looked at.
    pub(crate) fn looking(&self) -> MutexGuard<'_, ()> {
        lock(&self.looking)
    }

    /// It has shown this fault of its own.
    pub(crate) fn has_faulted(&self, fault: FaultReport) {
        *lock(&self.fault) = Some(fault);
    }

    /// Whether it has not been reaped: a plugin is told crashed a moment before all of its helper is put away.
    pub(crate) fn lives(&self) -> bool {
        !self.finishing.load(Ordering::Acquire)
    }

    fn finish(&self, report: EndReport) {
        if self.finishing.swap(true, Ordering::AcqRel) {
            return;
        }
        // The plugin's state first, so that whoever is woken by the end finds it.
        let cause = report.cause.clone();
        self.subject.helper_ended(self.id, &Arc::new(report));
        // An ended plugin that is kept holds no descriptor and no cgroup.
        self.outbox.close();
        lock(&self.pidfd).take();
        lock(&self.brokered).take();
        if let Some(core) = self.core.upgrade() {
            core.broker.forget(self.id);
            core.relays.forget(self.id);
        }
        self.cgroup.remove();
        self.close_mailbox();
        *lock(&self.end) = Some(cause);
        self.ended.notify_all();
        // What a service owns may be anything, this very plugin's sandbox included: let go where no lock is held and nobody
        // waits for this thread.
        let app = self.take_app();
        if let Some(core) = self.core.upgrade().filter(|_| !app.is_empty()) {
            core.services.run(move || drop(app));
        }
        if let Some(Waiting { caller, .. }) = lock(&self.waiting).take() {
            let _ = caller.try_send(Incoming::Ended);
        }
    }

    /// Why it has ended, if it has.
    pub(crate) fn end(&self) -> Option<Cause> {
        lock(&self.end).clone()
    }

    /// Waits for an end that is certain: it has been killed, or has begun to end.
    pub(crate) fn wait_end(&self) -> Cause {
        self.wait_end_for(GONE_TIMEOUT).unwrap_or_else(|| {
            let decided = lock(&self.ending).decided.clone();
            decided.unwrap_or(Cause::Signal { signal: libc::SIGKILL, fault_address: None })
        })
    }

    /// Waits for its end, for so long.
    pub(crate) fn wait_end_for(&self, timeout: Duration) -> Option<Cause> {
        let end = lock(&self.end);
        let (end, _) = self
            .ended
            .wait_timeout_while(end, timeout, |end| end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        end.clone()
    }
}
