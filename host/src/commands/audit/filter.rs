//! Which records are meant.
//!
//! Runs in the application's process. Owns that a gap in a log is always seen: what says that something is missing passes
//! every filter but that of time.

use sandbox_core::{AuditEvent, AuditRecord};

use super::list;
use crate::cli::AuditArgs;

/// The options that choose records.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    args: &'a AuditArgs,
}

impl<'a> Filter<'a> {
    pub(super) fn new(args: &'a AuditArgs) -> Self {
        Self { args }
    }

    /// Whether `record` is one of those that were asked for.
    pub(super) fn means(&self, record: &AuditRecord) -> bool {
        let Self { args } = self;
        let in_time = args.since.is_none_or(|since| record.time >= since)
            && args.until.is_none_or(|until| record.time < until);
        if !in_time {
            return false;
        }
        if is_gap(&record.event) {
            return true;
        }
        let plugin = record.plugin.as_deref();
        if !args.plugins.is_empty() && !args.plugins.iter().any(|wanted| Some(wanted.as_str()) == plugin) {
            return false;
        }
        if !args.permissions.is_empty() {
            let name = permission(&record.event);
            if !args.permissions.iter().any(|wanted| Some(wanted.as_str()) == name) {
                return false;
            }
        }
        let granted = record.event.verdict().map(|(_, granted)| granted);
        if (args.denied && granted != Some(false)) || (args.granted && granted != Some(true)) {
            return false;
        }
        args.grep.as_deref().is_none_or(|text| list::what(&record.event).contains(text))
    }
}

/// Whether it says that something is missing in the log.
pub(super) fn is_gap(event: &AuditEvent) -> bool {
    matches!(event, AuditEvent::Dropped { .. } | AuditEvent::Lost { .. })
}

/// The name of the permission that an event is about.
fn permission(event: &AuditEvent) -> Option<&str> {
    match event {
        AuditEvent::PermissionGranted { permission } | AuditEvent::PermissionRevoked { permission, .. } => {
            permission.split(':').next()
        }
        other => other.verdict().and_then(|(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const LOG: [&str; 6] = [
        r#"{"v":1,"time":"2026-01-01T00:00:00Z","kind":"opened","process":1,"version":"0"}"#,
        r#"{"v":1,"time":"2026-01-02T00:00:00Z","plugin":"a","kind":"access","permission":"file-read","action":"open","object":"/x","granted":false,"rule":"not granted"}"#,
        r#"{"v":1,"time":"2026-01-03T00:00:00Z","plugin":"b","kind":"service-call","service":"ui.x","permission":"ui","granted":true}"#,
        r#"{"v":1,"time":"2026-01-04T00:00:00Z","plugin":"a","kind":"permission-granted","permission":"file-read:/x"}"#,
        r#"{"v":1,"time":"2026-01-05T00:00:00Z","kind":"lost","count":3,"why":"full"}"#,
        r#"{"v":1,"time":"2026-01-06T00:00:00Z","plugin":"a","kind":"repeated","count":3,"since":"2026-01-06T00:00:00Z","event":{"kind":"access","permission":"network","action":"connect","object":"h:1","granted":true,"rule":"granted: network"}}"#,
    ];

    #[track_caller]
    fn meant(options: &[&str]) -> Vec<usize> {
        let words = ["plugin-host", "audit", "log"].iter().chain(options);
        let Command::Audit(args) = Cli::try_parse_from(words).expect("a valid command line").command else {
            panic!("another command");
        };
        let records = LOG.map(|line| line.parse::<AuditRecord>().expect("a record"));
        (0..LOG.len()).filter(|index| Filter::new(&args).means(&records[*index])).collect()
    }

    #[test]
    fn each_option_chooses_what_it_says_and_a_gap_is_always_seen() {
        for (options, expected) in [
            (&[][..], &[0, 1, 2, 3, 4, 5][..]),
            (&["--plugin", "a"], &[1, 3, 4, 5]),
            (&["--plugin", "a", "--plugin", "b"], &[1, 2, 3, 4, 5]),
            (&["--permission", "file-read"], &[1, 3, 4]),
            (&["--denied"], &[1, 4]),
            (&["--granted"], &[2, 4, 5]),
            (&["--since", "2026-01-03"], &[2, 3, 4, 5]),
            (&["--until", "2026-01-03"], &[0, 1]),
            (&["--grep", "h:1"], &[4, 5]),
            (&["--granted", "--plugin", "b", "--grep", "ui.x"], &[2, 4]),
        ] {
            assert_eq!(meant(options), expected, "{options:?}");
        }
    }
}
