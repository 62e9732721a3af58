//! What the libraries log, on stderr, where `PLUGIN_HOST_LOG` asks for it.
//!
//! Runs in the application's process. Owns that one variable, which decides what is logged and nothing else.
//! Never logs by default, and never to stdout, which belongs to the results.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::{Exit, Failure};

const VARIABLE: &str = "PLUGIN_HOST_LOG";

/// Starts logging if the variable is set: `debug`, or a list such as `info,sandbox_core=trace`.
pub(crate) fn start() -> Result<(), Failure> {
    let Some(wanted) = std::env::var_os(VARIABLE).filter(|wanted| !wanted.is_empty()) else {
        return Ok(());
    };
    let wanted = wanted.to_string_lossy();
    let targets: Targets = wanted.parse().map_err(|error| {
        Failure::new(Exit::Usage, "usage", format!("{VARIABLE}={wanted}: {error}"))
            .with_help("a level (error, warn, info, debug, trace) or a list such as info,sandbox_core=trace")
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false);
    // Only a second start could fail, and this is the only one.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    Ok(())
}
