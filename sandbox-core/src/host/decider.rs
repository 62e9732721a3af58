//! Asking somebody about an access that nobody has decided about yet.
//!
//! Runs in the host. The decider is the embedder's code: it runs on threads that only ask, never on the reactor, never with
//! a lock held. Owns the questions' bounds: one at a time for each plugin, so many a minute, each answered by its deadline.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::shared::policy::{PluginId, PluginPermission};

/// How many questions one plugin may cause in [`WINDOW`]; what is beyond is denied unasked.
const MOST_QUESTIONS: usize = 30;
const WINDOW: Duration = Duration::from_secs(60);

/// How many denials are remembered for each plugin, so that the same is not asked again.
const MOST_REMEMBERED: usize = 256;

/// An access that no permission opens and none denies, as it is put to a decider.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AccessRequest {
    /// The plugin that tries it.
    pub plugin: PluginId,
    /// The narrowest permission that would open it: what [`Ruling::AllowAlways`] grants.
    pub permission: PluginPermission,
    /// What is tried: the system call's name.
    pub action: &'static str,
    /// What the plugin named, escaped and shortened.
    pub object: String,
    /// What that is, once links were followed; escaped and shortened.
    pub resolved: Option<String>,
}

/// A decider's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// This attempt goes through, the next is asked about again.
    AllowOnce,
    /// The permission is granted from now on, as by `grant_permission`.
    AllowAlways,
    /// It fails, and the same is not asked again while this plugin's helper lives.
    Deny,
}

type Decide = dyn Fn(&AccessRequest) -> Ruling + Send + Sync;

/// Whoever is asked, and how long for.
#[derive(Clone)]
pub(crate) struct Decider {
    pub(crate) decide: Arc<Decide>,
    pub(crate) timeout: Duration,
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decider").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// The place of a decider, which may be put there and taken away at any moment.
#[derive(Debug, Default)]
pub(crate) struct DeciderCell(RwLock<Option<Decider>>);

impl DeciderCell {
    pub(crate) fn get(&self) -> Option<Decider> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn set(&self, decider: Option<Decider>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = decider;
    }
}

/// What one helper has been asked about.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: VecDeque<Instant>,
    denied: VecDeque<PluginPermission>,
}

impl Questions {
    /// Whether `wanted` may be asked about now; counts it if so.
    pub(crate) fn may_ask(&mut self, wanted: &PluginPermission, now: Instant) -> bool {
        while self.asked.front().is_some_and(|then| now.duration_since(*then) >= WINDOW) {
            self.asked.pop_front();
        }
        if self.asked.len() >= MOST_QUESTIONS || self.denied.contains(wanted) {
            return false;
        }
        self.asked.push_back(now);
        true
    }

    /// Keeps that this was denied.
    pub(crate) fn remember_denied(&mut self, wanted: PluginPermission) {
        if self.denied.len() >= MOST_REMEMBERED {
            self.denied.pop_front();
        }
        self.denied.push_back(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(path: &str) -> PluginPermission {
        format!("file-read:{path}").parse().unwrap()
    }

    #[test]
    fn a_plugin_causes_so_many_questions_a_minute_and_no_more() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        for _ in 0..MOST_QUESTIONS {
            assert!(questions.may_ask(&wanted("/a"), now));
        }
        assert!(!questions.may_ask(&wanted("/a"), now));
        assert!(questions.may_ask(&wanted("/a"), now + WINDOW));
    }

    #[test]
    fn what_was_denied_is_not_asked_again_and_the_memory_of_it_is_bounded() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        questions.remember_denied(wanted("/a"));
        assert!(!questions.may_ask(&wanted("/a"), now));
        assert!(questions.may_ask(&wanted("/b"), now));
        (0..2 * MOST_REMEMBERED).for_each(|n| questions.remember_denied(wanted(&format!("/{n}"))));
        assert_eq!(questions.denied.len(), MOST_REMEMBERED);
    }
}
