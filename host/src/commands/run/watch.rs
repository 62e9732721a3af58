//! Follows a plugin's events: shows denials as they come, or keeps everything for the JSON object.
//!
//! Runs in the application's process, on a thread of its own. Owns the bounds: a plugin can make events without end.
//! Never holds the plugin up, and never shows the same denial twice.

use std::collections::HashMap;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use sandbox_core::{EventKind, SandboxEvent};

use super::Telling;
use crate::output::escape;
use crate::output::human::{Look, note};

/// How many events a JSON object holds, and how many different denials are shown.
const MOST_EVENTS: usize = 10_000;
const MOST_DENIALS: usize = 100;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) events: Vec<SandboxEvent>,
    /// Events over the bound.
    pub(crate) left_out: u64,
    /// How often each denial came, where denials are shown.
    denials: HashMap<String, u64>,
}

/// The thread that watches.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Watched>,
    telling: Telling,
}

impl Watch {
    /// Watches `events` from now on.
    pub(crate) fn start(events: Receiver<SandboxEvent>, telling: Telling) -> Self {
        let (stop, stopped) = bounded(0);
        let thread = std::thread::spawn(move || watch(&events, &stopped, telling));
        Self { stop, thread, telling }
    }

    /// Takes what has come up to now, and ends.
    pub(crate) fn finish(self) -> Watched {
        drop(self.stop);
        let watched = self.thread.join().unwrap_or_default();
        let mut repeated: Vec<_> = watched.denials.iter().filter(|(_, count)| **count > 1).collect();
        repeated.sort();
        for (denial, count) in repeated {
            self.telling.say(|look| look.dim(&format!("denied {count} times: {denial}")));
        }
        if watched.left_out > 0 {
            self.telling.say(|look| look.dim(&format!("{} more events are not shown", watched.left_out)));
        }
        watched
    }
}

fn watch(events: &Receiver<SandboxEvent>, stopped: &Receiver<()>, telling: Telling) -> Watched {
    let mut watched = Watched::default();
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(event) => watched.take(event, telling),
                Err(_) => return watched,
            },
            // Nothing is ever sent: it is dropped.
            recv(stopped) -> _ => break,
        }
    }
    events.try_iter().for_each(|event| watched.take(event, telling));
    watched
}

impl Watched {
    fn take(&mut self, event: SandboxEvent, telling: Telling) {
        match telling {
            Telling::Quiet => {}
            Telling::Recorded if self.events.len() < MOST_EVENTS => self.events.push(event),
            Telling::Recorded => self.left_out = self.left_out.saturating_add(1),
            Telling::Aloud(look) => match &event.kind {
                EventKind::Repeated { count, event, .. } => self.show(denial(event), *count, look),
                EventKind::RestartScheduled { attempt, delay, why, .. } => {
                    let why = escape::line(why);
                    note(&look.dim(&format!("restart {attempt} in {:.1} s: {why}", delay.as_secs_f64())));
                }
                kind => self.show(denial(kind), 1, look),
            },
        }
    }

    fn show(&mut self, denial: Option<String>, count: u64, look: Look) {
        let Some(denial) = denial else { return };
        if let Some(known) = self.denials.get_mut(&denial) {
            *known = known.saturating_add(count);
        } else if self.denials.len() < MOST_DENIALS {
            note(&format!("{} {denial}", look.doubtful("denied:")));
            self.denials.insert(denial, count);
        } else {
            self.left_out = self.left_out.saturating_add(count);
        }
    }
}

/// What a person should know of: that something was refused, and by what.
fn denial(event: &EventKind) -> Option<String> {
    let text = match event {
        EventKind::Access { permission, action, object, resolved, granted: false, rule, .. } => {
            let led_to = resolved.as_ref().filter(|resolved| *resolved != object);
            let led_to = led_to.map(|resolved| format!(" -> {resolved}")).unwrap_or_default();
            let what = format!("{action} {object}{led_to}");
            format!("{}: {permission}: {rule}", what.trim_end())
        }
        EventKind::ServiceCall { service, permission: Some(permission), granted: false, .. } => {
            format!("service {service}: needs --grant {permission}")
        }
        EventKind::ServiceCall { service, granted: false, .. } => format!("service {service}"),
        EventKind::Folded { count, permission, granted: false, .. } => {
            let permission = permission.as_deref().unwrap_or("services");
            format!("{permission}: {count} more, too many to be told one by one")
        }
        EventKind::Dropped { count, .. } => format!("{count} events came too fast to be followed"),
        _ => return None,
    };
    Some(escape::line(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(granted: bool) -> EventKind {
        EventKind::ServiceCall { service: "ui.x\x1b".to_owned(), permission: Some("ui".to_owned()), granted }
    }

    #[test]
    fn a_denial_names_the_grant_that_would_open_it() {
        assert_eq!(denial(&service(false)).as_deref(), Some("service ui.x\\u{1b}: needs --grant ui"));
        assert_eq!(denial(&service(true)), None);
    }
}
