//! Asking somebody about an access that nobody has decided about yet.
//!
//! Runs in the host. The decider is the embedder's code: it runs on threads that only ask, never on the reactor, never with
//! a lock held. Owns the questions' bounds: one at a time for each plugin, so many a minute, each answered by its deadline.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::instance::Instance;
use crate::shared::policy::{PluginId, PluginPermission};
use crate::shared::sys::signals;

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
    /// What is tried: the system call's name, or `call` for a service of the host's.
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

/// Who says what becomes of an access that nobody has decided about.
#[derive(Clone)]
pub(crate) enum Decider {
    /// Somebody is asked, and has so long.
    Ask { decide: Arc<Decide>, timeout: Duration },
    /// Nobody: each goes through this once, so that it can be learnt what a plugin needs.
    Learn,
}

impl Decider {
    pub(crate) fn ask(
        timeout: Duration,
        decide: impl Fn(&AccessRequest) -> Ruling + Send + Sync + 'static,
    ) -> Self {
        Self::Ask { decide: Arc::new(decide), timeout }
    }
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask { timeout, .. } => {
                f.debug_struct("Ask").field("timeout", timeout).finish_non_exhaustive()
            }
            Self::Learn => f.write_str("Learn"),
        }
    }
}

/// How many questions may be open at once, of one plugin and beyond the first of each plugin, those that a decider never
/// answers included. The first of a plugin's always may: no plugin keeps another from being asked about.
const MOST_OF_ONE: usize = 8;
const MOST_BEYOND: usize = 32;

/// How many there are beyond the first of each plugin.
static BEYOND: AtomicUsize = AtomicUsize::new(0);

/// How many questions of one plugin are open, over all of its helpers.
pub(crate) type Open = Arc<AtomicUsize>;

/// The right to have a question open.
struct Seat {
    open: Open,
    beyond: bool,
}

impl Seat {
    fn take(open: &Open) -> Option<Self> {
        fn one_more(of: &AtomicUsize, most: usize) -> Option<usize> {
            let more = |open| (open < most).then_some(open + 1);
            of.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()
        }
        let is_first = one_more(open, MOST_OF_ONE)? == 0;
        // Given back by itself where there is no room beyond.
        let mut seat = Self { open: Arc::clone(open), beyond: false };
        if !is_first {
            one_more(&BEYOND, MOST_BEYOND)?;
            seat.beyond = true;
        }
        Some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        if self.beyond {
            BEYOND.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What is said about `wish`; no, if nothing is said in time. What is denied is remembered, what is allowed always granted.
/// What there is no room to ask about is denied this once.
pub(crate) fn rule(instance: &Instance, wish: &AccessRequest) -> Ruling {
    let ruling = match instance.subject.decider() {
        None => Ruling::Deny,
        Some(Decider::Learn) => Ruling::AllowOnce,
        Some(Decider::Ask { decide, timeout }) => {
            let may_ask = instance.questions().may_ask(&wish.permission, Instant::now());
            let seat = if may_ask { Seat::take(instance.subject.open_questions()) } else { None };
            let Some(seat) = seat else { return Ruling::Deny };
            ask(decide, timeout, wish.clone(), seat)
        }
    };
    match ruling {
        Ruling::AllowOnce => {}
        Ruling::AllowAlways => instance.subject.grant(wish.permission.clone()),
        Ruling::Deny => instance.questions().remember_denied(&wish.permission),
    }
    ruling
}

fn ask(decide: Arc<Decide>, timeout: Duration, wish: AccessRequest, seat: Seat) -> Ruling {
    let (say, said) = bounded(1);
    let work = move || {
        signals::block_all();
        // The seat is taken for as long as the embedder's code runs, whether anybody still waits for it or not.
        let _seat = seat;
        let ruling = catch_unwind(AssertUnwindSafe(|| decide(&wish)));
        let _ = say.send(ruling.unwrap_or(Ruling::Deny));
    };
    // A thread that cannot be had is an answer that does not come.
    match std::thread::Builder::new().name("plugin-decider".to_owned()).spawn(work) {
        Ok(_) => said.recv_timeout(timeout).unwrap_or(Ruling::Deny),
        Err(_) => Ruling::Deny,
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
    pub(crate) fn remember_denied(&mut self, wanted: &PluginPermission) {
        if self.denied.contains(wanted) {
            return;
        }
        if self.denied.len() >= MOST_REMEMBERED {
            self.denied.pop_front();
        }
        self.denied.push_back(wanted.clone());
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
    fn no_plugin_keeps_another_from_its_first_question() {
        let plugins: [Open; 8] = Default::default();
        let mut seats = Vec::new();
        for plugin in &plugins {
            seats.extend((0..2 * MOST_OF_ONE).map_while(|_| Seat::take(plugin)));
        }
        assert_eq!(plugins[0].load(Ordering::Acquire), MOST_OF_ONE);
        assert_eq!(BEYOND.load(Ordering::Acquire), MOST_BEYOND);
        assert!(plugins.iter().all(|plugin| plugin.load(Ordering::Acquire) > 0));
        let another = Open::default();
        let first = Seat::take(&another).unwrap();
        assert!(Seat::take(&another).is_none(), "there is no room beyond");
        drop(seats);
        assert!(Seat::take(&another).is_some());
        drop(first);
        assert_eq!((another.load(Ordering::Acquire), BEYOND.load(Ordering::Acquire)), (0, 0));
    }

    #[test]
    fn what_was_denied_is_not_asked_again_and_the_memory_of_it_is_bounded() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        questions.remember_denied(&wanted("/a"));
        assert!(!questions.may_ask(&wanted("/a"), now));
        assert!(questions.may_ask(&wanted("/b"), now));
        (0..2 * MOST_REMEMBERED).for_each(|n| questions.remember_denied(&wanted(&format!("/{n}"))));
        assert_eq!(questions.denied.len(), MOST_REMEMBERED);
    }
}
