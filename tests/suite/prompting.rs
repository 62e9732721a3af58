//! A decider: what it is asked, what its answers do, and that nothing it does, or fails to do, harms anybody else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rig::events::{expect, expect_denial};
use rig::plugins::Attempts;
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, active, library, probe, probe_with};
use sandbox_core::{
    AccessRequest, App, EventKind, PERMISSION_FILE_READ, PERMISSION_UI, PluginPermission, PluginPolicy,
    PluginSandbox, PluginSandboxManager, ResourceLimits, Ruling,
};

const REFUSED: Answer = Answer::Errno(libc::EACCES);

fn read(path: &str) -> PluginPermission {
    PERMISSION_FILE_READ.scoped_to_path(path).expect("absolute")
}

fn got(contents: &str) -> Answer {
    Answer::Got(contents.into())
}

/// Has everything ruled like this, and hands on what was asked.
fn rule_all(plugin: &PluginSandbox, ruling: Ruling) -> Receiver<AccessRequest> {
    let (ask, asked) = channel();
    let ask = Mutex::new(ask);
    plugin.set_decider(PATIENCE, move |request| {
        let _ = ask.lock().expect("no panic").send(request.clone());
        ruling
    });
    asked
}

/// A gate that a decider can be held at.
fn gate() -> (Sender<()>, Mutex<Receiver<()>>) {
    let (open, wait) = channel();
    (open, Mutex::new(wait))
}

#[test]
fn what_nobody_has_decided_about_is_asked_about_with_all_that_a_person_needs() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    scratch.link("link", &file);
    let plugin = probe();
    assert_eq!(plugin.attempt("open", scratch.at("link")), REFUSED, "without a decider it is refused");
    let asked = rule_all(&plugin, Ruling::AllowOnce);
    assert_eq!(plugin.attempt("open", scratch.at("link")), got("contents"));
    let request = asked.recv_timeout(PATIENCE).expect("a question");
    assert_eq!(request.plugin.as_str(), "probe");
    assert_eq!(request.permission, read(&file), "the narrowest permission that opens it");
    assert_eq!(request.object, scratch.at("link"), "what the plugin named");
    assert_eq!(request.resolved.as_deref(), Some(file.as_str()), "and what that is");
    assert!(request.action.contains("open"), "{request:?}");
}

#[test]
fn allowing_once_opens_one_attempt_and_the_next_is_asked_about_again() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe();
    let asked = rule_all(&plugin, Ruling::AllowOnce);
    for _ in 0..3 {
        assert_eq!(plugin.attempt("open", &file), got("contents"));
    }
    assert!(asked.try_iter().count() >= 3);
    assert!(!plugin.has_permission(&PERMISSION_FILE_READ), "nothing is granted");
}

#[test]
fn allowing_always_grants_the_permission_and_nobody_is_asked_again() {
    let scratch = Scratch::new();
    let (file, other) = (scratch.file("file", "contents"), scratch.file("other", "other"));
    let plugin = probe();
    let asked = rule_all(&plugin, Ruling::AllowAlways);
    for _ in 0..3 {
        assert_eq!(plugin.attempt("open", &file), got("contents"));
    }
    assert_eq!(asked.try_iter().count(), 1);
    assert!(plugin.has_permission(&read(&file)));
    assert!(!plugin.has_permission(&read(&other)), "nothing beyond it");
}

#[test]
fn a_denial_refuses_and_the_same_is_not_asked_again() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe();
    let events = plugin.events();
    let asked = rule_all(&plugin, Ruling::Deny);
    for _ in 0..3 {
        assert_eq!(plugin.attempt("open", &file), REFUSED);
        expect(&events, "a denial that says by whom", |kind| match kind {
            EventKind::Access { granted: false, rule, .. } if rule.contains("when asked") => Some(()),
            _ => None,
        });
    }
    assert_eq!(asked.try_iter().count(), 1);
}

#[test]
fn what_was_granted_or_revoked_is_decided_and_not_asked_about() {
    let scratch = Scratch::new();
    let (open, closed) = (scratch.file("in/open", "open"), scratch.file("in/closed/file", "closed"));
    let plugin = probe_with(PluginPolicy::new().permission(read(&scratch.at("in"))));
    assert!(plugin.revoke_permission(&read(&scratch.at("in/closed"))), "held");
    let asked = rule_all(&plugin, Ruling::AllowOnce);
    assert_eq!(plugin.attempt("open", open), got("open"));
    assert_eq!(plugin.attempt("open", closed), REFUSED);
    assert_eq!(asked.try_iter().count(), 0);
}

#[test]
fn what_no_grant_opens_is_not_asked_about() {
    let scratch = Scratch::new();
    let fifo = scratch.fifo("fifo");
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    let asked = rule_all(&plugin, Ruling::AllowAlways);
    for path in [fifo.as_str(), "/proc/self/mem", "/dev/mem"] {
        assert!(!plugin.attempt("open", path).got_it(), "{path}");
    }
    assert_eq!(asked.try_iter().count(), 0);
}

