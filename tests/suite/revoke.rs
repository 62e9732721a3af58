//! What a revoke takes back of what a plugin already has, by the grade of the grant.
//!
//! Runs as a host application with the `probe` plugin.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use crossbeam_channel::Receiver;
use rig::inventory::cpu_time_used;
use rig::plugins::Attempts;
use rig::{Answer, Scratch, probe_with, wait};
use sandbox_core::{
    Cause, EventKind, Grade, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK,
    PERMISSION_PROCESS, PermissionError, PluginPermission, PluginPolicy, PluginSandbox, PluginSandboxError,
    PluginSandboxManager, PluginState, ResourceLimits, Ruling, SandboxEvent,
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
        EventKind::Ended { cause, .. } => Some(cause.clone()),
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
    let helper = plugin.process_id().expect("it lives");
    let watched = wait::watch(helper);
    let caller = plugin.clone();
    let before = cpu_time_used(helper);
    let calling = std::thread::spawn(move || caller.refused("spin_forever", ""));
    wait::until("the call is under way", || (cpu_time_used(helper) > before + 5).then_some(()));
    assert!(plugin.revoke_permission(&PERMISSION_FILE_READ));
    assert!(watched.has_ended(), "before revoke_permission has returned");
    assert_ended_for((&plugin, &events), &PERMISSION_FILE_READ, &file);
    let error = calling.join().expect("no panic");
    let PluginSandboxError::Ended { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(cause.to_string(), format!("it still had {file} in its hands when file-read was revoked"));
    assert!(error.help().expect("there is help").contains("Grade::Mediated"));

    let next = plugin.refused("echo", "x");
    let PluginSandboxError::WrongState { ended, .. } = &next else { panic!("{next}") };
    assert_eq!(ended.as_ref(), Some(cause));
    let why = format!("cannot call it while it is crashed ({cause}): it must be active");
    assert!(next.to_string().contains(&why), "{next}");
    assert!(next.help().expect("there is help").starts_with("load it again; to take file-read back"));
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

// ---- files that the host serves

/// A probe to which `permissions` are granted as mediated; `None`, with the error checked, where that cannot be had.
fn mediated(permissions: &[PluginPermission]) -> Option<PluginSandbox> {
    let mut policy = PluginPolicy::new();
    for permission in permissions {
        policy = policy.permission_as(permission.clone(), Grade::Mediated);
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        println!("no file can be mediated here: {error}");
        let refused = PluginSandbox::new("probe", policy).expect_err("it cannot be had");
        assert!(
            matches!(&refused, PluginSandboxError::NoMediation { why } if why.starts_with("/dev/fuse: "))
        );
        let plugin = probe_with(PluginPolicy::new());
        let refused =
            plugin.grant_permission_as(PERMISSION_FILE_READ, Grade::Mediated).expect_err("nor later");
        assert!(matches!(refused, PluginSandboxError::NoMediation { .. }), "{refused}");
        assert!(plugin.permissions().is_empty(), "and is no other grant instead");
        return None;
    }
    Some(probe_with(policy))
}

#[test]
fn no_file_is_moved_or_linked_to_where_it_could_not_be_taken_back() {
    let scratch = Scratch::new();
    let (taken, kept) = (scratch.folder("taken"), scratch.folder("kept"));
    let file = scratch.file("taken/file", "contents");
    let Some(plugin) = mediated(&[read(&taken), write(&taken)]) else { return };
    plugin.grant_permission(read(&kept));
    plugin.grant_permission(write(&kept));
    let change =
        |operation: &str, from: &str, to: &str| plugin.attempt("fs", format!("{operation}\n{from}\n{to}"));
    for operation in ["rename", "link"] {
        assert_eq!(change(operation, &file, &scratch.at("kept/file")), REFUSED, "{operation}");
    }
    let moved = scratch.at("taken/moved");
    assert_eq!(change("rename", &file, &moved), got(""), "where it can be, it may");
    plugin.grant_permission_as(read(&kept), Grade::Mediated).expect("as the other");
    plugin.grant_permission_as(write(&kept), Grade::Mediated).expect("as the other");
    assert_eq!(change("rename", &moved, &scratch.at("kept/file")), got(""));
}

#[test]
fn a_mediated_file_is_like_any_other_until_the_very_next_use_after_the_revoke() {
    let scratch = Scratch::new();
    let (file, kept) = (scratch.file("dir/file", "contents"), scratch.file("kept", "kept"));
    let Some(plugin) = mediated(&[read(&scratch.at("dir")), read(&kept)]) else { return };
    for method in ["open", "open_c"] {
        assert_eq!(plugin.attempt(method, &file), got("contents"), "{method}");
    }
    let held = hold(&plugin, "r", &file);
    let other = hold(&plugin, "r", &kept);
    let map = plugin.attempt("held_map", format!("{held}\nprivate")).text();
    let kept_map = plugin.attempt("held_map", format!("{other}\nshared")).text();
    assert_eq!(plugin.attempt("held_peek", &map), got("contents"));
    assert_eq!(plugin.attempt("held_peek", &kept_map), got("kept"));
    assert_eq!(plugin.attempt("held_read", &held), got("contents"));
    let of = std::fs::metadata(&file).expect("it is ours");
    let stat = plugin.attempt("held_stat", &held).text();
    assert!(stat.starts_with(&format!("8 {:o} ", of.mode())), "{stat}");
    assert!(stat.ends_with(&format!(" {}", of.mtime())), "{stat}");

    assert!(plugin.revoke_permission(&read(&scratch.at("dir"))));
    for method in ["held_read", "held_stat"] {
        assert_eq!(plugin.attempt(method, &held), REFUSED, "{method}");
    }
    assert_eq!(plugin.attempt("open", &file), REFUSED);
    assert_eq!(plugin.attempt("held_read", &other), got("kept"), "another grant");
    assert_eq!(plugin.attempt("held_peek", &kept_map), got("kept"));
    assert_eq!(plugin.state(), PluginState::Active);

    plugin.grant_permission_as(read(&file), Grade::Mediated).expect("as before");
    assert_eq!(plugin.attempt("open", &file), got("contents"));
    assert_eq!(plugin.attempt("held_read", &held), REFUSED, "what was taken stays taken");
    let again = hold(&plugin, "r", &file);
    assert_eq!(plugin.attempt("held_read", &again), got("contents"));
}

#[test]
fn a_page_that_was_taken_ends_who_touches_it_and_the_cause_says_why() {
    for how in ["shared", "private"] {
        let scratch = Scratch::new();
        let file = scratch.file("file", "contents");
        let Some(plugin) = mediated(&[read(&file)]) else { return };
        let events = plugin.events();
        let held = hold(&plugin, "r", &file);
        let map = plugin.attempt("held_map", format!("{held}\n{how}")).text();
        assert_eq!(plugin.attempt("held_peek", &map), got("contents"));
        plugin.attempt("held_close", &held);
        assert!(plugin.revoke_permission(&PERMISSION_FILE_READ));
        assert_eq!(plugin.attempt("echo", "x"), got("x"), "it lives as long as it does not touch it");
        plugin.refused("held_peek", &map);
        assert_ended_for((&plugin, &events), &PERMISSION_FILE_READ, &file);
    }
}

#[test]
fn a_file_that_changes_is_seen_to_change_and_one_that_is_gone_is_still_served() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let Some(plugin) = mediated(&[read(&file)]) else { return };
    let held = hold(&plugin, "r", &file);
    assert_eq!(plugin.attempt("held_read", &held), got("contents"));
    std::fs::write(&file, "other contents").expect("it is ours");
    assert_eq!(plugin.attempt("open", &file), got("other contents"));
    wait::until("the change shows", || {
        (plugin.attempt("held_read", &held) == got("other contents")).then_some(())
    });
    std::fs::remove_file(&file).expect("it is ours");
    assert_eq!(plugin.attempt("held_read", &held), got("other contents"));
    plugin.revoke_permission(&PERMISSION_FILE_READ);
    assert_eq!(plugin.attempt("held_read", &held), REFUSED);
}

#[test]
fn no_read_succeeds_once_a_revoke_of_a_mediated_grant_has_returned() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "x".repeat(4096));
    for what in ["loop_open_and_keep", "loop_read"] {
        for _ in 0..10 {
            let Some(plugin) = mediated(&[read(&file)]) else { return };
            let payload = if what == "loop_read" { hold(&plugin, "r", &file) } else { file.clone() };
            plugin.attempt(what, payload);
            wait::until("some have succeeded", || (counts(&plugin).1 > 20).then_some(()));
            assert!(plugin.revoke_permission(&read(&file)));
            let (tried, succeeded) = counts(&plugin);
            wait::until("more tries", || (counts(&plugin).0 > tried + 20).then_some(()));
            // One that had gone through may have been counted since.
            assert!(counts(&plugin).1 <= succeeded + 1, "{what}: one went through after the revoke");
            if what == "loop_open_and_keep" {
                let readable = plugin.attempt("loop_read_opened", "").text();
                assert!(readable.starts_with("0 of "), "{readable}");
            }
            assert_eq!(plugin.state(), PluginState::Active);
        }
    }
}

