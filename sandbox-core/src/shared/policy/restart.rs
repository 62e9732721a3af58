//! Whether a plugin that has ended is loaded again, how long that waits, and how many crashes are too many.
//!
//! Runs in any process. Owns the formula of the delay. Never keeps the time: `host::supervise::restarts` does.

use std::time::Duration;

use super::limits::LimitError;

/// The most crashes that are counted for one library.
pub(crate) const MOST_CRASHES: u32 = 100;

/// When a plugin is loaded again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RestartWhen {
    /// Never: whoever wants it back loads it.
    #[default]
    Never,
    /// When it has ended and nobody had asked for that, but for a plugin that exited with code 0.
    OnCrash,
    /// When it has ended and nobody had asked for that.
    Always,
}

/// How long a restart waits.
///
/// Before the *n*th restart in a row: `first × factor^(n-1)`, at most `most`; of that a random part of up to `jitter` is taken
/// off, so that plugins which crashed together do not come back together. A plugin that has run for longer than the policy's
/// window begins anew with `first`.
///
/// By default 0.5 s, 1 s, 2 s and so on up to 60 s, each up to a fifth shorter.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Backoff {
    /// Before the first restart; 1 ms to a day.
    pub first: Duration,
    /// No restart waits for longer; `first` to 7 days.
    pub most: Duration,
    /// How much longer each waits than the one before; 1 to 100.
    pub factor: f64,
    /// Which part of the delay chance may take off; 0 to 1.
    pub jitter: f64,
}

/// What becomes of a plugin that ends without being asked to: part of a [`PluginPolicy`](crate::PluginPolicy).
///
/// ```
/// use std::time::Duration;
/// use sandbox_core::{Backoff, PluginPolicy, RestartPolicy};
/// let policy = PluginPolicy::new().restart(
///     RestartPolicy::on_crash()
///         .backoff(Backoff::default().first(Duration::from_millis(100)).most(Duration::from_secs(10)))
///         .quarantine_after(3, Duration::from_secs(60)),
/// );
/// # let _ = policy;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RestartPolicy {
    /// When it is loaded again.
    pub when: RestartWhen,
    /// How long that waits.
    pub backoff: Backoff,
    /// After how many crashes within the window the library is quarantined; 1 to 100, `None` for never.
    pub crashes: Option<u32>,
    /// How long a crash counts, and how long a plugin has to run for its back-off to begin anew; 1 ms to a year.
    pub window: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let (first, most) = (Duration::from_millis(500), Duration::from_secs(60));
        Self { first, most, factor: 2.0, jitter: 0.2 }
    }
}

impl Backoff {
    /// Sets [`first`](#structfield.first).
    #[must_use]
    pub fn first(mut self, delay: Duration) -> Self {
        self.first = delay;
        self
    }

    /// Sets [`most`](#structfield.most).
    #[must_use]
    pub fn most(mut self, delay: Duration) -> Self {
        self.most = delay;
        self
    }

    /// Sets [`factor`](#structfield.factor).
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// Sets [`jitter`](#structfield.jitter).
    #[must_use]
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// How long the restart number `attempt`, from 1 on, waits, where `chance` is 0 to 1.
    pub(crate) fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.first.as_secs_f64() * self.factor.powi(exponent);
        // An overflow is infinite, and `most` is less than that.
        let whole = grown.min(self.most.as_secs_f64());
        Duration::try_from_secs_f64(whole * (1.0 - self.jitter * chance.clamp(0.0, 1.0))).unwrap_or(self.most)
    }
}

impl Default for RestartPolicy {
    /// No restart; where crashes are counted, five within ten minutes are too many.
    fn default() -> Self {
        let window = Duration::from_secs(600);
        Self { when: RestartWhen::Never, backoff: Backoff::default(), crashes: Some(5), window }
    }
}

impl RestartPolicy {
    /// No restart. Crashes are counted only if the embedder names a [`QuarantineStore`](crate::QuarantineStore).
    pub fn never() -> Self {
        Self::default()
    }

    /// [`RestartWhen::OnCrash`], with the default back-off; quarantined after five crashes within ten minutes.
    pub fn on_crash() -> Self {
        Self { when: RestartWhen::OnCrash, ..Self::default() }
    }

