//! Requests whose callers wait for a socket: parked, and served anew when it is ready or their time is up.
//!
//! Runs in the host, on whichever worker hears of it. While one is parked its plugin's other requests are served. Owns that
//! none outlives its helper, and that a plugin parks no more than so many.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::Brokered;
use super::requests::{self, Request, Served};
use crate::host::decider::Ruling;
use crate::host::instance::Instance;
use crate::host::lock::lock;
use crate::shared::errno::from_rustix;
use crate::shared::policy::PluginPermission;
use crate::shared::sys::seccomp::{self, Notification};
use crate::shared::wire::zygote::HelperId;

/// How many calls of one plugin may wait at once. Each holds a descriptor of the host's.
const MOST_OF_ONE: usize = 128;

/// Marks what an epoll reports as a parked request.
const MARK: u64 = 1 << 63;

/// What a call waits for.
pub(super) struct Wait {
    /// A copy of the socket.
    pub(super) socket: OwnedFd,
    /// What must be so.
    pub(super) events: EventFlags,
    /// How long it waits, from its beginning.
    pub(super) after: Option<Duration>,
    /// What it is answered then.
    pub(super) late: Errno,
}

/// A request that waits.
struct Parked {
    instance: Arc<Instance>,
    brokered: Arc<Brokered>,
    notification: Notification,
    rulings: Vec<(PluginPermission, Ruling)>,
    revokes_before: u64,
    began: Instant,
    wait: Wait,
}

impl Parked {
    fn due(&self) -> Option<Instant> {
        self.began.checked_add(self.wait.after?)
    }

    fn still_waits(&self) -> bool {
        seccomp::still_waits(self.brokered.listener.as_fd(), self.notification.id)
    }

    fn answer(&self, errno: Errno) {
        let _ = seccomp::answer(self.brokered.listener.as_fd(), self.notification.id, Err(errno));
    }
}

/// The requests that are parked, of all plugins.
pub(super) struct ParkingLot {
    epoll: OwnedFd,
    timer: OwnedFd,
    next: AtomicU64,
    parked: Mutex<HashMap<u64, Parked>>,
}

impl ParkingLot {
    /// Reports to `epoll`: its timer as `timer_data`, and each request by a number of its own.
    pub(super) fn new(epoll: &OwnedFd, timer_data: u64) -> std::io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(epoll, &timer, EventData::new_u64(timer_data), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll: epoll.try_clone()?, timer, next: AtomicU64::new(0), parked: Mutex::default() })
    }

    /// The number of the parked request that an epoll reports, if it is one.
    pub(super) fn number(data: u64) -> Option<u64> {
        (data & MARK != 0).then_some(data & !MARK)
    }

    /// Parks a request until what it waits for is so.
    pub(super) fn park(&self, request: &Request<'_>, wait: Wait) {
        let parked = Parked {
            instance: Arc::clone(request.instance),
            brokered: Arc::clone(request.brokered),
            notification: request.notification.clone(),
            rulings: request.rulings.to_vec(),
            revokes_before: request.revokes_before,
            began: request.waited_since.unwrap_or_else(Instant::now),
            wait,
        };
        let id = parked.instance.id;
        let mut all = lock(&self.parked);
        if all.values().filter(|other| other.instance.id == id).count() >= MOST_OF_ONE {
            // Some may be of callers that a signal has called away.
            let gone = |parked: &Parked| parked.instance.id == id && !parked.still_waits();
            all.extract_if(|_, parked| gone(parked)).for_each(|(_, gone)| self.unwatch(&gone));
            if all.values().filter(|other| other.instance.id == id).count() >= MOST_OF_ONE {
                return parked.answer(Errno::ENOBUFS);
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed) & !MARK;
        let data = EventData::new_u64(MARK | number);
        let flags = parked.wait.events | EventFlags::ONESHOT;
        if let Err(errno) = epoll::add(&self.epoll, &parked.wait.socket, data, flags) {
            return parked.answer(from_rustix(errno));
        }
        // The end of its helper may have come meanwhile, and it has forgotten those that it found.
        if parked.instance.brokered().is_none() {
            return self.unwatch(&parked);
        }
        all.insert(number, parked);
        self.set_timer(&all);
    }

    /// Whose parked request this is.
    pub(super) fn whose(&self, number: u64) -> Option<Arc<Instance>> {
        Some(Arc::clone(&lock(&self.parked).get(&number)?.instance))
    }

    /// Serves this one, whose socket is ready, anew.
    pub(super) fn resume(&self, number: u64) {
        let Some(parked) = lock(&self.parked).remove(&number) else { return };
        self.unwatch(&parked);
        self.serve(&parked);
    }

    fn serve(&self, parked: &Parked) {
        let request = Request {
            instance: &parked.instance,
            brokered: &parked.brokered,
            notification: &parked.notification,
            rulings: &parked.rulings,
            revokes_before: parked.revokes_before,
            waited_since: Some(parked.began),
        };
        match requests::serve(&request) {
            Served::Answered => {}
            Served::Later(wait) => self.park(&request, wait),
            // It was decided when it came, and may not be any more.
            Served::Undecided(_) => parked.answer(Errno::EACCES),
        }
    }

    /// Answers those whose time is up.
    pub(super) fn answer_late(&self) {
        let now = Instant::now();
        let mut all = lock(&self.parked);
        let late: Vec<Parked> = all
            .extract_if(|_, parked| parked.due().is_some_and(|due| due <= now))
            .map(|(_, late)| late)
            .collect();
        for parked in &late {
            self.unwatch(parked);
            parked.answer(parked.wait.late);
        }
        self.set_timer(&all);
    }

    /// Serves all of this plugin's anew: what was granted may not be any more.
    pub(super) fn recheck(&self, id: HelperId) {
        for parked in self.take(id) {
            self.serve(&parked);
        }
    }

    /// Forgets all of this plugin's: nobody waits for an answer any more.
    pub(super) fn forget(&self, id: HelperId) {
        drop(self.take(id));
    }

    fn take(&self, id: HelperId) -> Vec<Parked> {
        let mut all = lock(&self.parked);
        let taken: Vec<Parked> =
            all.extract_if(|_, parked| parked.instance.id == id).map(|(_, parked)| parked).collect();
        taken.iter().for_each(|parked| self.unwatch(parked));
        taken
    }

    /// A socket stays in an epoll for as long as anybody has it open.
    fn unwatch(&self, parked: &Parked) {
        let _ = epoll::delete(&self.epoll, &parked.wait.socket);
    }

    fn set_timer(&self, all: &HashMap<u64, Parked>) {
        let Some(next) = all.values().filter_map(Parked::due).min() else { return };
        // Zero would disarm it.
        let left = next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: Timespec::try_from(left).unwrap_or(never) };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
    }
}
