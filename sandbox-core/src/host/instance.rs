//! One helper, seen from the host: what it may be sent, what it has said, and how it ends.
//!
//! Runs in the host, on any thread. Owns the rule of what a helper may say when: a message that nobody waits for ends it.
//! A helper is used for one load and never again.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rustix::process::Signal;

use super::app::{App, ServiceRequest};
use super::broker::Served;
use super::cause::{self, Cause, Evidence};
use super::cgroup::Group;
use super::events::{EventKind, escape, escaped_char};
use super::lifecycle::Operation;
use super::outbox::{Outbox, Written};
use super::procfs::HostPid;
use super::runtime::Core;
use super::subject::Subject;
use crate::shared::wire::control::{
    Bytes, CallId, Fault, FromHelper, LoadFault, ServiceCallId, ToHelper, WireServiceError,
};
use crate::shared::wire::frame::{self, ENVELOPE_BYTES};
use crate::shared::wire::report::HelperReport;
use crate::shared::wire::zygote::HelperId;

/// How many calls of services may be unanswered at once.
const MAX_SERVICE_BACKLOG: usize = 64;

/// How many of the largest messages may lie in the host's memory, either way, for a plugin that calls services faster than
/// they are run or reads slower than they answer. An honest one holds what it sends and gets in its own memory too.
const MOST_LARGEST_MESSAGES: usize = 4;

/// How much of what a plugin prints is kept.
const KEPT_OUTPUT_BYTES: usize = 64 << 10;

/// How long a killed helper may take to be gone. The kernel needs milliseconds; a machine in trouble longer.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Report,
    Loaded,
    Activated,
    Deactivated,
    Returned(CallId),
}

/// What a caller gets.
#[derive(Debug)]
pub(crate) enum Reply {
    Report(Box<HelperReport>),
    Loaded(Result<(), LoadFault>),
    /// Of `activate` or `deactivate`.
    Done(Result<(), Fault>),
    Returned(Result<Bytes, Fault>),
}

/// What comes to a waiting caller.
enum Incoming {
    Reply(Reply),
    Service(ServiceCall),
    Ended,
}

/// A service that the plugin calls.
#[derive(Debug)]
pub(crate) struct ServiceCall {
    id: ServiceCallId,
    service: String,
    payload: Vec<u8>,
}

/// Services called outside any operation and not run yet.
#[derive(Default)]
struct Backlog {
    calls: VecDeque<ServiceCall>,
    payload_bytes: usize,
    /// Whether a worker has one of them, or is asked to take the next.
    at_work: bool,
}

struct Waiting {
    expect: Expect,
    caller: Sender<Incoming>,
}

/// The helper's process, its end of everything, and who owns it.
pub(crate) struct Instance {
    pub(crate) id: HelperId,
    pub(crate) pid: HostPid,
    pub(crate) subject: Arc<Subject>,
    pub(crate) core: Weak<Core>,
    pub(crate) served: Served,
    /// Where the broker looks for files.
    pub(crate) tree: Arc<OwnedFd>,
    pub(crate) max_message_bytes: u64,
    pub(crate) cgroup: Result<Group, String>,
    /// Whether `RLIMIT_NPROC` counts this helper alone.
    pub(crate) counts_alone: bool,
    pidfd: OwnedFd,
    outbox: Outbox,
    listener: OnceLock<OwnedFd>,
    memory: OnceLock<File>,
    waiting: Mutex<Option<Waiting>>,
    app: Mutex<App>,
    next_call: AtomicU64,
    backlog: Mutex<Backlog>,
    /// Set while a service runs for the operation under way: there can be only one.
    in_service: AtomicBool,
    /// Nanoseconds that the helper's first thread has waited for the broker.
    host_time: AtomicU64,
    ending: Mutex<Evidence>,
    finishing: AtomicBool,
    end: Mutex<Option<Cause>>,
    ended: Condvar,
    printed: Mutex<Vec<u8>>,
    cpu: Mutex<CpuBudget>,
}

/// CPU time, as of the last activation.
#[derive(Debug, Default, Clone, Copy)]
struct CpuBudget {
    base: Duration,
    limit_sec: Option<u64>,
}

