//! How much of the machine one plugin may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How much one plugin may use. `None` stands for no limit.
///
/// The defaults are those of the plugin sandbox specification: 100 MiB, 10 CPU seconds, 10 file handles, 5 network
/// connections; and beyond it files of 1024 MiB, 16 threads, 8 processes, 16 MiB messages and 5 seconds for each operation.
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
pub struct ResourceLimits {
    /// Memory that the plugin may allocate, in MiB (`RLIMIT_DATA`, see getrlimit(2), and a looser `RLIMIT_AS`).
    /// An allocation over it fails.
    pub max_memory_mb: Option<u64>,
    /// CPU seconds of all its threads from one activation to the next; constructors count to the first. The host reads
    /// them from the process's CPU clock and ends the plugin.
    pub max_cpu_time_sec: Option<u64>,
    /// Descriptors that the plugin itself may hold at once (`RLIMIT_NOFILE`; the sandbox's own do not count).
    /// The next one is refused with `EMFILE`.
    pub max_file_handles: Option<u64>,
    /// The size of a file, in MiB, beyond which the plugin makes none grow (`RLIMIT_FSIZE`). A write over it is refused with
    /// `EFBIG`. What it fills a disk with altogether is not bounded by this.
    pub max_file_size_mb: Option<u64>,
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
    /// How long loading may take, constructors included.
    pub load_timeout: Duration,
    /// How long `activate` may take. Time in which the plugin waits for the host does not count; so for the next two.
    pub activate_timeout: Duration,
    /// How long `deactivate`, and the end after an unload, may take.
    pub deactivate_timeout: Duration,
    /// How long one call may take.
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
            max_file_handles: Some(10),
            max_file_size_mb: Some(1024),
            max_network_connections: Some(5),
            max_threads: Some(16),
            max_processes: Some(8),
            max_message_bytes: 16 << 20,
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
    /// Sets [`max_file_handles`](#structfield.max_file_handles); `None` for as many as the host itself may open.
    max_file_handles: impl Into<Option<u64>>,
    /// Sets [`max_file_size_mb`](#structfield.max_file_size_mb), in MiB; `None` for no limit.
    max_file_size_mb: impl Into<Option<u64>>,
    /// Sets [`max_network_connections`](#structfield.max_network_connections); `None` for no limit.
    max_network_connections: impl Into<Option<u64>>,
    /// Sets [`max_threads`](#structfield.max_threads); `None` for no limit.
    max_threads: impl Into<Option<u64>>,
    /// Sets [`max_processes`](#structfield.max_processes); `None` for no limit.
    max_processes: impl Into<Option<u64>>,
    /// Sets [`max_message_bytes`](#structfield.max_message_bytes), in bytes.
    max_message_bytes: u64,
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
    /// Checks that a helper could run under these limits.
    ///
    /// # Errors
    /// [`LimitError`] for the first field that is out of its range.
    pub fn check(&self) -> Result<(), LimitError> {
        let number = |name, value: Option<u64>, least, most, range| match value {
            Some(n) if n < least || n > most => Err(LimitError { name, value: n.to_string(), range }),
            _ => Ok(()),
        };
        number("max_memory_mb", self.max_memory_mb, 8, 1 << 20, "8 to 1048576 MiB, or none")?;
        number("max_cpu_time_sec", self.max_cpu_time_sec, 1, 1 << 32, "1 to 4294967296 seconds, or none")?;
        number("max_file_handles", self.max_file_handles, 0, 1 << 19, "0 to 524288, or none")?;
        number("max_file_size_mb", self.max_file_size_mb, 0, 1 << 30, "0 to 1073741824 MiB, or none")?;
        number("max_network_connections", self.max_network_connections, 0, 1 << 19, "0 to 524288, or none")?;
        number("max_threads", self.max_threads, 0, 1 << 15, "0 to 32768, or none")?;
        number("max_processes", self.max_processes, 0, 1 << 15, "0 to 32768, or none")?;
        let message = Some(self.max_message_bytes);
        number("max_message_bytes", message, 1024, 1 << 28, "1024 to 268435456 bytes")?;
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
}
