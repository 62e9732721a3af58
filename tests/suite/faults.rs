//! Plugins that break: the right error each time, a host that goes on, and a neighbour that does not notice.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rig::causes::short;
use rig::libraries::constructor_that;
use rig::plugins::{Attempts, explained};
use rig::wait::watch;
use rig::{Answer, Scratch, active, library, loaded, probe};
use sandbox_core::{
    App, Cause, ErrorKind, EventKind, PluginPolicy, PluginSandbox, PluginSandboxError, PluginState,
    ResourceLimits,
};

/// Runs `fault` between answers of a second plugin, which must not notice.
fn beside_a_neighbour<T>(fault: impl FnOnce() -> T) -> T {
    let neighbour = active("neighbour", PluginPolicy::new(), library("probe"), ());
    let answers = || assert_eq!(neighbour.attempt("echo", "still here").text(), "still here");
    answers();
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let meanwhile = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                answers();
            }
        });
        let result = catch_unwind(AssertUnwindSafe(fault));
        done.store(true, Ordering::Relaxed);
        meanwhile.join().expect("the neighbour answers meanwhile");
        result
    });
    answers();
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

#[track_caller]
fn cause_of(error: &PluginSandboxError) -> Cause {
    match error {
        PluginSandboxError::Ended { cause, .. } => cause.clone(),
        other => panic!("it did not end: {}", explained(other)),
    }
}

fn signal(signal: i32) -> impl Fn(&Cause) -> bool {
    move |cause| matches!(cause, Cause::Signal { signal: found, .. } if *found == signal)
}

#[test]
fn a_panic_is_an_error_with_its_message_and_the_plugin_stays() {
    let plugin = probe();
    let helper = plugin.process_id();
    let error = plugin.refused("panic", "of the plugin's own");
    let PluginSandboxError::PluginFailed { kind: ErrorKind::Panicked, message, .. } = &error else {
        panic!("{}", explained(&error))
    };
    assert!(message.contains("of the plugin's own"), "{message}");
    assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Active, helper));
    assert!(plugin.attempt("echo", "x").got_it());
}

#[test]
fn an_error_of_the_plugins_is_told_word_for_word_but_cannot_forge_lines() {
    let plugin = probe();
    let error = plugin.refused("fail", "line one\nline\x1b[2J two");
    let PluginSandboxError::PluginFailed { kind: ErrorKind::Failed, .. } = &error else { panic!("{error}") };
    let shown = error.to_string();
    assert!(shown.contains("line one") && !shown.contains('\x1b'), "{shown:?}");
    let error = plugin.refused("no-such-method", "");
    assert!(
        matches!(error, PluginSandboxError::PluginFailed { kind: ErrorKind::UnknownMethod, .. }),
        "{error}"
    );
}

#[test]
fn a_plugin_that_ends_itself_in_a_call_is_told_by_how_it_ended() {
    let cases = [
        ("abort", "", "SIGABRT"),
        ("segfault", "", "SIGSEGV"),
        ("exit", "3", "exit 3"),
        ("exit", "0", "exit 0"),
        ("kill_self", "9", "SIGKILL"),
        ("kill_self", "15", "SIGTERM"),
        ("ptrace", "", "forbidden ptrace"),
    ];
    beside_a_neighbour(|| {
        for (method, payload, expected) in cases {
            let plugin = probe();
            let events = plugin.events();
            let helper = watch(plugin.process_id().expect("it lives"));
            let cause = cause_of(&plugin.refused(method, payload));
            assert_eq!(short(&cause), expected, "{method} {payload}");
            helper.ended();
            assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Crashed, None), "{method}");
            let told = rig::events::expect(&events, "its end", |kind| match kind {
                EventKind::Ended { cause, .. } => Some(cause.clone()),
                _ => None,
            });
            assert_eq!(told, cause);
            plugin.load_plugin(library("probe")).expect("it loads again");
            plugin.activate_plugin(()).expect("it activates again");
            assert!(plugin.attempt("echo", "x").got_it(), "{method}: and works again");
        }
    });
}

