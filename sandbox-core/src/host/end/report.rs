//! Everything that is known of how a helper has ended, for a person: the cause, the fault with its stack, what was refused
//! last, what was printed last, and what was used.
//!
//! Plain values, put together when a helper ends. Nothing here decides; and everything that comes from the plugin is bounded and
//! escaped.

use std::fmt;

use nix::sys::signal::Signal;
use serde::Serialize;

use super::cause::Cause;
use crate::host::audit::opener;
use crate::host::limits::usage::ResourceUsage;
use crate::shared::policy::PluginPermission;

/// How much of what was printed last is kept with an end.
const PRINTED_BYTES: usize = 4 << 10;

/// How a plugin's helper has ended.
///
/// The fault, and the output, are as the plugin's own process showed them: a plugin that wants to can show a wrong stack, and
/// print what it likes. The cause, the refusal and the usage are the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndReport {
    /// Why it ended.
    pub cause: Cause,
    /// The fault, or the signal that it raised, if that is what ended it and the plugin let it be seen.
    pub fault: Option<FaultReport>,
    /// The last thing that it was refused, since it was loaded.
    pub refused: Option<Refusal>,
    /// The last of what it has printed, at most 4 KiB, escaped but for line ends and tabs.
    pub printed: String,
    /// What it has used.
    pub usage: ResourceUsage,
}

/// A fault of a plugin's, or a signal that it raised, with the stack of the thread that it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FaultReport {
    /// The signal's number.
    pub signal: i32,
    /// What the kernel says of it, in words: `nothing is mapped there`, `raised by itself`, ...
    pub why: &'static str,
    /// What was touched, or run, and may not be.
    pub address: Option<u64>,
    /// The name of the thread, escaped.
    pub thread: String,
    /// Its stack, innermost first; at most 64 frames.
    pub stack: Vec<StackFrame>,
    /// Why there is no more of it, if that is not its end.
    pub incomplete: Option<&'static str>,
}

/// One frame of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StackFrame {
    /// Where it is in memory: of use only beside others of the same helper.
    pub address: u64,
    /// The name of the file that it is of, escaped; `None` where there is none.
    pub module: Option<String>,
    /// The address in that file, as symbolizers want it: `addr2line -e FILE OFFSET`.
    pub offset: u64,
    /// The function, demangled, shortened and escaped.
    pub function: Option<String>,
    /// How far into the function it is.
    pub into_function: u64,
}

/// Something that the plugin was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refusal {
    /// The permission that it is about.
    pub permission: String,
    /// What was tried: the system call's name, or `service`.
    pub action: String,
    /// What the plugin named, escaped and shortened.
    pub object: String,
    /// The decision that counted.
    pub rule: String,
    /// The narrowest permission that would have opened it, as `--grant` takes it; `None` if none does.
    pub opened_by: Option<String>,
}

impl Refusal {
    pub(crate) fn opened_by(self, permission: Option<&PluginPermission>) -> Self {
        Self { opened_by: permission.map(ToString::to_string), ..self }
    }

    /// With the permission that would have opened it, as far as what was tried tells: where nothing is held the broker does not
    /// look what a path leads to.
    pub(crate) fn completed(self) -> Self {
        if self.opened_by.is_some() {
            return self;
        }
        let opener = opener(&self.permission, &self.action, &self.object, &self.rule);
        self.opened_by(opener.as_ref())
    }
}

impl EndReport {
    /// What is known of an end without more than its cause.
    pub(crate) fn of(cause: Cause) -> Self {
        let (printed, usage) = (String::new(), ResourceUsage::default());
        Self { cause, fault: None, refused: None, printed, usage }
    }

