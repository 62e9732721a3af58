//! Messages between plugins, through the host: who may send to whom, what waits for whom, and what floods and forgeries do.

use std::thread;
use std::time::Duration;

use rig::events::expect;
use rig::library;
use rig::plugins::{Attempts, explained};
use sandbox_core::{
    App, Cause, EventKind, PERMISSION_PLUGIN, PluginPermission, PluginPolicy, PluginSandbox,
    PluginSandboxError, PluginSandboxManager, ResourceLimits,
};

/// The longest message that the host takes, and one that fits beside three of its kind.
const MIB: usize = 1 << 20;

fn with(id: &str) -> PluginPermission {
    PERMISSION_PLUGIN.scoped(id).expect("a plain name")
}

fn talking_to(others: &[&str]) -> PluginPolicy {
    PluginPolicy::new().permissions(others.iter().map(|id| with(id)))
}

fn register(manager: &PluginSandboxManager, id: &str, policy: PluginPolicy) -> PluginSandbox {
    manager.register_plugin(id, policy).expect("it is new");
    manager.create_sandbox(id).expect("it is there")
}

fn start(plugin: &PluginSandbox, app: App) {
    plugin.load_plugin(library("probe")).unwrap_or_else(|error| panic!("{}", explained(&error)));
    plugin.activate_plugin(app).unwrap_or_else(|error| panic!("{}", explained(&error)));
}

fn active(manager: &PluginSandboxManager, id: &str, policy: PluginPolicy) -> PluginSandbox {
    let plugin = register(manager, id, policy);
    start(&plugin, App::new());
    plugin
}

/// Two plugins, `a` and `b`, that may talk to each other.
fn pair() -> (PluginSandboxManager, PluginSandbox, PluginSandbox) {
    let manager = PluginSandboxManager::new();
    let a = active(&manager, "a", talking_to(&["b"]));
    let b = active(&manager, "b", talking_to(&["a"]));
    (manager, a, b)
}

fn send(from: &PluginSandbox, to: &str, message: &str) -> String {
    from.attempt("send", format!("{to}\n{message}")).text()
}

fn receive(plugin: &PluginSandbox) -> String {
    plugin.attempt("receive", "0").text()
}

#[test]
fn a_message_arrives_with_its_bytes_and_its_senders_true_id() {
    let (manager, a, b) = pair();
    let c = active(&manager, "c", PluginPolicy::new().permission(PERMISSION_PLUGIN));
    b.grant_permission(PERMISSION_PLUGIN);
    assert_eq!(send(&a, "b", "hello"), "taken");
    assert_eq!(send(&c, "b", "a: hello"), "taken", "whatever it says of itself");
    assert_eq!(send(&a, "b", ""), "taken");
    for expected in ["a: hello", "c: a: hello", "a: ", "none"] {
        assert_eq!(receive(&b), expected, "in the order in which they were sent");
    }
    assert_eq!(send(&b, "a", "and back"), "taken");
    assert_eq!(a.attempt("receive_from_thread", "30000").text(), "b: and back");
    assert_eq!(receive(&c), "none");
}

#[test]
fn each_of_the_two_needs_its_own_permission_at_that_moment_and_each_decision_is_an_event() {
    const DENIED: &str = "denied plugin:b plugin.send";
    let (_manager, a, b) = pair();
    let events = a.events();
    let check = |expected: &str, rule: &str| {
        assert_eq!(send(&a, "b", "x"), expected, "{rule}");
        let taken = expected == "taken";
        expect(&events, &format!("a message that is {expected}"), |kind| match kind {
            EventKind::Access { permission, action, object, granted, rule: told, .. } => {
                let this = *permission == "plugin" && *action == "send" && object == "b" && *granted == taken;
                (this && told.contains(rule)).then_some(())
            }
            _ => None,
        });
        assert_eq!(receive(&b) != "none" && b.has_permission(&PERMISSION_PLUGIN), taken);
    };
    check("taken", "granted: plugin:b");
    a.revoke_permission(&with("b"));
    check(DENIED, "not granted");
    a.grant_permission(with("c"));
    check(DENIED, "not granted");
    a.grant_permission(PERMISSION_PLUGIN);
    check("taken", "granted: plugin");
    a.revoke_permission(&with("b"));
    check(DENIED, "denied: plugin:b");
    a.grant_permission(with("b"));
    b.revoke_permission(&with("a"));
    b.grant_permission(with("c"));
    let heard = b.events();
    check("nobody", "of the other plugin: not granted");
    expect(&heard, "the same as a decision about the other", |kind| match kind {
        EventKind::Access { action: "receive", object, granted: false, rule, .. } => {
            (object == "a" && rule == "not granted").then_some(())
        }
        _ => None,
    });
    b.grant_permission(with("a"));
    check("taken", "granted: plugin:b");
}

