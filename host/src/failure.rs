//! What a run ends with when it does not work: a chain of messages, what to do, and the exit code.
//!
//! Runs in the application's process. Owns which error of the sandbox leads to which exit code and kind.
//! Never shows anything: `output` does, and escapes it first.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use sandbox_core::{Cause, LibraryError, Operation, PluginSandboxError, QuarantineError};

use crate::output;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One word for a program to branch on; see the error object in `output::json`.
    pub(crate) kind: &'static str,
    /// The error and its sources, outermost first. Untrusted.
    pub(crate) chain: Vec<String>,
    /// What to do about it. Untrusted: may quote names out of a file.
    pub(crate) help: Option<String>,
    pub(crate) exit: Exit,
}

/// The documented exit codes but for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Whoever read stdout has gone: nobody is left to be told.
    NobodyReads = 0,
    /// The plugin failed, was ended, or was denied.
    Plugin = 1,
    /// Bad usage, or bad input.
    Usage = 2,
    /// The sandbox could not be had.
    Sandbox = 3,
}

impl Failure {
    pub(crate) fn new(exit: Exit, kind: &'static str, message: String) -> Self {
        Self { kind, chain: vec![message], help: None, exit }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With what is behind the message. Untrusted.
    pub(crate) fn because(mut self, why: String) -> Self {
        self.chain.push(why);
        self
    }

    /// A file of the user's that could not be read or written.
    pub(crate) fn of_file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self { chain: vec![format!("{what} {}", path.display()), error.to_string()], ..Self::blank_io() }
    }

    /// A write to stdout that did not work.
    pub(crate) fn of_stdout(error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe { Exit::NobodyReads } else { Exit::Usage };
        Self { chain: vec!["cannot write to stdout".to_owned(), error.to_string()], exit, ..Self::blank_io() }
    }

