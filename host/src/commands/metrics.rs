//! `plugin-host metrics`: the figures of a host, as Prometheus reads them.
//!
//! Runs in the application's process. Never changes a byte of the text, which is the host's, but what a terminal would obey.

use crate::cli::MetricsArgs;
use crate::failure::Failure;
use crate::monitor::Monitor;
use crate::output::{escape, human};

/// Prints them.
///
/// # Errors
/// That there is no such host, or that stdout cannot be written.
pub(crate) fn execute(args: &MetricsArgs) -> Result<(), Failure> {
    let text = Monitor::connect(&args.socket)?.metrics()?;
    let lines: Vec<_> = text.lines().map(escape::line).collect();
    human::result((lines.join("\n") + "\n").as_bytes())
}
