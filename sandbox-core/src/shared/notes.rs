//! What failed on the way, kept for the report. Runs in zygote and helper.

use crate::shared::wire::report::{Call, Failure, MAX_FAILURES, Step};

/// The failures of one process so far. A failure stops nothing by itself: the host decides what is enough.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    failures: Vec<Failure>,
}

/// An error that is an errno.
pub(crate) trait AsErrno {
    fn errno(&self) -> i32;
}

impl AsErrno for nix::errno::Errno {
    fn errno(&self) -> i32 {
        *self as i32
    }
}

impl AsErrno for rustix::io::Errno {
    fn errno(&self) -> i32 {
        self.raw_os_error()
    }
}

impl AsErrno for std::io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or(libc::EIO)
    }
}

impl Notes {
    /// The result's value, or `None` and a failure noted.
    pub(crate) fn tried<T>(&mut self, step: Step, call: Call, result: Result<T, impl AsErrno>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if self.failures.len() < MAX_FAILURES {
                    self.failures.push(Failure { step, call, errno: error.errno() });
                }
                None
            }
        }
    }

    pub(crate) fn into_failures(self) -> Vec<Failure> {
        self.failures
    }
}
