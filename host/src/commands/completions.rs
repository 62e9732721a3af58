//! `plugin-host completions`: prints a shell's completions for this program.
//!
//! Runs in the application's process. Never writes into a shell's own files.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::human;

/// Prints the completions.
///
/// # Errors
/// That stdout could not be written.
pub(crate) fn execute(shell: Shell) -> Result<(), Failure> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    human::result(&script)
}