/// What an instance is made of.
pub(crate) struct Parts {
    pub(crate) id: HelperId,
    pub(crate) pid: HostPid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) input: OwnedFd,
    pub(crate) cgroup: Result<Group, String>,
    pub(crate) counts_alone: bool,
    pub(crate) subject: Arc<Subject>,
    pub(crate) core: Weak<Core>,
    pub(crate) served: Served,
    pub(crate) tree: Arc<OwnedFd>,
    pub(crate) max_message_bytes: u64,
    pub(crate) memory_limit_mb: Option<u64>,
    pub(crate) cpu_limit_sec: Option<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            served: parts.served,
            tree: parts.tree,
            max_message_bytes: parts.max_message_bytes,
            cgroup: parts.cgroup,
            counts_alone: parts.counts_alone,
            pidfd: parts.pidfd,
            outbox: Outbox::new(parts.input, largest.saturating_mul(MOST_LARGEST_MESSAGES)),
            listener: OnceLock::new(),
            memory: OnceLock::new(),
            waiting: Mutex::new(None),
            app: Mutex::default(),
            next_call: AtomicU64::new(1),
            backlog: Mutex::default(),
            in_service: AtomicBool::new(false),
            host_time: AtomicU64::new(0),
            ending: Mutex::new(ending),
            finishing: AtomicBool::new(false),
            end: Mutex::new(None),
            ended: Condvar::new(),
            printed: Mutex::default(),
            cpu: Mutex::new(cpu),
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    pub(crate) fn listener(&self) -> Option<&OwnedFd> {
        self.listener.get()
    }

    /// The helper's memory, opened while the host might: it stays this process's, whatever its number becomes.
    pub(crate) fn memory(&self) -> Option<&File> {
        self.memory.get()
    }

    /// What the broker works with, had while the helper still is dumpable.
    pub(crate) fn set_broker(&self, listener: OwnedFd, memory: File) {
        let _ = self.listener.set(listener);
        let _ = self.memory.set(memory);
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
                self.kill(Some(Cause::Protocol { what: "it does not read what it asked for".to_owned() }));
            }
            Written::All | Written::Closed => {}
        }
    }

    /// Sends `order`, if any, and waits for what answers it, serving the plugin's calls of services meanwhile.
    ///
    /// The time that the plugin waits for the host does not count, but for what it computes meanwhile on other threads; nor
    /// does the time that it waits for the broker, up to once more the timeout: it can make as many requests as it likes.
    /// Past the timeout the helper is killed.
    pub(crate) fn transact(
        &self,
        order: Option<&ToHelper>,
        expect: Expect,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Reply, Cause> {
        let (caller, incoming) = bounded(4);
        *lock(&self.waiting) = Some(Waiting { expect, caller });
        if let Some(cause) = self.end() {
            lock(&self.waiting).take();
            return Err(cause);
        }
        let started = Instant::now();
        let broker_before = self.host_time.load(Ordering::Relaxed);
        if let Some(order) = order {
            self.send(order);
        }
        let mut in_services = Duration::ZERO;
        loop {
            let in_broker =
                Duration::from_nanos(self.host_time.load(Ordering::Relaxed).wrapping_sub(broker_before));
            let spent = started.elapsed().saturating_sub(in_services).saturating_sub(in_broker.min(timeout));
            let left = timeout.saturating_sub(spent);
            match incoming.recv_timeout(left) {
                Ok(Incoming::Reply(reply)) => return Ok(reply),
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
                // The time was not up, once the waits for the broker are taken off.
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        lock(&self.waiting).take();
        Err(self.wait_end())
    }

    /// A message has come. Says what was wrong with it if no helper says that now.
    pub(crate) fn receive(self: &Arc<Self>, message: FromHelper) -> Result<(), &'static str> {
        let (got, reply) = match message {
            FromHelper::Service { id, during_operation, service, payload } => {
                return self.called(ServiceCall { id, service, payload }, during_operation);
            }
            FromHelper::Report(report) => (Expect::Report, Reply::Report(report)),
            FromHelper::Loaded(result) => (Expect::Loaded, Reply::Loaded(result)),
            FromHelper::Activated(result) => (Expect::Activated, Reply::Done(result)),
            FromHelper::Deactivated(result) => (Expect::Deactivated, Reply::Done(result)),
            FromHelper::Returned { id, result } => (Expect::Returned(id), Reply::Returned(result)),
        };
        let mut waiting = lock(&self.waiting);
        match waiting.take_if(|waiting| waiting.expect == got) {
            Some(Waiting { caller, .. }) => {
                drop(waiting);
                // A caller that has given up meanwhile has killed the helper.
                let _ = caller.try_send(Incoming::Reply(reply));
                Ok(())
            }
            None => Err("a reply that nobody waits for"),
        }
    }

    /// The plugin calls a service: the caller of the operation under way runs it, or a worker.
    fn called(self: &Arc<Self>, call: ServiceCall, during_operation: bool) -> Result<(), &'static str> {
        if call.service.len() > 255 {
            return Err("a service's name of more than 255 bytes");
        }
        if during_operation {
            let waiting = lock(&self.waiting);
            let Some(waiting) = waiting.as_ref() else { return Err("a service called during no operation") };
            if self.in_service.swap(true, Ordering::AcqRel) {
                return Err("two services called at once on one thread");
            }
            return waiting.caller.try_send(Incoming::Service(call)).map_err(|_| "too many services called");
        }
        let core = self.core.upgrade().ok_or("the host is going")?;
        let most_bytes = usize::try_from(self.max_message_bytes)
            .unwrap_or(usize::MAX)
            .saturating_mul(MOST_LARGEST_MESSAGES);
        let mut backlog = lock(&self.backlog);
        if backlog.calls.len() >= MAX_SERVICE_BACKLOG || backlog.payload_bytes > most_bytes {
            return Err("too many services called and not waited for");
        }
        backlog.payload_bytes = backlog.payload_bytes.saturating_add(call.payload.len());
        backlog.calls.push_back(call);
        if !std::mem::replace(&mut backlog.at_work, true) {
            drop(backlog);
            self.work_off(&core);
        }
        Ok(())
    }

    /// Has a worker run one call of the backlog and then queue again, behind other plugins': a plugin that calls slow
    /// services never has more than one worker.
    fn work_off(self: &Arc<Self>, core: &Core) {
        let instance = Arc::clone(self);
        core.services.run(move || {
            let next = {
                let mut backlog = lock(&instance.backlog);
                let next = backlog.calls.pop_front();
                let bytes = next.as_ref().map_or(0, |call| call.payload.len());
                backlog.payload_bytes = backlog.payload_bytes.saturating_sub(bytes);
                next
            };
            if let Some(call) = next {
                instance.answer(call);
            }
            let mut backlog = lock(&instance.backlog);
            if instance.end().is_some() {
                *backlog = Backlog::default(); // nobody is there to be answered
            }
            backlog.at_work = !backlog.calls.is_empty();
            let goes_on = backlog.at_work;
            drop(backlog);
            if goes_on && let Some(core) = instance.core.upgrade() {
                instance.work_off(&core);
            }
        });
    }

    /// Runs a service for the operation under way.
    fn serve(&self, call: ServiceCall) {
        self.in_service.store(false, Ordering::Release);
        self.answer(call);
    }

    fn answer(&self, call: ServiceCall) {
        let app = lock(&self.app).clone();
        let ServiceCall { id, service, payload } = call;
        let gate = app.judge(&service, |permission| self.subject.holds_named(permission));
        let shown = escape(service.as_bytes());
        let reply = if gate.open {
            app.run(&ServiceRequest { plugin: self.subject.id(), service: &service, payload: &payload })
        } else {
            let permission = gate.permission.clone().unwrap_or_default();
            Err(WireServiceError::PermissionDenied { permission, service: shown.clone() })
        };
        self.subject.publish(|| EventKind::ServiceCall {
            service: shown,
            permission: gate.permission,
            granted: gate.open,
        });
        let reply = match reply {
            Ok(Bytes(bytes)) if bytes.len() as u64 > self.max_message_bytes => {
                let message = format!(
                    "a reply of {} bytes, where at most {} are allowed",
                    bytes.len(),
                    self.max_message_bytes
                );
                Err(WireServiceError::Failed { message })
            }
            other => other,
        };
        self.send(&ToHelper::ServiceReply { id, reply });
    }

    /// Counts time that the helper's first thread spent waiting for the broker.
    pub(crate) fn add_host_time(&self, tid: i32, time: Duration) {
        if tid == self.pid.0 {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            self.host_time.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    /// Keeps the last of what the plugin prints.
    pub(crate) fn print(&self, bytes: &[u8]) {
        let mut printed = lock(&self.printed);
        printed.extend_from_slice(bytes);
        let over = printed.len().saturating_sub(KEPT_OUTPUT_BYTES);
        printed.drain(..over);
    }

    /// The last of what the plugin has printed, escaped but for line ends and tabs.
    pub(crate) fn printed(&self) -> String {
        let printed = lock(&self.printed);
        let escape = |c| {
            let plain = matches!(c, '\n' | '\t');
            plain.then_some(c).into_iter().chain((!plain).then(|| escaped_char(c)).into_iter().flatten())
        };
        String::from_utf8_lossy(&printed).chars().flat_map(escape).collect()
    }

    // ---- how it ends

    /// Ends the helper; `why` counts unless it has ended, or was being ended, already.
    pub(crate) fn kill(&self, why: Option<Cause>) {
        if let Some(why) = why {
            lock(&self.ending).decided.get_or_insert(why);
        }
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
    }

    /// Ends it although its end was asked for already: `why` counts now.
    pub(crate) fn kill_for_good(&self, why: Cause) {
        lock(&self.ending).decided = Some(why);
        self.kill(None);
    }

    /// From now on an end is what the host asked for.
    pub(crate) fn expect_end(&self) {
        lock(&self.ending).decided.get_or_insert(Cause::Unloaded);
    }

    /// The zygote has reaped it.
    pub(crate) fn has_exited(&self, status: i32, max_rss_kib: u64) {
        if let Some(core) = self.core.upgrade() {
            core.reactor.forget(self.id); // reads what it had printed last
        }
        let said_out_of_memory = {
            let printed = lock(&self.printed);
            let tail = printed.get(printed.len().saturating_sub(4096)..).unwrap_or_default();
            let tail = String::from_utf8_lossy(tail);
            tail.contains("memory allocation of ") || tail.contains("std::bad_alloc")
        };
        let mut evidence = lock(&self.ending).clone();
        evidence.said_out_of_memory = said_out_of_memory;
        evidence.group_out_of_memory = self.cgroup.as_ref().is_ok_and(Group::was_out_of_memory);
        self.finish(cause::derive(status, max_rss_kib, &evidence));
    }

    /// The zygote is gone, and the kernel has taken this one along.
    pub(crate) fn zygote_lost(&self) {
        let decided = lock(&self.ending).decided.clone();
        self.kill(None);
        if let Some(core) = self.core.upgrade() {
            core.reactor.forget(self.id);
        }
        self.finish(decided.unwrap_or(Cause::ZygoteLost));
    }

    fn finish(&self, cause: Cause) {
        if self.finishing.swap(true, Ordering::AcqRel) {
            return;
        }
        // The plugin's state first, so that whoever is woken by the end finds it.
        self.subject.helper_ended(self.id, &cause);
        *lock(&self.end) = Some(cause);
        self.ended.notify_all();
        self.outbox.clear();
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
            decided.unwrap_or(Cause::Signal { signal: libc::SIGKILL })
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

    // ---- CPU time

    /// The CPU time of all its threads so far, from the process's own clock: clock_getcpuclockid(3).
    fn cpu_time(&self) -> Option<Duration> {
        let clock = nix::time::ClockId::pid_cpu_clock_id(nix::unistd::Pid::from_raw(self.pid.0)).ok()?;
        clock.now().ok().map(Duration::from)
    }

    /// A new activation begins: what was used before does not count. The first one counts from the constructors on.
    pub(crate) fn begin_activation(&self, is_first: bool) {
        if !is_first && let Some(used) = self.cpu_time() {
            lock(&self.cpu).base = used;
        }
    }

    /// Changes the limits that the host itself holds, while it runs.
    pub(crate) fn set_limits(&self, cpu_sec: Option<u64>, memory_mb: Option<u64>) {
        lock(&self.cpu).limit_sec = cpu_sec;
        lock(&self.ending).memory_limit_mb = memory_mb;
        if let Ok(cgroup) = &self.cgroup
            && let Err(error) = cgroup.change_memory(memory_mb)
        {
            tracing::warn!(%error, "a running plugin's memory.max stays as it was");
        }
        if let Some(core) = self.core.upgrade() {
            core.reactor.recheck_cpu(self.id);
        }
    }

    /// Ends it if it is over its limit; else, when it could be at the earliest, on `cpus` at once.
    pub(crate) fn check_cpu(&self, cpus: u32) -> Option<Duration> {
        let budget = *lock(&self.cpu);
        let limit_sec = budget.limit_sec?;
        let limit = Duration::from_secs(limit_sec);
        let used = self.cpu_time()?.saturating_sub(budget.base);
        if used >= limit {
            self.kill(Some(Cause::CpuTime { limit_sec }));
            return None;
        }
        Some(((limit - used) / cpus.max(1)).max(Duration::from_millis(2)))
    }
}
