//! One line of an audit log, to be written and to be read.
//!
//! Runs in the host. Owns the format: [`AUDIT_VERSION`] grows when a key changes its meaning or goes, not when a key or a
//! kind is added. Never lets a character through that a terminal obeys.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::host::events::{EventKind, SandboxEvent, is_harmful};

/// The version of the format, which every line has as its `v`.
pub const AUDIT_VERSION: u32 = 1;

/// One line of an audit log.
///
/// Every line is a JSON object with `v`, `time` (RFC 3339, UTC, microseconds), `plugin` (not in lines about the log itself)
/// and `kind`; what belongs to each kind are the fields of [`AuditEvent`], under their names.
///
/// ```
/// use sandbox_core::{AuditEvent, AuditRecord};
/// let line = r#"{"v":1,"time":"2026-01-01T12:00:00.000000Z","plugin":"thumbs","kind":"access","permission":"file-read",
///     "action":"open","object":"/etc/passwd","resolved":null,"granted":false,"rule":"not granted"}"#;
/// let record: AuditRecord = line.parse()?;
/// assert_eq!(record.plugin.as_deref(), Some("thumbs"));
/// assert!(matches!(record.event, AuditEvent::Access { granted: false, .. }));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditRecord {
    /// The version of the format.
    pub v: u32,
    /// When.
    #[serde(with = "timestamp")]
    pub time: SystemTime,
    /// Which plugin; `None` for what is about the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// What.
    #[serde(flatten)]
    pub event: AuditEvent,
}

/// What a line is about: its `kind`, and the keys that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AuditEvent {
    /// The broker decided about something outside the plugin's process.
    Access {
        /// The permission that opens it.
        permission: String,
        /// What was tried.
        action: String,
        /// What the plugin named, escaped and shortened.
        object: String,
        /// What that is, once links were followed; escaped.
        #[serde(default)]
        resolved: Option<String>,
        /// Whether it was opened.
        granted: bool,
        /// The decision that counted.
        rule: String,
    },
    /// The plugin called a service of the host's.
    ServiceCall {
        /// The service's name, escaped and shortened.
        service: String,
        /// The permission that gates it, if one does.
        #[serde(default)]
        permission: Option<String>,
        /// Whether it went through.
        granted: bool,
    },
    /// A permission was granted.
    PermissionGranted {
        /// Which, as `name` or `name:scope`.
        permission: String,
    },
    /// A permission was revoked.
    PermissionRevoked {
        /// Which, as `name` or `name:scope`.
        permission: String,
        /// Whether it had been held.
        held: bool,
    },
    /// The plugin moved from one state to another.
    StateChanged {
        /// From here.
        from: String,
        /// To here.
        to: String,
    },
    /// An operator asked for something, through the host's monitor.
    OperatorCommand {
        /// What: `deactivate`, `kill`, or `revoke` and the permission; escaped.
        command: String,
        /// The user who asked.
        uid: u32,
    },
    /// Its helper has ended.
    Ended {
        /// Why, in words.
        cause: String,
        /// The fault, in words, and the stack of the thread that it came to; as the plugin's own process showed them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<String>,
        /// The last that it was refused, in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
        /// The last of what it printed, escaped; only where it was not the host that let it go.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        printed: Option<String>,
    },
    /// It is loaded again in a while.
    RestartScheduled {
        /// Which restart in a row.
        attempt: u32,
        /// In how many milliseconds.
        delay_ms: u64,
        /// Why, in words.
        why: String,
    },
    /// It is back where it was before it ended.
    Restarted {
        /// Which restart in a row.
        attempt: u32,
    },
    /// Its library has crashed too often, and is not loaded any more.
    Quarantined {
        /// Which library.
        digest: String,
        /// Where it is, escaped.
        path: String,
        /// How many crashes are known of it.
        crashes: u32,
        /// Why it ended the last time, in words.
        why: String,
    },
    /// The very same event came so many times more.
    Repeated {
        /// How many times.
        count: u64,
        /// When the first of them came.
        #[serde(with = "timestamp")]
        since: SystemTime,
        /// What was repeated: an object with its own `kind`.
        event: Box<AuditEvent>,
    },
    /// So many events of one kind, all different, came too fast to be told one by one.
    Folded {
        /// How many.
        count: u64,
        /// When the first of them came.
        #[serde(with = "timestamp")]
        since: SystemTime,
        /// The permission that they were about; `None` for services that need none.
        #[serde(default)]
        permission: Option<String>,
        /// Whether they were granted.
        granted: bool,
    },
    /// So many events came too fast for the log, and are not in it.
    Dropped {
        /// How many.
        count: u64,
    },
    /// So many lines could not be written, and are not in the file.
    Lost {
        /// How many.
        count: u64,
        /// Why the last of them could not.
        why: String,
    },
    /// A host began to write to this file.
    Opened {
        /// Its process id.
        process: u32,
        /// The version of its `sandbox-core`.
        version: String,
    },
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

