//! How much of the machine one plugin may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::milliseconds;

/// How much one plugin may use. `None` stands for no limit.
///
/// The defaults are those of the plugin sandbox specification: 100 MiB, 10 CPU seconds, 10 file handles, 5 network
/// connections; and beyond it files of 1024 MiB, 16 threads, 8 processes, 16 MiB messages, 1 MiB of output a second, 64 services
/// called and 256 messages waiting, and 5 seconds for each operation.
///
/// ```
/// use sandbox_core::ResourceLimits;
/// let limits = ResourceLimits::default().max_memory_mb(64).max_cpu_time_sec(None);
/// assert_eq!(limits.max_memory_mb, Some(64));
/// assert_eq!(limits.max_cpu_time_sec, None);
/// assert_eq!(limits.max_file_handles, Some(10));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct ResourceLimits {
    /// Memory that the plugin may allocate, in MiB (`RLIMIT_DATA`, see getrlimit(2), and a looser `RLIMIT_AS`).
    /// An allocation over it fails.
    pub max_memory_mb: Option<u64>,
    /// CPU seconds of all its threads from one activation to the next; constructors count to the first. The host reads
    /// them from the process's CPU clock and ends the plugin.
    pub max_cpu_time_sec: Option<u64>,
    /// Which part of one CPU it may use, with everything that it starts, in percent: 50 for half of one, 250 for two and a half.
    /// Held by a cgroup (`cpu.max`, in version 1 `cpu.cfs_quota_us`), which has it wait. Where there is none with a CPU
    /// controller nothing is loaded: no rlimit can do it. None by default.
    pub max_cpu_percent: Option<u64>,
    /// Descriptors that the plugin itself may hold at once (`RLIMIT_NOFILE`; the sandbox's own do not count).
    /// The next one is refused with `EMFILE`.
    pub max_file_handles: Option<u64>,
    /// The size of a file, in MiB, beyond which the plugin makes none grow (`RLIMIT_FSIZE`). A write over it is refused with
    /// `EFBIG`. What it fills a disk with altogether is not bounded by this.
    pub max_file_size_mb: Option<u64>,
    /// Scratch space in MiB: so much of memory (a tmpfs) is the plugin's own at `/tmp`, to read and to write without a permission,
    /// with 1024 files for each MiB. What is over is refused with `ENOSPC`. Nobody else sees it, and it goes with the plugin; the
    /// host's own `/tmp` is not reached then, whatever is granted. 0, the default, for none. Where nobody can make one (an
    /// ordinary user without user namespaces) nothing is loaded.
    pub max_scratch_mb: u64,
    /// Live network connections: sockets that are connected, accepted, or have sent to somebody. One that is closed makes room.
    /// The next one is refused with `EMFILE`, by `connect`, `accept` and `sendto` alike.
    pub max_network_connections: Option<u64>,
    /// Threads besides the one that the plugin is called on (`RLIMIT_NPROC`). The next one is refused with `EAGAIN`.
    pub max_threads: Option<u64>,
    /// Processes that the plugin may have at once beside its own, with the permission `process`: programs that it starts,
    /// what those start, and what was not waited for. The next one is refused with `EAGAIN`. The limits on memory,
    /// descriptors and threads are for each of them; CPU time and, where there is a cgroup, memory are for all together.
    pub max_processes: Option<u64>,
    /// The largest payload or result of a call, either way, in bytes. A larger one is an error of that call.
    pub max_message_bytes: u64,
    /// How many bytes of what it prints are taken, from a load to its end. What is over is read, counted and dropped, but for
    /// the last 4 KiB: the plugin goes on, and never waits for it. None by default: the last 64 KiB are kept anyhow.
    pub max_output_bytes: Option<u64>,
    /// How many bytes of what it prints are taken in each second. What is over is dropped as above.
    pub max_output_bytes_per_sec: Option<u64>,
    /// How many services it may have called from threads of its own and not been answered. One more ends it.
    pub max_pending_services: u64,
    /// How many messages of other plugins may wait for it, and a quarter of that from each. A sender of one more is told that
    /// the queue is full.
    pub max_queued_messages: u64,
    /// How long loading may take, constructors included.
    #[serde(rename = "load_timeout_ms", with = "milliseconds")]
    pub load_timeout: Duration,
    /// How long `activate` may take. Time in which the plugin waits for the host does not count; so for the next two.
    #[serde(rename = "activate_timeout_ms", with = "milliseconds")]
    pub activate_timeout: Duration,
    /// How long `deactivate`, and the end after an unload, may take.
    #[serde(rename = "deactivate_timeout_ms", with = "milliseconds")]
    pub deactivate_timeout: Duration,
    /// How long one call may take.
    #[serde(rename = "call_timeout_ms", with = "milliseconds")]
    pub call_timeout: Duration,
}

