//! Values of the command line that need more than one word to be wrong in: permissions, limits, modules.
//!
//! Runs in the application's process. Owns the names of the limits, which are those of `ResourceLimits`.
//! Never checks a range: `ResourceLimits::check` does.

use std::error::Error;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use sandbox_core::{PluginPermission, ResourceLimits, STANDARD_PERMISSIONS};

/// One `NAME=VALUE` of `--limit`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LimitSetting(Change);

#[derive(Debug, Clone, Copy)]
enum Change {
    Count(SetCount, Option<u64>),
    Number(SetNumber, u64),
    Timeout(SetTimeout, Duration),
}

type SetCount = fn(&mut ResourceLimits, Option<u64>);
type SetNumber = fn(&mut ResourceLimits, u64);
type SetTimeout = fn(&mut ResourceLimits, Duration);

#[derive(Clone, Copy)]
enum Kind {
    Count(SetCount),
    Number(SetNumber),
    Timeout(SetTimeout),
}

const LIMITS: [(&str, Kind); 18] = [
    ("max_memory_mb", Kind::Count(|limits, value| limits.max_memory_mb = value)),
    ("max_cpu_time_sec", Kind::Count(|limits, value| limits.max_cpu_time_sec = value)),
    ("max_cpu_percent", Kind::Count(|limits, value| limits.max_cpu_percent = value)),
    ("max_file_handles", Kind::Count(|limits, value| limits.max_file_handles = value)),
    ("max_network_connections", Kind::Count(|limits, value| limits.max_network_connections = value)),
    ("max_file_size_mb", Kind::Count(|limits, value| limits.max_file_size_mb = value)),
    ("max_scratch_mb", Kind::Number(|limits, value| limits.max_scratch_mb = value)),
    ("max_threads", Kind::Count(|limits, value| limits.max_threads = value)),
    ("max_processes", Kind::Count(|limits, value| limits.max_processes = value)),
    ("max_message_bytes", Kind::Number(|limits, value| limits.max_message_bytes = value)),
    ("max_output_bytes", Kind::Count(|limits, value| limits.max_output_bytes = value)),
    ("max_output_bytes_per_sec", Kind::Count(|limits, value| limits.max_output_bytes_per_sec = value)),
    ("max_pending_services", Kind::Number(|limits, value| limits.max_pending_services = value)),
    ("max_queued_messages", Kind::Number(|limits, value| limits.max_queued_messages = value)),
    ("load_timeout", Kind::Timeout(|limits, value| limits.load_timeout = value)),
    ("activate_timeout", Kind::Timeout(|limits, value| limits.activate_timeout = value)),
    ("deactivate_timeout", Kind::Timeout(|limits, value| limits.deactivate_timeout = value)),
    ("call_timeout", Kind::Timeout(|limits, value| limits.call_timeout = value)),
];

/// The names of all limits.
pub(super) fn limit_names() -> [&'static str; LIMITS.len()] {
    LIMITS.map(|(name, _)| name)
}

impl LimitSetting {
    /// Changes the one limit.
    pub(crate) fn apply(&self, limits: &mut ResourceLimits) {
        match self.0 {
            Change::Count(set, value) => set(limits, value),
            Change::Number(set, value) => set(limits, value),
            Change::Timeout(set, value) => set(limits, value),
        }
    }
}

impl FromStr for LimitSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || limit_names().join(", ");
        let (name, value) = text.split_once('=').ok_or_else(|| {
            format!("want NAME=VALUE, as in max_memory_mb=64 or call_timeout=2s; the names are {}", names())
        })?;
        let name = name.trim().replace('-', "_");
        let (_, kind) = LIMITS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| format!("no limit is called {name:?}; there are {}", names()))?;
        let value = value.trim();
        Ok(Self(match kind {
            Kind::Count(set) if value == "none" => Change::Count(*set, None),
            Kind::Count(set) => {
                let number = value.parse().map_err(|_| format!("{name}: want a whole number, or none"))?;
                Change::Count(*set, Some(number))
            }
            Kind::Number(set) => Change::Number(
                *set,
                value.parse().map_err(|_| format!("{name}: want a whole number; it cannot be lifted"))?,
            ),
            Kind::Timeout(set) => {
                let time = humantime::parse_duration(value).map_err(|_| {
                    format!("{name}: want a time with its unit, as in 500ms, 2s or 1m30s, at most 7d")
                })?;
                Change::Timeout(*set, time)
            }
        }))
    }
}

