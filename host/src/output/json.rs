//! The JSON objects: one for each run of the program with `--json`, on stdout, whatever happens.
//!
//! Runs in the application's process. Owns the format; [`FORMAT`] grows when a key changes its meaning or goes, not
//! when one is added. Never prints a second object, and never text beside it on stdout.
//!
//! Every object has `format`, `command` (`null` where the arguments made no sense) and `error`: `null`, or
//!
//! | key of `error` | what it is |
//! | --- | --- |
//! | `kind` | `usage`, `io`, `plugin-id`, `permission`, `limit`, `library`, `not-a-plugin`, `metadata`, `abi`, `layer-missing`, `limit-not-held`, `confine`, `zygote`, `quarantined`, `quarantine-file`, `load-failed`, `plugin-failed`, `ended`, `denied`, `message-too-large`, `wrong-state`, `monitor`, `other` |
//! | `message` | the error and its sources, joined with `: ` |
//! | `chain` | the same as a list |
//! | `help` | what to do, or `null` |
//! | `exit_code` | what the program exits with |
//!
//! | key of `run` | what it is |
//! | --- | --- |
//! | `plugin` | `id`, `path`, `metadata` (`null` until it is loaded): `id`, `version`, `description`, `permissions` |
//! | `policy` | `permissions`, `limits` (under the names of `--limit`, timeouts with `_ms` behind theirs), `allowed_modules`, `best_effort` |
//! | `report` | `null`, or `kernel`, `complete`, `layers`: `layer`, `demand`, `supported`, `enforced`, `evidence`, `why_not` |
//! | `calls` | those that succeeded: `method`, `payload_bytes`, `result_bytes`, `took_ms`, and `out`, `text` or `base64` |
//! | `services` | what the plugin had the host say: `service`, `text` |
//! | `events` | `time`, `kind`, and what belongs to that kind; `events_left_out` counts those over a bound |
//! | `printed` | the end of what the plugin wrote to its stdout and stderr, escaped |
//! | `end` | `null` if it was let go, else how its process ended: `cause` (words), `cause_kind` (a word: `Cause::kind`), `help`, `usage` (as in `top`), `fault` (`null`, or `signal`, `why`, `address`, `thread`, `stack`, `incomplete`), `refused` (`null`, or the last refusal: `permission`, `action`, `object`, `rule`, `opened_by`), `printed` |
//!
//! Every time that something took or may take is a number of milliseconds, under a name that ends in `_ms`.
//!
//! `inspect`, `doctor`, `audit`, `prove`, `quarantine` and `top` name their keys beside the code that makes them.

use std::io;
use std::time::SystemTime;

use sandbox_core::{
    Demand, EndReport, EnforcementReport, EventKind, LayerReport, PluginMetadata, SandboxEvent,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{escape, human};
use crate::failure::Failure;

/// The version of the format.
pub(crate) const FORMAT: u32 = 2;

/// What every object begins and ends with.
#[derive(Serialize)]
struct Object<'a, T> {
    format: u32,
    command: Option<&'a str>,
    #[serde(flatten)]
    body: T,
    error: Option<Value>,
}

/// Prints the object of `command`.
///
/// # Errors
/// That stdout could not be written.
pub(crate) fn print(command: &str, body: impl Serialize, failure: Option<&Failure>) -> Result<(), Failure> {
    write(Some(command), body, failure)
}

/// Prints an object that has nothing but the error to tell.
pub(crate) fn print_failure(command: Option<&str>, failure: &Failure) {
    // Where stdout cannot be written the exit code still tells.
    let _ = write(command, json!({}), Some(failure));
}

fn write(command: Option<&str>, body: impl Serialize, failure: Option<&Failure>) -> Result<(), Failure> {
    let object = Object { format: FORMAT, command, body, error: failure.map(error) };
    let text =
        serde_json::to_string_pretty(&object).map_err(|error| Failure::of_stdout(&io::Error::from(error)))?;
    human::result((escape::json(&text) + "\n").as_bytes())
}

fn error(failure: &Failure) -> Value {
    json!({
        "kind": failure.kind,
        "message": failure.chain.join(": "),
        "chain": failure.chain,
        "help": failure.help,
        "exit_code": failure.exit as u8,
    })
}

/// What a plugin says of itself.
pub(crate) fn metadata(metadata: &PluginMetadata) -> Value {
    json!({
        "id": metadata.id,
        "version": metadata.version,
        "description": metadata.description,
        "permissions": metadata.permissions,
    })
}

/// The enforcement report.
pub(crate) fn report(report: &EnforcementReport) -> Value {
    let layers: Vec<_> = report.layers.iter().map(|row| layer(row, row.demand)).collect();
    json!({ "kernel": report.kernel, "complete": report.is_complete(), "layers": layers })
}

