//! Waiting for what the sandbox reports.

use std::time::Instant;

use crossbeam_channel::Receiver;
use sandbox_core::{EventKind, SandboxEvent};

use crate::wait::PATIENCE;

/// The first event from now on for which `wanted` gives something.
///
/// # Panics
/// With `what` and every other event that came, if none is wanted within [`PATIENCE`].
#[track_caller]
pub fn expect<T>(
    events: &Receiver<SandboxEvent>,
    what: &str,
    mut wanted: impl FnMut(&EventKind) -> Option<T>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut others = Vec::new();
    while let Ok(event) = events.recv_deadline(deadline) {
        if let Some(found) = wanted(&event.kind) {
            return found;
        }
        others.push(event);
    }
    panic!("no event of {what}; there were {others:#?}");
}

/// Waits for the report of an access that was refused, whose object or resolved path ends with `object`.
#[track_caller]
pub fn expect_denial(events: &Receiver<SandboxEvent>, object: &str) {
    expect(events, &format!("a denial of {object:?}"), |kind| match kind {
        EventKind::Access { granted: false, object: named, resolved, .. }
            if named.ends_with(object) || resolved.as_ref().is_some_and(|path| path.ends_with(object)) =>
        {
            Some(())
        }
        _ => None,
    });
}
