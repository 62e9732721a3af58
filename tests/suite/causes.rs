//! How a plugin ended, as its host is told: the exact cause, and with it the fault, its stack, what was refused and what was
//! printed.

use std::sync::Arc;

use rig::causes::short;
use rig::child::Part;
use rig::libraries::constructor_that;
use rig::plugins::{Attempts, explained};
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, library, probe, probe_with};
use sandbox_core::{
    AuditEvent, AuditRecord, Cause, EndReport, EventKind, FaultReport, Layer, PERMISSION_FILE_READ,
    PluginPolicy, PluginSandbox, PluginSandboxError, PluginState, ResourceLimits,
};

use crate::weakened;

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[("faults without namespaces", faults_without_namespaces)];

fn patient() -> PluginPolicy {
    PluginPolicy::new().limits(ResourceLimits::default().call_timeout(PATIENCE))
}

/// How it ended by this call.
#[track_caller]
fn end_of(plugin: &PluginSandbox, method: &str, payload: &str) -> Arc<EndReport> {
    match plugin.call(method, payload.as_bytes()) {
        Err(PluginSandboxError::Ended { cause, .. }) => {
            let end = plugin.last_end().expect("it has ended");
            assert_eq!(end.cause, cause, "{method} {payload}");
            end
        }
        Err(error) => panic!("{method} {payload}: {}", explained(&error)),
        Ok(reply) => panic!("{method} {payload}: {:?}", Answer::read(&reply)),
    }
}

#[track_caller]
fn fault_of(end: &EndReport) -> &FaultReport {
    end.fault.as_ref().unwrap_or_else(|| panic!("no fault is told: {end}"))
}

/// Whether a frame, not deeper than the third, is of this function of the probe's.
fn is_in(fault: &FaultReport, function: &str) -> bool {
    fault.stack.iter().take(3).any(|frame| {
        frame.module.as_deref().is_some_and(|module| module.contains("probe"))
            && frame.function.as_deref().is_some_and(|name| name.contains(function))
    })
}

#[test]
fn a_fault_is_told_with_its_address_and_the_stack_of_its_thread() {
    let segv = |address| Cause::Signal { signal: libc::SIGSEGV, fault_address: Some(address) };
    let cases = [
        ("segfault", "", segv(8), "plugin-helper", "memory::segfault"),
        ("fault", "write", segv(0x10), "plugin-helper", "faults::write_nowhere"),
        ("fault", "thread", segv(0x10), "faulty", "faults::write_nowhere"),
        ("fault", "null-call", segv(1), "plugin-helper", "faults::call_nothing"),
    ];
    for (method, payload, cause, thread, function) in cases {
        let end = end_of(&probe_with(patient()), method, payload);
        assert_eq!(end.cause, cause, "{method} {payload}: {end}");
        let fault = fault_of(&end);
        assert_eq!((fault.signal, fault.why), (libc::SIGSEGV, "nothing is mapped there"));
        assert_eq!(fault.thread, thread, "{method} {payload}");
        assert!(is_in(fault, function), "{method} {payload}: {end}");
    }
}

#[test]
fn a_fault_is_told_with_its_stack_where_there_are_no_user_namespaces() {
    println!("{}", weakened::play("faults without namespaces"));
}

fn faults_without_namespaces(_: &[String]) -> Vec<u8> {
    let plugin = probe_with(patient().layers(weakened::without_namespaces()));
    let stands = |layer| {
        let report = plugin.enforcement_report().expect("there was a load");
        report.layers.iter().any(|one| one.layer == layer && one.enforced)
    };
    assert!(!stands(Layer::UserNamespace) && !stands(Layer::EmptyRoot) && stands(Layer::Seccomp));
    let end = end_of(&plugin, "fault", "write");
    assert_eq!(end.cause, Cause::Signal { signal: libc::SIGSEGV, fault_address: Some(0x10) }, "{end}");
    let fault = fault_of(&end);
    assert!(is_in(fault, "faults::write_nowhere"), "{end}");
    let names: Vec<_> = fault.stack.iter().filter_map(|frame| frame.function.as_deref()).collect();
    assert!(names.iter().any(|name| name.contains("Plugin>::call")), "{end}");
    // All that is the plugin's. What called it is the helper's program, into which nobody may look here, and that is said.
    let (last, plugins) = fault.stack.split_last().expect("as above");
    assert_eq!((&last.module, fault.incomplete), (&None, Some("it leads to where no file is")), "{end}");
    assert!(plugins.iter().all(|frame| frame.module.is_some()), "{end}");
    end.to_string().into_bytes()
}