/// One layer of a report, under this demand.
pub(crate) fn layer(layer: &LayerReport, demand: Demand) -> Value {
    json!({
        "layer": layer.layer.name(),
        "demand": human::asked(demand).replace(' ', "-"),
        "supported": layer.supported,
        "enforced": layer.enforced,
        "evidence": layer.evidence,
        "why_not": layer.why_not,
    })
}

/// How a plugin's process ended.
pub(crate) fn end(end: &EndReport) -> Value {
    json!({
        "cause": end.cause.to_string(),
        "cause_kind": end.cause.kind(),
        "help": end.help(),
        "usage": end.usage,
        "fault": end.fault,
        "refused": end.refused,
        "printed": end.printed,
    })
}

/// One event.
pub(crate) fn event(event: &SandboxEvent) -> Value {
    let mut value = kind(&event.kind);
    if let Value::Object(keys) = &mut value {
        keys.insert("time".to_owned(), timestamp(event.time).into());
    }
    value
}

fn kind(kind: &EventKind) -> Value {
    match kind {
        EventKind::Access { permission, action, object, resolved, granted, rule, .. } => json!({
            "kind": "access", "permission": permission, "action": action, "object": object,
            "resolved": resolved, "granted": granted, "rule": rule,
        }),
        EventKind::ServiceCall { service, permission, granted, .. } => {
            json!({ "kind": "service-call", "service": service, "permission": permission, "granted": granted })
        }
        EventKind::PermissionGranted { permission, .. } => {
            json!({ "kind": "permission-granted", "permission": permission.to_string() })
        }
        EventKind::PermissionRevoked { permission, held, .. } => {
            json!({ "kind": "permission-revoked", "permission": permission.to_string(), "held": held })
        }
        EventKind::StateChanged { from, to, .. } => {
            json!({ "kind": "state-changed", "from": from.to_string(), "to": to.to_string() })
        }
        EventKind::OperatorCommand { command, uid, .. } => {
            json!({ "kind": "operator-command", "command": command, "uid": uid })
        }
        EventKind::Ended { cause, .. } => {
            json!({ "kind": "ended", "cause": cause.to_string(), "cause_kind": cause.kind() })
        }
        EventKind::RestartScheduled { attempt, delay, why, .. } => json!({
            "kind": "restart-scheduled", "attempt": attempt,
            "delay_ms": u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "why": why,
        }),
        EventKind::Restarted { attempt, .. } => json!({ "kind": "restarted", "attempt": attempt }),
        EventKind::Quarantined { digest, path, crashes, why, .. } => json!({
            "kind": "quarantined", "digest": digest.to_string(), "path": path, "crashes": crashes, "why": why,
        }),
        EventKind::Repeated { count, since, event, .. } => json!({
            "kind": "repeated", "count": count, "since": timestamp(*since), "event": self::kind(event),
        }),
        EventKind::Folded { count, since, permission, granted, .. } => json!({
            "kind": "folded", "count": count, "since": timestamp(*since), "permission": permission,
            "granted": granted,
        }),
        EventKind::Dropped { count, .. } => json!({ "kind": "dropped", "count": count }),
        other => json!({ "kind": "other", "text": format!("{other:?}") }),
    }
}

pub(crate) fn timestamp(time: SystemTime) -> String {
    // A clock before 1970 or after 9999 is none that could be written down.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let last_year = std::time::Duration::from_secs(253_370_764_800);
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since.min(last_year)).to_string()
}

/// A result: `text` where it is UTF-8, else `base64`.
pub(crate) fn bytes(bytes: &[u8]) -> (&'static str, Value) {
    use base64::Engine;
    match std::str::from_utf8(bytes) {
        Ok(text) => ("text", text.into()),
        Err(_) => ("base64", base64::engine::general_purpose::STANDARD.encode(bytes).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        assert_eq!(bytes(b"hi\x1b"), ("text", "hi\u{1b}".into()));
        assert_eq!(bytes(b"\xff\x00"), ("base64", "/wA=".into()));
    }

    #[test]
    fn a_clock_that_is_off_makes_no_panic() {
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
        let early = SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(9);
        assert_eq!(timestamp(early), "1970-01-01T00:00:00.000000Z");
        let late = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 40);
        assert!(timestamp(late).starts_with("9999-"));
    }

    #[test]
    fn an_error_has_the_documented_keys() {
        let failure = Failure::new(Exit::Sandbox, "zygote", "a".to_owned()).with_help("b");
        let expected =
            json!({ "kind": "zygote", "message": "a", "chain": ["a"], "help": "b", "exit_code": 3 });
        assert_eq!(error(&failure), expected);
    }
}
