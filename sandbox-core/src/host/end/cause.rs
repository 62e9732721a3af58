//! Why a helper has ended, put together from what the kernel tells and what the host had decided.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::host::lifecycle::Operation;
use crate::shared::policy::PluginPermission;

/// Why a helper has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The host asked for it.
    Unloaded,
    /// The host shuts all of its plugins down.
    HostShutdown,
    /// The plugin called `exit`.
    Exited {
        /// The exit code.
        code: i32,
    },
    /// A signal that the plugin raised, or a fault: SIGSEGV, SIGABRT...
    Signal {
        /// The signal's number.
        signal: i32,
        /// What it touched, or ran, and may not, where the kernel says; as the plugin's own process showed it.
        fault_address: Option<u64>,
    },
    /// A system call that no plugin makes by accident, and that no permission opens. It was not made: it was ended instead.
    ForbiddenCall {
        /// Its name. `None` if the kernel ended the process by itself, with SIGSYS, and told nobody why: for a call of another
        /// architecture, or of x32.
        call: Option<&'static str>,
        /// Its number, where that is known.
        number: Option<i64>,
        /// Its arguments, as registers; zeros where they are not known.
        arguments: Box<[u64; 6]>,
    },
    /// It could not go on without memory over its limit.
    Memory {
        /// The most that it had resident, in MiB: less than the limit where it asked for more than was left of that.
        used_mb: u64,
        /// The limit, in MiB.
        limit_mb: u64,
    },
    /// It used up its CPU time.
    CpuTime {
        /// What it had used when that was seen.
        used: Duration,
        /// The limit, in seconds.
        limit_sec: u64,
    },
    /// An operation took too long.
    Deadline {
        /// The operation.
        operation: Operation,
        /// How long it may take.
        timeout: Duration,
    },
    /// It closed its channel to the host.
    ChannelClosed,
    /// It said what no helper says.
    Protocol {
        /// The part of what it said that was wrong: `length`, `kind`, `body`, `reply`, ...
        field: &'static str,
        /// What was wrong with it.
        what: String,
    },
    /// A permission was revoked, and it still had in its hands what that had opened: a descriptor or a mapping that cannot be
    /// taken from a process that lives, or a mapping that was taken and that it touched.
    Revoked {
        /// The permission that was revoked.
        permission: Box<PluginPermission>,
        /// What it still had, escaped and shortened.
        object: String,
    },
    /// A request of its kept a broker's worker from coming to an end.
    Stalled,
    /// The thread that it is called on was found stopped, or ended before the others, twice in a row: nobody could call it
    /// any more.
    Hung {
        /// Which of it.
        how: String,
    },
    /// A person ended it, through the host's monitor. Nobody but a person should start it again.
    ByOperator {
        /// The user who asked for it.
        uid: u32,
    },
    /// The zygote ended, and all helpers with it.
    ZygoteLost,
}

