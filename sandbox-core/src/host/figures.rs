//! What a plugin has done so far, in numbers: counted as it happens, read whenever somebody looks.
//!
//! Runs in the host, on any thread. Owns the counters and the values that are read of them; the text for Prometheus is made in
//! `host::metrics`. Never waits and takes no lock: where a plugin is served to count is one addition.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::usage::ResourceUsage;
use crate::shared::policy::{ResourceLimits, STANDARD_PERMISSIONS, milliseconds};

/// How many bounds a latency is compared with: each twice the one before, from 1 µs to 67 s.
const BOUNDS: usize = 27;

/// How many standard permissions there are.
const STANDARD: usize = 7;

/// The permissions that denials are counted under; what a host names itself is counted together.
const OTHER: &str = "other";

/// What a host's plugins have done, and use at the moment.
///
/// ```
/// use sandbox_core::{PluginPolicy, PluginSandboxManager};
/// let manager = PluginSandboxManager::new();
/// manager.register_plugin("thumbs", PluginPolicy::new())?;
/// let figures = manager.figures();
/// assert_eq!((figures.plugins[0].plugin.as_str(), figures.plugins[0].calls), ("thumbs", 0));
/// assert!(figures.prometheus().contains("plugin_sandbox_calls_total{outcome=\"ok\",plugin=\"thumbs\"} 0"));
/// # Ok::<(), sandbox_core::PluginSandboxError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct HostFigures {
    /// The version of the host's `sandbox-core`.
    pub version: String,
    /// The host's process.
    pub process_id: u32,
    /// Events that subscribers of the manager and audit logs have lost, because they did not keep up.
    pub events_lost: u64,
    /// Each plugin, in the order of their ids.
    pub plugins: Vec<PluginFigures>,
}

/// What one plugin has done since it was registered, and uses at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct PluginFigures {
    /// Its id.
    pub plugin: String,
    /// Where it stands: a [`PluginState`](crate::PluginState) in its word, such as `active`.
    pub state: String,
    /// Its helper's process, while that lives.
    pub process_id: Option<u32>,
    /// Why the last of its helpers ended that did.
    pub last_end: Option<String>,
    /// What it holds, as `name` or `name:scope`.
    pub permissions: Vec<String>,
    /// Its limits.
    pub limits: ResourceLimits,
    /// What its last helper uses or has used; `None` before the first.
    pub usage: Option<ResourceUsage>,
    /// Calls into it that have come to an end, one way or another.
    pub calls: u64,
    /// Those of them that were no success: it answered with an error, panicked, or ended.
    pub failed_calls: u64,
    /// How long calls took, without what they waited for others to end.
    pub latency: CallLatency,
    /// Services that it has called, whether they went through or not.
    pub service_calls: u64,
    /// Bytes of payloads of calls, and of answers of services, that it was sent.
    pub sent_bytes: u64,
    /// Bytes of results of calls, and of what it called services with.
    pub received_bytes: u64,
    /// What was refused, by the name of the permission that it lacked; `other` are permissions of the host's own, and services
    /// that nothing opens.
    pub denials: BTreeMap<String, u64>,
    /// Loads that succeeded.
    pub loads: u64,
    /// Helpers that ended without the host having asked for it.
    pub crashes: u64,
    /// Loads that succeeded after a crash, whoever began them.
    pub restarts: u64,
    /// Events that subscribers of this plugin and audit logs have lost, because they did not keep up.
    pub events_lost: u64,
}

/// How long calls took, as a count for each power of two of microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct CallLatency {
    /// How many took no longer than 1 µs, then how many of the others no longer than 2 µs, 4 µs, and so on to 67 s; the last
    /// are all that took longer.
    pub buckets: Vec<u64>,
    /// All of them together.
    #[serde(rename = "sum_ms", with = "milliseconds")]
    pub sum: Duration,
}

impl PluginFigures {
    /// What was refused, altogether.
    pub fn denied(&self) -> u64 {
        self.denials.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

impl CallLatency {
    /// The longest that is counted in the bucket with this index; `None` in the last, which has no bound.
    pub fn bound(index: usize) -> Option<Duration> {
        let micros = 1_u64.checked_shl(u32::try_from(index).ok()?)?;
        (index < BOUNDS).then(|| Duration::from_micros(micros))
    }

    /// How many calls.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How long the quickest `share` of the calls took at most, to the next power of two: 0.5 is the median. `None` if there
    /// was no call, and for those beyond the last bound.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "a share of very many calls need not be exact")]
        let wanted = share * self.count() as f64;
        let mut seen = 0_u64;
        for (index, count) in self.buckets.iter().enumerate() {
            seen = seen.saturating_add(*count);
            #[expect(clippy::cast_precision_loss, reason = "as above")]
            if seen > 0 && seen as f64 >= wanted {
                return Self::bound(index);
            }
        }
        None
    }

    /// What was added since `earlier`; all of it if these are not its later figures.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let buckets = self.buckets.iter().enumerate();
        let added = buckets
            .map(|(index, count)| count.checked_sub(earlier.buckets.get(index).copied().unwrap_or_default()));
        match (added.collect(), self.sum.checked_sub(earlier.sum)) {
            (Some(buckets), Some(sum)) => Self { buckets, sum },
            _ => self.clone(),
        }
    }
}

