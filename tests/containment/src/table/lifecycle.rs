//! Ends, and whatever wants to outlive them.
//!
//! Runs in a host. What ends itself ends outside too, by itself alone: there the control shows that it does.

use std::time::Duration;

use sandbox_core::{App, Layer, ResourceLimits};

use crate::Control::{Exits, Like, RunsOn, Signal, Works};
use crate::Expected::{self, Deadline, Errno, Exited, Failed, Gone, Harmless};
use crate::row::{EVERYTHING, call};
use crate::{Control, HeldBy, Row, Step};

const HOST: &[HeldBy] = &[HeldBy::Host];
/// Where a helper has no root of its own it starts nothing.
const NO_CHILDREN: Expected = Failed("came to EPERM");

fn hurried(limits: ResourceLimits) -> ResourceLimits {
    let soon = Duration::from_millis(300);
    limits.call_timeout(soon).deactivate_timeout(soon).activate_timeout(soon)
}

fn ends(name: &'static str, method: &str, payload: &str, expected: Expected, control: Control) -> Row {
    Row::new(name, method, payload, expected, control).held_by(HOST)
}

fn hangs(name: &'static str, method: &str, payload: &str) -> Row {
    ends(name, method, payload, Deadline, RunsOn).limits(hurried)
}

fn on_deactivation(name: &'static str, what: &str, expected: Expected, control: Control) -> Row {
    ends(name, "at_deactivate", what, expected, control).of("probe-life").then(Step::Deactivate)
}

fn on_unload(name: &'static str, what: &str, expected: Expected, control: Control) -> Row {
    ends(name, "at_drop", what, expected, control).of("probe-life").then(Step::Unload)
}

fn told(what: &'static str) -> App {
    App::new().service("test.activate", move |_| Ok(what.into()))
}

/// A misdeed while it is activated; the control does it in a call.
fn on_activation(
    name: &'static str,
    app: fn() -> App,
    what: &str,
    expected: Expected,
    control: Control,
) -> Row {
    ends(name, "now", "", expected, Like(vec![call("now", what)], Box::new(control)))
        .of("probe-life")
        .only_loaded()
        .app(app)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = in_a_call();
    rows.extend(at_its_moments());
    rows.extend(outliving());
    rows
}

fn in_a_call() -> Vec<Row> {
    let signal = Expected::Signal;
    vec![
        ends("aborts", "abort", "", signal(libc::SIGABRT), Signal(libc::SIGABRT)),
        ends("faults", "segfault", "", signal(libc::SIGSEGV), Signal(libc::SIGSEGV)),
        ends(
            "runs an instruction that there is not",
            "illegal_instruction",
            "",
            signal(libc::SIGILL),
            Signal(libc::SIGILL),
        ),
        ends("raises an arithmetic fault", "raise", "8", signal(libc::SIGFPE), Signal(libc::SIGFPE)),
        ends("kills itself", "kill_self", "9", signal(libc::SIGKILL), Signal(libc::SIGKILL)),
        ends("terminates itself", "kill_self", "15", signal(libc::SIGTERM), Signal(libc::SIGTERM)),
        ends("exits", "exit", "3", Exited(3), Exits(3)),
        ends("exits as if all were well", "exit", "0", Exited(0), Exits(0)),
        ends("exits and runs nothing of its own", "exit_at_once", "", Exited(5), Exits(5)),
        ends("exits on another thread", "exit_on_thread", "", Exited(7), Exits(7)),
        hangs("exits and hangs while it does", "exit_and_hang", ""),
        // A control's program has other threads, and goes on.
        ends(
            "ends the thread that was called",
            "exit_thread",
            "",
            Exited(0),
            Like(vec![call("exit", "0")], Box::new(Exits(0))),
        ),
        hangs("stops itself", "raise", "19"),
        hangs("blocks every signal", "block_signals", ""),
    ]
}

fn at_its_moments() -> Vec<Row> {
    let signal = Expected::Signal;
    vec![
        on_activation(
            "aborts while it is activated",
            || told("abort"),
            "abort",
            signal(libc::SIGABRT),
            Signal(libc::SIGABRT),
        ),
        on_activation("exits while it is activated", || told("exit"), "exit", Exited(3), Exits(3)),
        on_activation("hangs while it is activated", || told("hang"), "hang", Deadline, RunsOn)
            .limits(hurried),
        on_deactivation(
            "aborts while it is deactivated",
            "abort",
            signal(libc::SIGABRT),
            Signal(libc::SIGABRT),
        ),
        on_deactivation(
            "faults while it is deactivated",
            "segfault",
            signal(libc::SIGSEGV),
            Signal(libc::SIGSEGV),
        ),
        on_deactivation("exits while it is deactivated", "exit", Exited(3), Exits(3)),
        on_deactivation("hangs while it is deactivated", "hang", Deadline, RunsOn).limits(hurried),
        on_unload("aborts in its destructor", "abort", Gone, Signal(libc::SIGABRT)),
        on_unload("faults in its destructor", "segfault", Gone, Signal(libc::SIGSEGV)),
        on_unload("exits in its destructor", "exit", Gone, Exits(3)),
        on_unload("hangs in its destructor", "hang", Gone, RunsOn).limits(hurried),
    ]
}

fn outliving() -> Vec<Row> {
    vec![
        ends("leaves a child in a session of its own", "daemon", "", Harmless, Works)
            .without(Layer::EmptyRoot, Errno(libc::EPERM))
            .under(&[EVERYTHING]),
        ends("leaves children that sleep", "sleepers", "4", Harmless, Works)
            .without(Layer::EmptyRoot, NO_CHILDREN)
            .under(&[EVERYTHING])
            .then(Step::Unload),
        ends("leaves a child that stands still", "stopped", "", Harmless, Works)
            .without(Layer::EmptyRoot, Errno(libc::EPERM))
            .under(&[EVERYTHING]),
        ends(
            "aborts with children that sleep",
            "abort",
            "",
            Expected::Signal(libc::SIGABRT),
            // Without children: nothing outside would end those of a process that is gone, and they would stay for ever.
            Like(vec![call("abort", "")], Box::new(Signal(libc::SIGABRT))),
        )
        .after("sleepers", "4")
        .without(Layer::EmptyRoot, NO_CHILDREN)
        .under(&[EVERYTHING]),
        ends("blocks every signal with children that sleep", "block_signals", "", Deadline, RunsOn)
            .after("sleepers", "4")
            .limits(hurried)
            .without(Layer::EmptyRoot, NO_CHILDREN)
            .under(&[EVERYTHING]),
    ]
}
