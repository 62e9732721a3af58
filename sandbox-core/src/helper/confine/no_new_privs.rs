//! No program gains a privilege, no mapping becomes code. Runs in the helper, step 6; both are for good.

use crate::shared::notes::Notes;
use crate::shared::policy::{Layer, Sabotage};
use crate::shared::sys::mdwe;
use crate::shared::wire::report::{Call, Step};

/// Sets both.
pub(crate) fn set(sabotage: &Sabotage, notes: &mut Notes) {
    if !sabotage.takes(Layer::NoNewPrivs) {
        notes.tried(Step::NoNewPrivs, Call::NoNewPrivs, rustix::thread::set_no_new_privs(true));
    }
    if !sabotage.takes(Layer::MemoryDenyWriteExecute) {
        notes.tried(Step::NoNewPrivs, Call::Mdwe, mdwe::refuse_exec_gain());
    }
}