#[test]
fn a_mediated_file_cannot_become_code_and_its_folder_is_not_reached() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let Some(plugin) = mediated(&[read(&file)]) else { return };
    for method in ["mmap_exec_file", "mprotect_exec_file"] {
        assert!(!plugin.attempt(method, &file).got_it(), "{method}");
    }
    assert_eq!(plugin.attempt("open", scratch.path().as_os_str().as_encoded_bytes()), REFUSED);
}

#[test]
fn a_mediated_file_counts_against_the_plugins_own_descriptors_even_if_it_is_only_mapped() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let Some(plugin) = mediated(&[read(&file)]) else { return };
    let mut opened = 0;
    let refused = loop {
        match plugin.attempt("held_open", format!("r\n{file}")) {
            Answer::Got(number) => {
                let number = String::from_utf8(number).expect("a number");
                assert!(plugin.attempt("held_map", format!("{number}\nshared")).got_it());
                plugin.attempt("held_close", &number);
                opened += 1;
            }
            refused => break refused,
        }
        assert!(opened < 100, "each is a descriptor of the host's");
    };
    assert_eq!(refused, Answer::Errno(libc::EMFILE));
    assert!(opened >= 9, "{opened}");
    assert!(plugin.attempt("held_unmap", "").got_it());
    wait::until("they are let go", || plugin.attempt("open", &file).got_it().then_some(()));
}