#[test]
fn a_plugin_that_breaks_between_calls_is_found_crashed() {
    let plugin = probe();
    let events = plugin.events();
    let helper = plugin.process_id().and_then(|pid| i32::try_from(pid).ok()).expect("it lives");
    // As the out-of-memory killer would.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper), nix::sys::signal::Signal::SIGKILL)
        .expect("a host may");
    rig::events::expect(&events, "its end", |kind| matches!(kind, EventKind::Ended { .. }).then_some(()));
    assert_eq!(plugin.state(), PluginState::Crashed);
    let error = plugin.refused("echo", "x");
    assert!(
        matches!(error, PluginSandboxError::WrongState { .. } | PluginSandboxError::Ended { .. }),
        "{error}"
    );
    plugin.load_plugin(library("probe")).expect("it loads again");
}

#[test]
fn a_constructor_that_breaks_fails_the_load() {
    type Is = fn(&Cause) -> bool;
    let cases: [(&str, Is); 6] = [
        ("segfault", |cause| signal(libc::SIGSEGV)(cause)),
        ("abort", |cause| signal(libc::SIGABRT)(cause)),
        ("panic", |cause| signal(libc::SIGABRT)(cause)),
        ("exit", |cause| *cause == Cause::Exited { code: 3 }),
        ("rubbish", |cause| matches!(cause, Cause::Protocol { .. })),
        ("close", |cause| matches!(cause, Cause::ChannelClosed | Cause::Exited { .. })),
    ];
    beside_a_neighbour(|| {
        for (act, is_right) in cases {
            let scratch = Scratch::new();
            let plugin = PluginSandbox::new("constructor", PluginPolicy::new()).expect("a sandbox");
            let error = plugin.load_plugin(constructor_that(&scratch, act)).expect_err(act);
            let cause = cause_of(&error);
            assert!(is_right(&cause), "{act}: {cause}");
            assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Crashed, None), "{act}");
            plugin.load_plugin(library("hello")).expect("the sandbox takes another");
        }
    });
}

fn life() -> PluginSandbox {
    let limits = ResourceLimits::default();
    loaded("life", PluginPolicy::new().limits(limits), library("probe-life"))
}

fn told(what: &'static str) -> App {
    App::new().service("test.activate", move |_| Ok(what.into()))
}

#[test]
fn an_activation_that_fails_leaves_the_plugin_loaded() {
    for (what, kind) in [("error", ErrorKind::Failed), ("panic", ErrorKind::Panicked)] {
        let plugin = life();
        let error = plugin.activate_plugin(told(what)).expect_err(what);
        let PluginSandboxError::PluginFailed { kind: found, message, .. } = &error else { panic!("{error}") };
        assert_eq!(*found, kind);
        assert!(message.contains("told to"), "{message}");
        assert_eq!(plugin.state(), PluginState::Loaded);
        plugin.activate_plugin(told("ok")).expect("it can be tried again");
    }
}

#[test]
fn a_plugin_that_breaks_in_activate_is_told_by_how_it_ended() {
    beside_a_neighbour(|| {
        for (what, cause) in [
            ("abort", "SIGABRT"),
            ("segfault", "SIGSEGV"),
            ("exit", "exit 3"),
            ("ptrace", "forbidden ptrace"),
        ] {
            let plugin = life();
            let error = plugin.activate_plugin(told(what)).expect_err(what);
            assert_eq!(short(&cause_of(&error)), cause, "{what}");
            assert_eq!(plugin.state(), PluginState::Crashed);
            plugin.load_plugin(library("probe-life")).expect("it loads again");
            plugin.activate_plugin(told("ok")).expect("and activates");
        }
    });
}

#[test]
fn a_plugin_that_breaks_in_deactivate_is_told_by_how_it_ended() {
    beside_a_neighbour(|| {
        for (what, cause) in [("abort", "SIGABRT"), ("segfault", "SIGSEGV"), ("exit", "exit 3")] {
            let plugin = active("life", PluginPolicy::new(), library("probe-life"), ());
            plugin.call("at_deactivate", what.as_bytes()).expect("it answers");
            let error = plugin.deactivate_plugin().expect_err(what);
            assert_eq!(short(&cause_of(&error)), cause, "{what}");
            assert_eq!(plugin.state(), PluginState::Crashed);
        }
        for (what, kind) in [("error", ErrorKind::Failed), ("panic", ErrorKind::Panicked)] {
            let plugin = active("life", PluginPolicy::new(), library("probe-life"), ());
            plugin.call("at_deactivate", what.as_bytes()).expect("it answers");
            let error = plugin.deactivate_plugin().expect_err(what);
            assert!(
                matches!(error, PluginSandboxError::PluginFailed { kind: found, .. } if found == kind),
                "{error}"
            );
            assert_eq!(plugin.state(), PluginState::Loaded);
            plugin.unload_plugin().expect("it unloads");
        }
    });
}