#[test]
fn nobody_is_asked_about_a_good_part_of_the_machine() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe();
    let by_std = |operation: &str, path: &str| plugin.attempt("fs", format!("{operation}\n{path}"));
    let events = plugin.events();
    let asked = rule_all(&plugin, Ruling::AllowAlways);
    for path in ["/", "//", "/.", "/tmp", "/usr"] {
        assert_eq!(by_std("stat", path), got("folder"), "{path}: which it is on any system");
    }
    for (operation, path) in [
        ("names", "/"),
        ("stat", "/usr/share"),
        ("names", "/etc"),
        ("names", "/usr/lib"),
        ("make folder", "/home/new"),
    ] {
        assert_eq!(by_std(operation, path), REFUSED, "{operation} {path}");
        expect(&events, "a denial that says why nobody was asked", |kind| match kind {
            EventKind::Access { granted: false, rule, .. } if rule.contains("too wide") => Some(()),
            _ => None,
        });
    }
    assert_eq!(plugin.attempt("run", "/usr/bin"), REFUSED, "a folder is no program");
    plugin.learn();
    assert_eq!(by_std("names", "/etc"), REFUSED, "nor is it learnt");
    assert_eq!(asked.try_iter().count(), 0);
    let asked = rule_all(&plugin, Ruling::AllowAlways);
    assert_eq!(plugin.attempt("open", &file), got("contents"));
    assert_eq!(by_std("names", &scratch.folder("folder")), got(""));
    assert_eq!(asked.try_iter().count(), 2, "what is below is asked about");
}

#[test]
fn what_was_allowed_once_is_not_told_as_granted() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let absent = scratch.at("absent");
    let plugin = probe();
    let events = plugin.events();
    rule_all(&plugin, Ruling::AllowOnce);
    let expect_rule = |what: &str| {
        expect(&events, what, |kind| match kind {
            EventKind::Access { granted: true, rule, .. } if *rule == what => Some(()),
            _ => None,
        });
    };
    assert_eq!(plugin.attempt("open", &file), got("contents"));
    expect_rule(&format!("allowed when asked: file-read:{file}"));
    assert_eq!(plugin.attempt("open", &absent), Answer::Errno(libc::ENOENT));
    expect_rule(&format!("allowed when asked: file-read:{absent}; ENOENT"));
    plugin.grant_permission(read(&absent));
    assert_eq!(plugin.attempt("open", &absent), Answer::Errno(libc::ENOENT));
    expect_rule(&format!("granted: file-read:{absent}; ENOENT"));
}

#[test]
fn an_answer_that_does_not_come_in_time_means_no() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe();
    let (open, wait) = gate();
    plugin.set_decider(Duration::from_millis(50), move |_| {
        let _ = wait.lock().map(|wait| wait.recv());
        Ruling::AllowAlways
    });
    assert_eq!(plugin.attempt("open", &file), REFUSED);
    drop(open);
    assert!(!plugin.has_permission(&PERMISSION_FILE_READ), "too late to allow anything");
}

#[test]
fn a_decider_that_panics_has_said_no() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe();
    plugin.set_decider(PATIENCE, |_| panic!("a decider of a test's"));
    assert_eq!(plugin.attempt("open", &file), REFUSED);
}

#[test]
fn the_deadline_of_a_call_does_not_run_while_a_person_thinks() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let timeout = Duration::from_millis(500);
    let limits = ResourceLimits::default().call_timeout(timeout);
    let plugin = probe_with(PluginPolicy::new().limits(limits));
    plugin.set_decider(PATIENCE, move |_| {
        let began = Instant::now();
        while began.elapsed() < 4 * timeout {
            std::thread::yield_now();
        }
        Ruling::AllowAlways
    });
    assert_eq!(plugin.attempt("open", &file), got("contents"));
}

#[test]
fn a_question_that_is_never_answered_holds_up_nobody_but_who_asks() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let manager = Arc::new(PluginSandboxManager::new());
    let (open, wait) = gate();
    let (ask, asked) = channel();
    let ask = Mutex::new(ask);
    manager.set_decider(PATIENCE, move |request| {
        let _ = ask.lock().expect("no panic").send(request.plugin.clone());
        let _ = wait.lock().map(|wait| wait.recv());
        Ruling::Deny
    });
    for (id, granted) in [("asks", None), ("works", Some(read(&file)))] {
        manager.register_plugin(id, PluginPolicy::new().permissions(granted)).expect("a new id");
        manager.load_plugin(id, library("probe")).expect("it loads");
        manager.activate_plugin(id, ()).expect("it activates");
    }
    let (calling, path) = (Arc::clone(&manager), file.clone());
    let waits = std::thread::spawn(move || {
        calling.call("asks", "open", path.as_bytes()).map(|reply| Answer::read(&reply))
    });
    assert_eq!(asked.recv_timeout(PATIENCE).expect("a question").as_str(), "asks");
    for _ in 0..20 {
        let reply = manager.call("works", "open", file.as_bytes()).expect("an answer");
        assert_eq!(Answer::read(&reply), got("contents"));
    }
    drop(open);
    assert_eq!(waits.join().expect("no panic").expect("an answer"), REFUSED);
}