/// How a call came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    Returned,
    Failed,
}

/// One plugin's counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    latency: [AtomicU64; BOUNDS + 1],
    latency_sum_nanos: AtomicU64,
    failed_calls: AtomicU64,
    service_calls: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    /// As many as there are standard permissions, and one for the others.
    denials: [AtomicU64; STANDARD + 1],
    loads: AtomicU64,
    crashes: AtomicU64,
    restarts: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
    let bits = u64::BITS - micros.saturating_sub(1).leading_zeros();
    usize::try_from(bits).unwrap_or(BOUNDS).min(BOUNDS)
}

impl Counters {
    pub(crate) fn called(&self, took: Duration, outcome: CallOutcome) {
        if let Some(bucket) = self.latency.get(bucket(took)) {
            add(bucket, 1);
        }
        add(&self.latency_sum_nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if outcome == CallOutcome::Failed {
            add(&self.failed_calls, 1);
        }
    }

    pub(crate) fn service_called(&self) {
        add(&self.service_calls, 1);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        add(&self.sent_bytes, size(bytes));
    }

    pub(crate) fn received(&self, bytes: usize) {
        add(&self.received_bytes, size(bytes));
    }

    pub(crate) fn denied(&self, permission: Option<&str>) {
        let known = STANDARD_PERMISSIONS.iter().position(|known| Some(known.name()) == permission);
        if let Some(counter) = self.denials.get(known.unwrap_or(STANDARD)) {
            add(counter, 1);
        }
    }

    pub(crate) fn loaded(&self) {
        add(&self.loads, 1);
    }

    pub(crate) fn crashed(&self) {
        add(&self.crashes, 1);
    }

    pub(crate) fn restarted(&self) {
        add(&self.restarts, 1);
    }

    /// What was counted, in figures that lack the rest.
    pub(crate) fn read(&self) -> PluginFigures {
        let latency = CallLatency {
            buckets: self.latency.iter().map(read).collect(),
            sum: Duration::from_nanos(read(&self.latency_sum_nanos)),
        };
        let names = STANDARD_PERMISSIONS.into_iter().map(|known| known.name().to_owned());
        let names = names.chain([OTHER.to_owned()]);
        PluginFigures {
            calls: latency.count(),
            failed_calls: read(&self.failed_calls),
            latency,
            service_calls: read(&self.service_calls),
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
            denials: names.zip(self.denials.iter().map(read)).collect(),
            loads: read(&self.loads),
            crashes: read(&self.crashes),
            restarts: read(&self.restarts),
            ..PluginFigures::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_under_the_first_bound_that_it_does_not_pass() {
        for (nanos, bound) in [
            (0, Some(1)),
            (1_000, Some(1)),
            (1_001, Some(2)),
            (2_000, Some(2)),
            (2_001, Some(4)),
            (999_000, Some(1024)),
            (1_024_001, Some(2048)),
            (67_108_864_000, Some(1 << 26)),
            (67_108_864_001, None),
            (u64::MAX, None),
        ] {
            let counters = Counters::default();
            counters.called(Duration::from_nanos(nanos), CallOutcome::Returned);
            let latency = counters.read().latency;
            let counted = latency.buckets.iter().position(|count| *count == 1).unwrap();
            assert_eq!(CallLatency::bound(counted), bound.map(Duration::from_micros), "{nanos} ns");
            assert_eq!((latency.count(), latency.sum), (1, Duration::from_nanos(nanos)));
        }
    }

    #[test]
    fn a_quantile_is_the_bound_that_so_many_calls_kept() {
        let latency = |micros: &[u64]| {
            let counters = Counters::default();
            micros.iter().for_each(|us| counters.called(Duration::from_micros(*us), CallOutcome::Returned));
            counters.read().latency
        };
        let all = latency(&[10, 10, 10, 10, 10, 10, 10, 10, 10, 5000]);
        for (share, micros) in [(0.0, 16), (0.5, 16), (0.9, 16), (0.99, 8192), (1.0, 8192)] {
            assert_eq!(all.quantile(share), Some(Duration::from_micros(micros)), "{share}");
        }
        assert_eq!(latency(&[]).quantile(0.5), None);
        assert_eq!(latency(&[100_000_000]).quantile(0.5), None);
        let recent = latency(&[10, 5000, 5000]).since(&latency(&[10]));
        assert_eq!((recent.count(), recent.quantile(0.0)), (2, Some(Duration::from_micros(8192))));
        let of_another = latency(&[10]).since(&all);
        assert_eq!(of_another, latency(&[10]));
    }

    #[test]
    fn denials_are_counted_under_the_standard_names_and_one_more() {
        let counters = Counters::default();
        for permission in [Some("file-read"), Some("file-read"), Some("network"), Some("clipboard"), None] {
            counters.denied(permission);
        }
        let figures = counters.read();
        let counted: Vec<_> =
            figures.denials.iter().filter(|(_, n)| **n > 0).map(|(p, n)| (p.as_str(), *n)).collect();
        assert_eq!(counted, [("file-read", 2), ("network", 1), ("other", 2)]);
        assert_eq!((figures.denied(), figures.denials.len()), (5, STANDARD + 1));
        assert_eq!(STANDARD_PERMISSIONS.len(), STANDARD);
    }
}