impl AuditRecord {
    /// A line about the log itself, of this moment.
    pub(super) fn now(event: AuditEvent) -> Self {
        Self { v: AUDIT_VERSION, time: SystemTime::now(), plugin: None, event }
    }

    /// The line, without its end.
    pub(crate) fn line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|json| escaped(&json))
    }
}

impl From<&SandboxEvent> for AuditRecord {
    fn from(event: &SandboxEvent) -> Self {
        // Those that were dropped may be of any plugin of a manager.
        let about_log = matches!(event.kind, EventKind::Dropped { .. });
        let plugin = (!about_log).then(|| event.plugin.to_string());
        Self { v: AUDIT_VERSION, time: event.time, plugin, event: AuditEvent::from(&event.kind) }
    }
}

impl From<&EventKind> for AuditEvent {
    fn from(kind: &EventKind) -> Self {
        match kind.clone() {
            EventKind::Access { permission, action, object, resolved, granted, rule } => {
                let (permission, action) = (permission.to_owned(), action.to_owned());
                Self::Access { permission, action, object, resolved, granted, rule }
            }
            EventKind::ServiceCall { service, permission, granted } => {
                Self::ServiceCall { service, permission, granted }
            }
            EventKind::PermissionGranted { permission } => {
                Self::PermissionGranted { permission: permission.to_string() }
            }
            EventKind::PermissionRevoked { permission, held } => {
                Self::PermissionRevoked { permission: permission.to_string(), held }
            }
            EventKind::StateChanged { from, to } => {
                Self::StateChanged { from: from.to_string(), to: to.to_string() }
            }
            EventKind::OperatorCommand { command, uid } => Self::OperatorCommand { command, uid },
            EventKind::Ended { cause, report } => {
                let told = !cause.was_asked_for();
                Self::Ended {
                    cause: cause.to_string(),
                    fault: report.fault.as_ref().map(ToString::to_string),
                    refused: report.refused.as_ref().filter(|_| told).map(ToString::to_string),
                    printed: Some(report.printed.clone()).filter(|printed| told && !printed.is_empty()),
                }
            }
            EventKind::RestartScheduled { attempt, delay, why } => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                Self::RestartScheduled { attempt, delay_ms, why }
            }
            EventKind::Restarted { attempt } => Self::Restarted { attempt },
            EventKind::Quarantined { digest, path, crashes, why } => {
                Self::Quarantined { digest: digest.to_string(), path, crashes, why }
            }
            EventKind::Repeated { count, since, event } => {
                Self::Repeated { count, since, event: Box::new(Self::from(&*event)) }
            }
            EventKind::Folded { count, since, permission, granted } => {
                Self::Folded { count, since, permission, granted }
            }
            EventKind::Dropped { count } => Self::Dropped { count },
        }
    }
}

impl AuditEvent {
    /// What was repeated, and how often it is told of with this line; else the event itself, once.
    pub fn counted(&self) -> (&Self, u64) {
        match self {
            Self::Repeated { count, event, .. } => (event, *count),
            Self::Folded { count, .. } => (self, *count),
            other => (other, 1),
        }
    }

    /// The name of the permission that this was about, and whether it was granted, if something was decided.
    pub fn verdict(&self) -> Option<(Option<&str>, bool)> {
        match self.counted().0 {
            Self::Access { permission, granted, .. } => Some((Some(permission), *granted)),
            Self::ServiceCall { permission, granted, .. } | Self::Folded { permission, granted, .. } => {
                Some((permission.as_deref(), *granted))
            }
            _ => None,
        }
    }
}

impl std::str::FromStr for AuditRecord {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let record: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match record.v {
            1..=AUDIT_VERSION => Ok(record),
            v => Err(format!("version {v} of the format, of which {AUDIT_VERSION} is known")),
        }
    }
}