fn write(path: &str) -> PluginPermission {
    PERMISSION_FILE_WRITE.scoped_to_path(path).expect("absolute")
}

#[test]
fn a_mediated_file_is_written_like_any_other_until_the_very_next_write_after_the_revoke() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let on_disk = || std::fs::read_to_string(&file).expect("it is text");
    let Some(plugin) = mediated(&[read(&file), write(&file)]) else { return };
    let held = hold(&plugin, "rw", &file);
    let appends = hold(&plugin, "a", &file);
    assert!(plugin.attempt("held_write", format!("{held}\nCON")).got_it());
    assert!(plugin.attempt("held_append", format!("{appends}\n!")).got_it());
    assert_eq!(on_disk(), "CONtents!");
    assert_eq!(plugin.attempt("held_read", &held), got("CONtents!"), "one open sees what another wrote");
    assert!(plugin.attempt("held_truncate", &held).got_it());
    assert_eq!(on_disk(), "CON");
    assert!(plugin.attempt("held_sync", &held).got_it());
    let map = plugin.attempt("held_map", format!("{held}\nshared to write")).text();
    assert!(plugin.attempt("held_poke", format!("{map}\nmap")).got_it());

    assert!(plugin.revoke_permission(&write(&file)));
    assert_eq!(on_disk(), "map", "what was written into memory before has arrived");
    for (method, payload) in [
        ("held_write", format!("{held}\nx")),
        ("held_append", format!("{appends}\nx")),
        ("held_truncate", held.clone()),
    ] {
        assert_eq!(plugin.attempt(method, payload), REFUSED, "{method}");
    }
    assert_eq!(plugin.attempt("held_read", &held), got("map"), "reading was not revoked");
    assert!(plugin.attempt("held_poke", format!("{map}\nyyy")).got_it(), "its own memory");
    plugin.attempt("held_sync", &held);
    assert!(plugin.attempt("held_unmap", "").got_it());
    assert_eq!(on_disk(), "map", "which goes nowhere any more");
    assert_eq!(plugin.attempt("held_open", format!("w\n{file}")), REFUSED);
    assert!(plugin.revoke_permission(&read(&file)));
    assert_eq!(plugin.attempt("held_read", &held), REFUSED);
    assert_eq!(plugin.state(), PluginState::Active);
}

