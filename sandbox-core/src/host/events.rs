//! What happened, for whoever wants to know: each event goes to every subscriber's own bounded queue.
//!
//! Runs in the host. A subscriber that does not read loses events and is told how many; nobody waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::cause::Cause;
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
#[derive(Debug, Clone)]
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
        /// Whether it was opened.
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
    /// Its helper has ended.
    Ended {
        /// Why.
        cause: Cause,
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
    lost: u64,
}

/// The subscribers of one plugin, or of a manager.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    subscribers: Mutex<Vec<Subscriber>>,
    count: AtomicUsize,
}

impl EventHub {
    /// A queue that gets every event from now on.
    pub(crate) fn subscribe(&self) -> Receiver<SandboxEvent> {
        let (queue, events) = bounded(QUEUE);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.push(Subscriber { queue, lost: 0 });
        self.count.store(subscribers.len(), Ordering::Relaxed);
        events
    }

    /// Whether anybody listens: what goes into an event is not worth making otherwise.
    pub(crate) fn is_heard(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Hands an event to each subscriber. Never waits.
    pub(crate) fn publish(&self, event: &SandboxEvent) {
        if !self.is_heard() {
            return;
        }
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain_mut(|subscriber| {
            if subscriber.lost > 0 {
                let kind = EventKind::Dropped { count: subscriber.lost };
                if subscriber.queue.try_send(SandboxEvent { kind, ..event.clone() }).is_ok() {
                    subscriber.lost = 0;
                }
            }
            match subscriber.queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    subscriber.lost += 1;
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
    const MOST: usize = 256;
    let text = String::from_utf8_lossy(text);
    let mut out: String = text.chars().take(MOST).flat_map(escaped_char).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

/// One character, escaped if it could move a cursor, change a colour or turn the direction of a line.
pub(crate) fn escaped_char(c: char) -> impl Iterator<Item = char> {
    let harmful = c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
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
