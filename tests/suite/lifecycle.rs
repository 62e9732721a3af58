//! A plugin's states: what each call does in each, and what happens when a life ends in the middle of one.

use std::sync::mpsc::channel;
use std::thread;

use rig::plugins::Attempts;
use rig::wait::watch;
use rig::{active, library, loaded, probe};
use sandbox_core::{
    App, Cause, Operation, PERMISSION_FILE_READ, PERMISSION_NETWORK, PluginPermission, PluginPolicy,
    PluginSandbox, PluginSandboxError, PluginSandboxManager, PluginState, ResourceLimits,
};

#[test]
fn manager_and_sandbox_may_be_used_from_any_thread() {
    fn check<T: Send + Sync>() {}
    check::<PluginSandboxManager>();
    check::<PluginSandbox>();
    check::<sandbox_core::PluginHandle>();
}

#[test]
fn an_id_is_registered_once() {
    let manager = PluginSandboxManager::new();
    manager.register_plugin("hello", PluginPolicy::new()).expect("it is new");
    let again = manager.register_plugin("hello", PluginPolicy::new().permission(PERMISSION_NETWORK));
    let error = again.expect_err("it is there");
    assert!(
        matches!(&error, PluginSandboxError::AlreadyRegistered { plugin } if plugin.as_str() == "hello"),
        "{error}"
    );
    assert!(manager.get_plugin_permissions("hello").expect("it is there").is_empty(), "the first one counts");
    manager.unregister_plugin("hello").expect("it is there");
    manager.register_plugin("hello", PluginPolicy::new()).expect("it is gone");
}

#[test]
fn an_id_that_is_no_id_is_refused_with_what_one_is() {
    let manager = PluginSandboxManager::new();
    for id in ["", "../x", "a b", "a\n"] {
        let error = manager.register_plugin(id, PluginPolicy::new()).expect_err(id);
        assert!(matches!(error, PluginSandboxError::PluginId(_)), "{id:?}: {error}");
    }
}

#[test]
fn limits_out_of_range_are_refused_when_a_plugin_is_registered() {
    let manager = PluginSandboxManager::new();
    let policy = PluginPolicy::new().limits(ResourceLimits::default().max_memory_mb(1));
    let error = manager.register_plugin("hello", policy.clone()).expect_err("out of range");
    assert!(matches!(error, PluginSandboxError::Limit(_)), "{error}");
    let error = PluginSandbox::new("hello", policy).expect_err("out of range");
    assert!(matches!(error, PluginSandboxError::Limit(_)), "{error}");
}

#[test]
fn an_unknown_id_is_an_error_in_every_method_and_names_the_nearest_known_one() {
    let manager = PluginSandboxManager::new();
    manager.register_plugin("image-thumbnail", PluginPolicy::new()).expect("it is new");
    let id = "image-thumbnial";
    let errors: Vec<PluginSandboxError> = [
        manager.create_sandbox(id).map(drop),
        manager.load_plugin(id, library("hello")).map(drop),
        manager.activate_plugin(id, ()),
        manager.call(id, "x", b"").map(drop),
        manager.deactivate_plugin(id),
        manager.unload_plugin(id),
        manager.unregister_plugin(id),
        manager.get_plugin_permissions(id).map(drop),
        manager.grant_permission(id, PERMISSION_NETWORK).map(drop),
        manager.revoke_permission(id, &PERMISSION_NETWORK).map(drop),
        manager.get_resource_limits(id).map(drop),
        manager.set_resource_limits(id, ResourceLimits::default()),
        manager.get_allowed_modules(id).map(drop),
        manager.add_allowed_module(id, "libz.so.1").map(drop),
        manager.remove_allowed_module(id, "libz.so.1").map(drop),
    ]
    .into_iter()
    .map(|result| result.expect_err("it is unknown"))
    .collect();
    for error in errors {
        let PluginSandboxError::UnknownPlugin { plugin, nearest } = &error else { panic!("{error}") };
        assert_eq!(plugin, id);
        assert_eq!(nearest.as_ref().map(|near| near.as_str()), Some("image-thumbnail"));
        assert!(error.to_string().contains(id), "{error}");
    }
}

#[track_caller]
fn check_wrong_state(result: Result<(), PluginSandboxError>, operation: Operation, state: PluginState) {
    let error = result.expect_err("not from this state");
    let PluginSandboxError::WrongState { operation: named, state: found, allowed, ended, .. } = &error else {
        panic!("{operation} from {state}: {error}")
    };
    assert_eq!(ended.is_some(), state == PluginState::Crashed, "{error}");
    assert_eq!((*named, *found), (operation, state));
    let text = error.to_string();
    assert!(text.contains(&state.to_string()) && text.contains(allowed), "both states are named: {text}");
}

