//! Becomes nobody in particular, and empties the five capability sets.
//!
//! Runs in the helper, step 5: one thread, root already swapped, `no_new_privs` not yet set. Owns the order: bounding set
//! and securebits first, since both need CAP_SETPCAP; then the ids, which need CAP_SETUID and CAP_SETGID; then the rest;
//! the parent-death signal last, since a change of ids resets it. capabilities(7), credentials(7). Never restores anything.

use caps::CapSet;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{DumpableBehavior, Signal};

use crate::shared::notes::Notes;
use crate::shared::plan::caps::{Ids, securebits};
use crate::shared::policy::{Layer, Sabotage};
use crate::shared::wire::report::{Call, Step};

const STEP: Step = Step::Privileges;

/// Drops everything that a uid or a capability could give.
pub(crate) fn drop_all(ids: Option<Ids>, sabotage: &Sabotage, notes: &mut Notes) {
    let keeps_all = sabotage.takes(Layer::Capabilities);
    if !keeps_all {
        lock_sets(notes);
    }
    if let Some(Ids { uid, gid }) = ids {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        notes.tried(STEP, Call::Setgroups, setgroups(&[]));
        notes.tried(STEP, Call::Setresgid, setresgid(gid, gid, gid));
        notes.tried(STEP, Call::Setresuid, setresuid(uid, uid, uid));
    }
    // A filter wants the one or the other; only a test's helper has neither, and it drops the other behind the filter.
    let keeps_some = sabotage.takes(Layer::NoNewPrivs) && sabotage.takes(Layer::Seccomp);
    if !keeps_all && !keeps_some {
        clear_sets(notes);
    }
    notes.tried(
        STEP,
        Call::DeathSignal,
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
    );
    // A change of ids has made it undumpable: the host must still take the listener. Undone before the load.
    let dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
    notes.tried(STEP, Call::Dumpable, dumpable);
}

/// The crate's errors are texts; the errno is the thread's last.
fn errno(result: Result<(), caps::errors::CapsError>) -> Result<(), Errno> {
    result.map_err(|_| Errno::last())
}

/// What can only be lowered while there is CAP_SETPCAP.
fn lock_sets(notes: &mut Notes) {
    for capability in caps::all() {
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            let dropped = errno(caps::drop(None, CapSet::Bounding, capability));
            if notes.tried(STEP, Call::BoundingSet, dropped).is_none() {
                break; // without CAP_SETPCAP none can be dropped: once is enough to say so
            }
        }
    }
    notes.tried(STEP, Call::Securebits, rustix::thread::set_capabilities_secure_bits(securebits()));
    notes.tried(STEP, Call::Ambient, errno(caps::clear(None, CapSet::Ambient)));
}

/// Empties the sets that ids do not need any more.
pub(crate) fn clear_sets(notes: &mut Notes) {
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        notes.tried(STEP, Call::Capset, errno(caps::clear(None, set)));
    }
}