/// A limit that no plugin could run under, or that no kernel could hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limit {name} is {value}: want {range}")]
pub struct LimitError {
    /// The field.
    pub name: &'static str,
    /// The value that was given.
    pub value: String,
    /// What it may be.
    pub range: &'static str,
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self {
            max_memory_mb: Some(100),
            max_cpu_time_sec: Some(10),
            max_cpu_percent: None,
            max_file_handles: Some(10),
            max_file_size_mb: Some(1024),
            max_scratch_mb: 0,
            max_network_connections: Some(5),
            max_threads: Some(16),
            max_processes: Some(8),
            max_message_bytes: 16 << 20,
            max_output_bytes: None,
            max_output_bytes_per_sec: Some(1 << 20),
            max_pending_services: 64,
            max_queued_messages: 256,
            load_timeout: Duration::from_secs(5),
            activate_timeout: Duration::from_secs(5),
            deactivate_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(5),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        impl ResourceLimits {
            $($(#[$doc])* #[must_use] pub fn $name(mut self, value: $type) -> Self { self.$name = value.into(); self })*
        }
    };
}

setters! {
    /// Sets [`max_memory_mb`](#structfield.max_memory_mb), in MiB; `None` for no limit.
    max_memory_mb: impl Into<Option<u64>>,
    /// Sets [`max_cpu_time_sec`](#structfield.max_cpu_time_sec), in seconds; `None` for no limit.
    max_cpu_time_sec: impl Into<Option<u64>>,
    /// Sets [`max_cpu_percent`](#structfield.max_cpu_percent), in percent of one CPU; `None` for no limit.
    max_cpu_percent: impl Into<Option<u64>>,
    /// Sets [`max_file_handles`](#structfield.max_file_handles); `None` for as many as the host itself may open.
    max_file_handles: impl Into<Option<u64>>,
    /// Sets [`max_file_size_mb`](#structfield.max_file_size_mb), in MiB; `None` for no limit.
    max_file_size_mb: impl Into<Option<u64>>,
    /// Sets [`max_scratch_mb`](#structfield.max_scratch_mb), in MiB; 0 for none.
    max_scratch_mb: u64,
    /// Sets [`max_network_connections`](#structfield.max_network_connections); `None` for no limit.
    max_network_connections: impl Into<Option<u64>>,
    /// Sets [`max_threads`](#structfield.max_threads); `None` for no limit.
    max_threads: impl Into<Option<u64>>,
    /// Sets [`max_processes`](#structfield.max_processes); `None` for no limit.
    max_processes: impl Into<Option<u64>>,
    /// Sets [`max_message_bytes`](#structfield.max_message_bytes), in bytes.
    max_message_bytes: u64,
    /// Sets [`max_output_bytes`](#structfield.max_output_bytes), in bytes; `None` for no limit.
    max_output_bytes: impl Into<Option<u64>>,
    /// Sets [`max_output_bytes_per_sec`](#structfield.max_output_bytes_per_sec), in bytes; `None` for no limit.
    max_output_bytes_per_sec: impl Into<Option<u64>>,
    /// Sets [`max_pending_services`](#structfield.max_pending_services).
    max_pending_services: u64,
    /// Sets [`max_queued_messages`](#structfield.max_queued_messages).
    max_queued_messages: u64,
    /// Sets [`load_timeout`](#structfield.load_timeout).
    load_timeout: Duration,
    /// Sets [`activate_timeout`](#structfield.activate_timeout).
    activate_timeout: Duration,
    /// Sets [`deactivate_timeout`](#structfield.deactivate_timeout).
    deactivate_timeout: Duration,
    /// Sets [`call_timeout`](#structfield.call_timeout).
    call_timeout: Duration,
}

impl ResourceLimits {
    /// Each limit that is a number, with the least and the most that it may be.
    fn numbers(&self) -> [(&'static str, Option<u64>, u64, u64, &'static str); 14] {
        const COUNT: &str = "0 to 524288, or none";
        const BYTES: &str = "0 to 1099511627776 bytes, or none";
        [
            ("max_memory_mb", self.max_memory_mb, 8, 1 << 20, "8 to 1048576 MiB, or none"),
            ("max_cpu_time_sec", self.max_cpu_time_sec, 1, 1 << 32, "1 to 4294967296 seconds, or none"),
            ("max_cpu_percent", self.max_cpu_percent, 1, 100 << 10, "1 to 102400 percent, or none"),
            ("max_file_handles", self.max_file_handles, 0, 1 << 19, COUNT),
            ("max_file_size_mb", self.max_file_size_mb, 0, 1 << 30, "0 to 1073741824 MiB, or none"),
            ("max_scratch_mb", Some(self.max_scratch_mb), 0, 1 << 16, "0 to 65536 MiB"),
            ("max_network_connections", self.max_network_connections, 0, 1 << 19, COUNT),
            ("max_threads", self.max_threads, 0, 1 << 15, "0 to 32768, or none"),
            ("max_processes", self.max_processes, 0, 1 << 15, "0 to 32768, or none"),
            ("max_message_bytes", Some(self.max_message_bytes), 1024, 1 << 28, "1024 to 268435456 bytes"),
            ("max_output_bytes", self.max_output_bytes, 0, 1 << 40, BYTES),
            ("max_output_bytes_per_sec", self.max_output_bytes_per_sec, 0, 1 << 40, BYTES),
            ("max_pending_services", Some(self.max_pending_services), 1, 1 << 12, "1 to 4096"),
            ("max_queued_messages", Some(self.max_queued_messages), 0, 1 << 16, "0 to 65536"),
        ]
    }

    /// What a limit that is a number is, by its field's name.
    pub(crate) fn value_of(&self, name: &str) -> Option<u64> {
        self.numbers().into_iter().find(|(known, ..)| *known == name)?.1
    }

    /// Checks that a helper could run under these limits.
    ///
    /// # Errors
    /// [`LimitError`] for the first field that is out of its range.
    pub fn check(&self) -> Result<(), LimitError> {
        for (name, value, least, most, range) in self.numbers() {
            if let Some(n) = value.filter(|n| *n < least || *n > most) {
                return Err(LimitError { name, value: n.to_string(), range });
            }
        }
        for (name, timeout) in [
            ("load_timeout", self.load_timeout),
            ("activate_timeout", self.activate_timeout),
            ("deactivate_timeout", self.deactivate_timeout),
            ("call_timeout", self.call_timeout),
        ] {
            if timeout < Duration::from_millis(1) || timeout > Duration::from_secs(7 * 24 * 3600) {
                return Err(LimitError { name, value: format!("{timeout:?}"), range: "1 ms to 7 days" });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_specification() {
        let limits = ResourceLimits::default();
        assert_eq!(limits.max_memory_mb, Some(100));
        assert_eq!(limits.max_cpu_time_sec, Some(10));
        assert_eq!(limits.max_file_handles, Some(10));
        assert_eq!(limits.max_network_connections, Some(5));
        assert_eq!(limits.call_timeout, Duration::from_secs(5));
        limits.check().unwrap();
    }

    #[test]
    fn a_limit_out_of_its_range_is_refused_with_the_range() {
        let just_over = ResourceLimits::default().max_memory_mb(7).check().unwrap_err();
        assert_eq!(just_over.to_string(), "limit max_memory_mb is 7: want 8 to 1048576 MiB, or none");
        ResourceLimits::default().max_memory_mb(8).check().unwrap();
        ResourceLimits::default().max_memory_mb(None).check().unwrap();
        assert!(ResourceLimits::default().call_timeout(Duration::ZERO).check().is_err());
        assert!(ResourceLimits::default().max_message_bytes(0).check().is_err());
    }

    #[test]
    fn every_number_has_a_least_and_a_most_and_what_is_beyond_is_refused_by_its_name() {
        type Set = fn(ResourceLimits, Option<u64>) -> ResourceLimits;
        // What 0 means: no room at all, or, where no plugin could run or be held so, an error.
        let fields: [(&str, Set, u64, u64); 14] = [
            ("max_memory_mb", |limits, n| limits.max_memory_mb(n), 8, 1 << 20),
            ("max_cpu_time_sec", |limits, n| limits.max_cpu_time_sec(n), 1, 1 << 32),
            ("max_cpu_percent", |limits, n| limits.max_cpu_percent(n), 1, 102_400),
            ("max_file_handles", |limits, n| limits.max_file_handles(n), 0, 1 << 19),
            ("max_file_size_mb", |limits, n| limits.max_file_size_mb(n), 0, 1 << 30),
            ("max_scratch_mb", |limits, n| limits.max_scratch_mb(n.unwrap()), 0, 1 << 16),
            ("max_network_connections", |limits, n| limits.max_network_connections(n), 0, 1 << 19),
            ("max_threads", |limits, n| limits.max_threads(n), 0, 1 << 15),
            ("max_processes", |limits, n| limits.max_processes(n), 0, 1 << 15),
            ("max_message_bytes", |limits, n| limits.max_message_bytes(n.unwrap()), 1024, 1 << 28),
            ("max_output_bytes", |limits, n| limits.max_output_bytes(n), 0, 1 << 40),
            ("max_output_bytes_per_sec", |limits, n| limits.max_output_bytes_per_sec(n), 0, 1 << 40),
            ("max_pending_services", |limits, n| limits.max_pending_services(n.unwrap()), 1, 4096),
            ("max_queued_messages", |limits, n| limits.max_queued_messages(n.unwrap()), 0, 65536),
        ];
        assert_eq!(fields.map(|(name, ..)| name), ResourceLimits::default().numbers().map(|row| row.0));
        for (name, set, least, most) in fields {
            let with = |n| set(ResourceLimits::default(), Some(n));
            for right in [least, most] {
                with(right).check().unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(with(right).value_of(name), Some(right));
            }
            for wrong in [least.checked_sub(1), Some(most + 1), Some(u64::MAX)].into_iter().flatten() {
                let error = with(wrong).check().expect_err(name);
                assert_eq!((error.name, error.value.as_str()), (name, wrong.to_string().as_str()));
                assert!(error.range.contains(&most.to_string()), "{error}");
            }
        }
    }

    #[test]
    fn every_timeout_is_a_millisecond_to_a_week() {
        type Set = fn(ResourceLimits, Duration) -> ResourceLimits;
        let fields: [(&str, Set); 4] = [
            ("load_timeout", ResourceLimits::load_timeout),
            ("activate_timeout", ResourceLimits::activate_timeout),
            ("deactivate_timeout", ResourceLimits::deactivate_timeout),
            ("call_timeout", ResourceLimits::call_timeout),
        ];
        let week = Duration::from_secs(7 * 24 * 3600);
        for (name, set) in fields {
            let with = |timeout| set(ResourceLimits::default(), timeout);
            for right in [Duration::from_millis(1), week] {
                with(right).check().unwrap_or_else(|error| panic!("{error}"));
            }
            for wrong in [Duration::ZERO, week + Duration::from_nanos(1), Duration::MAX] {
                assert_eq!(with(wrong).check().expect_err(name).name, name);
            }
        }
    }
}
