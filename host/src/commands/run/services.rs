//! The services that this host offers to plugins: enough to show what a service is, and what a permission does to one.
//!
//! Runs in the application's process, on the threads that the sandbox calls services on. Owns what plugins say.
//! Never answers with anything that the permission of its name does not open.

use std::sync::{Arc, Mutex, PoisonError};

use sandbox_core::App;

use super::Telling;
use crate::output::escape;

/// How much of what a plugin says is kept: it may talk without end.
const MOST_BYTES: usize = 1 << 20;

/// What one call of a service said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) service: &'static str,
    pub(crate) text: String,
}

/// What a plugin had the host say.
#[derive(Debug)]
pub(crate) struct Transcript {
    telling: Telling,
    said: Mutex<(Vec<Said>, usize)>,
}

impl Transcript {
    pub(crate) fn new(telling: Telling) -> Self {
        Self { telling, said: Mutex::default() }
    }

    /// Shows or keeps a line.
    ///
    /// # Errors
    /// That the plugin has said more than is kept.
    fn say(&self, service: &'static str, text: &[u8]) -> Result<Vec<u8>, String> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.1 = said.1.saturating_add(text.len()).saturating_add(service.len());
        if said.1 > MOST_BYTES {
            return Err(format!("this host listens to {MOST_BYTES} bytes in all"));
        }
        let text = String::from_utf8_lossy(text).into_owned();
        self.telling
            .say(|look| format!("{} {}", look.bold(&format!("{service}:")), escape::block(&text, "  ")));
        if matches!(self.telling, Telling::Recorded) {
            said.0.push(Said { service, text });
        }
        Ok(Vec::new())
    }

    /// What was said up to now.
    pub(crate) fn take(&self) -> Vec<Said> {
        std::mem::take(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// The services: `host.log` for everyone, `ui.notify` behind `ui`, `system.hostname` behind `system`.
pub(crate) fn offer(transcript: &Arc<Transcript>) -> App {
    let (log, notify) = (Arc::clone(transcript), Arc::clone(transcript));
    App::new()
        .service("host.log", move |request| log.say("host.log", request.payload))
        .service("ui.notify", move |request| notify.say("ui.notify", request.payload))
        .service("system.hostname", |_| {
            let name = std::fs::read("/proc/sys/kernel/hostname").map_err(|error| error.to_string())?;
            Ok(name.trim_ascii_end().to_vec())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_talks_without_end_is_no_longer_listened_to() {
        let transcript = Transcript::new(Telling::Recorded);
        let line = vec![b'x'; MOST_BYTES / 4];
        let heard =
            std::iter::repeat_with(|| transcript.say("host.log", &line)).take_while(Result::is_ok).count();
        assert_eq!(heard, 3);
        assert_eq!(transcript.take().len(), 3);
    }
}
