//! What was done how often, and what it came to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many wrong answers are told whole; the others are counted.
const TOLD: u64 = 20;

/// Counts, of all threads.
#[derive(Debug)]
pub(crate) struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By step and outcome.
    counts: BTreeMap<(&'static str, String), (u64, Duration)>,
    steps: u64,
    crashes: u64,
    storms: u64,
    wrong: u64,
    /// What each thread is doing, and since when.
    doing: Vec<Option<(String, Instant)>>,
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All its answers were right.
    Right,
    /// The plugin ended as it had to, for this cause.
    Crashed(&'static str),
    /// The zygote was killed meanwhile, and the plugin with it.
    Storm,
    /// It should not have come to this.
    Wrong(String),
}

impl Tally {
    pub(crate) fn new(threads: usize) -> Self {
        Self { inner: Mutex::new(Inner { doing: vec![None; threads], ..Inner::default() }) }
    }

    /// A thread begins a step.
    pub(crate) fn begins(&self, thread: usize, step: String) {
        self.inner().doing[thread] = Some((step, Instant::now()));
    }

    /// It has ended.
    pub(crate) fn ends(&self, thread: usize, name: &'static str, number: u64, outcome: Outcome) {
        let mut inner = self.inner();
        let Some((step, began)) = inner.doing[thread].take() else { return };
        inner.steps += 1;
        let outcome = match outcome {
            Outcome::Right => "right".to_owned(),
            Outcome::Crashed(cause) => {
                inner.crashes += 1;
                format!("ended: {cause}")
            }
            Outcome::Storm => {
                inner.storms += 1;
                "zygote killed meanwhile".to_owned()
            }
            Outcome::Wrong(what) => {
                inner.wrong += 1;
                if inner.wrong <= TOLD {
                    println!("WRONG: thread {thread}, step {number}, {step}: {what}");
                }
                "WRONG".to_owned()
            }
        };
        let (count, time) = inner.counts.entry((name, outcome)).or_default();
        *count += 1;
        *time += began.elapsed();
    }

    /// Something that nothing excuses, told apart from its step's outcome.
    pub(crate) fn wrong_in_a_storm(&self, thread: usize, what: &str) {
        self.inner().wrong += 1;
        println!("WRONG: thread {thread}, in spite of the zygote's end: {what}");
    }

    /// Whether anything went wrong.
    pub(crate) fn failed(&self) -> bool {
        self.inner().wrong > 0
    }

    /// How far it is.
    pub(crate) fn line(&self) -> String {
        let inner = self.inner();
        format!(
            "{} steps, {} crashes, {} cut short by the zygote's end, {} wrong",
            inner.steps, inner.crashes, inner.storms, inner.wrong
        )
    }

    /// A thread that has been at one step for longer than this, in words.
    pub(crate) fn stuck(&self, after: Duration) -> Option<String> {
        let inner = self.inner();
        inner.doing.iter().enumerate().find_map(|(thread, doing)| {
            let (step, began) = doing.as_ref().filter(|(_, began)| began.elapsed() > after)?;
            Some(format!("thread {thread} has been at {step} for {} s", began.elapsed().as_secs()))
        })
    }

    /// All counts, one a line.
    pub(crate) fn table(&self) -> String {
        let inner = self.inner();
        let mut table = format!("  {:<26} {:<34} {:>8} {:>10}\n", "step", "outcome", "count", "mean ms");
        for ((name, outcome), (count, time)) in &inner.counts {
            let mean = time.as_secs_f64() * 1000.0 / *count as f64;
            let _ = writeln!(table, "  {name:<26} {outcome:<34} {count:>8} {mean:>10.2}");
        }
        table
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