#[test]
fn every_method_in_a_wrong_state_is_an_error_that_names_both_states() {
    let plugin = PluginSandbox::new("hello", PluginPolicy::new()).expect("a sandbox");
    let call = |plugin: &PluginSandbox| plugin.call("greet", b"x").map(drop);
    let load = |plugin: &PluginSandbox| plugin.load_plugin(library("hello")).map(drop);

    let state = PluginState::Registered;
    assert_eq!(plugin.state(), state);
    check_wrong_state(plugin.activate_plugin(()), Operation::Activate, state);
    check_wrong_state(call(&plugin), Operation::Call, state);
    check_wrong_state(plugin.deactivate_plugin(), Operation::Deactivate, state);
    check_wrong_state(plugin.unload_plugin(), Operation::Unload, state);

    load(&plugin).expect("it loads");
    let state = PluginState::Loaded;
    assert_eq!(plugin.state(), state);
    check_wrong_state(load(&plugin), Operation::Load, state);
    check_wrong_state(call(&plugin), Operation::Call, state);
    check_wrong_state(plugin.deactivate_plugin(), Operation::Deactivate, state);

    plugin.activate_plugin(()).expect("it activates");
    let state = PluginState::Active;
    assert_eq!(plugin.state(), state);
    check_wrong_state(load(&plugin), Operation::Load, state);
    check_wrong_state(plugin.activate_plugin(()), Operation::Activate, state);

    plugin.unload_plugin().expect("from active too");
    let state = PluginState::Unloaded;
    assert_eq!(plugin.state(), state);
    assert_eq!(plugin.process_id(), None);
    check_wrong_state(call(&plugin), Operation::Call, state);
    check_wrong_state(plugin.unload_plugin(), Operation::Unload, state);
    load(&plugin).expect("round again");
}

#[test]
fn a_plugin_is_activated_and_deactivated_as_often_as_one_likes() {
    let plugin = loaded("hello", PluginPolicy::new(), library("hello"));
    let helper = plugin.process_id();
    for _ in 0..3 {
        plugin.activate_plugin(()).expect("it activates");
        assert_eq!(plugin.call("greet", b"you").expect("it answers"), b"hello, you");
        plugin.deactivate_plugin().expect("it deactivates");
    }
    assert_eq!(plugin.process_id(), helper, "in one and the same helper");
}

#[test]
fn each_load_is_a_new_process_and_the_old_one_is_gone() {
    let plugin = probe();
    let first = plugin.process_id().expect("it lives");
    let watched = watch(first);
    plugin.unload_plugin().expect("it unloads");
    watched.ended();
    plugin.load_plugin(library("probe")).expect("it loads again");
    assert_ne!(plugin.process_id(), Some(first));
}

#[test]
fn unloading_during_a_call_ends_the_call_with_that_cause() {
    let (started, wait) = channel();
    let app = App::new().service("test.started", move |_| {
        let _ = started.send(());
        Ok(Vec::new())
    });
    let plugin = active("probe", PluginPolicy::new(), library("probe"), app);
    let watched = watch(plugin.process_id().expect("it lives"));
    let caller = {
        let plugin = plugin.clone();
        thread::spawn(move || {
            plugin.attempt("service", "test.started\n");
            plugin.call("sleep_forever", b"")
        })
    };
    wait.recv().expect("the caller calls");
    // From here on the plugin may be in either call; both end alike.
    plugin.unload_plugin().expect("it unloads");
    watched.ended();
    let error = match caller.join() {
        Ok(result) => result.expect_err("it never returns"),
        // The unload came before the first call's answer had arrived.
        Err(_) => return,
    };
    match &error {
        PluginSandboxError::Ended { operation: Operation::Call, cause: Cause::Unloaded, .. }
        | PluginSandboxError::WrongState { .. } => {}
        other => panic!("{other}"),
    }
    assert_eq!(plugin.state(), PluginState::Unloaded);
}

#[test]
fn dropping_the_last_handle_of_an_active_plugin_ends_its_helper() {
    let plugin = probe();
    let watched = watch(plugin.process_id().expect("it lives"));
    let second = plugin.clone();
    drop(plugin);
    assert!(!watched.has_ended(), "another handle is there");
    assert!(second.attempt("echo", "x").got_it());
    drop(second);
    watched.ended();
}

#[test]
fn dropping_a_manager_ends_its_helpers() {
    let manager = PluginSandboxManager::new();
    let mut helpers = Vec::new();
    for id in ["a", "b", "c"] {
        manager.register_plugin(id, PluginPolicy::new()).expect("it is new");
        manager.load_plugin(id, library("probe")).expect("it loads");
        manager.activate_plugin(id, ()).expect("it activates");
        let helper = manager.create_sandbox(id).expect("it is there").process_id().expect("it lives");
        helpers.push(watch(helper));
    }
    drop(manager);
    helpers.iter().for_each(|helper| helper.ended());
}

