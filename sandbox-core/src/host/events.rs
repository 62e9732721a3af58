//! What happened, for whoever wants to know: each event goes to every subscriber's own bounded queue.
//!
//! Runs in the host. A subscriber that does not read loses events and is told how many; nobody waits for it. What a plugin
//! repeats without end is counted in `host::folding`, before it comes here.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::end::cause::Cause;
use super::end::report::EndReport;
use super::library::LibraryDigest;
use super::lifecycle::PluginState;
use crate::shared::policy::{PluginId, PluginPermission};

/// How many events may wait for one subscriber.
const QUEUE: usize = 1024;

/// Something that happened to, or was decided about, a plugin.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SandboxEvent {
    /// When.
    pub time: SystemTime,
    /// Which plugin.
    pub plugin: PluginId,
    /// What.
    pub kind: EventKind,
}

/// The kinds of event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The broker decided about something outside the plugin's process.
    Access {
        /// The permission that opens it, such as `file-read`.
        permission: &'static str,
        /// What was tried: the system call's name.
        action: &'static str,
        /// What the plugin named, escaped and shortened.
        object: String,
        /// What that is, once links were followed.
        resolved: Option<String>,
        /// Whether it was allowed. What was, and failed all the same, has the errno in its rule: `..; ENOENT`.
        granted: bool,
        /// The decision that counted.
        rule: String,
    },
    /// The plugin called a service of the host's.
    ServiceCall {
        /// The service's name, escaped and shortened.
        service: String,
        /// The permission that gates it, if one does.
        permission: Option<String>,
        /// Whether it went through.
        granted: bool,
    },
    /// A permission was granted.
    PermissionGranted {
        /// Which.
        permission: PluginPermission,
    },
    /// A permission was revoked.
    PermissionRevoked {
        /// Which.
        permission: PluginPermission,
        /// Whether it had been held.
        held: bool,
    },
    /// The plugin moved from one state to another.
    StateChanged {
        /// From here.
        from: PluginState,
        /// To here.
        to: PluginState,
    },
    /// An operator asked for something, through the host's monitor. What came of it follows.
    OperatorCommand {
        /// What: `deactivate`, `kill`, or `revoke` and the permission; escaped.
        command: String,
        /// The user who asked.
        uid: u32,
    },
    /// Its helper has ended.
    Ended {
        /// Why.
        cause: Cause,
        /// Everything that is known of it.
        report: Arc<EndReport>,
    },
    /// It is loaded again in a while, as its restart policy says.
    RestartScheduled {
        /// Which restart in a row, from 1 on.
        attempt: u32,
        /// In how long.
        delay: Duration,
        /// Why: the cause of its end, or what became of the restart before; escaped.
        why: String,
    },
    /// It is back where it was before it ended: loaded, or active.
    Restarted {
        /// Which restart in a row it was.
        attempt: u32,
    },
    /// Its library has crashed too often, and is not loaded until that is cleared.
    Quarantined {
        /// Which library.
        digest: LibraryDigest,
        /// Where it is, escaped.
        path: String,
        /// How many crashes are known of it.
        crashes: u32,
        /// Why it ended the last time.
        why: String,
    },
    /// The very same access or service call came again and again, and is not told each time.
    Repeated {
        /// How many more there were.
        count: u64,
        /// When the first of them came; the event's own time is that of this count.
        since: SystemTime,
        /// What was repeated.
        event: Box<EventKind>,
    },
    /// Accesses or service calls of one kind came faster than they are told, each different from those before.
    Folded {
        /// How many there were beside those that were told.
        count: u64,
        /// When the first of them came; the event's own time is that of this count.
        since: SystemTime,
        /// The permission that they were about; `None` for services that need none.
        permission: Option<String>,
        /// Whether they were granted.
        granted: bool,
    },
    /// This subscriber's queue was full, and so many events were lost to it.
    Dropped {
        /// How many.
        count: u64,
    },
}

#[derive(Debug)]
struct Subscriber {
    queue: Sender<SandboxEvent>,
    lost: Arc<AtomicU64>,
}