/// A permission of the standard seven, `NAME` or `NAME:SCOPE`. A relative path counts from the current folder.
///
/// # Errors
/// What is wrong with it, with the names that there are.
pub(crate) fn permission(text: &str) -> Result<PluginPermission, String> {
    let (name, scope) = match text.split_once(':') {
        Some((name, scope)) => (name, Some(scope)),
        None => (text, None),
    };
    let known =
        STANDARD_PERMISSIONS.into_iter().find(|permission| permission.name() == name).ok_or_else(|| {
            let names = STANDARD_PERMISSIONS.map(|permission| permission.name().to_owned()).join(", ");
            format!("no permission of this host is called {name:?}; there are {names}")
        })?;
    let Some(scope) = scope else { return Ok(known) };
    let about_paths = matches!(name, "file-read" | "file-write" | "process");
    let granted = match std::path::absolute(Path::new(scope)) {
        Ok(path) if about_paths && !scope.is_empty() => known.scoped_to_path(path),
        _ => known.scoped(scope),
    };
    granted.map_err(|error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

/// A moment: how long ago, a day, or a time of a day, in UTC.
///
/// # Errors
/// How it would be written.
pub(crate) fn moment(text: &str) -> Result<SystemTime, String> {
    let ago = humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
    let written = || {
        let text = text.replace(' ', "T");
        let whole = match text.len() {
            10 => format!("{text}T00:00:00"),
            16 => format!("{text}:00"),
            _ => text,
        };
        humantime::parse_rfc3339_weak(&whole).ok()
    };
    ago.or_else(written).ok_or_else(|| {
        "want how long ago, as in 10m or 2h, or a time in UTC, as in 2026-01-31 or 2026-01-31T12:00"
            .to_owned()
    })
}

/// The name under which a library is needed, never a path.
///
/// # Errors
/// That it is none.
pub(crate) fn soname(text: &str) -> Result<String, String> {
    match text.rsplit_once('/') {
        None if !text.is_empty() => Ok(text.to_owned()),
        Some((_, name)) if !name.is_empty() => {
            Err(format!("want the library's soname, not where it stands: try {name}"))
        }
        _ => Err("want a soname, as in libz.so.1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Result<ResourceLimits, String> {
        let mut limits = ResourceLimits::default();
        text.parse::<LimitSetting>()?.apply(&mut limits);
        Ok(limits)
    }

    #[test]
    fn every_limit_is_set_by_its_own_name() {
        let default = ResourceLimits::default;
        let second = Duration::from_secs(1);
        for (text, expected) in [
            ("max_memory_mb=64", default().max_memory_mb(64)),
            ("max-memory-mb=64", default().max_memory_mb(64)),
            ("max_cpu_time_sec=none", default().max_cpu_time_sec(None)),
            ("max_file_handles=0", default().max_file_handles(0)),
            ("max_network_connections=1", default().max_network_connections(1)),
            ("max_threads=2", default().max_threads(2)),
            ("max_processes=2", default().max_processes(2)),
            ("max_message_bytes=4096", default().max_message_bytes(4096)),
            ("max_scratch_mb=16", default().max_scratch_mb(16)),
            ("max_cpu_percent=50", default().max_cpu_percent(50)),
            ("max_file_size_mb=1", default().max_file_size_mb(1)),
            ("max_output_bytes=1000", default().max_output_bytes(1000)),
            ("max_output_bytes_per_sec=none", default().max_output_bytes_per_sec(None)),
            ("max_pending_services=2", default().max_pending_services(2)),
            ("max_queued_messages=0", default().max_queued_messages(0)),
            ("load_timeout=1s", default().load_timeout(second)),
            ("activate_timeout=1000ms", default().activate_timeout(second)),
            ("deactivate_timeout=1s", default().deactivate_timeout(second)),
            ("call_timeout=1s", default().call_timeout(second)),
        ] {
            assert_eq!(set(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_refused_with_what_would() {
        for (text, hint) in [
            ("max_memory_mb", "NAME=VALUE"),
            ("ram=1", "max_memory_mb, "),
            ("max_memory_mb=lots", "a whole number, or none"),
            ("max_memory_mb=-1", "a whole number, or none"),
            ("max_message_bytes=none", "want a whole number"),
            ("call_timeout=2", "unit"),
            ("call_timeout=none", "unit"),
        ] {
            let error = set(text).expect_err(text);
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_relative_scope_counts_from_the_current_folder() {
        let here = std::env::current_dir().expect("a current folder").join("assets");
        let expected = sandbox_core::PERMISSION_FILE_READ.scoped_to_path(here).expect("a scope");
        assert_eq!(permission("file-read:assets"), Ok(expected));
    }

    #[test]
    fn a_moment_is_a_day_a_time_or_how_long_ago() {
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_817_600);
        let hours = |hours: u64| day + Duration::from_secs(hours * 3600);
        for (text, expected) in [
            ("2026-01-31", day),
            ("2026-01-31T12:00", hours(12)),
            ("2026-01-31 12:00:00", hours(12)),
            ("2026-01-31T12:00:00Z", hours(12)),
        ] {
            assert_eq!(moment(text), Ok(expected), "{text}");
        }
        let ago = moment("2h").expect("how long ago");
        assert!(ago < SystemTime::now() && ago > SystemTime::now() - Duration::from_secs(7300));
        for bad in ["", "yesterday", "2026-13-01", "12:00", "-1h"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_permission_with_a_bad_scope_is_refused() {
        for bad in ["file-read:", "ui:x", "", ":", "payments"] {
            assert!(permission(bad).is_err(), "{bad:?}");
        }
    }
}