impl Cause {
    /// Which of them it is, in a word for a program: the variant's name, as in `cpu-time`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::HostShutdown => "host-shutdown",
            Self::Exited { .. } => "exited",
            Self::Signal { .. } => "signal",
            Self::ForbiddenCall { .. } => "forbidden-call",
            Self::Memory { .. } => "memory",
            Self::CpuTime { .. } => "cpu-time",
            Self::Deadline { .. } => "deadline",
            Self::ChannelClosed => "channel-closed",
            Self::Protocol { .. } => "protocol",
            Self::Revoked { .. } => "revoked",
            Self::Stalled => "stalled",
            Self::Hung { .. } => "hung",
            Self::ByOperator { .. } => "by-operator",
            Self::ZygoteLost => "zygote-lost",
        }
    }

    /// Whether the host, or an operator of it, wanted it to end, and it is not a crash.
    pub fn was_asked_for(&self) -> bool {
        matches!(self, Self::Unloaded | Self::HostShutdown | Self::ByOperator { .. })
    }

    /// Whether it speaks against the plugin: neither somebody's wish, nor a misfortune of the host's own, nor an exit with
    /// code 0. These are counted, and lead to quarantine.
    pub fn is_crash(&self) -> bool {
        let clean = matches!(self, Self::Exited { code: 0 } | Self::Revoked { .. });
        !(clean || self.was_asked_for() || matches!(self, Self::ZygoteLost))
    }

    /// What to do about it, where something can be done.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Memory { limit_mb, .. } => {
                format!("if it really needs more than {limit_mb} MiB, raise max_memory_mb")
            }
            Self::CpuTime { limit_sec, .. } => format!(
                "{limit_sec} CPU seconds are for one activation: an honest long-lived plugin wants more, or none \
                 (max_cpu_time_sec)"
            ),
            Self::Deadline { operation, .. } => {
                let field = match operation {
                    Operation::Load => "load_timeout",
                    Operation::Activate => "activate_timeout",
                    Operation::Call => "call_timeout",
                    Operation::Deactivate | Operation::Unload => "deactivate_timeout",
                    Operation::Check => "the timeout of the check",
                };
                format!("if it is not hanging, raise {field}")
            }
            Self::ForbiddenCall { .. } => {
                "the plugin, or a library of its, asks for what no permission opens: ask its vendor".into()
            }
            Self::Hung { .. } => "a plugin that stops or ends its own first thread cannot be called: ask its vendor".into(),
            Self::Protocol { .. } | Self::ChannelClosed => {
                "no plugin that uses plugin-abi alone does so: treat it as hostile, or broken, and ask its vendor".into()
            }
            Self::Stalled => "a file system that it was granted did not answer in time".into(),
            Self::Revoked { permission, .. } => format!(
                "to take {} back from a plugin that goes on, grant it as Grade::Mediated; to let it keep what it has, \
                 revoke_permission_leaving_open",
                permission.name()
            ),
            _ => return None,
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unloaded => f.write_str("it was unloaded"),
            Self::HostShutdown => f.write_str("the host shut down"),
            Self::Exited { code } => write!(f, "it exited with code {code}"),
            Self::Signal { signal, fault_address } => {
                match Signal::try_from(*signal) {
                    Ok(name) => write!(f, "it was ended by {name}")?,
                    Err(_) => write!(f, "it was ended by signal {signal}")?,
                }
                fault_address.map_or(Ok(()), |address| write!(f, " at address {address:#x}"))
            }
            Self::ForbiddenCall { call: Some(call), arguments, .. } => {
                write!(f, "it tried a forbidden system call: {call}(")?;
                for (index, argument) in arguments.iter().enumerate() {
                    write!(f, "{}{argument:#x}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            Self::ForbiddenCall { .. } => {
                f.write_str("it tried a system call of another architecture (SIGSYS)")
            }
            Self::Memory { used_mb, limit_mb } => {
                write!(f, "it ran out of its {limit_mb} MiB of memory, with {used_mb} MiB resident at most")
            }
            Self::CpuTime { used, limit_sec } => {
                write!(f, "it used up its {limit_sec} s of CPU time, with {:.2} s", used.as_secs_f64())
            }
            Self::Deadline { operation, timeout } => {
                write!(f, "its {operation} did not end within {timeout:?}, and it was killed")
            }
            Self::ChannelClosed => f.write_str("it closed its channel, and was killed"),
            Self::Protocol { field, what } => {
                write!(f, "it broke the protocol ({field}: {what}), and was killed")
            }
            Self::Revoked { permission, object } => {
                write!(f, "it still had {object} in its hands when {permission} was revoked")
            }
            Self::Hung { how } => write!(f, "{how}, and it was killed"),
            Self::Stalled => f.write_str("a request of its stalled the broker, and it was killed"),
            Self::ByOperator { uid } => write!(f, "an operator (uid {uid}) ended it through the monitor"),
            Self::ZygoteLost => f.write_str("the zygote ended, and its helpers with it"),
        }
    }
}

/// What a helper has said that no helper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The part of it that was wrong.
    pub(crate) field: &'static str,
    pub(crate) what: String,
}

impl Violation {
    pub(crate) fn of(field: &'static str, what: impl Into<String>) -> Self {
        Self { field, what: what.into() }
    }
}

impl From<Violation> for Cause {
    fn from(violation: Violation) -> Self {
        Self::Protocol { field: violation.field, what: violation.what }
    }
}

/// What is known about an end.
#[derive(Debug, Default, Clone)]
pub(crate) struct Evidence {
    /// What the host had decided before it killed.
    pub(crate) decided: Option<Cause>,
    /// The limit on memory, in MiB.
    pub(crate) memory_limit_mb: Option<u64>,
    /// Whether the kernel killed in its cgroup for want of memory.
    pub(crate) group_out_of_memory: bool,
    /// A file that the host served and does not serve any more, and that it tried to use since.
    pub(crate) refused: Option<Cause>,
    /// What its own process showed of a fault.
    pub(crate) fault: Option<(i32, Option<u64>)>,
    /// Whether the last thing printed is an allocator's complaint. The plugin's own words: they only name a cause.
    pub(crate) said_out_of_memory: bool,
}