#[test]
fn unregistering_an_active_plugin_ends_its_helper() {
    let manager = PluginSandboxManager::new();
    manager.register_plugin("probe", PluginPolicy::new()).expect("it is new");
    let plugin = manager.load_plugin("probe", library("probe")).expect("it loads");
    manager.activate_plugin("probe", ()).expect("it activates");
    let watched = watch(plugin.sandbox().process_id().expect("it lives"));
    manager.unregister_plugin("probe").expect("it is there");
    watched.ended();
    plugin.call("echo", b"x").expect_err("what is left of it answers with an error");
}

#[test]
fn a_sandbox_of_the_managers_is_a_live_view() {
    let manager = PluginSandboxManager::new();
    manager.register_plugin("probe", PluginPolicy::new()).expect("it is new");
    let one = manager.create_sandbox("probe").expect("it is there");
    let other = manager.create_sandbox("probe").expect("it is there");
    manager.grant_permission("probe", PERMISSION_NETWORK).expect("it is there");
    assert!(one.has_permission(&PERMISSION_NETWORK));
    one.revoke_permission(&PERMISSION_NETWORK);
    assert!(!other.has_permission(&PERMISSION_NETWORK));
    one.load_plugin(library("probe")).expect("it loads");
    assert_eq!(other.state(), PluginState::Loaded);
    manager.activate_plugin("probe", ()).expect("it activates");
    assert_eq!(one.state(), PluginState::Active);
    assert!(other.attempt("echo", "x").got_it());
    one.set_resource_limits(ResourceLimits::default().max_cpu_time_sec(99)).expect("in range");
    let limits = manager.get_resource_limits("probe").expect("it is there");
    assert_eq!(limits.max_cpu_time_sec, Some(99));
}

#[test]
fn many_plugins_live_at_once_each_from_its_own_thread() {
    let manager = PluginSandboxManager::new();
    thread::scope(|scope| {
        for n in 0..8 {
            let manager = &manager;
            scope.spawn(move || {
                let id = format!("plugin-{n}");
                manager.register_plugin(&id, PluginPolicy::new()).expect("it is new");
                manager.load_plugin(&id, library("hello")).expect("it loads");
                manager.activate_plugin(&id, ()).expect("it activates");
                for turn in 0..50 {
                    let name = format!("{id} {turn}");
                    let reply = manager.call(&id, "greet", name.as_bytes()).expect("it answers");
                    assert_eq!(reply, format!("hello, {name}").as_bytes());
                }
                manager.deactivate_plugin(&id).expect("it deactivates");
                manager.unload_plugin(&id).expect("it unloads");
            });
        }
    });
    assert_eq!(manager.plugin_ids().len(), 8);
}

#[test]
fn calls_into_one_plugin_from_many_threads_all_get_their_own_answer() {
    let plugin = probe();
    thread::scope(|scope| {
        for n in 0..6 {
            let plugin = &plugin;
            scope.spawn(move || {
                for turn in 0..30 {
                    let text = format!("{n}.{turn}");
                    assert_eq!(plugin.attempt("echo", &text).text(), text);
                }
            });
        }
    });
}

#[test]
fn permissions_are_held_at_a_scope_or_at_any() {
    let at = |path: &str| PERMISSION_FILE_READ.scoped_to_path(path).expect("absolute");
    let plugin = PluginSandbox::new("p", PluginPolicy::new().permission(at("/data/app"))).expect("a sandbox");
    for (permission, held) in [
        (PERMISSION_FILE_READ, true),
        (at("/data/app"), true),
        (at("/data/app/x"), true),
        (at("/data/app2"), false),
        (at("/data"), false),
        (PERMISSION_NETWORK, false),
    ] {
        assert_eq!(plugin.has_permission(&permission), held, "{permission}");
        assert_eq!(plugin.check_permission(&permission).is_ok(), held, "{permission}");
    }
    assert!(plugin.revoke_permission(&at("/data/app/x")), "a part of what is held is held");
    assert!(!plugin.has_permission(&at("/data/app/x")) && plugin.has_permission(&at("/data/app/y")));
    assert!(plugin.revoke_permission(&PERMISSION_FILE_READ), "the unscoped one stands for all scopes");
    assert!(plugin.permissions().is_empty());
}

#[test]
fn a_permission_of_the_hosts_own_is_held_like_a_standard_one() {
    let payments = PluginPermission::new("payments", "charge the user").expect("a plain name");
    let plugin =
        PluginSandbox::new("p", PluginPolicy::new().permission(payments.clone())).expect("a sandbox");
    assert!(plugin.has_permission(&payments));
    assert!(plugin.revoke_permission(&payments));
    let denied = plugin.check_permission(&payments).expect_err("revoked");
    assert!(denied.to_string().contains("payments"), "{denied}");
}
