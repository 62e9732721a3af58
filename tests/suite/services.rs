//! The host's services, called by a plugin: gates, errors, threads, and plugins that reach each other through the host.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};

use rig::events::expect;
use rig::plugins::Attempts;
use rig::wait::PATIENCE;
use rig::{active, library};
use sandbox_core::{
    App, EventKind, PERMISSION_PLUGIN, PERMISSION_SYSTEM, PERMISSION_UI, PluginPermission, PluginPolicy,
    PluginSandbox, PluginSandboxError,
};

fn answering(name: &str) -> App {
    App::new().service(name, |request| Ok([b"<", request.payload, b">"].concat()))
}

fn with(policy: PluginPolicy, app: App) -> PluginSandbox {
    active("probe", policy, library("probe"), app)
}

#[test]
fn a_service_gets_the_plugins_bytes_and_answers_with_its_own() {
    let plugin = with(PluginPolicy::new(), answering("log"));
    assert_eq!(plugin.attempt("service", "log\nhello").text(), "replied <hello>");
    let app = App::new()
        .service("who", |request| Ok(format!("{} {}", request.plugin, request.service).into_bytes()));
    assert_eq!(with(PluginPolicy::new(), app).attempt("service", "who\n").text(), "replied probe who");
}

#[test]
fn a_gated_service_is_refused_without_its_permission_and_open_with_it() {
    for (service, permission) in
        [("ui.notify", PERMISSION_UI), ("system.time", PERMISSION_SYSTEM), ("plugin.ask", PERMISSION_PLUGIN)]
    {
        let called = Arc::new(AtomicUsize::new(0));
        let app = {
            let called = Arc::clone(&called);
            App::new().service(service, move |_| {
                called.fetch_add(1, Ordering::SeqCst);
                Ok(Vec::new())
            })
        };
        let plugin = with(PluginPolicy::new(), app);
        let events = plugin.events();
        let call = || plugin.attempt("service", format!("{service}\n")).text();
        assert_eq!(call(), format!("denied {} {service}", permission.name()));
        assert_eq!(called.load(Ordering::SeqCst), 0, "{service} did not run");
        expect(&events, "the refused call", |kind| match kind {
            EventKind::ServiceCall { service: named, permission: Some(needs), granted: false } => {
                (named == service && needs == permission.name()).then_some(())
            }
            _ => None,
        });
        plugin.grant_permission(permission.clone());
        assert_eq!(call(), "replied ");
        assert_eq!(called.load(Ordering::SeqCst), 1);
        plugin.revoke_permission(&permission);
        assert_eq!(call(), format!("denied {} {service}", permission.name()), "decided at each call");
    }
}

#[test]
fn no_spelling_of_a_gated_service_gets_round_its_gate() {
    let ran = Arc::new(AtomicUsize::new(0));
    let count = |app: App, name: &str| {
        let ran = Arc::clone(&ran);
        app.service(name, move |_| {
            ran.fetch_add(1, Ordering::SeqCst);
            Ok(Vec::new())
        })
    };
    let app = ["ui", "ui.notify", "ui.window.open"].into_iter().fold(App::new(), count);
    let plugin = with(PluginPolicy::new(), app);
    plugin.grant_permission(PERMISSION_SYSTEM);
    plugin.grant_permission(PERMISSION_PLUGIN);
    for method in ["service", "service_from_thread"] {
        for service in ["ui", "ui.notify", "ui.window.open", "ui.", "ui..notify", "ui.nothing"] {
            assert_eq!(plugin.attempt(method, format!("{service}\n")).text(), format!("denied ui {service}"));
        }
        for other in
            ["UI.notify", " ui.notify", "ui .notify", "./ui.notify", "ui/notify", "system.ui.notify", ".ui"]
        {
            assert_eq!(plugin.attempt(method, format!("{other}\n")).text(), format!("unknown {other}"));
        }
    }
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    plugin.grant_permission(PERMISSION_UI);
    for service in ["ui", "ui.notify", "ui.window.open"] {
        assert_eq!(plugin.attempt("service", format!("{service}\n")).text(), "replied ", "{service}");
    }
    assert_eq!(ran.load(Ordering::SeqCst), 3, "with the permission each runs");
}

#[test]
fn a_permission_of_the_hosts_own_gates_its_own_services() {
    let payments = PluginPermission::new("payments", "charge the user").expect("a plain name");
    let app = answering("payments.charge").gate("payments").expect("a plain name");
    let plugin = with(PluginPolicy::new(), app);
    assert_eq!(plugin.attempt("service", "payments.charge\n5").text(), "denied payments payments.charge");
    plugin.grant_permission(payments);
    assert_eq!(plugin.attempt("service", "payments.charge\n5").text(), "replied <5>");
}

#[test]
fn a_service_that_is_not_there_is_unknown_and_a_gated_one_refused_before_that() {
    let plugin = with(PluginPolicy::new(), App::new());
    assert_eq!(plugin.attempt("service", "nothing\n").text(), "unknown nothing");
    assert_eq!(plugin.attempt("service", "ui.nothing\n").text(), "denied ui ui.nothing");
    plugin.grant_permission(PERMISSION_UI);
    assert_eq!(plugin.attempt("service", "ui.nothing\n").text(), "unknown ui.nothing");
}

