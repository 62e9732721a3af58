//! One thread for all plugins: it reads their channels and what they print, writes what a pipe did not take at once, and
//! looks at their CPU clocks, at the time that they wait for messages, and whether they could be called at all.
//!
//! Runs in the host. Never blocks, opens, connects or resolves; runs no code of the embedder's. Notifications do not come
//! by here: the broker's workers wait for those themselves.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::end::cause::{Cause, Violation};
use super::instance::Instance;
use super::outbox::Written;
use crate::error::PluginSandboxError;
use crate::shared::sys::signals;
use crate::shared::wire::control::FromHelper;
use crate::shared::wire::frame::{self, Assembler, ENVELOPE_BYTES};
use crate::shared::wire::zygote::HelperId;

/// How much is read of one pipe before the others have their turn.
const READ_BYTES: usize = 64 << 10;

/// How long a process whose channel is at its end may take to have ended.
const GONE_GRACE: Duration = Duration::from_millis(100);

/// How often it is looked whether helpers could still be called. Nothing tells of one that cannot, and nothing is asked of it.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Which pipe of which helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Wake,
    Output(HelperId),
    Printed(HelperId),
    Input(HelperId),
}

impl Source {
    fn data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Wake => 0,
            Self::Output(id) => u64::from(id.0) << 2 | 1,
            Self::Printed(id) => u64::from(id.0) << 2 | 2,
            Self::Input(id) => u64::from(id.0) << 2 | 3,
        })
    }

    fn from_data(data: EventData) -> Self {
        let data = data.u64();
        let id = HelperId(u32::try_from(data >> 2).unwrap_or(u32::MAX));
        match data & 3 {
            1 => Self::Output(id),
            2 => Self::Printed(id),
            3 => Self::Input(id),
            _ => Self::Wake,
        }
    }
}

/// A helper as the reactor sees it.
struct Watched {
    instance: Arc<Instance>,
    inbound: Arc<Mutex<Inbound>>,
    printed: Option<OwnedFd>,
    cpu_due: Option<Instant>,
    look_due: Instant,
    /// What was wrong with it when it was looked at last.
    hung: Option<&'static str>,
    /// When the first of its waits for a message is over.
    wait_due: Option<Instant>,
    /// When a helper that has closed its channel must have ended.
    gone_due: Option<Instant>,
}

/// What a helper says. Whoever reads it holds it until what was read is dealt with: the reactor, and at the helper's end the
/// thread that hears of it, so that a last word is not overtaken by the end.
struct Inbound {
    output: Option<OwnedFd>,
    frames: Assembler,
}

/// The handle by which other threads reach the reactor.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    watched: Mutex<HashMap<HelperId, Watched>>,
    cpus: u32,
}

