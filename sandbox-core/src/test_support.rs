//! The filter as the tests look at it: its programs, what they say, and the document that tells it in words.
//!
//! Runs in test programs, which alone are built with the feature `test-support`. Never part of a program that is shipped.

use crate::shared::plan::seccomp::{Surroundings, forbidden, programs};
pub use crate::shared::plan::seccomp_document::{document, numbers};
use crate::shared::plan::seccomp_evaluator as evaluator;
use crate::shared::sys::seccomp::sock_filter;

/// One of the programs that are stacked, in the order in which they are installed.
#[derive(Debug, Clone)]
pub struct FilterProgram {
    /// Whether it is the one that comes with the listener.
    pub notifies: bool,
    instructions: Vec<sock_filter>,
}

impl FilterProgram {
    /// Its instructions, as `code`, `jt`, `jf` and `k` of a `struct sock_filter`.
    pub fn instructions(&self) -> Vec<(u16, u8, u8, u32)> {
        self.instructions.iter().map(|one| (one.code, one.jt, one.jf, one.k)).collect()
    }
}

/// The very programs that a helper with this process id installs.
///
/// # Panics
/// If they do not compile, which no table of ours comes to.
pub fn filter_programs(own_pid: u32, empty_root: bool) -> Vec<FilterProgram> {
    let programs = programs(Surroundings { empty_root }, own_pid).expect("the table compiles");
    let silent = [Some(programs.known), programs.trap].into_iter().flatten().map(|program| (false, program));
    let all = silent.chain([(true, programs.notify)]);
    all.map(|(notifies, instructions)| FilterProgram { notifies, instructions }).collect()
}

/// Whether the host ends who makes this call.
pub fn is_forbidden(nr: i64) -> bool {
    forbidden(nr).is_some()
}

/// What all of `programs` together return for a call of this machine's architecture: seccomp(2).
pub fn evaluate(programs: &[FilterProgram], nr: u32, args: [u64; 6]) -> u32 {
    let answer =
        |program: &FilterProgram| evaluator::evaluate(&program.instructions, evaluator::ARCH, nr, args);
    evaluator::strictest(programs.iter().map(answer))
}