/// The receiving end of one subscriber who wants to know of losses even when no event comes behind them.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) events: Receiver<SandboxEvent>,
    /// How many were lost and not told of yet. Whoever takes some away has to tell of them.
    pub(crate) lost: Arc<AtomicU64>,
}

/// The subscribers of one plugin, or of a manager.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    subscribers: Mutex<Vec<Subscriber>>,
    count: AtomicUsize,
    /// How many events were lost to any of them.
    lost: AtomicU64,
}

impl EventHub {
    /// A queue that gets every event from now on.
    pub(crate) fn subscribe(&self) -> Receiver<SandboxEvent> {
        self.subscribe_for(QUEUE).events
    }

    /// The same, in which `most` events may wait.
    pub(crate) fn subscribe_for(&self, most: usize) -> Subscription {
        let (queue, events) = bounded(most);
        let lost = Arc::new(AtomicU64::new(0));
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.push(Subscriber { queue, lost: Arc::clone(&lost) });
        self.count.store(subscribers.len(), Ordering::Relaxed);
        Subscription { events, lost }
    }

    /// Whether anybody listens: what goes into an event is not worth making otherwise.
    pub(crate) fn is_heard(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// How many events subscribers have lost, counted once for each of them.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Hands an event to each subscriber. Never waits.
    pub(crate) fn publish(&self, event: &SandboxEvent) {
        if !self.is_heard() {
            return;
        }
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain_mut(|subscriber| {
            let lost = subscriber.lost.swap(0, Ordering::AcqRel);
            if lost > 0 {
                let kind = EventKind::Dropped { count: lost };
                if subscriber.queue.try_send(SandboxEvent { kind, ..event.clone() }).is_err() {
                    subscriber.lost.fetch_add(lost, Ordering::AcqRel);
                }
            }
            match subscriber.queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    subscriber.lost.fetch_add(1, Ordering::AcqRel);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
        self.count.store(subscribers.len(), Ordering::Relaxed);
    }
}

/// Text from a plugin, fit for a log line and a terminal: escaped, at most 256 characters.
pub(crate) fn escape(text: &[u8]) -> String {
    escape_up_to(text, 256)
}

/// A path that really is there, whole: it must be possible to grant what it says.
pub(crate) fn escape_path(path: &Path) -> String {
    escape_up_to(path.as_os_str().as_encoded_bytes(), libc::PATH_MAX as usize)
}

fn escape_up_to(text: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out: String = text.chars().take(most).flat_map(escaped_char).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// Whether a character could move a cursor, change a colour or turn the direction of a line.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One character, escaped if it is harmful.
pub(crate) fn escaped_char(c: char) -> impl Iterator<Item = char> {
    let harmful = is_harmful(c);
    let escaped = harmful.then(|| c.escape_unicode());
    let plain = (!harmful).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> SandboxEvent {
        let kind = EventKind::StateChanged { from: PluginState::Loaded, to: PluginState::Active };
        SandboxEvent { time: SystemTime::now(), plugin: PluginId::new("a").unwrap(), kind }
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_told_how_much_it_lost() {
        let hub = EventHub::default();
        let events = hub.subscribe();
        for _ in 0..QUEUE + 3 {
            hub.publish(&event());
        }
        assert_eq!(events.try_iter().count(), QUEUE);
        hub.publish(&event());
        let first = events.try_recv().unwrap();
        assert!(matches!(first.kind, EventKind::Dropped { count: 3 }), "{first:?}");
        assert_eq!(events.try_iter().count(), 1);
    }

    #[test]
    fn a_subscriber_that_is_gone_costs_nothing() {
        let hub = EventHub::default();
        drop(hub.subscribe());
        hub.publish(&event());
        assert!(!hub.is_heard());
    }

    #[test]
    fn what_a_plugin_names_cannot_move_a_cursor() {
        assert_eq!(escape(b"/a\x1b[2J\n"), "/a\\u{1b}[2J\\u{a}");
        assert_eq!(escape("\u{202e}x".as_bytes()), "\\u{202e}x");
        assert!(escape(&[b'x'; 1000]).chars().count() <= 257);
    }
}