#[test]
fn nothing_is_received_without_the_permission() {
    let (_manager, a, b) = pair();
    assert_eq!(send(&a, "b", "x"), "taken");
    let events = b.events();
    b.revoke_permission(&PERMISSION_PLUGIN);
    for method in ["receive", "receive_from_thread"] {
        assert_eq!(b.attempt(method, "1").text(), "service plugin.receive needs permission plugin");
        expect(&events, "a refused receive", |kind| match kind {
            EventKind::Access { action: "receive", permission: "plugin", granted: false, .. } => Some(()),
            _ => None,
        });
    }
    b.grant_permission(with("a"));
    assert_eq!(receive(&b), "none", "what waited went with the permission");
    assert_eq!(send(&a, "b", "y"), "taken");
    assert_eq!(receive(&b), "a: y", "and with it, it is");
}

#[test]
fn a_plugin_that_may_not_send_there_does_not_learn_who_is_there() {
    let (manager, a, _b) = pair();
    register(&manager, "only-registered", talking_to(&["a"]));
    active(&manager, "deaf", PluginPolicy::new());
    let others = ["only-registered", "deaf", "unknown"];
    let answers = others.map(|other| send(&a, other, "x"));
    assert_eq!(answers, others.map(|other| format!("denied plugin:{other} plugin.send")));
    a.grant_permission(PERMISSION_PLUGIN);
    let answers = others.map(|other| send(&a, other, "x"));
    assert_eq!(answers, ["nobody"; 3], "nor one that may, whether somebody does not listen or is not there");
    assert_eq!(send(&a, "b", "x"), "taken");
}

#[test]
fn what_is_revoked_between_send_and_receive_is_not_delivered() {
    let (_manager, a, b) = pair();
    let events = b.events();
    for (plugin, other) in [(&b, "a"), (&a, "b")] {
        assert_eq!(send(&a, "b", "before"), "taken");
        plugin.revoke_permission(&with(other));
        b.grant_permission(with("c")); // so that it may receive at all
        assert_eq!(receive(&b), "none", "revoked from {}", plugin.plugin_id());
        expect(&events, "a message that is not delivered", |kind| match kind {
            EventKind::Access { action: "receive", object, granted: false, .. } if object == "a" => Some(()),
            _ => None,
        });
        plugin.grant_permission(with(other));
        assert_eq!(receive(&b), "none", "it is gone for good");
        assert_eq!(send(&a, "b", "after"), "taken");
        assert_eq!(receive(&b), "a: after");
    }
}

#[test]
fn what_waits_when_either_side_loses_the_permission_is_not_brought_back_by_granting_it_again() {
    let (manager, a, b) = pair();
    let c = active(&manager, "c", talking_to(&["b"]));
    b.grant_permission(with("c"));
    let events = b.events();
    for (plugin, other) in [(&b, "a"), (&a, "b")] {
        assert_eq!(send(&a, "b", "old"), "taken");
        assert_eq!(send(&c, "b", "another's"), "taken");
        assert!(plugin.revoke_permission(&with(other)));
        expect(&events, "a message that is dropped", |kind| match kind {
            EventKind::Access { action: "receive", object, granted: false, .. } if object == "a" => Some(()),
            _ => None,
        });
        plugin.grant_permission(with(other));
        assert_eq!(send(&a, "b", "new"), "taken");
        for expected in ["c: another's", "a: new", "none"] {
            assert_eq!(receive(&b), expected, "revoked from {}", plugin.plugin_id());
        }
    }
}

