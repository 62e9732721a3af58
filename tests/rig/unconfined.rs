//! Controls: the very code of a probe, in a child process that nothing confines.
//!
//! A refusal in the sandbox proves something only if the same attempt succeeds outside it.

use std::env;
use std::io;
use std::path::Path;
use std::process::Command;

pub use containment::control::Outcome;
use containment::{Step, control};

use crate::library;
use crate::wait::PATIENCE;

/// Tells the test named `child` that it is to play a control.
pub(crate) const ASKED: &str = "PLUGIN_TESTS_CONTROL";

/// How this test program is run again to play a control.
///
/// # Errors
/// None that a test program has.
pub fn starter() -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env_remove(crate::child::PART)
        .env(ASKED, "1");
    Ok(command)
}

/// Tries `method` of the plugin `probe` outside any sandbox.
#[track_caller]
pub fn attempt(method: &str, payload: &str) -> Outcome {
    attempt_of(&library("probe"), method, payload)
}

/// Tries a method of the plugin in `library` outside any sandbox.
#[track_caller]
pub fn attempt_of(library: &Path, method: &str, payload: &str) -> Outcome {
    let step = Step::Call { method: method.to_owned(), payload: payload.as_bytes().to_vec() };
    match control::attempt(&starter, library, &[step], PATIENCE) {
        Ok(Outcome::Failed(why)) => panic!("the control did not work: {why}"),
        Ok(Outcome::RunsOn) => panic!("the control hung, and was killed"),
        Ok(outcome) => outcome,
        Err(error) => panic!("the control did not work: {error}"),
    }
}
