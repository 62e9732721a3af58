//! Ending all plugins of a manager within a bound.
//!
//! Runs in the host, on the thread that asked and on up to 32 more. Owns the bound: whoever waits for a plugin does so on one
//! of those, so that a service that never returns holds up nobody else.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use crate::error::PluginSandboxError;
use crate::host::end::cause::Cause;
use crate::host::entry::{Entry, Held};
use crate::host::instance::GONE_TIMEOUT;
use crate::shared::policy::PluginId;
use crate::shared::sys::signals;

/// How many plugins are deactivated and unloaded at once.
const MOST_AT_ONCE: usize = 32;

/// How the plugins of a manager that was shut down have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Each plugin that was registered, by its id.
    pub plugins: Vec<(PluginId, PluginEnding)>,
}

/// How a plugin has ended when its manager was shut down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginEnding {
    /// It had no helper: it was not loaded, had crashed, or waited for a restart, which does not come any more.
    NotLoaded,
    /// It was deactivated, if it was active, and unloaded.
    Unloaded,
    /// It did not end well, or not in time: [`Cause::HostShutdown`] is one that was killed for that.
    Ended {
        /// Why.
        cause: Cause,
    },
}

impl ShutdownReport {
    /// Whether every plugin has ended as it was asked to.
    pub fn is_clean(&self) -> bool {
        self.plugins.iter().all(|(_, ending)| !matches!(ending, PluginEnding::Ended { .. }))
    }
}

impl fmt::Display for PluginEnding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoaded => f.write_str("it was not loaded"),
            Self::Unloaded => f.write_str("it was unloaded"),
            Self::Ended { cause: Cause::HostShutdown } => {
                f.write_str("it was killed: it did not end in time")
            }
            Self::Ended { cause } => write!(f, "it ended on its way out: {cause}"),
        }
    }
}

/// Ends all of them, once for all.
pub(in crate::host) fn shutdown(all: &[Arc<Held>], timeout: Duration) -> ShutdownReport {
    let deadline = Instant::now() + timeout;
    // Nothing new begins in any before the first is waited for.
    all.iter().for_each(|entry| entry.shut());
    let (give, given) = unbounded::<(usize, Arc<Entry>)>();
    let (tell, told) = unbounded();
    let mut endings: Vec<Option<PluginEnding>> = Vec::with_capacity(all.len());
    for (at, entry) in all.iter().enumerate() {
        let up = entry.is_up();
        // A restart that waits is forgotten, and what it kept is let go.
        let idle = (!up).then(|| drop(entry.unload()));
        endings.push(idle.map(|()| PluginEnding::NotLoaded));
        if up {
            let _ = give.send((at, Arc::clone(entry)));
        }
    }
    drop(give);
    let mut left = endings.iter().filter(|ending| ending.is_none()).count();
    for _ in 0..left.min(MOST_AT_ONCE) {
        let (given, tell) = (given.clone(), tell.clone());
        let work = move || {
            signals::block_all();
            given.iter().for_each(|(at, entry)| end(at, &entry, deadline, &tell));
        };
        // Without a thread it is killed at the deadline, like one that does not end.
        let _ = std::thread::Builder::new().name("plugin-shutdown".to_owned()).spawn(work);
    }
    drop((given, tell));
    let mut collect = |until: Instant| {
        while left > 0
            && let Ok((at, ending)) = told.recv_deadline(until)
        {
            if let Some(slot) = endings.get_mut(at).filter(|slot| slot.is_none()) {
                *slot = Some(ending);
                left -= 1;
            }
        }
        left
    };
    if collect(deadline) > 0 {
        // Of those that have ended by now, there is nothing to kill.
        all.iter().filter(|entry| entry.is_up()).for_each(|entry| entry.end_for_shutdown());
        all.iter().filter_map(|entry| entry.instance()).for_each(|instance| {
            instance.wait_end_for(GONE_TIMEOUT);
        });
        // Those who waited for them have to be told; a service that never returns keeps one from telling.
        collect(Instant::now() + TELL_TIMEOUT);
    }
    let ending = |(entry, known): (&Arc<Held>, Option<PluginEnding>)| {
        let ending = known
            .unwrap_or_else(|| PluginEnding::Ended { cause: entry.end().unwrap_or(Cause::HostShutdown) });
        (entry.subject().id().clone(), ending)
    };
    let mut plugins: Vec<_> = all.iter().zip(endings).map(ending).collect();
    plugins.sort_by(|one, other| one.0.cmp(&other.0));
    ShutdownReport { plugins }
}

/// How long whoever waited for a plugin that was killed may take to say so.
const TELL_TIMEOUT: Duration = Duration::from_millis(500);

fn end(at: usize, entry: &Entry, deadline: Instant, tell: &Sender<(usize, PluginEnding)>) {
    if !entry.wait_idle(deadline) {
        // Before the unload, which would end it for another cause.
        entry.end_for_shutdown();
    }
    let ending = match entry.unload() {
        Ok(()) | Err(PluginSandboxError::WrongState { .. }) => {
            let instance = entry.instance();
            match instance.and_then(|instance| instance.wait_end_for(GONE_TIMEOUT)) {
                // It was killed while it was on its way out.
                Some(cause) if cause != Cause::Unloaded => PluginEnding::Ended { cause },
                _ => PluginEnding::Unloaded,
            }
        }
        Err(PluginSandboxError::Ended { cause, .. }) => PluginEnding::Ended { cause },
        Err(_) => PluginEnding::NotLoaded,
    };
    let _ = tell.send((at, ending));
}
