//! What a plugin does without end is counted, not told each time: of the accesses and service calls of one plugin, which are
//! told one by one.
//!
//! Runs in the host, on whatever thread an event is made. Owns the bounds on what is remembered of one plugin. Never loses
//! anything silently: what is not told is owed, and told as a count when the window is over, or before the next event of
//! another kind. Moves no state and knows no clock of its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant, SystemTime};

use super::events::EventKind;

/// How long counts are put off.
const WINDOW: Duration = Duration::from_secs(1);

/// How often the very same event is told in one window.
const TOLD_ALIKE: u32 = 16;

/// How many different events are remembered, so that they are known again.
const MOST_REMEMBERED: usize = 256;

/// How many events of one group are told one by one in a row, and how many more with each second: enough for a program
/// that starts and reads all its files.
const BURST: u64 = 1024;
const EACH_SECOND: u64 = 128;

/// What was told of one plugin a moment ago, and what is owed.
#[derive(Debug, Default)]
pub(crate) struct Folding {
    hasher: RandomState,
    window: Option<Instant>,
    alike: HashMap<u64, Alike>,
    groups: Vec<Group>,
    /// Whether something was not told.
    owes: bool,
}

/// One event, and how often it came in this window.
#[derive(Debug)]
struct Alike {
    event: EventKind,
    told: u32,
    more: u64,
    since: SystemTime,
}

/// The events about one permission with one verdict: each group has a budget of its own, so that a flood of refusals does
/// not hide what was granted meanwhile. There are no more than permissions, and those the host names.
#[derive(Debug)]
struct Group {
    permission: Option<String>,
    granted: bool,
    budget: u64,
    filled: Instant,
    more: u64,
    since: SystemTime,
}

impl Group {
    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        if seconds > 0 {
            self.budget = self.budget.saturating_add(seconds.saturating_mul(EACH_SECOND)).min(BURST);
            self.filled = now;
        }
    }

    /// Takes one event out of the budget, if there is any left.
    fn spend(&mut self) -> bool {
        let left = self.budget.checked_sub(1);
        self.budget = left.unwrap_or_default();
        left.is_some()
    }
}

/// The permission and the verdict of what may be folded.
fn group_of(event: &EventKind) -> Option<(Option<&str>, bool)> {
    match event {
        EventKind::Access { permission, granted, .. } => Some((Some(permission), *granted)),
        EventKind::ServiceCall { permission, granted, .. } => Some((permission.as_deref(), *granted)),
        _ => None,
    }
}

impl Folding {
    /// Takes note of an event. Returns what is to be told before it, and whether it is to be told itself.
    pub(crate) fn take(
        &mut self,
        event: &EventKind,
        now: Instant,
        time: SystemTime,
    ) -> (Vec<EventKind>, bool) {
        let Some((permission, granted)) = group_of(event) else {
            // What was folded before a state changed is told before that.
            return (self.settle(now), true);
        };
        let owed = self.settle_if_over(now);
        self.window.get_or_insert(now);
        let known =
            self.groups.iter().position(|g| g.permission.as_deref() == permission && g.granted == granted);
        if known.is_none() {
            let permission = permission.map(str::to_owned);
            self.groups.push(Group { permission, granted, budget: BURST, filled: now, more: 0, since: time });
        }
        let group = match known {
            Some(index) => self.groups.get_mut(index),
            None => self.groups.last_mut(),
        };
        let Some(group) = group else { return (owed, true) };
        group.fill(now);

        let hash = self.hasher.hash_one(format!("{event:?}"));
        let remembered = self.alike.len();
        match self.alike.get_mut(&hash).filter(|alike| alike.event == *event) {
            Some(alike) if alike.told < TOLD_ALIKE && group.spend() => {
                alike.told += 1;
                (owed, true)
            }
            Some(alike) => {
                if alike.more == 0 {
                    alike.since = time;
                }
                alike.more = alike.more.saturating_add(1);
                self.owes = true;
                (owed, false)
            }
            None if group.spend() => {
                if remembered < MOST_REMEMBERED {
                    let alike = Alike { event: event.clone(), told: 1, more: 0, since: time };
                    self.alike.entry(hash).or_insert(alike);
                }
                (owed, true)
            }
            None => {
                if group.more == 0 {
                    group.since = time;
                }
                group.more = group.more.saturating_add(1);
                self.owes = true;
                (owed, false)
            }
        }
    }

    /// Whether something was not told.
    pub(crate) fn owes(&self) -> bool {
        self.owes
    }

    /// What is owed, if the window is over.
    pub(crate) fn settle_if_over(&mut self, now: Instant) -> Vec<EventKind> {
        match self.window {
            Some(began) if now.saturating_duration_since(began) >= WINDOW => self.settle(now),
            _ => Vec::new(),
        }
    }

