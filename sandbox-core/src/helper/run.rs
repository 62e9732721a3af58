//! Steps 2 to 11, in order. Step 1 is `zygote/clone.rs`.
//!
//! Runs in the helper from its first instruction on. Owns the order, which is the security: each step needs a right that a
//! later one gives up. Never goes back: what failed is reported, and the host decides.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use super::confine::{detach, landlock, no_new_privs, privileges, rlimits, root, seccomp};
use super::hand_over::{self, Courier};
use super::link::Link;
use super::{load, readback, serve};
use crate::shared::notes::Notes;
use crate::shared::plan::seccomp::Surroundings;
use crate::shared::sys::{fault, inherited};
use crate::shared::wire::WIRE_VERSION;
use crate::shared::wire::control::{FromHelper, ToHelper};

/// Confines this process as the host says, loads the plugin, and serves it until the host lets go.
pub(crate) fn main() -> ! {
    let _ = rustix::thread::set_name(c"plugin-helper");
    let Ok(mut link) = Link::inherited() else { inherited::exit_at_once(70) };
    let Some(ToHelper::Confine(plan)) = link.next_order() else { inherited::exit_at_once(71) };
    if plan.wire_version != WIRE_VERSION {
        inherited::exit_at_once(72);
    }
    link.set_max_message(plan.max_message_bytes);
    let mut notes = Notes::default();

    let (sabotage, before) = (&plan.sabotage, |step| {
        if plan.sabotage.ends_before(step) {
            inherited::kill_at_once()
        }
    });

    before(2);
    detach::detach(&plan, &mut notes);
    let socket = plan.hands_over.then(|| hand_over::memory(&mut notes)).flatten();
    before(3);
    rlimits::set_all(&plan.rlimits, &mut notes);
    before(4);
    let empty_root = root::enter(plan.root, &mut notes);
    before(5);
    privileges::drop_all(plan.ids, sabotage, &mut notes);
    before(6);
    no_new_privs::set(sabotage, &mut notes);
    before(7);
    let landlock = landlock::restrict(empty_root, sabotage, &mut notes);
    let mut report = readback::report(&landlock);
    before(8);
    let courier = socket.and_then(|socket| Courier::start(socket, &mut notes));
    let listener = seccomp::install(Surroundings { empty_root }, sabotage, &mut notes);
    if let Some(courier) = courier {
        courier.send(listener.as_ref().map(|(listener, _)| listener.as_fd()), &mut notes);
    }
    before(9);

    if let Some((listener, killable)) = &listener {
        report.listener = listener.as_raw_fd();
        report.killable_wait = *killable;
    }
    report.failures = notes.into_failures();
    link.send(&FromHelper::Report(Box::new(report)));
    let Some(ToHelper::Load { files }) = link.next_order() else { inherited::exit_at_once(0) };
    // The host has its own by now; with this one the plugin could answer its own requests.
    drop(listener);
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // Without it an end is told all the same, by its signal alone.
    let _ = fault::show_faults();
    before(10);
    let loaded = load::load(&files);
    before(11);

    let link = Arc::new(link);
    match loaded {
        Ok(plugin) => {
            link.send(&FromHelper::Loaded(Ok(())));
            serve::serve(&link, plugin)
        }
        Err(fault) => {
            link.send(&FromHelper::Loaded(Err(fault)));
            // Whoever ends first names the cause: the host is to, which knows that the load has failed.
            while link.next_order().is_some() {}
            inherited::exit_at_once(0)
        }
    }
}