#[test]
fn a_stack_goes_from_the_fault_to_where_the_plugin_was_called() {
    let end = end_of(&probe_with(patient()), "fault", "write");
    let fault = fault_of(&end);
    let names: Vec<_> = fault.stack.iter().filter_map(|frame| frame.function.as_deref()).collect();
    let at = |part: &str| names.iter().position(|name| name.contains(part));
    assert!(at("write_nowhere").is_some() && at("write_nowhere") < at("faults::fault"), "{end}");
    assert!(at("faults::fault") < at("Plugin>::call"), "{end}");
    assert_eq!(fault.incomplete, None, "{end}");
    assert!(fault.stack.len() < 64, "{end}");
}

#[test]
fn a_stack_that_is_used_up_is_told_as_far_as_is_looked_at() {
    let end = end_of(&probe_with(patient()), "fault", "overflow");
    assert!(matches!(end.cause, Cause::Signal { signal: libc::SIGSEGV, fault_address: Some(_) }), "{end}");
    let fault = fault_of(&end);
    assert!(is_in(fault, "faults::fill_the_stack"), "{end}");
    assert_eq!((fault.stack.len(), fault.incomplete.is_some()), (64, true), "{end}");
}

#[test]
fn an_abort_is_told_with_who_aborted() {
    let end = end_of(&probe_with(patient()), "abort", "");
    assert_eq!(end.cause, Cause::Signal { signal: libc::SIGABRT, fault_address: None });
    let fault = fault_of(&end);
    assert_eq!((fault.why, fault.address), ("raised by itself", None));
    let probes = |name: &Option<String>| name.as_deref().is_some_and(|name| name.contains("Plugin>::call"));
    assert!(fault.stack.iter().any(|frame| probes(&frame.function)), "{end}");
}

#[test]
fn a_constructor_that_faults_is_told_with_its_stack() {
    let scratch = Scratch::new();
    let plugin = PluginSandbox::new("constructor", PluginPolicy::new()).expect("a sandbox");
    plugin.load_plugin(constructor_that(&scratch, "segfault")).expect_err("it faults");
    let end = plugin.last_end().expect("it has ended");
    assert_eq!(short(&end.cause), "SIGSEGV");
    let fault = fault_of(&end);
    let module = fault.stack.first().and_then(|frame| frame.module.clone()).unwrap_or_default();
    assert!(module.contains("constructor"), "{end}");
}

#[test]
fn a_plugin_that_hides_its_faults_ends_as_it_would_have_and_nothing_more_is_told() {
    for how in ["default", "blocked"] {
        let end = end_of(&probe_with(patient()), "fault", how);
        assert_eq!(end.cause, Cause::Signal { signal: libc::SIGSEGV, fault_address: None }, "{how}");
        assert_eq!(end.fault, None, "{how}");
    }
}

#[test]
fn a_fault_that_never_was_is_not_told_and_does_no_harm() {
    let plugin = probe_with(patient());
    for _ in 0..3 {
        // Up to four are looked at, and then no more.
        let shown = plugin.attempt("fault", "forged");
        assert!(matches!(shown, Answer::Got(_) | Answer::Errno(libc::ENOSYS)), "{shown:?}");
    }
    assert_eq!(plugin.attempt("fault", "forged"), Answer::Errno(libc::ENOSYS));
    assert_eq!(plugin.state(), PluginState::Active);
    let end = end_of(&plugin, "exit", "3");
    assert_eq!((&end.cause, &end.fault), (&Cause::Exited { code: 3 }, &None));
}

#[test]
fn a_forbidden_call_is_told_by_its_name_number_and_arguments() {
    let end = end_of(&probe_with(patient()), "syscall", &format!("{} 1 2 3 4 5", libc::SYS_mount));
    let Cause::ForbiddenCall { call, number, arguments } = &end.cause else { panic!("{end}") };
    assert_eq!((*call, *number), (Some("mount"), Some(libc::SYS_mount)));
    assert_eq!(arguments[..5], [1, 2, 3, 4, 5]);
    let refused = end.refused.as_ref().expect("it was refused");
    assert_eq!((refused.action.as_str(), &refused.opened_by), ("mount", &None));
}