#[test]
fn a_mediated_file_is_copied_and_its_mode_and_times_are_changed_until_the_revoke() {
    let scratch = Scratch::new();
    let folder = scratch.folder("out");
    let (file, kept) = (scratch.file("out/file", "contents"), scratch.file("kept", "kept"));
    let of = |path: &str| std::fs::metadata(path).expect("it is ours");
    let Some(plugin) = mediated(&[read(&folder), write(&folder), read(&kept)]) else { return };
    let copy = scratch.at("out/copy");
    assert!(plugin.attempt("fs", format!("copy\n{file}\n{copy}")).got_it(), "fs::copy sets the mode, too");
    assert_eq!(std::fs::read_to_string(&copy).expect("it is text"), "contents");
    assert_eq!(of(&copy).mode(), of(&file).mode());

    let held = hold(&plugin, "rw", &file);
    let chmod = |held: &str, mode: u32| plugin.attempt("held_chmod", format!("{held}\n{mode}"));
    assert!(chmod(&held, 0o6640).got_it());
    assert_eq!(of(&file).mode() & 0o7777, 0o640, "without rights of its own");
    assert!(plugin.attempt("held_date", &held).got_it());
    assert_eq!(of(&file).mtime(), 1_000_000_000);
    let stat = plugin.attempt("held_stat", &held).text();
    assert!(stat.starts_with("8 100640 ") && stat.ends_with(" 1000000000"), "it sees that at once: {stat}");
    let only_read = hold(&plugin, "r", &kept);
    assert_eq!(chmod(&only_read, 0o600), REFUSED, "another file, which it may not write");

    assert!(plugin.revoke_permission(&write(&folder)));
    assert_eq!(chmod(&held, 0o600), REFUSED);
    assert_eq!(plugin.attempt("held_date", &held), REFUSED);
    assert!(plugin.revoke_permission(&read(&folder)));
    assert_eq!(chmod(&held, 0o600), REFUSED);
    assert_eq!(of(&file).mode() & 0o7777, 0o640);
    assert_eq!(plugin.state(), PluginState::Active);
}

#[test]
fn a_descriptor_to_write_ends_the_plugin_when_the_write_is_revoked_and_one_to_read_does_not() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let policy = || PluginPolicy::new().permissions([read(&file), write(&file)]);
    let cases: [(&str, &str, bool); 5] = [
        ("r", "", false),
        ("r", "shared", false),
        ("rw", "", true),
        ("rw", "shared to write", true),
        // The right to write into it came with the descriptor, whatever it was mapped for.
        ("rw", "shared", true),
    ];
    for (how, mapped, ends) in cases {
        let plugin = probe_with(policy());
        let events = plugin.events();
        let held = hold(&plugin, how, &file);
        if !mapped.is_empty() {
            assert!(plugin.attempt("held_map", format!("{held}\n{mapped}")).got_it());
            assert!(plugin.attempt("held_close", &held).got_it());
        }
        assert!(plugin.revoke_permission(&write(&file)));
        if ends {
            assert_ended_for((&plugin, &events), &write(&file), &file);
        } else {
            assert_eq!(plugin.attempt("echo", "x"), got("x"), "{how} {mapped}");
        }
    }
}

// ---- files by way of services

