//! The broker's threads: each waits for any plugin's next notification, serves it, and lets that plugin have its next.
//!
//! Runs in the host. Owns that a plugin has at most one worker at a time: its listener is armed for one event, and armed
//! again when that is served. A worker that one plugin holds up is replaced, within a bound, and the plugin ended.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use super::parked::ParkingLot;
use super::prompts::{self, Pending};
use super::requests::{self, Request, Served};
use super::{Brokered, files};
use crate::error::PluginSandboxError;
use crate::host::end::cause::Cause;
use crate::host::instance::Instance;
use crate::host::lock::lock;
use crate::host::subject::Subject;
use crate::shared::sys::{seccomp, signals};
use crate::shared::wire::zygote::HelperId;

/// How many there are.
const WORKERS: usize = 4;

/// How many there may be when plugins hold some up.
const MOST_WORKERS: usize = 16;

/// How long one request may take: a path in memory that never comes, a file system that does not answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether one does.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How many requests of one plugin are served before the others have their turn.
const TURN: usize = 16;

/// How long a worker stays with a plugin that it has just answered: most calls come in a row, and one that is waited for so
/// costs neither a wait by the epoll nor arming it again.
const LINGER: Duration = Duration::from_micros(100);

/// How many workers must be free to serve others for one to linger.
const FREE_FOR_OTHERS: usize = 2;

/// What an epoll reports beside helpers' numbers and parked requests.
const WAKE: u64 = 1 << 32;
const TIMER: u64 = WAKE + 1;

/// The pool.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the workers share.
pub(super) struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    /// How many workers wait for any plugin.
    free: AtomicUsize,
    plugins: Mutex<HashMap<HelperId, Weak<Instance>>>,
    busy: Mutex<HashMap<HelperId, Instant>>,
    /// The plugins that have a worker, and what else it is to do for them.
    turns: Mutex<HashMap<HelperId, VecDeque<Work>>>,
    pub(super) parked: ParkingLot,
}

/// Something to do for a plugin.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// It has made requests.
    Requests,
    /// What this parked request of its waited for is so.
    Parked(u64),
}

impl Workers {
    pub(crate) fn new() -> Result<Self, PluginSandboxError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(PluginSandboxError::io("making an epoll for the broker"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(PluginSandboxError::io("making an eventfd"))?;
        // Never read: once it is written, it wakes every worker for good.
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)
            .map_err(PluginSandboxError::io("watching an eventfd"))?;
        let parked = ParkingLot::new(&epoll, TIMER)
            .map_err(|source| PluginSandboxError::Io { what: "making a timer for the broker", source })?;
        let stop = AtomicBool::new(false);
        let shared = Shared {
            epoll,
            wake,
            stop,
            free: AtomicUsize::new(0),
            plugins: Mutex::default(),
            busy: Mutex::default(),
            turns: Mutex::default(),
            parked,
        };
        Ok(Self { shared: Arc::new(shared), threads: Mutex::default() })
    }

    /// Starts the threads.
    pub(crate) fn start(&self) -> Result<(), PluginSandboxError> {
        (0..WORKERS).try_for_each(|_| self.add_worker())
    }

    fn add_worker(&self) -> Result<(), PluginSandboxError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("plugin-broker".to_owned())
            .spawn(move || shared.work())
            .map_err(|source| PluginSandboxError::Io { what: "starting a broker's thread", source })?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Serves this helper's requests from now on.
    pub(crate) fn serve(&self, instance: &Arc<Instance>) -> Result<(), PluginSandboxError> {
        let Some(brokered) = instance.brokered() else { return Ok(()) };
        lock(&self.shared.plugins).insert(instance.id, Arc::downgrade(instance));
        let _ = seccomp::wake_here(brokered.listener.as_fd()); // it is only faster
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        let data = EventData::new_u64(instance.id.0.into());
        epoll::add(&self.shared.epoll, &brokered.listener, data, flags)
            .map_err(PluginSandboxError::io("watching a listener"))
    }

    /// Serves this helper's waiting calls anew: what was granted may not be any more.
    pub(crate) fn recheck(&self, id: HelperId) {
        self.shared.parked.recheck(id);
    }

    /// This helper has ended.
    pub(crate) fn forget(&self, id: HelperId) {
        self.shared.parked.forget(id);
    }

    /// Ends the plugins whose request has taken too long, and makes up for the workers that they hold.
    /// Returns when to look again.
    pub(crate) fn end_stalled(&self) -> Option<Duration> {
        let stalled: Vec<HelperId> = {
            let busy = lock(&self.shared.busy);
            let over = busy.iter().filter(|(_, since)| since.elapsed() >= REQUEST_TIMEOUT);
            over.map(|(id, _)| *id).collect()
        };
        for id in &stalled {
            if let Some(instance) = self.shared.plugin(*id)
                && instance.end().is_none()
            {
                instance.kill(Some(Cause::Stalled));
            }
        }
        let held = stalled.len().min(MOST_WORKERS - WORKERS);
        while lock(&self.threads).len() < WORKERS + held && self.add_worker().is_ok() {}
        let mut plugins = lock(&self.shared.plugins);
        // One that went before its listener was heard to hang up is never heard of again.
        plugins.retain(|_, instance| instance.strong_count() > 0);
        (!plugins.is_empty()).then_some(LOOK_INTERVAL)
    }

