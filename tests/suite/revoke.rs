//! What a revoke takes back of what a plugin already has, by the grade of the grant.
//!
//! Runs as a host application with the `probe` plugin.

use crossbeam_channel::Receiver;
use rig::plugins::Attempts;
use rig::{Answer, Scratch, probe_with, wait};
use sandbox_core::{
    Cause, EventKind, Grade, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK,
    PERMISSION_PROCESS, PermissionError, PluginPermission, PluginPolicy, PluginSandbox, PluginSandboxError,
    PluginSandboxManager, PluginState, Ruling, SandboxEvent,
};

const REFUSED: Answer = Answer::Errno(libc::EACCES);

fn read(path: &str) -> PluginPermission {
    PERMISSION_FILE_READ.scoped_to_path(path).expect("absolute")
}

fn got(contents: &str) -> Answer {
    Answer::Got(contents.into())
}

/// Opens `path` and keeps it; its number.
#[track_caller]
fn hold(plugin: &PluginSandbox, how: &str, path: &str) -> String {
    plugin.attempt("held_open", format!("{how}\n{path}")).text()
}

/// Ended for what it still held when `permission` was revoked, and an object whose name ends with `object` is named.
#[track_caller]
fn assert_ended_for(
    (plugin, events): (&PluginSandbox, &Receiver<SandboxEvent>),
    permission: &PluginPermission,
    object: &str,
) {
    assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Crashed, None));
    let cause = rig::events::expect(events, "an end", |kind| match kind {
        EventKind::Ended { cause } => Some(cause.clone()),
        _ => None,
    });
    match &cause {
        Cause::Revoked { permission: revoked, object: named } => {
            assert_eq!(**revoked, *permission);
            assert!(named.ends_with(object), "{named}");
        }
        other => panic!("another cause: {other}"),
    }
}

#[test]
fn a_grade_that_a_permission_does_not_have_is_an_error() {
    let impossible = [
        (PERMISSION_FILE_READ, Grade::Relay),
        (PERMISSION_NETWORK, Grade::Mediated),
        (PERMISSION_PROCESS, Grade::Mediated),
    ];
    let manager = PluginSandboxManager::new();
    manager.register_plugin("probe", PluginPolicy::new()).expect("it is registered");
    for (permission, grade) in impossible {
        let refused = |error: PluginSandboxError| {
            let known = matches!(&error, PluginSandboxError::Permission(PermissionError::Grade { .. }));
            assert!(known, "{permission} as {grade}: {error}");
        };
        let policy = PluginPolicy::new().permission_as(permission.clone(), grade);
        refused(PluginSandbox::new("probe", policy.clone()).expect_err("no sandbox"));
        refused(manager.register_plugin("other", policy).expect_err("not registered"));
        refused(manager.grant_permission_as("probe", permission.clone(), grade).expect_err("not granted"));
    }
    assert!(manager.get_plugin_permissions("probe").expect("it is registered").is_empty());
    assert!(manager.grant_permission_as("probe", PERMISSION_NETWORK, Grade::Relay).expect("granted"));
    assert!(manager.grant_permission_as("probe", PERMISSION_FILE_WRITE, Grade::Descriptor).expect("granted"));
    let held = manager.get_plugin_permissions("probe").expect("it is registered");
    assert_eq!(
        held,
        [PERMISSION_NETWORK, PERMISSION_FILE_WRITE],
        "a permission is the same whatever its grade"
    );
}

// ---- descriptors

