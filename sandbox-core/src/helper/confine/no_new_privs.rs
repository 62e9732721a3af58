//! No program gains a privilege, no mapping becomes code. Runs in the helper, step 6; both are for good.

use crate::shared::notes::Notes;
use crate::shared::sys::mdwe;
use crate::shared::wire::report::{Call, Step};

/// Sets both.
pub(crate) fn set(notes: &mut Notes) {
    notes.tried(Step::NoNewPrivs, Call::NoNewPrivs, rustix::thread::set_no_new_privs(true));
    notes.tried(Step::NoNewPrivs, Call::Mdwe, mdwe::refuse_exec_gain());
}