#[test]
fn a_destructor_that_breaks_does_not_keep_the_plugin_loaded() {
    beside_a_neighbour(|| {
        for what in ["panic", "abort", "segfault", "exit"] {
            let plugin = active("life", PluginPolicy::new(), library("probe-life"), ());
            let helper = watch(plugin.process_id().expect("it lives"));
            plugin.call("at_drop", what.as_bytes()).expect("it answers");
            // It is gone either way; how it went may be told.
            if let Err(error) = plugin.unload_plugin() {
                cause_of(&error);
            }
            helper.ended();
            assert_eq!(plugin.process_id(), None, "{what}");
            assert!(matches!(plugin.state(), PluginState::Unloaded | PluginState::Crashed), "{what}");
            plugin.load_plugin(library("probe-life")).expect("it loads again");
        }
    });
}

#[test]
fn a_plugin_that_closes_its_channel_or_writes_rubbish_to_it_is_ended_and_no_other() {
    beside_a_neighbour(|| {
        for (method, bytes, is_right) in [
            ("close_channel", Vec::new(), (|cause| *cause == Cause::ChannelClosed) as fn(&Cause) -> bool),
            ("write_channel", frame(&[0xff; 16]), |cause| matches!(cause, Cause::Protocol { .. })),
        ] {
            let plugin = probe();
            let helper = watch(plugin.process_id().expect("it lives"));
            let cause = cause_of(&plugin.refused(method, bytes));
            assert!(is_right(&cause), "{method}: {cause}");
            helper.ended();
            plugin.load_plugin(library("probe")).expect("it loads again");
        }
    });
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).expect("small").to_le_bytes(), body].concat()
}

#[test]
fn a_frame_that_never_comes_to_its_end_is_ended_by_the_deadline() {
    let limits = ResourceLimits::default().call_timeout(Duration::from_millis(500));
    let plugin = rig::probe_with(PluginPolicy::new().limits(limits));
    let cause = cause_of(&plugin.refused("write_channel", 1000_u32.to_le_bytes()));
    assert!(matches!(cause, Cause::Deadline { .. }), "{cause}");
}

#[test]
fn a_plugin_that_writes_rubbish_and_is_gone_is_told_one_way_or_the_other() {
    for bytes in [frame(&[0xff; 16]), vec![1, 2]] {
        let plugin = probe();
        let cause = cause_of(&plugin.refused("write_channel_and_exit", bytes));
        assert!(
            matches!(cause, Cause::Protocol { .. } | Cause::Exited { code: 0 } | Cause::ChannelClosed),
            "{cause}"
        );
    }
}

#[test]
fn what_a_plugin_prints_is_kept_in_part_and_made_harmless() {
    let plugin = probe();
    assert!(plugin.attempt("print", "hello\n").got_it());
    rig::wait::until("the print", || plugin.printed().contains("hello").then_some(()));
    assert!(plugin.attempt("print", b"\x1b[2J\xff\r".as_slice()).got_it());
    let printed =
        rig::wait::until("the print", || Some(plugin.printed()).filter(|text| text.contains("[2J")));
    assert!(!printed.contains('\x1b') && !printed.contains('\r'), "{printed:?}");
}

#[test]
fn a_flood_of_output_stops_nobody() {
    beside_a_neighbour(|| {
        let plugin = probe();
        assert!(plugin.attempt("flood", (20 << 20).to_string()).got_it());
        // The last that was taken, and the last of what was dropped.
        assert!(plugin.printed().len() <= (64 << 10) + (5 << 10));
        assert!(plugin.attempt("echo", "x").got_it());
    });
}

#[test]
fn a_plugin_that_cannot_fork_goes_on() {
    beside_a_neighbour(|| {
        let plugin = probe();
        assert!(matches!(plugin.attempt("fork", ""), Answer::Errno(_)));
        assert!(plugin.attempt("echo", "x").got_it());
    });
}

#[test]
fn a_crash_of_one_plugin_again_and_again_wears_out_nothing() {
    let plugin = PluginSandbox::new("probe", PluginPolicy::new()).expect("a sandbox");
    for turn in 0..20 {
        plugin
            .load_plugin(library("probe"))
            .unwrap_or_else(|error| panic!("turn {turn}: {}", explained(&error)));
        plugin.activate_plugin(()).expect("it activates");
        cause_of(&plugin.refused("abort", ""));
    }
}
