//! Sets the planned resource limits. Runs in the helper, step 3. Never raises one above what the host itself has.

use rustix::process::{Rlimit as Pair, getrlimit, setrlimit};

use crate::shared::notes::Notes;
use crate::shared::plan::rlimits::Rlimit;
use crate::shared::sys::signals;
use crate::shared::wire::report::{Call, Step};

/// Applies all of them.
pub(crate) fn set_all(plan: &[Rlimit], notes: &mut Notes) {
    signals::ignore_file_size();
    for limit in plan {
        let resource = limit.resource.kernel();
        let now = getrlimit(resource);
        // A bound above the host's own could not be set: the host's stays.
        let least = |planned: Option<u64>, now: Option<u64>| match (planned, now) {
            (Some(planned), Some(now)) => Some(planned.min(now)),
            (planned, now) => planned.or(now),
        };
        let maximum = least(limit.hard, now.maximum);
        let pair = Pair { current: least(limit.soft.or(now.current), maximum), maximum };
        notes.tried(Step::Rlimits, Call::Setrlimit, setrlimit(resource, pair));
    }
}