/// What a plugin does with a file that is then revoked, and whether it still holds it.
type Case = (&'static str, fn(&PluginSandbox, &Scratch, &str), bool);

fn open(plugin: &PluginSandbox, file: &str) {
    assert_eq!(hold(plugin, "r", file), "0");
    assert_eq!(plugin.attempt("held_read", "0"), got("contents"));
}

fn close(plugin: &PluginSandbox) {
    assert!(plugin.attempt("held_close", "0").got_it());
}

const CASES: &[Case] = &[
    ("nothing at all", |_, _, _| (), false),
    ("an open file", |plugin, _, file| open(plugin, file), true),
    (
        "a file that was closed",
        |plugin, _, file| {
            open(plugin, file);
            close(plugin);
        },
        false,
    ),
    (
        "a copy of a descriptor that was closed",
        |plugin, _, file| {
            open(plugin, file);
            assert!(plugin.attempt("held_dup", "0").got_it());
            close(plugin);
        },
        true,
    ),
    (
        "a mapping of a file that was closed",
        |plugin, _, file| {
            open(plugin, file);
            assert!(plugin.attempt("held_map", "0\nprivate").got_it());
            close(plugin);
        },
        true,
    ),
    (
        "a mapping that is gone too",
        |plugin, _, file| {
            open(plugin, file);
            assert!(plugin.attempt("held_map", "0\nshared").got_it());
            close(plugin);
            assert!(plugin.attempt("held_unmap", "").got_it());
        },
        false,
    ),
    (
        "a file that has another name now",
        |plugin, scratch, file| {
            open(plugin, file);
            std::fs::rename(file, scratch.at("dir/renamed")).expect("it is ours");
        },
        true,
    ),
    (
        "a file that has no name any more",
        |plugin, _, file| {
            open(plugin, file);
            std::fs::remove_file(file).expect("it is ours");
        },
        true,
    ),
    (
        "a mapping of a file that has no name any more",
        |plugin, _, file| {
            open(plugin, file);
            assert!(plugin.attempt("held_map", "0\nshared").got_it());
            close(plugin);
            std::fs::remove_file(file).expect("it is ours");
        },
        true,
    ),
    (
        "a file that was moved to where the plugin may go",
        |plugin, scratch, file| {
            open(plugin, file);
            std::fs::rename(file, scratch.at("kept/moved")).expect("it is ours");
        },
        false,
    ),
];

#[test]
fn a_plugin_that_still_has_a_revoked_file_in_its_hands_is_ended_and_no_other() {
    for (what, act, held) in CASES {
        println!("{what}");
        let scratch = Scratch::new();
        let (file, kept) = (scratch.file("dir/file", "contents"), scratch.file("kept/file", "kept"));
        let permission = read(&scratch.at("dir"));
        let policy = PluginPolicy::new().permission(permission.clone()).permission(read(&scratch.at("kept")));
        let plugin = probe_with(policy);
        let events = plugin.events();
        act(&plugin, &scratch, &file);
        let number = hold(&plugin, "r", &kept);
        assert!(plugin.revoke_permission(&permission), "it was held");
        if *held {
            assert_ended_for((&plugin, &events), &permission, "");
        } else {
            assert_eq!(plugin.attempt("open", &file), REFUSED, "{what}");
            assert_eq!(plugin.attempt("held_read", &number), got("kept"), "{what}");
        }
    }
}

#[test]
fn the_cause_names_what_was_revoked_and_what_was_held() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    let events = plugin.events();
    hold(&plugin, "r", &file);
    let watched = wait::watch(plugin.process_id().expect("it lives"));
    let caller = plugin.clone();
    let calling = std::thread::spawn(move || caller.refused("sleep_forever", ""));
    wait::until("the call is under way", || (plugin.state() == PluginState::Active).then_some(()));
    assert!(plugin.revoke_permission(&PERMISSION_FILE_READ));
    assert!(watched.has_ended(), "before revoke_permission has returned");
    assert_ended_for((&plugin, &events), &PERMISSION_FILE_READ, &file);
    let error = calling.join().expect("no panic");
    let PluginSandboxError::Ended { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(cause.to_string(), format!("it still held {file} when file-read was revoked, and was killed"));
    assert!(error.help().expect("there is help").contains("Grade::Mediated"));
}

#[test]
fn what_is_open_may_be_left_to_the_plugin_and_taken_later() {
    let scratch = Scratch::new();
    let (file, other) = (scratch.file("a/file", "contents"), scratch.file("b/file", "other"));
    let policy = PluginPolicy::new().permissions([read(&scratch.at("a")), read(&scratch.at("b"))]);
    let plugin = probe_with(policy);
    let events = plugin.events();
    let held = hold(&plugin, "r", &file);
    assert!(plugin.revoke_permission_leaving_open(&read(&scratch.at("a"))));
    assert_eq!(plugin.attempt("held_read", &held), got("contents"));
    assert_eq!(plugin.attempt("open", &file), REFUSED);
    assert!(plugin.attempt("open", &other).got_it());
    assert!(plugin.revoke_permission(&read(&scratch.at("b"))), "another one");
    assert_eq!(plugin.attempt("held_read", &held), got("contents"), "it was left");
    assert!(!plugin.revoke_permission(&PERMISSION_FILE_READ), "nothing is held");
    assert_ended_for((&plugin, &events), &PERMISSION_FILE_READ, &file);
}

#[test]
fn what_was_allowed_once_stays_until_it_is_revoked_itself() {
    let scratch = Scratch::new();
    let (once, granted) = (scratch.file("once", "once"), scratch.file("granted", "granted"));
    let plugin = probe_with(PluginPolicy::new().permission(read(&granted)));
    let events = plugin.events();
    plugin.set_decider(wait::PATIENCE, |_| Ruling::AllowOnce);
    let held = hold(&plugin, "r", &once);
    assert!(plugin.revoke_permission(&read(&granted)));
    assert_eq!(plugin.attempt("held_read", &held), got("once"));
    plugin.revoke_permission(&read(&once));
    assert_ended_for((&plugin, &events), &read(&once), &once);
}

#[test]
fn a_part_of_a_grant_that_is_revoked_is_taken_and_no_more() {
    let scratch = Scratch::new();
    let (file, inner) = (scratch.file("dir/file", "outer"), scratch.file("dir/inner/file", "inner"));
    let plugin = probe_with(PluginPolicy::new().permission(read(&scratch.at("dir"))));
    let events = plugin.events();
    let held = hold(&plugin, "r", &file);
    assert!(plugin.revoke_permission(&read(&scratch.at("dir/inner"))));
    assert_eq!(plugin.attempt("held_read", &held), got("outer"));
    plugin.grant_permission(read(&scratch.at("dir/inner")));
    hold(&plugin, "r", &inner);
    assert!(plugin.revoke_permission(&read(&scratch.at("dir/inner"))));
    assert_ended_for((&plugin, &events), &read(&scratch.at("dir/inner")), &inner);
}

#[test]
fn no_open_succeeds_once_a_revoke_has_returned() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let mut lived = 0;
    for _ in 0..20 {
        let plugin = probe_with(PluginPolicy::new().permission(read(&file)));
        let events = plugin.events();
        plugin.attempt("loop_open", &file);
        wait::until("some have succeeded", || (counts(&plugin).1 > 20).then_some(()));
        assert!(plugin.revoke_permission(&read(&file)));
        if plugin.state() == PluginState::Crashed {
            assert_ended_for((&plugin, &events), &read(&file), &file); // it had one open at that moment
            continue;
        }
        lived += 1;
        let (tried, succeeded) = counts(&plugin);
        wait::until("more tries", || (counts(&plugin).0 > tried + 20).then_some(()));
        assert_eq!(counts(&plugin).1, succeeded, "an open went through after the revoke");
    }
    println!("{lived} of 20 held nothing at that moment");
}

/// How often a loop has tried, and how often it went well.
fn counts(plugin: &PluginSandbox) -> (u64, u64) {
    let text = plugin.attempt("loop_counts", "").text();
    let mut numbers = text.split(' ').map(|number| number.parse().expect("a number"));
    (numbers.next().expect("tries"), numbers.next().expect("successes"))
}