    /// [`RestartWhen::Always`], with the default back-off; quarantined after five crashes within ten minutes.
    pub fn always() -> Self {
        Self { when: RestartWhen::Always, ..Self::default() }
    }

    /// Replaces the back-off.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Quarantines the library after so many crashes within so long.
    #[must_use]
    pub fn quarantine_after(mut self, crashes: u32, window: Duration) -> Self {
        (self.crashes, self.window) = (Some(crashes), window);
        self
    }

    /// Never quarantines the library, however often it crashes.
    #[must_use]
    pub fn never_quarantine(mut self) -> Self {
        self.crashes = None;
        self
    }

    /// Checks that all of it is within its range.
    ///
    /// # Errors
    /// [`LimitError`] for the first that is not.
    pub fn check(&self) -> Result<(), LimitError> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let Backoff { first, most, factor, jitter } = self.backoff;
        let within = |is: bool, name, value: String, range| match is {
            true => Ok(()),
            false => Err(LimitError { name, value, range }),
        };
        let least = Duration::from_millis(1);
        within((least..=DAY).contains(&first), "backoff.first", format!("{first:?}"), "1 ms to a day")?;
        within((first..=DAY * 7).contains(&most), "backoff.most", format!("{most:?}"), "`first` to 7 days")?;
        within((1.0..=100.0).contains(&factor), "backoff.factor", factor.to_string(), "1 to 100")?;
        within((0.0..=1.0).contains(&jitter), "backoff.jitter", jitter.to_string(), "0 to 1")?;
        let (window, crashes) = (self.window, self.crashes.unwrap_or(1));
        let (year, counted) = (DAY * 366, format!("{crashes}"));
        within((1..=MOST_CRASHES).contains(&crashes), "restart.crashes", counted, "1 to 100, or none")?;
        within((least..=year).contains(&window), "restart.window", format!("{window:?}"), "1 ms to a year")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_grows_by_the_factor_up_to_the_most() {
        let backoff = Backoff::default().jitter(0.0);
        for (attempt, millis) in [(1, 500), (2, 1000), (3, 2000), (7, 32_000), (8, 60_000), (9, 60_000)] {
            assert_eq!(backoff.delay(attempt, 0.5), Duration::from_millis(millis), "{attempt}");
        }
        assert_eq!(backoff.delay(u32::MAX, 1.0), Duration::from_secs(60), "whatever overflows");
        assert_eq!(backoff.delay(0, 0.0), Duration::from_millis(500));
    }

    #[test]
    fn chance_takes_off_no_more_than_the_jitter_and_adds_nothing() {
        let backoff = Backoff::default().jitter(0.25);
        let mut chance = fastrand::Rng::with_seed(7);
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for _ in 0..10_000 {
            let delay = backoff.delay(3, chance.f64());
            (least, most) = (least.min(delay), most.max(delay));
        }
        let (shortest, longest) = (Duration::from_millis(1500), Duration::from_millis(2000));
        assert!(least >= shortest && most <= longest, "{least:?} {most:?}");
        // And all of it is used.
        assert!(
            least < Duration::from_millis(1510) && most > Duration::from_millis(1990),
            "{least:?} {most:?}"
        );
    }

    #[test]
    fn what_is_out_of_its_range_is_refused_with_the_range() {
        let good = RestartPolicy::on_crash();
        good.check().unwrap();
        good.never_quarantine().check().unwrap();
        let with = |change: fn(Backoff) -> Backoff| good.backoff(change(Backoff::default()));
        let bad = [
            with(|b| b.first(Duration::ZERO)),
            with(|b| b.most(Duration::from_millis(499))),
            with(|b| b.factor(0.5)),
            with(|b| b.factor(f64::NAN)),
            with(|b| b.jitter(1.5)),
            with(|b| b.jitter(f64::NAN)),
            good.quarantine_after(0, Duration::from_secs(1)),
            good.quarantine_after(MOST_CRASHES + 1, Duration::from_secs(1)),
            good.quarantine_after(1, Duration::ZERO),
        ];
        for policy in bad {
            policy.check().expect_err(&format!("{policy:?}"));
        }
    }
}