impl Reactor {
    pub(crate) fn new() -> Result<Self, PluginSandboxError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(PluginSandboxError::io("making an epoll for the reactor"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(PluginSandboxError::io("making an eventfd"))?;
        epoll::add(&epoll, &wake, Source::Wake.data(), EventFlags::IN)
            .map_err(PluginSandboxError::io("watching an eventfd"))?;
        let cpus =
            std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Ok(Self { epoll, wake, stop: AtomicBool::new(false), watched: Mutex::default(), cpus })
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashMap<HelperId, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from this helper from now on. Both ends must be non-blocking.
    pub(crate) fn watch(
        &self,
        instance: &Arc<Instance>,
        output: OwnedFd,
        printed: OwnedFd,
    ) -> Result<(), PluginSandboxError> {
        let id = instance.id;
        let max =
            usize::try_from(instance.max_message_bytes).unwrap_or(usize::MAX).saturating_add(ENVELOPE_BYTES);
        let mut watched = self.watched();
        for (pipe, source) in [(&output, Source::Output(id)), (&printed, Source::Printed(id))] {
            epoll::add(&self.epoll, pipe, source.data(), EventFlags::IN)
                .map_err(PluginSandboxError::io("watching a helper"))?;
        }
        watched.insert(
            id,
            Watched {
                instance: Arc::clone(instance),
                inbound: Arc::new(Mutex::new(Inbound { output: Some(output), frames: Assembler::new(max) })),
                printed: Some(printed),
                cpu_due: Some(Instant::now()),
                look_due: Instant::now() + LOOK_INTERVAL,
                hung: None,
                wait_due: None,
                gone_due: None,
            },
        );
        drop(watched);
        self.wake();
        Ok(())
    }

    /// Writes what waits for this helper as soon as its pipe takes more.
    pub(crate) fn want_write(&self, instance: &Instance) {
        let data = Source::Input(instance.id).data();
        let flags = EventFlags::OUT | EventFlags::ONESHOT;
        instance.outbox().with_pipe(|pipe| {
            if epoll::modify(&self.epoll, pipe, data, flags).is_err() {
                let _ = epoll::add(&self.epoll, pipe, data, flags);
            }
        });
    }

    /// Looks at this helper's CPU clock now: its limit has changed.
    pub(crate) fn recheck_cpu(&self, id: HelperId) {
        if let Some(watched) = self.watched().get_mut(&id) {
            watched.cpu_due = Some(Instant::now());
        }
        self.wake();
    }

    /// Ends this helper's waits for messages that are over by then.
    pub(crate) fn wait_until(&self, id: HelperId, due: Instant) {
        if let Some(watched) = self.watched().get_mut(&id) {
            watched.wait_due = Some(watched.wait_due.map_or(due, |known| known.min(due)));
        }
        self.wake();
    }

    /// This helper has ended. What it still has in its pipes is read first.
    pub(crate) fn forget(&self, id: HelperId) {
        let Some(gone) = self.watched().remove(&id) else { return };
        let mut buffer = vec![0; READ_BYTES];
        // A pipe holds a bounded rest, and nobody writes to it any more.
        while read_frames(&gone.inbound, &gone.instance, &mut buffer) == Read::Some {}
        if let Some(printed) = gone.printed {
            drain_printed(&gone.instance, printed.as_fd(), &mut buffer);
        }
    }

    /// Ends the reactor's thread.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The reactor's thread.
    pub(crate) fn run(&self, look_at_workers: impl Fn() -> Option<Duration>) {
        signals::block_all();
        let mut buffer = vec![0; READ_BYTES];
        let mut events = [MaybeUninit::<Event>::uninit(); 64];
        while !self.stop.load(Ordering::Acquire) {
            let due = [self.check_clocks(), look_at_workers()].into_iter().flatten().min();
            let timeout = due.and_then(|due| Timespec::try_from(due).ok());
            let ready = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => {
                    tracing::error!(%errno, "the reactor cannot wait any more");
                    return;
                }
            };
            for event in ready.iter() {
                match Source::from_data(event.data) {
                    Source::Wake => drop(rustix::io::read(&self.wake, &mut [0u8; 8][..])),
                    Source::Output(id) => self.read_output(id, &mut buffer),
                    Source::Printed(id) => self.read_printed(id, &mut buffer),
                    Source::Input(id) => self.write_input(id),
                }
            }
        }
    }

    fn check_clocks(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        for watched in self.watched().values_mut() {
            if watched.cpu_due.is_some_and(|due| due <= now) {
                watched.cpu_due = watched.instance.check_cpu(self.cpus).map(|wait| now + wait);
            }
            if watched.wait_due.is_some_and(|due| due <= now) {
                watched.wait_due = watched.instance.end_waits(now);
            }
            if watched.gone_due.is_some_and(|due| due <= now) {
                // One that is on its way out is told by its status, however long that takes to come.
                watched.gone_due = watched.instance.is_gone().then(|| now + GONE_GRACE);
                if watched.gone_due.is_none() {
                    watched.instance.kill(Some(Cause::ChannelClosed));
                }
            }
            if watched.look_due <= now {
                watched.look_due = now + LOOK_INTERVAL;
                let hung = watched.instance.is_hung();
                // Twice, so that somebody may stop it for a moment to look at it.
                if let Some(how) = hung.filter(|how| watched.hung == Some(how)) {
                    watched.instance.kill(Some(Cause::Hung { how: how.to_owned() }));
                }
                watched.hung = hung;
            }
            let look_due = Some(watched.look_due);
            for due in [watched.cpu_due, watched.wait_due, watched.gone_due, look_due].into_iter().flatten() {
                let wait = due.saturating_duration_since(now);
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        next
    }

    fn read_output(&self, id: HelperId, buffer: &mut [u8]) {
        let Some((instance, inbound)) =
            self.watched().get(&id).map(|w| (Arc::clone(&w.instance), Arc::clone(&w.inbound)))
        else {
            return;
        };
        if read_frames(&inbound, &instance, buffer) == Read::End
            && let Some(watched) = self.watched().get_mut(&id)
        {
            // A process that ends closes its channel first: only one that then lives on has merely closed it.
            watched.gone_due = Some(Instant::now() + GONE_GRACE);
        }
    }

    fn read_printed(&self, id: HelperId, buffer: &mut [u8]) {
        let mut all = self.watched();
        let Some(Watched { instance, printed, .. }) = all.get_mut(&id) else { return };
        let Some(pipe) = printed.as_ref() else { return };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => *printed = None, // it may well close these and go on
            Ok(len) => instance.print(buffer.get(..len).unwrap_or_default()),
            Err(_) => {}
        }
    }

    fn write_input(&self, id: HelperId) {
        let Some(instance) = self.watched().get(&id).map(|watched| Arc::clone(&watched.instance)) else {
            return;
        };
        if instance.outbox().flush() == Written::Partly {
            self.want_write(&instance);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Read {
    Some,
    /// Nothing is there at the moment, or ever again.
    Nothing,
    /// The channel has just come to its end.
    End,
}

/// Reads one piece of what a helper says, and deals with each message that it completes. One that no helper says then ends
/// the helper, and nothing more is read of it.
fn read_frames(inbound: &Mutex<Inbound>, instance: &Arc<Instance>, buffer: &mut [u8]) -> Read {
    let mut inbound = inbound.lock().unwrap_or_else(PoisonError::into_inner);
    let Inbound { output, frames } = &mut *inbound;
    let Some(pipe) = output.as_ref() else { return Read::Nothing };
    let piece = match rustix::io::read(pipe, &mut *buffer) {
        Ok(0) => {
            *output = None; // closing it takes it out of the epoll too
            return Read::End;
        }
        Ok(len) => buffer.get(..len).unwrap_or_default(),
        Err(_) => return Read::Nothing,
    };
    let mut wrong = None;
    let assembled = frames.push(piece, |body| {
        wrong = match frame::decode::<FromHelper>(&body) {
            Ok(message) => instance.receive(message).err(),
            Err(error) => Some(Violation::of(error.field(), error.to_string())),
        };
        wrong.is_none()
    });
    let assembled = assembled.err().map(|error| Violation::of(error.field(), error.to_string()));
    if let Some(violation) = wrong.or(assembled) {
        // In this order: a helper that still writes must not die of the closed pipe before the kill.
        instance.kill(Some(violation.into()));
        *output = None;
        return Read::Nothing;
    }
    Read::Some
}

/// Reads what is left of what an ended helper printed: at most a pipe's worth.
fn drain_printed(instance: &Instance, printed: BorrowedFd<'_>, buffer: &mut [u8]) {
    for _ in 0..16 {
        match rustix::io::read(printed, &mut *buffer) {
            Ok(len @ 1..) => instance.print(buffer.get(..len).unwrap_or_default()),
            _ => return,
        }
    }
}