    /// What to do about it, where something can be done.
    pub fn help(&self) -> Option<String> {
        // An honest program that is refused what it needs gives up in one of these ways.
        let gave_up = matches!(self.cause, Cause::Exited { .. } | Cause::Signal { .. });
        let opened_by = || {
            let refused = self.refused.as_ref().filter(|_| gave_up)?;
            let Refusal { action, object, opened_by, .. } = refused;
            let opened_by = opened_by.as_ref()?;
            Some(format!("the last that it was refused is {action} {object}: grant {opened_by}"))
        };
        let own = || {
            gave_up.then(|| {
                "it gave up by itself, or by a fault of its own: its vendor can use this report".into()
            })
        };
        self.cause.help().or_else(opened_by).or_else(own)
    }
}

impl fmt::Display for EndReport {
    /// The cause in a line, and one more for each frame and each other thing that is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if let Some(fault) = &self.fault {
            write!(f, "\n{fault}")?;
        }
        if let Some(refused) = &self.refused {
            write!(f, "\nlast refused: {refused}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::try_from(self.signal) {
            Ok(name) => write!(f, "{name}: ")?,
            Err(_) => write!(f, "signal {}: ", self.signal)?,
        }
        f.write_str(self.why)?;
        if let Some(address) = self.address {
            write!(f, ": {address:#x}")?;
        }
        write!(f, " (thread {})", self.thread)?;
        for (number, frame) in self.stack.iter().enumerate() {
            write!(f, "\n  {number:>2}: {frame}")?;
        }
        match self.incomplete {
            Some(why) => write!(f, "\n      no more of the stack: {why}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for StackFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, module, offset, function, into_function } = self;
        match (module, function) {
            (Some(module), Some(function)) => {
                write!(f, "{module} {function}+{into_function:#x} ({offset:#x})")
            }
            (Some(module), None) => write!(f, "{module}+{offset:#x}"),
            (None, _) => write!(f, "{address:#x}, which is in no file"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { permission, action, object, rule, opened_by } = self;
        let what = format!("{action} {object}");
        write!(f, "{}: {permission}: {rule}", what.trim_end())?;
        opened_by.as_ref().map_or(Ok(()), |opened_by| write!(f, "; opened by {opened_by}"))
    }
}

/// The end of what was printed: whole lines, if there is more than one.
pub(crate) fn tail(printed: String) -> String {
    let Some(from) = printed.len().checked_sub(PRINTED_BYTES) else { return printed };
    let cut = (from..printed.len()).find(|at| printed.is_char_boundary(*at)).unwrap_or(printed.len());
    let tail = printed.get(cut..).unwrap_or_default();
    tail.split_once('\n').map_or(tail, |(_, whole)| whole).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(opened_by: Option<&str>) -> Refusal {
        Refusal {
            permission: "file-read".into(),
            action: "open".into(),
            object: "/x".into(),
            rule: "not granted".into(),
            opened_by: opened_by.map(str::to_owned),
        }
    }

    #[test]
    fn an_end_after_a_refusal_names_what_would_have_opened_it_if_the_plugin_gave_up() {
        let mut report = EndReport::of(Cause::Exited { code: 3 });
        let vendor = "it gave up by itself, or by a fault of its own: its vendor can use this report";
        assert_eq!(report.help().unwrap(), vendor);
        report.refused = Some(refusal(None));
        assert_eq!(report.help().unwrap(), vendor);
        report.refused = Some(refusal(Some("file-read:/x")));
        assert_eq!(report.help().unwrap(), "the last that it was refused is open /x: grant file-read:/x");
        assert_eq!(
            report.to_string(),
            "it exited with code 3\nlast refused: open /x: file-read: not granted; opened by file-read:/x"
        );
        report.cause = Cause::Unloaded;
        assert_eq!(report.help(), None);
    }

    #[test]
    fn of_what_was_printed_the_last_whole_lines_are_kept() {
        assert_eq!(tail("a\nb\n".into()), "a\nb\n");
        let long = format!("{}\n{}\nlast\n", "x".repeat(PRINTED_BYTES), "y".repeat(100));
        assert_eq!(tail(long), format!("{}\nlast\n", "y".repeat(100)));
        let one = "é".repeat(PRINTED_BYTES);
        assert_eq!(tail(one).len(), PRINTED_BYTES);
    }
}