/// The cause behind a wait status.
pub(crate) fn derive(status: i32, max_rss_kib: u64, evidence: &Evidence) -> Cause {
    let signal = status & 0x7f;
    if signal == 0 {
        let code = (status >> 8) & 0xff;
        return match &evidence.decided {
            Some(asked) if asked.was_asked_for() => asked.clone(),
            // It was quicker than the signal.
            _ => Cause::Exited { code },
        };
    }
    let memory = |limit_mb| Cause::Memory { used_mb: max_rss_kib.div_ceil(1024), limit_mb };
    if signal == libc::SIGKILL {
        if let (true, Some(limit_mb)) = (evidence.group_out_of_memory, evidence.memory_limit_mb) {
            return memory(limit_mb);
        }
        let killed = Cause::Signal { signal, fault_address: None };
        return evidence.decided.clone().unwrap_or(killed);
    }
    if signal == libc::SIGSYS {
        return Cause::ForbiddenCall { call: None, number: None, arguments: Box::default() };
    }
    // A page that was mapped and is not served any more.
    if let (libc::SIGBUS, Some(refused)) = (signal, &evidence.refused) {
        return refused.clone();
    }
    if let Some(limit_mb) = evidence.memory_limit_mb {
        // An abort or a fault of a process that had all but its limit resident, or that said why.
        let full = max_rss_kib.saturating_mul(10) >= limit_mb.saturating_mul(1024 * 9);
        let failed = matches!(signal, libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS);
        if failed && (full || (evidence.said_out_of_memory && signal == libc::SIGABRT)) {
            return memory(limit_mb);
        }
    }
    // A fault that was survived, or made up, says nothing of another signal.
    let fault_address = evidence.fault.filter(|fault| fault.0 == signal).and_then(|fault| fault.1);
    Cause::Signal { signal, fault_address }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::policy::PERMISSION_FILE_READ;

    #[test]
    fn the_cause_is_what_was_decided_or_what_the_kernel_says() {
        let none = Evidence::default();
        let revoked = Cause::Revoked { permission: Box::new(PERMISSION_FILE_READ), object: "/a".to_owned() };
        let refused = Evidence { refused: Some(revoked.clone()), ..Evidence::default() };
        let limited = Evidence { memory_limit_mb: Some(100), ..Evidence::default() };
        let deadline = Cause::Deadline { operation: Operation::Call, timeout: Duration::from_secs(5) };
        let decided = Evidence { decided: Some(deadline.clone()), ..Evidence::default() };
        let shut_down = Evidence { decided: Some(Cause::HostShutdown), ..Evidence::default() };
        let fault = Evidence { fault: Some((libc::SIGSEGV, Some(8))), ..Evidence::default() };
        let signal = |signal| Cause::Signal { signal, fault_address: None };
        let forbidden = Cause::ForbiddenCall { call: None, number: None, arguments: Box::default() };
        for (status, rss, evidence, cause) in [
            (3 << 8, 0, &none, Cause::Exited { code: 3 }),
            (0, 0, &shut_down, Cause::HostShutdown),
            (libc::SIGKILL, 0, &shut_down, Cause::HostShutdown),
            (libc::SIGSEGV, 0, &none, signal(libc::SIGSEGV)),
            (libc::SIGSEGV | 0x80, 0, &none, signal(libc::SIGSEGV)),
            (libc::SIGSEGV, 0, &fault, Cause::Signal { signal: libc::SIGSEGV, fault_address: Some(8) }),
            (libc::SIGABRT, 0, &fault, signal(libc::SIGABRT)),
            (3 << 8, 0, &fault, Cause::Exited { code: 3 }),
            (libc::SIGSYS, 0, &none, forbidden),
            (libc::SIGKILL, 0, &decided, deadline.clone()),
            (libc::SIGSEGV, 0, &decided, signal(libc::SIGSEGV)),
            (libc::SIGBUS, 0, &refused, revoked),
            (libc::SIGSEGV, 0, &refused, signal(libc::SIGSEGV)),
            (libc::SIGKILL, 0, &none, signal(libc::SIGKILL)),
            (libc::SIGABRT, 95 << 10, &limited, Cause::Memory { used_mb: 95, limit_mb: 100 }),
            (libc::SIGABRT, 20 << 10, &limited, signal(libc::SIGABRT)),
        ] {
            assert_eq!(derive(status, rss, evidence), cause);
        }
    }
}
