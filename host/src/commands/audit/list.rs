//! One record as one line for people.
//!
//! Runs in the application's process. Owns the wording. Never holds more than one record: a log may have no end.

use std::time::SystemTime;

use sandbox_core::{AuditEvent, AuditRecord};

use crate::output::escape;
use crate::output::human::Look;

/// The line of a record.
pub(super) fn line(look: Look, record: &AuditRecord) -> String {
    let time = look.dim(&timestamp(record.time));
    let plugin = escape::line(record.plugin.as_deref().unwrap_or("-"));
    let verdict = match record.event.verdict() {
        Some((_, true)) => "granted".to_owned(),
        Some((_, false)) => look.doubtful("denied "),
        None => "       ".to_owned(),
    };
    format!("{time}  {plugin:<12}  {verdict}  {}", escape::line(&what(&record.event)))
}

/// To the millisecond, which is what a person compares.
pub(super) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// What an event is about, in words. Not escaped.
pub(super) fn what(event: &AuditEvent) -> String {
    match event {
        AuditEvent::Access { permission, action, object, resolved, rule, .. } => {
            let led_to = resolved.as_ref().filter(|resolved| *resolved != object);
            let led_to = led_to.map(|resolved| format!(" -> {resolved}")).unwrap_or_default();
            let object = if object.is_empty() { String::new() } else { format!(" {object}") };
            format!("{permission:<10}  {action}{object}{led_to}  ({rule})")
        }
        AuditEvent::ServiceCall { service, permission, .. } => {
            format!("{:<10}  service {service}", permission.as_deref().unwrap_or("-"))
        }
        AuditEvent::PermissionGranted { permission } => format!("{permission} is granted from now on"),
        AuditEvent::PermissionRevoked { permission, held: true } => format!("{permission} is revoked"),
        AuditEvent::PermissionRevoked { permission, .. } => {
            format!("{permission} is revoked, which was not held")
        }
        AuditEvent::StateChanged { from, to } => format!("{from} -> {to}"),
        AuditEvent::OperatorCommand { command, uid } => format!("by the monitor, uid {uid}: {command}"),
        AuditEvent::Ended { cause, fault, refused, .. } => {
            let more = [fault.as_deref(), refused.as_deref()].into_iter().flatten();
            // One line, as any other: the frames of a stack behind one another.
            let more: String = more.map(|more| format!("; {}", more.replace("\n", " |"))).collect();
            format!("its process has ended: {cause}{more}")
        }
        AuditEvent::RestartScheduled { attempt, delay_ms, why } => {
            format!("restart {attempt} in {delay_ms} ms: {why}")
        }
        AuditEvent::Restarted { attempt } => format!("restart {attempt} worked"),
        AuditEvent::Quarantined { digest, path, crashes, why } => {
            format!(
                "{path} is quarantined after {crashes} crashes, the last time because {why}; it is {digest}"
            )
        }
        AuditEvent::Repeated { count, since, event } => {
            format!("{}  {count} times more since {}", what(event), timestamp(*since))
        }
        AuditEvent::Folded { count, since, permission, .. } => {
            let permission = permission.as_deref().unwrap_or("-");
            format!(
                "{permission:<10}  {count} different ones since {}, too many to be told",
                timestamp(*since)
            )
        }
        AuditEvent::Dropped { count } => format!("{count} events came too fast for the log, and are missing"),
        AuditEvent::Lost { count, why } => {
            format!("{count} lines could not be written, and are missing: {why}")
        }
        AuditEvent::Opened { process, version } => {
            format!("process {process} begins to log, version {version}")
        }
        _ => "of a kind that this version does not know".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let hostile = r#"{"v":1,"time":"2026-01-01T00:00:00Z","plugin":"a\u001b[2J\n","kind":"access","permission":"x\n","action":"open","object":"/x\n\u202e","resolved":"/y","granted":false,"rule":"no\r"}"#;
        let line = line(Look::PLAIN, &hostile.parse().expect("a record"));
        assert_eq!(
            line,
            "2026-01-01T00:00:00.000Z  a\\u{1b}[2J\\n  denied   x\\n          open /x\\n\\u{202e} -> /y  (no\\r)"
        );
    }
}