    fn blank_io() -> Self {
        Self { kind: "io", chain: Vec::new(), help: None, exit: Exit::Usage }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl From<QuarantineError> for Failure {
    fn from(error: QuarantineError) -> Self {
        Self::from(PluginSandboxError::from(error))
    }
}

impl From<PluginSandboxError> for Failure {
    fn from(error: PluginSandboxError) -> Self {
        let (kind, exit) = classify(&error);
        Self { kind, chain: chain(&error), help: help(&error), exit }
    }
}

/// The library's advice is for whoever embeds it; where an option of ours does the same, it is named instead.
fn help(error: &PluginSandboxError) -> Option<String> {
    use PluginSandboxError as E;
    match error {
        E::LayerMissing { layer, .. } => {
            let matters = layer.matters_because();
            Some(format!("see `plugin-host doctor`; `--best-effort {layer}` goes on, but {matters}"))
        }
        E::Library(LibraryError::ModuleNotAllowed { module, .. }) => {
            Some(format!("if the plugin may use it, add --allow-module {module}"))
        }
        E::Denied(denied) => Some(format!("--grant {} opens it", denied.permission)),
        E::Ended { cause: Cause::Memory { .. }, .. } => {
            Some("--limit max_memory_mb=N raises the limit".to_owned())
        }
        E::Ended { cause: Cause::CpuTime { .. }, .. } => {
            Some("--limit max_cpu_time_sec=N raises the limit, none lifts it".to_owned())
        }
        E::Ended { cause: Cause::Deadline { operation, .. }, .. } => {
            let operation = if *operation == Operation::Unload { Operation::Deactivate } else { *operation };
            Some(format!("if it is not hanging, --limit {operation}_timeout=TIME raises the limit"))
        }
        E::Quarantined { digest, .. } => {
            Some(format!("find out why, then `plugin-host quarantine clear {digest}`"))
        }
        E::MessageTooLarge { .. } => Some("--limit max_message_bytes=N raises the limit".to_owned()),
        _ => error.help(),
    }
}

/// Every variant that is neither the user's nor the machine's doing counts as the plugin's.
fn classify(error: &PluginSandboxError) -> (&'static str, Exit) {
    use PluginSandboxError as E;
    match error {
        E::PluginId(_) | E::AlreadyRegistered { .. } | E::UnknownPlugin { .. } => ("plugin-id", Exit::Usage),
        E::Permission(_) => ("permission", Exit::Usage),
        E::Limit(_) => ("limit", Exit::Usage),
        E::Library(_) => ("library", Exit::Usage),
        E::NotAPlugin { .. } => ("not-a-plugin", Exit::Usage),
        E::Metadata { .. } => ("metadata", Exit::Usage),
        E::Abi { .. } => ("abi", Exit::Usage),
        E::LayerMissing { .. } => ("layer-missing", Exit::Sandbox),
        E::LimitNotHeld { .. } => ("limit-not-held", Exit::Sandbox),
        E::Confine { .. } => ("confine", Exit::Sandbox),
        E::Zygote { .. } => ("zygote", Exit::Sandbox),
        E::Ended { cause: Cause::ZygoteLost, .. } => ("zygote", Exit::Sandbox),
        E::Io { .. } => ("io", Exit::Sandbox),
        E::Quarantined { .. } => ("quarantined", Exit::Plugin),
        E::Quarantine(_) => ("quarantine-file", Exit::Usage),
        E::LoadFailed { .. } => ("load-failed", Exit::Plugin),
        E::PluginFailed { .. } => ("plugin-failed", Exit::Plugin),
        E::Ended { .. } => ("ended", Exit::Plugin),
        E::Denied(_) => ("denied", Exit::Plugin),
        E::MessageTooLarge { .. } => ("message-too-large", Exit::Plugin),
        E::WrongState { .. } | E::Reentrant { .. } => ("wrong-state", Exit::Plugin),
        _ => ("other", Exit::Plugin),
    }
}

fn chain(error: &dyn Error) -> Vec<String> {
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        // A transparent error says what its source says.
        if chain.last().is_none_or(|outer| !outer.ends_with(&text)) {
            chain.push(text);
        }
        source = inner.source();
    }
    chain
}

/// Shows what clap has to say: help and version on stdout, everything else as an error.
pub(crate) fn of_usage(error: &clap::Error, mut args: impl Iterator<Item = OsString>) -> ExitCode {
    // No command at all is a question, as far as a person is concerned.
    let asks = error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if asks {
        // What it prints to, its standard error, may be closed: there is nobody else to tell.
        let _ = error.print();
        return ExitCode::from(2);
    }
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Failure::of_stdout(&error).exit_code(),
        };
    }
    let mut failure = usage(&error.render().to_string());
    // Ours, about the order of calls: clap knows no usage that would help, and shows that of the whole program.
    let ours = error.context().next().is_none();
    if ours {
        failure.help = Some("see `plugin-host run --help`".to_owned());
    }
    // The arguments make no sense, so this is the best that can be known.
    if args.any(|arg| arg == "--json") {
        output::json::print_failure(None, &failure);
    } else if ours {
        output::human::print_failure(&failure);
    } else {
        // Nothing is left to be done if stderr is gone.
        let _ = error.print();
    }
    ExitCode::from(Exit::Usage as u8)
}

/// What clap wrote for people: the first paragraph says what is wrong, the others what would be right.
fn usage(rendered: &str) -> Failure {
    let mut paragraphs = rendered.trim().split("\n\n").map(str::trim);
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let help: Vec<_> = paragraphs.filter(|text| !text.starts_with("For more information")).collect();
    let failure = Failure::new(Exit::Usage, "usage", message.to_owned());
    if help.is_empty() { failure } else { failure.with_help(help.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_tells_what_is_wrong_apart_from_what_would_be_right() {
        let rendered = "error: unexpected argument '--x' found\n\n  tip: try '--y'\n\nUsage: p run\n\nFor more \
                        information, try '--help'.\n";
        let failure = usage(rendered);
        assert_eq!(failure.chain, ["unexpected argument '--x' found"]);
        assert_eq!(failure.help.as_deref(), Some("tip: try '--y'\nUsage: p run"));
    }

    #[test]
    fn a_transparent_error_is_told_once() {
        let limit = sandbox_core::ResourceLimits::default().max_memory_mb(1).check().expect_err("too little");
        let failure = Failure::from(PluginSandboxError::from(limit));
        assert_eq!((failure.chain.len(), failure.kind, failure.exit), (1, "limit", Exit::Usage));
    }

    #[test]
    fn a_closed_pipe_is_no_failure_of_ours() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::of_stdout(&closed).exit, Exit::NobodyReads);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::of_stdout(&full).exit, Exit::Usage);
    }
}