/// JSON in which what a terminal obeys is escaped too: such characters stand inside strings only, where that means the same.
fn escaped(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmful(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Times as RFC 3339.
pub(crate) mod timestamp {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        // A clock before 1970 or after 9999 is none that could be written down.
        const LAST: Duration = Duration::from_secs(253_370_764_800);
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST);
        serializer.collect_str(&humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(de::Error::custom)
    }

    /// The same, or `null`.
    pub(crate) mod optional {
        use super::{Deserialize, Deserializer, Serializer, SystemTime, de};

        pub(crate) fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| humantime::parse_rfc3339(&text).map_err(de::Error::custom)).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shared::policy::{PERMISSION_FILE_READ, PluginId};

    fn event(kind: EventKind) -> SandboxEvent {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        SandboxEvent { time, plugin: PluginId::new("p").unwrap(), kind }
    }

    fn access(object: &str, rule: &str) -> EventKind {
        EventKind::Access {
            permission: "file-read",
            action: "open",
            object: object.to_owned(),
            resolved: None,
            granted: false,
            rule: rule.to_owned(),
        }
    }

    #[test]
    fn a_line_has_the_documented_keys() {
        let line = AuditRecord::from(&event(access("/a", "not granted"))).line().unwrap();
        assert_eq!(
            line,
            r#"{"v":1,"time":"2023-11-14T22:13:20.123456Z","plugin":"p","kind":"access","permission":"file-read","action":"open","object":"/a","resolved":null,"granted":false,"rule":"not granted"}"#
        );
    }

    fn ended(report: crate::EndReport) -> EventKind {
        EventKind::Ended { cause: report.cause.clone(), report: std::sync::Arc::new(report) }
    }

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let repeated = EventKind::Repeated { count: 7, since, event: Box::new(access("/a", "r")) };
        for kind in [
            access("/a", "r"),
            EventKind::ServiceCall { service: "ui.x".into(), permission: Some("ui".into()), granted: true },
            EventKind::PermissionGranted { permission: PERMISSION_FILE_READ.scoped_to_path("/x").unwrap() },
            EventKind::PermissionRevoked { permission: PERMISSION_FILE_READ, held: false },
            EventKind::StateChanged { from: crate::PluginState::Loaded, to: crate::PluginState::Active },
            EventKind::OperatorCommand { command: "revoke file-read:/x".into(), uid: 1000 },
            ended(crate::EndReport::of(crate::Cause::Stalled)),
            ended(crate::EndReport {
                fault: Some(crate::FaultReport {
                    signal: libc::SIGSEGV,
                    why: "nothing is mapped there",
                    address: Some(8),
                    thread: "worker".into(),
                    stack: Vec::new(),
                    incomplete: None,
                }),
                printed: "a line\nand another\n".into(),
                ..crate::EndReport::of(crate::Cause::Exited { code: 3 })
            }),
            EventKind::RestartScheduled { attempt: 2, delay: Duration::from_millis(900), why: "w".into() },
            EventKind::Restarted { attempt: 2 },
            EventKind::Quarantined {
                digest: "ab".repeat(32).parse().unwrap(),
                path: "/p.so".into(),
                crashes: 5,
                why: "w".into(),
            },
            repeated,
            EventKind::Folded { count: 9, since, permission: None, granted: true },
            EventKind::Dropped { count: 3 },
        ] {
            let record = AuditRecord::from(&event(kind));
            assert_eq!(record.line().unwrap().parse(), Ok(record));
        }
        for event in [
            AuditEvent::Lost { count: 1, why: "full".into() },
            AuditEvent::Opened { process: 7, version: "0".into() },
        ] {
            // To the microsecond, which is what is written.
            let record = AuditRecord { time: since, ..AuditRecord::now(event) };
            assert_eq!(record.line().unwrap().parse(), Ok(record));
        }
    }

    #[test]
    fn nothing_in_a_name_or_a_rule_breaks_a_line() {
        for hostile in [
            "a\nb\r\0",
            "\"},{\"v\":1}",
            "\\",
            "\x1b[2J\u{9b}",
            "\u{202e}\u{2028}\u{e0041}\u{feff}",
            "日本語",
        ] {
            let record = AuditRecord::from(&event(access(hostile, hostile)));
            let line = record.line().unwrap();
            assert!(!line.chars().any(is_harmful), "{line:?}");
            assert_eq!(line.parse(), Ok(record));
        }
    }

    #[test]
    fn what_is_not_known_yet_is_other_and_another_version_is_refused() {
        let later =
            r#"{"v":1,"time":"2023-11-14T22:13:20Z","plugin":"p","kind":"new-kind","x":{"y":[1]},"z":2}"#;
        assert_eq!(later.parse::<AuditRecord>().unwrap().event, AuditEvent::Other);
        let more_keys =
            r#"{"v":1,"time":"2023-11-14T22:13:20Z","plugin":"p","kind":"ended","cause":"c","z":2}"#;
        assert!(more_keys.parse::<AuditRecord>().is_ok());
        let version = r#"{"v":2,"time":"2023-11-14T22:13:20Z","kind":"ended","cause":"c"}"#;
        assert!(version.parse::<AuditRecord>().unwrap_err().contains("version 2"));
        for broken in
            ["", "{", "[]", "{}", r#"{"v":1,"time":"yesterday","kind":"ended","cause":"c"}"#, "null"]
        {
            assert!(broken.parse::<AuditRecord>().is_err(), "{broken}");
        }
    }
}