#[test]
fn a_wait_for_a_message_ends_in_time_and_counts_as_the_plugins_own() {
    let manager = PluginSandboxManager::new();
    let limits = ResourceLimits::default().call_timeout(Duration::from_secs(2));
    let plugin = active(&manager, "a", talking_to(&["b"]).limits(limits));
    for method in ["receive", "receive_from_thread"] {
        assert_eq!(plugin.attempt(method, "20").text(), "none");
    }
    match plugin.refused("receive", "60000") {
        PluginSandboxError::Ended { cause: Cause::Deadline { .. }, .. } => {}
        other => panic!("{}", explained(&other)),
    }
}

#[test]
fn a_plugin_that_waits_in_a_call_gets_what_is_sent_meanwhile() {
    let (_manager, a, b) = pair();
    for method in ["receive", "receive_from_thread"] {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| b.attempt(method, "20000").text());
            assert_eq!(send(&a, "b", method), "taken");
            assert_eq!(waiting.join().expect("it ends"), format!("a: {method}"));
        });
    }
}

#[test]
fn a_flood_fills_no_more_than_its_own_part_of_a_queue_that_nobody_reads() {
    let (manager, a, b) = pair();
    let c = active(&manager, "c", talking_to(&["b"]));
    b.grant_permission(PERMISSION_PLUGIN);
    assert_eq!(a.attempt("send_many", "1000 10\nb").text(), "64 full");
    assert_eq!(send(&c, "b", "x"), "taken", "another one's still get in");
    assert!(b.attempt("echo", "x").got_it(), "and the other plugin is not held up");
    assert_eq!(b.attempt("receive_all", "").text(), "65");
    assert_eq!(a.attempt("send_many", format!("10 {MIB}\nb")).text(), "4 full", "by their bytes too");
    assert_eq!(b.attempt("receive_all", "").text(), "4");
    assert_eq!(send(&a, "b", "x"), "taken", "there is room again");
}

#[test]
fn a_message_that_is_too_large_for_either_is_refused_with_what_is_allowed() {
    let (manager, a, _b) = pair();
    let small = ResourceLimits::default().max_message_bytes(4096);
    let c = active(&manager, "c", talking_to(&["a"]).limits(small));
    a.grant_permission(PERMISSION_PLUGIN);
    for (to, len, answer) in [
        ("b", MIB, "1 taken"),
        ("b", MIB + 1, "0 failed a message of 1048577 bytes, where at most 1048576 are allowed"),
        ("c", 4094, "1 taken"),
        ("c", 4095, "0 failed a message of 4095 bytes, where at most 4094 are allowed"),
    ] {
        assert_eq!(a.attempt("send_many", format!("1 {len}\n{to}")).text(), answer);
    }
    assert_eq!(c.attempt("receive_all", "").text(), "1");
}

#[test]
fn what_waits_for_a_plugin_goes_when_it_is_unloaded_or_ends() {
    let (_manager, a, b) = pair();
    for end in ["unload", "exit"] {
        assert_eq!(a.attempt("send_many", "3 10\nb").text(), "3 taken");
        match end {
            "unload" => b.unload_plugin().expect("it unloads"),
            _ => drop(b.refused("exit", "0")),
        }
        assert_eq!(send(&a, "b", "x"), "nobody", "{end}");
        start(&b, App::new());
        assert_eq!(receive(&b), "none", "{end}");
        assert_eq!(send(&a, "b", "x"), "taken", "{end}");
        assert_eq!(receive(&b), "a: x");
    }
}

#[test]
fn a_plugin_may_send_to_itself_if_it_is_granted_so() {
    let (_manager, a, _b) = pair();
    assert_eq!(send(&a, "a", "x"), "denied plugin:a plugin.send");
    a.grant_permission(with("a"));
    assert_eq!(a.attempt("send_many", "100 10\na").text(), "64 full");
    assert_eq!(a.attempt("receive_all", "").text(), "64");
}