    /// What is owed. What was repeated stays known, and is only counted as long as it goes on.
    pub(crate) fn settle(&mut self, now: Instant) -> Vec<EventKind> {
        let mut owed = Vec::new();
        self.owes = false;
        self.alike.retain(|_, alike| {
            let count = std::mem::take(&mut alike.more);
            alike.told = TOLD_ALIKE;
            if count > 0 {
                let event = Box::new(alike.event.clone());
                owed.push(EventKind::Repeated { count, since: alike.since, event });
            }
            count > 0
        });
        for group in &mut self.groups {
            let count = std::mem::take(&mut group.more);
            if count > 0 {
                let (permission, granted) = (group.permission.clone(), group.granted);
                owed.push(EventKind::Folded { count, since: group.since, permission, granted });
            }
        }
        self.window = (!self.alike.is_empty()).then_some(now);
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::super::lifecycle::PluginState;
    use super::*;

    fn access(permission: &'static str, object: &str, granted: bool) -> EventKind {
        let (object, rule) = (object.to_owned(), "not granted".to_owned());
        EventKind::Access { permission, action: "open", object, resolved: None, granted, rule }
    }

    fn denial(object: &str) -> EventKind {
        access("file-read", object, false)
    }

    struct Told {
        folding: Folding,
        now: Instant,
        one_by_one: u64,
        repeated: u64,
        folded: u64,
    }

    impl Told {
        fn new() -> Self {
            Self { folding: Folding::default(), now: Instant::now(), one_by_one: 0, repeated: 0, folded: 0 }
        }

        fn count(&mut self, owed: &[EventKind]) {
            for event in owed {
                match event {
                    EventKind::Repeated { count, .. } => self.repeated += count,
                    EventKind::Folded { count, .. } => self.folded += count,
                    other => panic!("{other:?}"),
                }
            }
        }

        fn take(&mut self, event: &EventKind) {
            let (owed, tell) = self.folding.take(event, self.now, SystemTime::now());
            self.count(&owed);
            self.one_by_one += u64::from(tell);
        }

        fn settle(&mut self) {
            let owed = self.folding.settle(self.now);
            self.count(&owed);
            assert!(!self.folding.owes());
        }
    }

    #[test]
    fn what_repeats_is_told_some_times_and_then_counted() {
        let mut told = Told::new();
        for _ in 0..1000 {
            told.take(&denial("/a"));
        }
        assert_eq!((told.one_by_one, told.repeated), (u64::from(TOLD_ALIKE), 0));
        assert!(told.folding.owes());
        told.now += WINDOW;
        told.take(&denial("/b"));
        assert_eq!(
            (told.one_by_one, told.repeated),
            (u64::from(TOLD_ALIKE) + 1, 1000 - u64::from(TOLD_ALIKE))
        );
        told.take(&denial("/a"));
        told.settle();
        assert_eq!(told.repeated, 1001 - u64::from(TOLD_ALIKE), "what goes on is only counted");
        told.settle();
        told.take(&denial("/a"));
        assert_eq!(told.one_by_one, u64::from(TOLD_ALIKE) + 2, "what has paused is told again");
    }

    #[test]
    fn what_differs_is_told_up_to_a_generous_rate_and_then_counted() {
        let mut told = Told::new();
        for n in 0..BURST + 500 {
            told.take(&denial(&n.to_string()));
        }
        told.settle();
        assert_eq!((told.one_by_one, told.repeated, told.folded), (BURST, 0, 500));
        assert!(told.folding.alike.len() <= MOST_REMEMBERED);
        told.now += Duration::from_secs(2);
        for n in 0..BURST {
            told.take(&denial(&n.to_string()));
        }
        assert_eq!(told.one_by_one, BURST + 2 * EACH_SECOND);
    }

    #[test]
    fn a_flood_of_refusals_does_not_hide_what_was_granted() {
        let mut told = Told::new();
        for n in 0..2 * BURST {
            told.take(&denial(&n.to_string()));
        }
        for (permission, granted) in [("file-read", true), ("network", false)] {
            let before = told.one_by_one;
            told.take(&access(permission, "x", granted));
            assert_eq!(told.one_by_one, before + 1, "{permission} {granted}");
        }
    }

    #[test]
    fn nothing_is_lost_whatever_comes_in_whatever_order() {
        let mut told = Told::new();
        let mut made: u64 = 0;
        for turn in 0..20_000_u64 {
            // Some things often, some once; a simple generator, so that a failure is the same each time.
            let mixed = turn.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17);
            let object = if mixed % 3 == 0 { mixed % 7 } else { mixed };
            told.take(&access(
                if mixed % 5 == 0 { "network" } else { "file-read" },
                &object.to_string(),
                mixed % 2 == 0,
            ));
            made += 1;
            told.now += Duration::from_micros(mixed % 997);
        }
        told.settle();
        assert_eq!(told.one_by_one + told.repeated + told.folded, made);
        assert!(told.folded > 0 && told.repeated > 0);
    }

    #[test]
    fn a_change_of_state_is_told_each_time_and_after_what_was_folded_before_it() {
        let mut folding = Folding::default();
        let now = Instant::now();
        for _ in 0..100 {
            folding.take(&denial("/a"), now, SystemTime::now());
        }
        let change = EventKind::StateChanged { from: PluginState::Loaded, to: PluginState::Active };
        let (owed, tell) = folding.take(&change, now, SystemTime::now());
        assert!(tell);
        assert!(matches!(owed.as_slice(), [EventKind::Repeated { count: 84, .. }]), "{owed:?}");
        assert_eq!(folding.take(&change, now, SystemTime::now()), (Vec::new(), true));
    }
}
