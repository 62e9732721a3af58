//! The threads and the zygote that all plugins share, for as long as one of their sandboxes lives.
//!
//! Runs in the host. Its threads do not grow with plugins: the reactor, the zygote's, and two bounded pools.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::broker::{Relays, Workers};
use super::limits::cgroup::Groups;
use super::lock::lock;
use super::reactor::Reactor;
use super::services::pool::ServicePool;
use super::zygote::Zygote;
use crate::error::PluginSandboxError;
use crate::shared::policy::Sabotage;
use crate::shared::wire::zygote::HelperId;

/// How often it is looked for events that were counted and not told.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

/// What threads of ours and helpers' instances reach each other by.
pub(crate) struct Core {
    pub(crate) reactor: Reactor,
    pub(crate) broker: Workers,
    pub(crate) relays: Relays,
    pub(crate) services: ServicePool,
    pub(crate) groups: Groups,
    next_helper: AtomicU32,
    /// When it was last looked for events that were counted and not told.
    settled: Mutex<Instant>,
}

/// Owns the core's threads and the zygote; ends them when it goes.
pub(crate) struct Runtime {
    pub(crate) core: Arc<Core>,
    maker: Maker,
    zygote: Mutex<Option<Arc<Zygote>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// One runtime for each way to make helpers; nearly always one.
static RUNTIMES: Mutex<Vec<(Maker, Weak<Runtime>)>> = Mutex::new(Vec::new());

/// What helpers are made by: a program, or this one; and what a test has taken away from its zygote.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Maker {
    program: Option<PathBuf>,
    sabotage: Sabotage,
}

impl Core {
    /// What the reactor sees to beside its pipes. Returns when to look again.
    fn look_around(&self) -> Option<Duration> {
        let mut settled = lock(&self.settled);
        if settled.elapsed() >= SETTLE_INTERVAL {
            *settled = Instant::now();
            for subject in self.broker.owing() {
                // On a worker: whoever listens to `tracing` runs there too, and nothing of the embedder's on the reactor.
                self.services.run(move || {
                    if let Some(subject) = subject.upgrade() {
                        subject.tell_owed(false);
                    }
                });
            }
        }
        drop(settled);
        self.broker.end_stalled()
    }
}

impl Runtime {
    /// The runtime whose helpers are `program`, or this program itself.
    pub(crate) fn shared(
        program: Option<PathBuf>,
        sabotage: &Sabotage,
    ) -> Result<Arc<Self>, PluginSandboxError> {
        let maker = Maker { program, sabotage: sabotage.zygotes() };
        let mut runtimes = lock(&RUNTIMES);
        runtimes.retain(|(_, runtime)| runtime.strong_count() > 0);
        let living = runtimes.iter().find(|(of, _)| *of == maker).and_then(|(_, runtime)| runtime.upgrade());
        if let Some(runtime) = living {
            return Ok(runtime);
        }
        let runtime = Arc::new(Self::start(maker.clone())?);
        runtimes.push((maker, Arc::downgrade(&runtime)));
        Ok(runtime)
    }

    fn start(maker: Maker) -> Result<Self, PluginSandboxError> {
        let core = Arc::new(Core {
            reactor: Reactor::new()?,
            broker: Workers::new()?,
            relays: Relays::new()?,
            services: ServicePool::new(),
            groups: Groups::find(),
            next_helper: AtomicU32::new(0),
            settled: Mutex::new(Instant::now()),
        });
        let for_reactor = Arc::clone(&core);
        let reactor = std::thread::Builder::new()
            .name("plugin-reactor".to_owned())
            .spawn(move || for_reactor.reactor.run(|| for_reactor.look_around()))
            .map_err(|source| PluginSandboxError::Io { what: "starting the reactor's thread", source })?;
        let runtime = Self { core, maker, zygote: Mutex::new(None), threads: Mutex::new(vec![reactor]) };
        runtime.core.broker.start()?;
        Ok(runtime)
    }

    /// A zygote that lives: the first call starts one, and so does the first after its end.
    pub(crate) fn zygote(&self) -> Result<Arc<Zygote>, PluginSandboxError> {
        let mut slot = lock(&self.zygote);
        if let Some(zygote) = slot.as_ref().filter(|zygote| !zygote.is_lost()) {
            return Ok(Arc::clone(zygote));
        }
        let (zygote, thread) = Zygote::start(self.maker.program.clone(), self.maker.sabotage.clone())?;
        let mut threads = lock(&self.threads);
        // That of a zygote which has ended: its stack goes only with its handle.
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        drop(threads);
        *slot = Some(Arc::clone(&zygote));
        Ok(zygote)
    }

    /// An id that no helper of this runtime had before.
    pub(crate) fn next_helper(&self) -> HelperId {
        HelperId(self.core.next_helper.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(zygote) = lock(&self.zygote).take() {
            zygote.stop();
        }
        self.core.reactor.stop();
        self.core.broker.stop();
        self.core.relays.stop();
        self.core.services.stop();
        let own = std::thread::current().id();
        for thread in lock(&self.threads).drain(..) {
            // The last sandbox may be dropped by a service, on a thread of ours: that one ends by itself.
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}