#[test]
fn a_file_is_read_and_written_by_way_of_services_which_are_judged_anew_each_time() {
    let scratch = Scratch::new();
    let file = scratch.file("dir/file", "contents");
    let policy = PluginPolicy::new().permissions([read(&scratch.at("dir")), write(&scratch.at("dir"))]);
    let plugin = probe_with(policy.limits(ResourceLimits::default().max_file_handles(0)));
    let events = plugin.events();
    let said = |method: &str, payload: String| plugin.attempt(method, payload).text();
    for (part, expected) in [("0 100", "contents"), ("3 2", "te"), ("7 9", "s"), ("8 1", ""), ("900 1", "")] {
        let reply = said("service_read_file", format!("{part}\n{file}"));
        assert_eq!(reply, format!("replied {expected}"), "{part}");
    }
    assert_eq!(said("service_file_len", file.clone()), "replied 8");
    assert_eq!(said("service_write_file", format!("3\n{file}\n+++")), "replied ");
    assert_eq!(std::fs::read_to_string(&file).expect("it is text"), "con+++ts");
    let rule = rig::events::expect(&events, "a read", |kind| match kind {
        EventKind::Access { action: "read", granted: true, rule, .. } => Some(rule.clone()),
        _ => None,
    });
    assert_eq!(rule, format!("granted: {}", read(&scratch.at("dir"))));

    assert!(plugin.revoke_permission(&write(&scratch.at("dir"))));
    let denied = format!("denied file-write:{file} file.write");
    assert_eq!(said("service_write_file", format!("0\n{file}\nx")), denied);
    assert_eq!(said("service_file_len", file.clone()), "replied 8");
    assert!(plugin.revoke_permission(&read(&file)));
    assert_eq!(
        said("service_read_file", format!("0 9\n{file}")),
        format!("denied file-read:{file} file.read")
    );
    assert_eq!(said("service_file_len", file.clone()), format!("denied file-read:{file} file.len"));
    rig::events::expect_denial(&events, &file);
    assert_eq!(std::fs::read_to_string(&file).expect("it is text"), "con+++ts");
    assert_eq!(plugin.state(), PluginState::Active, "it held nothing");
}

#[test]
fn a_service_reaches_no_file_that_an_open_would_not() {
    let scratch = Scratch::new();
    scratch.file("secret", "secret");
    let granted = scratch.folder("dir");
    scratch.link("dir/out", "../secret");
    let fifo = scratch.fifo("dir/fifo");
    let policy = PluginPolicy::new().permissions([read(&granted), write(&granted)]);
    let plugin = probe_with(policy);
    let denied = "denied";
    for (path, expected) in [
        (scratch.at("secret"), denied),
        (scratch.at("dir/out"), denied),
        (scratch.at("dir/../secret"), denied),
        ("/proc/self/mem".to_owned(), denied),
        ("/etc/passwd".to_owned(), denied),
        (fifo, denied),
        (granted.clone(), "failed EISDIR: Is a directory"),
        (scratch.at("dir/none"), "failed ENOENT: No such file or directory"),
        ("dir/file".to_owned(), "failed no absolute path"),
    ] {
        let said = plugin.attempt("service_read_file", format!("0 9\n{path}")).text();
        let named = format!("denied file-read:{path} file.read");
        assert_eq!(said, if expected == denied { &named } else { expected }, "the path as it was asked for");
    }
    let most = ResourceLimits::default().max_message_bytes;
    let more = plugin.attempt("service_read_file", format!("0 {}\n{granted}", most + 1)).text();
    assert_eq!(more, format!("failed {} bytes, where at most {most} are allowed", most + 1));
    let said = plugin.attempt("service", "file.read\nshort").text();
    assert_eq!(said, "failed no payload of file.read");
}

#[test]
fn somebody_may_be_asked_about_a_file_that_a_service_is_to_read() {
    let scratch = Scratch::new();
    let (file, other) = (scratch.file("file", "contents"), scratch.file("other", "other"));
    let plugin = probe_with(PluginPolicy::new());
    let allowed = read(&file);
    plugin.set_decider(wait::PATIENCE, move |request| {
        if request.permission == allowed { Ruling::AllowOnce } else { Ruling::Deny }
    });
    let said = |path: &str| plugin.attempt("service_read_file", format!("0 9\n{path}")).text();
    assert_eq!(said(&file), "replied contents");
    assert_eq!(said(&other), format!("denied file-read:{other} file.read"));
    assert!(plugin.permissions().is_empty());
}