#[test]
fn a_plugin_can_be_unloaded_while_a_question_of_its_is_open() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe();
    let (open, wait) = gate();
    let (ask, asked) = channel();
    let ask = Mutex::new(ask);
    plugin.set_decider(PATIENCE, move |_| {
        let _ = ask.lock().expect("no panic").send(());
        let _ = wait.lock().map(|wait| wait.recv());
        Ruling::AllowOnce
    });
    let calling = plugin.clone();
    let waits = std::thread::spawn(move || calling.call("open", file.as_bytes()));
    asked.recv_timeout(PATIENCE).expect("a question");
    plugin.unload_plugin().expect("it goes");
    assert!(waits.join().expect("no panic").is_err());
    drop(open);
}

#[test]
fn a_decider_may_change_the_very_policy_that_it_decides_about() {
    let scratch = Scratch::new();
    let file = scratch.file("dir/file", "contents");
    let folder = read(&scratch.at("dir"));
    let plugin = probe();
    let own = plugin.clone();
    plugin.set_decider(PATIENCE, move |_| {
        own.grant_permission(folder.clone());
        Ruling::Deny
    });
    assert_eq!(plugin.attempt("open", &file), got("contents"), "granted by the time it was decided");
    // Lets the sandbox go: it owned the decider that owned it.
    plugin.remove_decider();
}

#[test]
fn a_plugin_that_asks_without_end_is_asked_about_so_often_and_then_denied() {
    let scratch = Scratch::new();
    let plugin = probe();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    plugin.set_decider(PATIENCE, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ruling::AllowOnce
    });
    let file = scratch.file("file", "contents");
    let mut answers = (0..100).map(|_| plugin.attempt("open", &file));
    assert!(answers.any(|answer| answer == REFUSED), "it never ends");
    assert_eq!(count.load(Ordering::Relaxed), 30, "as documented");
}

#[test]
fn what_a_plugin_names_reaches_a_decider_escaped() {
    let plugin = probe();
    let asked = rule_all(&plugin, Ruling::Deny);
    let events = plugin.events();
    assert!(!plugin.attempt("open", b"/tmp/\x1b[2Jallow\nanything?").got_it());
    expect_denial(&events, "anything?");
    let request = asked.recv_timeout(PATIENCE).expect("a question");
    for text in [&request.object, &request.resolved.unwrap_or_default()] {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

#[test]
fn a_service_that_is_not_granted_is_asked_about_too() {
    let app = || App::new().service("ui.notify", |_| Ok(b"shown".to_vec()));
    let plugin = active("probe", PluginPolicy::new(), library("probe"), app());
    let said = |works: bool| if works { "replied shown" } else { "denied ui ui.notify" };
    assert_eq!(plugin.attempt("service", "ui.notify\n").text(), said(false), "without a decider");
    for (ruling, works, held) in
        [(Ruling::Deny, false, false), (Ruling::AllowOnce, true, false), (Ruling::AllowAlways, true, true)]
    {
        let plugin = active("probe", PluginPolicy::new(), library("probe"), app());
        let asked = rule_all(&plugin, ruling);
        for method in ["service", "service_from_thread"] {
            assert_eq!(plugin.attempt(method, "ui.notify\n").text(), said(works), "{ruling:?} {method}");
        }
        let request = asked.recv_timeout(PATIENCE).expect("a question");
        assert_eq!((request.permission, request.action), (PERMISSION_UI, "call"));
        assert_eq!(request.object, "ui.notify");
        assert_eq!(plugin.has_permission(&PERMISSION_UI), held, "{ruling:?}");
    }
}

#[test]
fn learning_lets_through_what_a_grant_could_open_and_nothing_else() {
    let scratch = Scratch::new();
    let (file, closed) = (scratch.file("file", "contents"), scratch.file("closed", "closed"));
    let plugin = probe();
    assert_eq!(plugin.attempt("open", &file), REFUSED);
    plugin.grant_permission(read(&closed));
    assert!(plugin.revoke_permission(&read(&closed)));
    plugin.grant_permission(PERMISSION_FILE_READ);
    assert!(plugin.revoke_permission(&read(&closed)), "cut out of the wider grant");
    plugin.learn();
    for _ in 0..40 {
        assert_eq!(plugin.attempt("open", &file), got("contents"), "however often");
    }
    assert_eq!(plugin.attempt("open", &closed), REFUSED, "what was revoked stays so");
    assert!(!plugin.attempt("open", "/proc/self/mem").got_it(), "no grant opens it");
    assert!(plugin.revoke_permission(&PERMISSION_FILE_READ));
    assert_eq!(plugin.attempt("open", &file), got("contents"), "undecided again, and learnt");
    plugin.remove_decider();
    assert_eq!(plugin.attempt("open", &file), REFUSED);
}