    /// The plugins of which events were counted and not told.
    pub(crate) fn owing(&self) -> Vec<Weak<Subject>> {
        let living: Vec<_> = lock(&self.shared.plugins).values().filter_map(Weak::upgrade).collect();
        let owing = living.iter().filter(|instance| instance.subject.owes());
        owing.map(|instance| Arc::downgrade(&instance.subject)).collect()
    }

    /// Ends the threads. One that is held up inside a system call is left to end by itself.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        let free = lock(&self.shared.busy).is_empty();
        for thread in lock(&self.threads).drain(..) {
            if free && thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn plugin(&self, id: HelperId) -> Option<Arc<Instance>> {
        lock(&self.plugins).get(&id)?.upgrade()
    }

    fn work(self: &Arc<Self>) {
        signals::block_all();
        files::keep_folder();
        let mut events = [MaybeUninit::<Event>::uninit(); 1];
        while !self.stop.load(Ordering::Acquire) {
            self.free.fetch_add(1, Ordering::Relaxed);
            let waited = epoll::wait(&self.epoll, &mut events[..], None);
            self.free.fetch_sub(1, Ordering::Relaxed);
            let event = match waited {
                Ok((events, _)) => events.first().map(|event| (event.data.u64(), event.flags)),
                Err(rustix::io::Errno::INTR) => None,
                Err(_) => return,
            };
            let Some((data, flags)) = event.filter(|(data, _)| *data != WAKE) else { continue };
            if data == TIMER {
                self.parked.answer_late();
                continue;
            }
            if let Some(number) = ParkingLot::number(data) {
                if let Some(instance) = self.parked.whose(number) {
                    self.work_for(&instance, Work::Parked(number));
                }
                continue;
            }
            let id = HelperId(u32::try_from(data).unwrap_or(u32::MAX));
            let instance = self.plugin(id);
            match instance {
                Some(instance) if flags.contains(EventFlags::IN) => self.work_for(&instance, Work::Requests),
                // Hung up: its helper is gone.
                _ => drop(lock(&self.plugins).remove(&id)),
            }
        }
    }

    /// Does this for a plugin, or leaves it to the worker that it has: no plugin ever has two.
    fn work_for(self: &Arc<Self>, instance: &Arc<Instance>, work: Work) {
        match lock(&self.turns).entry(instance.id) {
            Entry::Occupied(mut waiting) => return waiting.get_mut().push_back(work),
            Entry::Vacant(free) => drop(free.insert(VecDeque::new())),
        }
        let mut next = Some(work);
        while let Some(work) = next {
            match work {
                Work::Requests => self.take_turn(instance),
                Work::Parked(number) => {
                    lock(&self.busy).insert(instance.id, Instant::now());
                    self.parked.resume(number);
                    lock(&self.busy).remove(&instance.id);
                }
            }
            let mut turns = lock(&self.turns);
            next = turns.get_mut(&instance.id).and_then(VecDeque::pop_front);
            if next.is_none() {
                turns.remove(&instance.id);
            }
        }
    }

    fn take_turn(self: &Arc<Self>, instance: &Arc<Instance>) {
        let Some(brokered) = instance.brokered() else { return };
        let listener = &brokered.listener;
        for _ in 0..TURN {
            match seccomp::receive(listener.as_fd()) {
                Ok(notification) => {
                    let began = Instant::now();
                    lock(&self.busy).insert(instance.id, began);
                    let request = Request {
                        instance,
                        brokered: &brokered,
                        notification: &notification,
                        rulings: &[],
                        revokes_before: 0,
                        waited_since: None,
                    };
                    let served = requests::serve(&request);
                    lock(&self.busy).remove(&instance.id);
                    instance.add_host_time(notification.tid, began.elapsed());
                    match served {
                        Served::Answered => {}
                        Served::Later(wait) => self.parked.park(&request, wait),
                        Served::Undecided(wish) => {
                            let (instance, brokered) = (Arc::clone(instance), Arc::clone(&brokered));
                            return prompts::ask(Pending { instance, brokered, notification, wish }, self);
                        }
                    }
                }
                // Its caller is gone; the next may be there.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                Err(_) => break,
            }
            if !is_ready(listener, self.linger(instance.id)) {
                break;
            }
        }
        self.rearm(instance, &brokered);
    }

    /// How long a plugin's next request may be waited for where it was just answered.
    fn linger(&self, id: HelperId) -> Duration {
        let spare = self.free.load(Ordering::Relaxed) >= FREE_FOR_OTHERS;
        let has_other_work = || lock(&self.turns).get(&id).is_some_and(|waiting| !waiting.is_empty());
        if !spare || self.stop.load(Ordering::Acquire) || has_other_work() { Duration::ZERO } else { LINGER }
    }

    /// Lets the plugin have its next request served.
    pub(super) fn rearm(&self, instance: &Instance, brokered: &Brokered) {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        let data = EventData::new_u64(instance.id.0.into());
        let _ = epoll::modify(&self.epoll, &brokered.listener, data, flags);
    }
}

/// Whether there is a request, now or within `timeout`.
fn is_ready(listener: &OwnedFd, timeout: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
    poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready == 1)
        && fds.iter().all(|fd| fd.revents().contains(PollFlags::IN))
}