#[test]
fn an_end_names_the_last_refusal_and_the_permission_that_would_have_opened_it() {
    let plugin = probe_with(patient());
    assert_eq!(plugin.attempt("open", "/etc/passwd"), Answer::Errno(libc::EACCES));
    let end = end_of(&plugin, "exit", "3");
    assert_eq!(end.cause, Cause::Exited { code: 3 });
    let refused = end.refused.as_ref().expect("it was refused");
    assert_eq!(refused.permission, "file-read");
    assert_eq!(refused.object, "/etc/passwd");
    assert_eq!(refused.opened_by.as_deref(), Some("file-read:/etc/passwd"));
    assert!(end.help().is_some_and(|help| help.contains("grant file-read:/etc/passwd")), "{:?}", end.help());
    let granted = PERMISSION_FILE_READ.scoped_to_path("/etc/passwd").expect("absolute");
    let plugin = probe_with(patient().permission(granted));
    assert!(plugin.attempt("open", "/etc/passwd").got_it());
    let end = end_of(&plugin, "exit", "3");
    assert!(end.refused.as_ref().is_none_or(|refused| refused.object != "/etc/passwd"), "{end}");
}

#[test]
fn what_was_printed_last_goes_with_the_end() {
    let plugin = probe_with(patient());
    plugin.attempt("print", "the last words\x1b[2J\n");
    let end = end_of(&plugin, "abort", "");
    assert!(end.printed.contains("the last words\\u{1b}[2J"), "{:?}", end.printed);
}

#[test]
fn a_broken_protocol_names_the_field() {
    for (bytes, field) in [
        (b"\xff\xff\xff\xff".to_vec(), "length"),
        (b"\x01\x00\x00\x00\x7f".to_vec(), "kind"),
        (b"\x03\x00\x00\x00\x03\x00\x00".to_vec(), "length"), // more than the message
        (b"\x03\x00\x00\x00\x04\x07\x00".to_vec(), "length"), // less than it
        (b"\x02\x00\x00\x00\x03\x00".to_vec(), "kind"),       // not now
        (b"\x04\x00\x00\x00\x04\x63\x00\x00".to_vec(), "call id"),
    ] {
        let plugin = probe_with(patient());
        let error = plugin.call("write_channel", &bytes).expect_err("it is ended");
        let PluginSandboxError::Ended { cause: Cause::Protocol { field: found, .. }, .. } = &error else {
            panic!("{bytes:x?}: {}", explained(&error))
        };
        assert_eq!(*found, field, "{bytes:x?}: {error}");
    }
}

#[test]
fn whoever_listens_is_told_the_same_and_the_audit_log_has_it() {
    let plugin = probe();
    let events = plugin.events();
    let end = end_of(&plugin, "segfault", "");
    let event = events
        .iter()
        .find(|event| matches!(event.kind, EventKind::Ended { .. }))
        .expect("the sandbox is there");
    let EventKind::Ended { cause, report } = &event.kind else { unreachable!("it was looked for") };
    assert_eq!((cause, report), (&end.cause, &end));
    let AuditEvent::Ended { cause, fault, .. } = AuditRecord::from(&event).event else {
        panic!("another record")
    };
    assert_eq!(cause, "it was ended by SIGSEGV at address 0x8");
    assert!(fault.is_some_and(|fault| fault.contains("memory::segfault")));
}

#[test]
fn the_end_of_an_earlier_helper_is_known_until_another_ends() {
    let plugin = probe();
    assert_eq!(plugin.last_end(), None);
    end_of(&plugin, "exit", "7");
    plugin.load_plugin(library("probe")).expect("it loads again");
    assert_eq!(plugin.last_end().map(|end| end.cause.clone()), Some(Cause::Exited { code: 7 }));
    plugin.unload_plugin().expect("it unloads");
    assert_eq!(plugin.last_end().map(|end| end.cause.clone()), Some(Cause::Unloaded));
}