#[test]
fn forged_payloads_are_errors_and_nothing_else() {
    let (_manager, a, b) = pair();
    let long_id = format!("A{}", "x".repeat(65));
    for (service, payload, answer) in [
        ("plugin.send", "", "failed no plugin's id and message"),
        ("plugin.send", "\0", "failed no plugin's id and message"),
        ("plugin.send", "\x05b", "failed no plugin's id and message"),
        ("plugin.send", "\x7fb", "failed no plugin's id and message"),
        ("plugin.send", "\x02..x", "failed no plugin's id and message"),
        ("plugin.send", "\x03a\nbx", "failed no plugin's id and message"),
        ("plugin.send", &long_id, "failed no plugin's id and message"),
        ("plugin.receive", "", "failed no number of milliseconds"),
        ("plugin.receive", "\0\0\0", "failed no number of milliseconds"),
        ("plugin.receive", "\0\0\0\0\0", "failed no number of milliseconds"),
        ("plugin.send", "\x01bx", "replied \0"),
        ("plugin.receive", "\0\0\0\0", "replied "),
    ] {
        assert_eq!(a.attempt("service", format!("{service}\n{payload}")).text(), answer, "{payload:?}");
    }
    assert_eq!(receive(&b), "a: x", "the one that was right");
}

#[test]
fn plugins_that_wait_for_messages_hold_up_no_service_of_anybody() {
    const PLUGINS: usize = 20;
    let log = || App::new().service("log", |_| Ok(b"logged".to_vec()));
    let manager = PluginSandboxManager::new();
    let quick = register(&manager, "quick", PluginPolicy::new().permission(PERMISSION_PLUGIN));
    start(&quick, log());
    let logs = |plugin: &PluginSandbox| plugin.attempt("service_from_thread", "log\n").text();
    let waiting: Vec<_> =
        (0..PLUGINS).map(|n| register(&manager, &format!("p{n}"), talking_to(&["quick"]))).collect();
    for plugin in &waiting {
        start(plugin, log());
        // Four at once, for far longer than a call may take; what is called behind them shows that they were heard.
        assert!(plugin.attempt("call_unread", "4 4\nplugin.receive").got_it());
        assert_eq!(logs(plugin), "replied logged");
        let fifth = plugin.attempt("receive", "60000").text();
        assert_eq!(fifth, "4 threads wait for messages already");
    }
    for _ in 0..20 {
        assert_eq!(logs(&quick), "replied logged");
    }
    for plugin in &waiting {
        let events = plugin.events();
        assert_eq!(send(&quick, plugin.plugin_id().as_str(), "x"), "taken");
        expect(&events, "a message that goes to one that waits", |kind| match kind {
            EventKind::Access { action: "receive", object, granted: true, .. } if object == "quick" => {
                Some(())
            }
            _ => None,
        });
        assert_eq!(logs(plugin), "replied logged");
    }
}

#[test]
fn a_plugin_without_a_manager_or_of_another_one_is_not_reached() {
    let (_manager, a, _b) = pair();
    let elsewhere = PluginSandboxManager::new();
    let c = active(&elsewhere, "c", PluginPolicy::new().permission(PERMISSION_PLUGIN));
    a.grant_permission(PERMISSION_PLUGIN);
    let alone = rig::active("d", PluginPolicy::new().permission(PERMISSION_PLUGIN), library("probe"), ());
    for (from, to) in [(&a, "c"), (&a, "d"), (&c, "a"), (&alone, "a")] {
        assert_eq!(send(from, to, "x"), "nobody", "{} to {to}", from.plugin_id());
    }
    assert_eq!(alone.attempt("receive", "10").text(), "none");
    assert_eq!(send(&a, "b", "x"), "taken");
}

#[test]
fn the_hosts_own_services_are_no_applications_to_replace() {
    let manager = PluginSandboxManager::new();
    let a = register(&manager, "a", talking_to(&["b"]));
    start(&a, App::new().service("plugin.send", |_| Ok(vec![0])).service("plugin.receive", |_| Ok(vec![0])));
    assert_eq!(send(&a, "b", "x"), "nobody");
    assert_eq!(receive(&a), "none");
}

#[test]
fn as_many_messages_as_allowed_wait_and_not_one_more() {
    for (most, of_one) in [(0, "0 full"), (1, "1 full"), (8, "2 full"), (400, "100 full")] {
        let manager = PluginSandboxManager::new();
        let limits = ResourceLimits::default().max_queued_messages(most);
        let _b = active(&manager, "b", talking_to(&["a"]).limits(limits));
        let a = active(&manager, "a", talking_to(&["b"]));
        assert_eq!(a.attempt("send_many", "101 10\nb").text(), of_one, "{most}");
    }
}