#[test]
fn a_service_that_fails_or_panics_is_an_error_for_the_plugin_and_nothing_to_the_host() {
    let app = App::new()
        .service("fails", |_| Err("out of paper".to_owned()))
        .service("panics", |_| panic!("a bug of the embedder's"));
    let plugin = with(PluginPolicy::new(), app);
    assert_eq!(plugin.attempt("service", "fails\n").text(), "failed out of paper");
    let panicked = plugin.attempt("service", "panics\n").text();
    assert!(panicked.starts_with("failed ") && !panicked.contains("embedder"), "{panicked}");
    assert_eq!(plugin.attempt("service", "fails\n").text(), "failed out of paper");
}

#[test]
fn a_service_can_be_called_from_a_thread_of_the_plugins() {
    let plugin = with(PluginPolicy::new(), answering("log"));
    assert_eq!(plugin.attempt("service_from_thread", "log\nhello").text(), "replied <hello>");
    assert_eq!(plugin.attempt("service_from_thread", "ui.notify\n").text(), "denied ui ui.notify");
}

#[test]
fn a_flood_of_service_calls_is_served_in_full() {
    let plugin = with(PluginPolicy::new(), answering("log"));
    assert_eq!(plugin.attempt("service_flood", "250\nlog").text(), "1000");
}

#[test]
fn services_that_one_plugin_does_not_wait_for_do_not_hold_up_another() {
    const CALLS: usize = 12;
    let (release, wait_for_release) = channel::<()>();
    let wait_for_release = Mutex::new(wait_for_release);
    let (entered, was_entered) = channel();
    let app = App::new().service("slow", move |_| {
        let _ = entered.send(());
        let _ = wait_for_release.lock().map(|wait| wait.recv());
        Ok(Vec::new())
    });
    let (slow, quick) = (with(PluginPolicy::new(), app), with(PluginPolicy::new(), answering("log")));
    let release = release; // goes before the plugins go: the last one waits for the services that run
    // What it says is read in order: with its answer, all that it has called is known.
    assert!(slow.attempt("call_unread", format!("{CALLS} 0\nslow")).got_it());
    was_entered.recv_timeout(PATIENCE).expect("the first one runs");
    assert_eq!(quick.attempt("service_from_thread", "log\nhello").text(), "replied <hello>");
    was_entered.try_recv().expect_err("of one plugin's, one runs at a time");
    drop(release);
    for turn in 1..CALLS {
        was_entered.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("all of them run in the end: {turn}"));
    }
    assert!(slow.attempt("echo", "x").got_it());
}

#[test]
fn a_service_may_call_another_plugin() {
    let other = with(PluginPolicy::new(), App::new());
    let app = {
        let other = other.clone();
        App::new().service("plugin.ask", move |request| {
            other.call("echo", request.payload).map_err(|error| error.to_string())
        })
    };
    let plugin = with(PluginPolicy::new().permission(PERMISSION_PLUGIN), app);
    assert_eq!(plugin.attempt("service", "plugin.ask\nhello").text(), "replied ok hello");
}

#[test]
fn a_service_that_calls_back_into_its_own_caller_gets_an_error_instead_of_a_deadlock() {
    let own: Arc<OnceLock<PluginSandbox>> = Arc::default();
    let app = {
        let own = Arc::clone(&own);
        App::new().service("back", move |_| {
            let plugin = own.get().ok_or("set below")?;
            match plugin.call("echo", b"x") {
                Err(PluginSandboxError::Reentrant { .. }) => Ok(b"refused".to_vec()),
                Err(other) => Err(format!("another error: {other}")),
                Ok(_) => Err("it was answered".to_owned()),
            }
        })
    };
    let plugin = with(PluginPolicy::new(), app);
    own.set(plugin.clone()).unwrap_or_else(|_| panic!("set once"));
    assert_eq!(plugin.attempt("service", "back\n").text(), "replied refused");
    assert!(plugin.attempt("echo", "x").got_it());
    // The service holds the plugin, which holds the service.
    plugin.unload_plugin().expect("it unloads");
}

#[test]
fn services_are_there_during_activation_and_in_every_later_one() {
    let plugin = rig::loaded("life", PluginPolicy::new(), library("probe-life"));
    let counted = Arc::new(AtomicUsize::new(0));
    for turn in 1..=3 {
        let counter = Arc::clone(&counted);
        let app = App::new()
            .service("test.activate", move |_| {
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(b"ok".to_vec())
            })
            .service("turn", move |_| Ok(turn.to_string().into_bytes()));
        plugin.activate_plugin(app).expect("it activates");
        assert_eq!(counted.load(Ordering::SeqCst), turn);
        let reply = plugin.call("service", b"turn").expect("it answers");
        assert_eq!(reply, turn.to_string().into_bytes(), "the services of this activation");
        plugin.deactivate_plugin().expect("it deactivates");
    }
}

#[test]
fn a_payload_or_a_reply_that_is_too_large_is_an_error_for_the_plugin() {
    let limits = sandbox_core::ResourceLimits::default().max_message_bytes(4096);
    let app = answering("log").service("large", |_| Ok(vec![0; 4097]));
    let plugin = with(PluginPolicy::new().limits(limits), app);
    let large = plugin.attempt("service", "large\n").text();
    assert!(large.starts_with("failed "), "{large}");
    assert_eq!(plugin.attempt("service", "log\nx").text(), "replied <x>");
}
