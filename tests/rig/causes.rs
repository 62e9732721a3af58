//! A cause in a word or two, for tables: which kind, and what tells it from others of its kind.

use nix::sys::signal::Signal;
use sandbox_core::Cause;

/// The cause, short: `SIGSEGV`, `exit 3`, `forbidden ptrace`, `deadline call`.
pub fn short(cause: &Cause) -> String {
    match cause {
        Cause::Unloaded => "unloaded".to_owned(),
        Cause::Exited { code } => format!("exit {code}"),
        Cause::Signal { signal, .. } => Signal::try_from(*signal)
            .map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned()),
        Cause::ForbiddenCall { call, .. } => format!("forbidden {}", call.unwrap_or("architecture")),
        Cause::Memory { .. } => "memory".to_owned(),
        Cause::CpuTime { .. } => "CPU time".to_owned(),
        Cause::Deadline { operation, .. } => format!("deadline {operation}"),
        Cause::ChannelClosed => "channel closed".to_owned(),
        Cause::Protocol { .. } => "protocol".to_owned(),
        other => other.to_string(),
    }
}
