//! The command-line host: loads a plugin confined, calls it, and shows what the kernel holds against it.
//!
//! Runs in the application's process; `sandbox-core` re-executes this same program as zygote and helper before `main`.
//! Owns the exit codes. Never loads a plugin's library itself, unless `prove` has started it to play a control, and no
//! environment variable weakens the sandbox.

mod cli;
mod commands;
mod failure;
mod logging;
mod monitor;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::of_usage(&error, std::env::args_os().skip(1)),
    };
    if let Err(failure) = logging::start() {
        return end(&cli.command, failure);
    }
    match &cli.command {
        Command::Run(args) => commands::run::execute(args),
        Command::Inspect(args) => commands::inspect::execute(args),
        Command::Doctor(args) => commands::doctor::execute(args),
        Command::Audit(args) => match commands::audit::execute(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => end(&cli.command, failure),
        },
        Command::Prove(args) if args.list => match commands::prove::list(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => end(&cli.command, failure),
        },
        Command::Prove(args) => match commands::prove::execute(args) {
            Ok(code) => code,
            Err(failure) => end(&cli.command, failure),
        },
        Command::ProveControl => end(&cli.command, commands::prove::control()),
        Command::Quarantine(args) => match commands::quarantine::execute(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => end(&cli.command, failure),
        },
        Command::Top(args) => match commands::top::execute(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => end(&cli.command, failure),
        },
        Command::Metrics(args) => match commands::metrics::execute(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => end(&cli.command, failure),
        },
        Command::Completions { shell } => match commands::completions::execute(*shell) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => end(&cli.command, failure),
        },
    }
}

fn end(command: &Command, failure: Failure) -> ExitCode {
    if command.wants_json() {
        output::json::print_failure(Some(command.name()), &failure);
    } else {
        output::human::print_failure(&failure);
    }
    failure.exit_code()
}
