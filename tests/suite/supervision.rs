//! What becomes of plugins that end by themselves, of those that hang, and of all of them when the host shuts down.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::child::{self, Part};
use rig::events::expect;
use rig::inventory::{descendants, parent_of};
use rig::libraries::constructor_that;
use rig::plugins::{Attempts, explained};
use rig::wait::{PATIENCE, until, watch};
use rig::{Scratch, active, library, loaded, probe_with};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use sandbox_core::{
    Answer, App, Backoff, Cause, EventKind, Layer, LayerPolicy, LibraryDigest, Operation,
    PERMISSION_FILE_READ, PERMISSION_PROCESS, PluginEnding, PluginPolicy, PluginSandbox, PluginSandboxError,
    PluginSandboxManager, PluginState, QuarantineError, QuarantineStore, ResourceLimits, RestartPolicy,
};

use crate::weakened;

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[
    ("loads under quarantine", loads_under_quarantine),
    ("is killed in its restarts", is_killed_in_its_restarts),
    ("writes to a full disk", writes_to_a_full_disk),
];

const HOUR: Duration = Duration::from_secs(3600);

/// Operations that do not end for a busy machine.
fn patient() -> ResourceLimits {
    ResourceLimits::default()
        .load_timeout(PATIENCE)
        .activate_timeout(PATIENCE)
        .call_timeout(PATIENCE)
        .deactivate_timeout(PATIENCE)
}

fn soon() -> Backoff {
    Backoff::default().first(Duration::from_millis(1)).most(Duration::from_millis(1))
}

/// So late that it does not come while a test runs.
fn late() -> Backoff {
    Backoff::default().first(HOUR).most(HOUR)
}

fn policy(restart: RestartPolicy) -> PluginPolicy {
    PluginPolicy::new().limits(patient()).restart(restart)
}

fn life(restart: RestartPolicy, app: App) -> PluginSandbox {
    active("life", policy(restart), library("probe-life"), app)
}

/// A service that answers an activation with what stands next in the list, then with nothing.
fn activations(answers: &'static [&'static str]) -> App {
    let next = AtomicUsize::new(0);
    App::new().service("test.activate", move |_| {
        let answer = answers.get(next.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or_default();
        Ok(answer.as_bytes().to_vec())
    })
}

// ---- restarts

#[test]
fn a_plugin_that_has_ended_comes_back_if_its_policy_says_so() {
    let limits = patient().call_timeout(Duration::from_millis(300));
    for (what, restart, method, payload, comes_back) in [
        ("never, for a crash", RestartPolicy::never(), "abort", "", false),
        ("on a crash, for a crash", RestartPolicy::on_crash(), "abort", "", true),
        ("on a crash, for another exit code", RestartPolicy::on_crash(), "exit", "3", true),
        ("on a crash, for a deadline", RestartPolicy::on_crash(), "sleep_forever", "", true),
        ("on a crash, for a forbidden call", RestartPolicy::on_crash(), "ptrace", "", true),
        ("on a crash, for an exit with code 0", RestartPolicy::on_crash(), "exit", "0", false),
        ("always, for an exit with code 0", RestartPolicy::always(), "exit", "0", true),
        ("always, for a crash", RestartPolicy::always(), "segfault", "", true),
    ] {
        let restart = restart.backoff(soon());
        let plugin = probe_with(PluginPolicy::new().limits(limits.clone()).restart(restart));
        let (before, events) = (plugin.process_id(), plugin.events());
        let error = plugin.refused(method, payload);
        assert!(matches!(error, PluginSandboxError::Ended { .. }), "{what}: {}", explained(&error));
        if comes_back {
            let attempt = expect(&events, what, |kind| match kind {
                EventKind::Restarted { attempt } => Some(*attempt),
                _ => None,
            });
            assert_eq!((attempt, plugin.state()), (1, PluginState::Active), "{what}");
            assert!(plugin.process_id().is_some() && plugin.process_id() != before, "{what}: a new helper");
            plugin.set_resource_limits(patient()).expect("in range");
            assert_eq!(plugin.attempt("echo", "x").text(), "x", "{what}");
        } else {
            // What becomes of it is decided together with this state.
            assert_eq!(plugin.state(), PluginState::Crashed, "{what}");
            let told = events.try_iter().map(|event| event.kind);
            let scheduled = told.filter(|kind| matches!(kind, EventKind::RestartScheduled { .. })).count();
            assert_eq!(scheduled, 0, "{what}");
            plugin.load_plugin(library("probe")).expect("whoever wants it loads it");
        }
    }
}

#[test]
fn what_a_host_ends_does_not_come_back() {
    let restart = RestartPolicy::always().backoff(soon());
    type End = fn(&PluginSandbox);
    let ends: [(&str, End); 4] = [
        ("unloaded", |plugin| plugin.unload_plugin().expect("it unloads")),
        ("drained", |plugin| plugin.drain_plugin(PATIENCE).expect("it unloads")),
        ("aborts while an unload deactivates it", |plugin| {
            plugin.call("at_deactivate", b"abort").expect("it answers");
            plugin.unload_plugin().expect_err("it aborts");
        }),
        ("aborts while an unload drops it", |plugin| {
            plugin.call("at_drop", b"abort").expect("it answers");
            drop(plugin.unload_plugin());
        }),
    ];
    for (how, end) in ends {
        let plugin = life(restart, App::new());
        let events = plugin.events();
        end(&plugin);
        assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Unloaded, None), "{how}");
        let scheduled =
            events.try_iter().filter(|event| matches!(event.kind, EventKind::RestartScheduled { .. }));
        assert_eq!(scheduled.count(), 0, "{how}");
        plugin.load_plugin(library("probe-life")).expect("it loads again");
    }
}

#[test]
fn a_plugin_comes_back_to_where_it_was_with_the_services_that_it_had() {
    let app = App::new().service("log", |_| Ok(b"logged".to_vec()));
    let restart = RestartPolicy::on_crash().backoff(soon());
    let plugin = active("probe", policy(restart), library("probe"), app);
    for _ in 0..2 {
        plugin.refused("abort", "");
        assert!(plugin.wait_until_active(PATIENCE));
        assert_eq!(plugin.attempt("service", "log\n").text(), "replied logged");
    }
    plugin.deactivate_plugin().expect("it deactivates");
    let helper = plugin.process_id().and_then(|pid| i32::try_from(pid).ok()).expect("it lives");
    let events = plugin.events();
    kill(Pid::from_raw(helper), Signal::SIGKILL).expect("a host may");
    let attempt = expect(&events, "a restart", |kind| match kind {
        EventKind::Restarted { attempt } => Some(*attempt),
        _ => None,
    });
    assert_eq!((attempt, plugin.state()), (3, PluginState::Loaded), "it was not active");
}

#[test]
fn a_crash_loop_restarts_as_often_and_as_late_as_documented_and_ends_in_quarantine() {
    let ms = Duration::from_millis;
    let backoff = Backoff::default().first(ms(8)).most(ms(20)).factor(2.0).jitter(0.5);
    let restart = RestartPolicy::on_crash().backoff(backoff).quarantine_after(5, HOUR);
    let plugin = probe_with(policy(restart));
    let events = plugin.events();
    let mut scheduled = Vec::new();
    loop {
        plugin.refused("abort", "");
        let delay = expect(&events, "a restart or a quarantine", |kind| match kind {
            EventKind::RestartScheduled { attempt, delay, why } => {
                assert!(why.contains("SIGABRT"), "{why}");
                Some(Some((*attempt, *delay)))
            }
            EventKind::Quarantined { crashes, why, .. } => {
                assert!(*crashes == 5 && why.contains("SIGABRT"), "{crashes} {why}");
                Some(None)
            }
            _ => None,
        });
        let Some(delay) = delay else { break };
        scheduled.push(delay);
        let restarted = expect(&events, "the restart", |kind| match kind {
            EventKind::Restarted { attempt } => Some(*attempt),
            _ => None,
        });
        assert_eq!(restarted, delay.0);
    }
    let attempts: Vec<u32> = scheduled.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4], "four restarts, and the fifth crash is one too many");
    for ((_, delay), whole) in scheduled.iter().zip([8, 16, 20, 20].map(ms)) {
        assert!((whole / 2..=whole).contains(delay), "{delay:?} of {whole:?}");
    }
    assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Quarantined, None));
    let error = plugin.call("echo", b"x").expect_err("it is not loaded");
    assert!(error.to_string().contains("quarantined"), "{}", explained(&error));
    let error = plugin.load_plugin(library("probe")).expect_err("it is quarantined");
    let PluginSandboxError::Quarantined { digest, crashes: 5, .. } = &error else {
        panic!("{}", explained(&error))
    };
    assert!(explained(&error).contains(&format!("quarantine clear {digest}")), "{}", explained(&error));
    assert_eq!(plugin.state(), PluginState::Quarantined);
    assert!(plugin.quarantine().clear(digest).expect("it is in memory"));
    plugin.load_plugin(library("probe")).expect("it is cleared");
}

#[test]
fn a_restart_that_does_not_work_is_tried_again_later_each_time() {
    let app = activations(&["ok", "error", "abort", "ok"]);
    let ms = Duration::from_millis;
    let backoff = Backoff::default().first(ms(1)).factor(10.0).jitter(0.0);
    let plugin = life(RestartPolicy::on_crash().backoff(backoff), app);
    let events = plugin.events();
    plugin.call("now", b"abort").expect_err("it aborts");
    let mut told = Vec::new();
    expect(&events, "the restart that works", |kind| match kind {
        EventKind::RestartScheduled { attempt, delay, why } => {
            told.push((*attempt, *delay, why.clone()));
            None
        }
        EventKind::Restarted { attempt } => Some(*attempt),
        _ => None,
    });
    let [(1, first, crash), (2, second, refused), (3, third, crash_again)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!([*first, *second, *third], [ms(1), ms(10), ms(100)]);
    assert!(crash.contains("SIGABRT") && crash_again.contains("SIGABRT"), "{told:?}");
    assert!(refused.contains("told to fail"), "{told:?}");
    assert_eq!(plugin.state(), PluginState::Active);
}

#[test]
fn an_operation_while_a_restart_waits_says_when_it_comes() {
    let plugin = probe_with(policy(RestartPolicy::on_crash().backoff(late().jitter(0.0))));
    plugin.refused("abort", "");
    assert_eq!(plugin.state(), PluginState::Restarting);
    assert!(!plugin.wait_until_active(Duration::ZERO));
    let error = plugin.call("echo", b"x").expect_err("it is not there");
    let PluginSandboxError::WrongState { restarts_in: Some(left), .. } = &error else {
        panic!("{}", explained(&error))
    };
    assert!(*left <= HOUR && *left > HOUR - PATIENCE, "{left:?}");
    let text = explained(&error);
    assert!(text.contains("restarting in 3") && text.contains("SIGABRT"), "{text}");
    plugin.load_plugin(library("probe")).expect("a host need not wait for it");
    plugin.activate_plugin(()).expect("it activates");
    assert!(plugin.attempt("echo", "x").got_it());
}

/// A plugin whose second activation, the restart's, is held up in a service of the host's until the sender is dropped.
fn held_up_in_its_restart() -> (PluginSandbox, Sender<()>) {
    let plugin = PluginSandbox::new("life", policy(comes_back())).expect("a sandbox");
    let release = hold_up_in_its_activation(&plugin);
    (plugin, release)
}

fn comes_back() -> RestartPolicy {
    RestartPolicy::on_crash().backoff(soon())
}

fn hold_up_in_its_activation(plugin: &PluginSandbox) -> Sender<()> {
    let ((entered, has_entered), (release, released)) = (channel(), channel::<()>());
    let (count, released) = (AtomicUsize::new(0), Mutex::new(released));
    let app = App::new().service("test.activate", move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 1 {
            let _ = entered.send(());
            let _ = released.lock().map(|released| released.recv());
        }
        Ok(Vec::new())
    });
    plugin.load_plugin(library("probe-life")).expect("it loads");
    plugin.activate_plugin(app).expect("it activates");
    plugin.call("now", b"abort").expect_err("it aborts");
    has_entered.recv_timeout(PATIENCE).expect("the restart activates it");
    release
}

/// Two versions of one library: the second has a constructor that never returns.
fn with_another_that_hangs(scratch: &Scratch) -> [String; 2] {
    ["first", "second"].map(|version| {
        let act = if version == "first" { "nothing" } else { "hang" };
        let at = scratch.at(version);
        std::fs::rename(constructor_that(scratch, act), &at).expect("both are ours");
        at
    })
}

/// Has a plugin's restart be in the middle of its load, for as long as nobody ends it.
fn hold_up_in_its_load(plugin: &PluginSandbox, [library, hangs]: [&str; 2]) {
    plugin.load_plugin(library).unwrap_or_else(|error| panic!("{}", explained(&error)));
    plugin.activate_plugin(()).expect("it activates");
    std::fs::rename(hangs, library).expect("both are ours");
    let first = plugin.process_id().expect("it lives");
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).expect("a host may");
    until("the constructor", || {
        let is_another = plugin.process_id().is_some_and(|helper| helper != first);
        (is_another && plugin.state() == PluginState::Loading).then_some(())
    });
}

#[test]
fn a_host_that_is_killed_in_the_middle_of_restarts_leaves_no_process_behind() {
    let scratch = Scratch::new();
    let [first, second] = with_another_that_hangs(&scratch);
    let mut host = child::start("is killed in its restarts", &[&first, &second]);
    let report = String::from_utf8(host.early_report()).expect("numbers");
    let helpers: Vec<u32> = report.split(' ').map(|pid| pid.parse().expect("a process id")).collect();
    let zygote = parent_of(helpers[0]).expect("a helper has a parent");
    assert!(descendants(host.id()).contains_key(&zygote), "the zygote is the host's");
    let started = descendants(zygote);
    assert!(helpers.len() == 2 && helpers.iter().all(|pid| started.contains_key(pid)), "{started:?}");
    let watched: Vec<_> = started.into_keys().chain([zygote]).map(watch).collect();
    host.kill();
    watched.iter().for_each(|process| process.ended());
}

fn is_killed_in_its_restarts(arguments: &[String]) -> Vec<u8> {
    let [first, second] = arguments else { panic!("two libraries") };
    let (in_activation, _held) = held_up_in_its_restart();
    let in_load = PluginSandbox::new("constructor", policy(comes_back())).expect("a sandbox");
    hold_up_in_its_load(&in_load, [first, second]);
    let ids = [&in_activation, &in_load].map(|plugin| plugin.process_id().expect("it lives").to_string());
    child::report_early(ids.join(" ").as_bytes());
    loop {
        thread::park();
    }
}

#[test]
fn plugins_that_crash_in_a_service_keep_no_other_from_its_restart() {
    let held: Vec<_> = (0..6)
        .map(|_| {
            let ((entered, has_entered), (release, released)) = (channel(), channel::<()>());
            let released = Mutex::new(released);
            let app = App::new().service("gate", move |_| {
                let _ = entered.send(());
                let _ = released.lock().map(|released| released.recv());
                Ok(Vec::new())
            });
            let restart = RestartPolicy::on_crash().backoff(soon()).never_quarantine();
            let plugin = active("probe", policy(restart), library("probe"), app);
            let under_way = {
                let plugin = plugin.clone();
                thread::spawn(move || plugin.call("service", b"gate\n"))
            };
            has_entered.recv_timeout(PATIENCE).expect("the call calls");
            let helper = plugin.process_id().expect("it lives");
            kill(Pid::from_raw(helper.cast_signed()), Signal::SIGKILL).expect("a process of this test's");
            until("its end", || (plugin.state() == PluginState::Restarting).then_some(()));
            (plugin, under_way, release)
        })
        .collect();
    let other = life(RestartPolicy::on_crash().backoff(soon()), App::new());
    other.call("now", b"abort").expect_err("it aborts");
    until("the other's restart", || (other.state() == PluginState::Active).then_some(()));
    for (plugin, under_way, release) in held {
        assert_eq!(plugin.state(), PluginState::Restarting, "its call is not over");
        drop(release);
        under_way.join().expect("it is told").expect_err("it has crashed");
        until("its restart", || (plugin.state() == PluginState::Active).then_some(()));
    }
}

#[test]
fn an_unload_wins_over_a_restart_at_any_moment() {
    let waits = probe_with(policy(RestartPolicy::on_crash().backoff(late())));
    waits.refused("abort", "");
    waits.unload_plugin().expect("while it waits");
    assert_eq!(waits.state(), PluginState::Unloaded);

    let (plugin, release) = held_up_in_its_restart();
    let (helper, events) = (watch(plugin.process_id().expect("the new helper")), plugin.events());
    plugin.unload_plugin().expect("while it is activated");
    helper.ended();
    drop(release);
    let result = plugin.load_plugin(library("probe-life"));
    result.unwrap_or_else(|error| panic!("the restart has given way: {}", explained(&error)));
    assert_eq!(plugin.state(), PluginState::Loaded, "by the host, and not active");
    let restarts = events.try_iter().filter(|event| {
        matches!(event.kind, EventKind::RestartScheduled { .. } | EventKind::Restarted { .. })
    });
    assert_eq!(restarts.count(), 0);

    // And at moments that nobody chose.
    let plugin = probe_with(policy(RestartPolicy::on_crash().backoff(soon()).never_quarantine()));
    for turn in 0..12 {
        plugin.refused("abort", "");
        match turn % 3 {
            0 => {}
            1 => until("a restart", || (plugin.state() != PluginState::Restarting).then_some(())),
            _ => until("a helper", || plugin.process_id().map(drop)),
        }
        // One that has come back by now is unloaded like any other.
        let unloaded = plugin.unload_plugin();
        unloaded.unwrap_or_else(|error| panic!("{turn}: {}", explained(&error)));
        assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Unloaded, None), "{turn}");
        plugin.load_plugin(library("probe")).expect("it loads");
        plugin.activate_plugin(()).expect("it activates");
    }
}

#[test]
fn a_sandbox_that_is_dropped_takes_its_restart_along() {
    let (plugin, release) = held_up_in_its_restart();
    let helper = watch(plugin.process_id().expect("the new helper"));
    // The drop waits for the restart, which is in the host's own code.
    let dropping = thread::spawn(move || drop(plugin));
    helper.ended();
    drop(release);
    dropping.join().expect("it ends");

    let waits = probe_with(policy(RestartPolicy::on_crash().backoff(late())));
    let events = waits.events();
    waits.refused("abort", "");
    drop(waits);
    let last = events.iter().last().expect("it was told of");
    let gone = EventKind::StateChanged { from: PluginState::Restarting, to: PluginState::Unloaded };
    assert_eq!(last.kind, gone, "and nobody is left to tell of more");
}

#[test]
fn a_service_that_holds_a_plugin_which_crashes_is_let_go_with_the_unload() {
    let own: Arc<OnceLock<PluginSandbox>> = Arc::default();
    let held = Arc::downgrade(&own);
    let app = App::new().service("own", move |_| Ok(own.get().map_or(b"".to_vec(), |_| b"x".to_vec())));
    let plugin = life(RestartPolicy::on_crash().backoff(late()), app);
    let cell = held.upgrade().expect("the service holds it");
    cell.set(plugin.clone()).unwrap_or_else(|_| panic!("set once"));
    drop(cell);
    plugin.call("now", b"abort").expect_err("it aborts");
    assert!(held.upgrade().is_some(), "the restart will offer it");
    plugin.unload_plugin().expect("it unloads");
    until("the service to be let go", || held.upgrade().is_none().then_some(()));
}

// ---- quarantine

fn quarantined(error: &PluginSandboxError) -> bool {
    matches!(error, PluginSandboxError::Quarantined { .. })
}

#[test]
fn a_quarantine_outlives_its_host_and_is_the_librarys_whatever_it_is_called() {
    let scratch = Scratch::new();
    let file = scratch.at("quarantine.json");
    let copy = scratch.at("another-name.so");
    std::fs::copy(library("probe"), &copy).expect("it can be read");
    let store = QuarantineStore::open(&file).expect("a new file");
    let counted = RestartPolicy::never().quarantine_after(2, HOUR);
    let manager = PluginSandboxManager::new();
    manager.quarantine_in(&store);
    manager
        .register_plugin("probe", PluginPolicy::new().limits(patient()).restart(counted))
        .expect("it is new");
    let plugin = manager.create_sandbox("probe").expect("it is there");
    for turn in 0..2 {
        let result = plugin.load_plugin(library("probe"));
        result.unwrap_or_else(|error| panic!("{turn}: {}", explained(&error)));
        plugin.activate_plugin(()).expect("it activates");
        plugin.refused("abort", "");
    }
    drop((manager, plugin));

    let next = PluginSandboxManager::new();
    next.quarantine_in(&QuarantineStore::open(&file).expect("what the first has written"));
    for id in ["probe", "other"] {
        next.register_plugin(id, PluginPolicy::new()).expect("it is new");
    }
    for path in [library("probe"), copy.clone().into()] {
        let error = next.load_plugin("probe", &path).expect_err("it is quarantined");
        assert!(quarantined(&error), "{}", explained(&error));
    }
    next.load_plugin("other", library("hello")).expect("another library");
    let unconcerned = PluginSandbox::new("probe", PluginPolicy::new()).expect("a sandbox");
    unconcerned.load_plugin(library("probe")).expect("nobody has named the file to this one");

    let load = |wanted: &str| {
        let path = library("probe").display().to_string();
        let told = child::run("loads under quarantine", &[&file, &path]);
        let told = String::from_utf8(told).expect("text");
        assert!(told.starts_with(wanted), "{told}");
    };
    load("refused: plugin probe: ");
    let digest = LibraryDigest::of_file(&copy).expect("it is a library");
    assert!(store.clear(&digest).expect("it can be written"));
    load("loaded");
    next.load_plugin("probe", library("probe")).expect("it is cleared");
}

fn loads_under_quarantine(arguments: &[String]) -> Vec<u8> {
    let [file, path] = arguments else { panic!("a file and a library") };
    let plugin = PluginSandbox::new("probe", PluginPolicy::new()).expect("a sandbox");
    plugin.quarantine_in(&QuarantineStore::open(file).expect("it is there"));
    match plugin.load_plugin(path) {
        Ok(_) => b"loaded".to_vec(),
        Err(error) => format!("refused: {error}").into_bytes(),
    }
}

#[test]
fn a_crash_just_before_the_host_lets_go_is_written_down() {
    let scratch = Scratch::new();
    let store = QuarantineStore::open(scratch.at("quarantine.json")).expect("a new file");
    for (method, payload, counts) in [("abort", "", true), ("exit", "0", false), ("segfault", "", true)] {
        let plugin = PluginSandbox::new("probe", PluginPolicy::new().limits(patient())).expect("a sandbox");
        plugin.quarantine_in(&store);
        plugin.load_plugin(library("probe")).expect("it loads");
        plugin.activate_plugin(()).expect("it activates");
        let crashes = |store: &QuarantineStore| {
            store.list().expect("it can be read").first().map_or(0, |library| library.crashes.len())
        };
        let before = crashes(&store);
        plugin.refused(method, payload);
        drop(plugin);
        assert_eq!(crashes(&store) - before, usize::from(counts), "{method}");
    }
}

#[test]
fn a_quarantine_file_that_cannot_be_read_refuses_every_load() {
    let scratch = Scratch::new();
    let file = scratch.at("quarantine.json");
    let plugin = PluginSandbox::new("probe", PluginPolicy::new()).expect("a sandbox");
    plugin.quarantine_in(&QuarantineStore::open(&file).expect("a new file"));
    plugin.load_plugin(library("probe")).expect("nothing is known of it");
    plugin.unload_plugin().expect("it unloads");
    scratch.file("quarantine.json", "{}");
    let error = plugin.load_plugin(library("probe")).expect_err("nothing can be known of it");
    assert!(matches!(error, PluginSandboxError::Quarantine(_)), "{}", explained(&error));
    plugin.quarantine().clear_all().expect("it is ours");
    plugin.load_plugin(library("probe")).expect("nothing is known of it");
}

#[test]
fn crashes_that_a_full_disk_cannot_take_count_and_are_written_when_there_is_room() {
    let scratch = Scratch::new();
    let disk = scratch.folder("disk");
    let root = nix::unistd::geteuid().is_root();
    // An ordinary user's host plays root in a user namespace of its own, to be able to mount one.
    let told = if root {
        String::from_utf8(child::run("writes to a full disk", &[&disk])).expect("text")
    } else {
        weakened::play_in_user_namespace("writes to a full disk", &[&disk], 0, true)
    };
    println!("{told}");
}

fn writes_to_a_full_disk(arguments: &[String]) -> Vec<u8> {
    let [disk] = arguments else { panic!("a folder") };
    // Before any other thread of the sandbox's is made: they all are where this one is.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("this host may");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).expect("its own namespace");
    mount("none", disk.as_str(), "tmpfs", MountFlags::empty(), Some(c"size=64k,mode=700")).expect("its own");
    let at = |name: &str| format!("{disk}/{name}");
    let (file, filler) = (at("quarantine.json"), at("filler"));
    let names = || {
        let entries = std::fs::read_dir(disk).expect("it is ours").map(|entry| entry.expect("as above"));
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("plain")).collect();
        names.sort();
        names
    };
    let store = QuarantineStore::open(&file).expect("a new file");
    let restart = RestartPolicy::never().quarantine_after(3, HOUR);
    let layers = LayerPolicy::strict().best_effort(Layer::Ids); // of which such a host may have one alone
    let policy = PluginPolicy::new().limits(patient()).restart(restart).layers(layers);
    let sandbox = || {
        let plugin = PluginSandbox::new("probe", policy.clone()).expect("a sandbox");
        plugin.quarantine_in(&store);
        plugin
    };
    let crash = |package: &str| {
        let plugin = sandbox();
        let result = plugin.load_plugin(library(package));
        result.unwrap_or_else(|error| panic!("{}", explained(&error)));
        let helper = plugin.process_id().expect("it lives");
        kill(Pid::from_raw(helper.cast_signed()), Signal::SIGKILL).expect("a host may");
        until("its end", || plugin.last_end());
        drop(plugin); // which waits for who writes it down
    };
    let crashes = |store: &QuarantineStore| {
        let all = store.list().expect("it can be read");
        let most = all.into_iter().max_by_key(|library| library.crashes.len());
        most.map_or((0, false), |library| (library.crashes.len(), library.since.is_some()))
    };
    let written = || crashes(&QuarantineStore::open(&file).expect("another host can read it"));

    crash("probe");
    assert_eq!((crashes(&store), written()), ((1, false), (1, false)));
    let digest = store.list().expect("as above")[0].digest;
    let mut fills = std::fs::File::create(&filler).expect("there is room");
    while fills.write_all(&[b'x'; 512]).is_ok() {}
    let before = std::fs::read(&file).expect("it can be read");
    crash("probe");
    assert_eq!((crashes(&store), written()), ((2, false), (1, false)), "it counts where it is known");
    let error = QuarantineStore::open(&file).expect("as above").clear(&digest).expect_err("there is no room");
    let QuarantineError::Io { what, source, .. } = &error else { panic!("{error}") };
    assert_eq!((*what, source.kind()), ("replacing it", std::io::ErrorKind::StorageFull));
    assert_eq!(std::fs::read(&file).expect("it is there"), before, "the file is as it was");
    assert_eq!(names(), ["filler", "quarantine.json", "quarantine.json.lock"], "and nothing takes more room");
    crash("probe");
    assert_eq!((crashes(&store), written()), ((3, true), (1, false)));
    let refused =
        sandbox().load_plugin(library("probe")).expect_err("it is the third, with the one in the file");
    assert!(quarantined(&refused), "{}", explained(&refused));

    drop(fills);
    std::fs::remove_file(&filler).expect("it is ours");
    crash("hello");
    assert_eq!(written(), (3, true), "what crashed before is written too");
    let libraries = QuarantineStore::open(&file).expect("as above").list().expect("as above");
    assert_eq!(libraries.len(), 2, "each once");
    format!("{error}: {}", source.kind()).into_bytes()
}

#[test]
fn no_plugin_reaches_the_quarantine_file() {
    let scratch = Scratch::new();
    let (own, other) = (scratch.at("quarantine.json"), scratch.file("other.json", "contents"));
    let store = QuarantineStore::open(&own).expect("a new file");
    store.clear_all().expect("it can be written"); // with the file that locks it
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    assert_eq!(plugin.attempt("open", &other).text(), "contents");
    for path in [own.clone(), format!("{own}.lock")] {
        std::fs::metadata(&path).expect("it is there");
        assert!(!plugin.attempt("open", &path).got_it(), "{path}");
    }
}

// ---- health

#[test]
fn a_check_tells_who_answers_and_who_is_busy() {
    let plugin = PluginSandbox::new("probe", PluginPolicy::new().limits(patient())).expect("a sandbox");
    let error = plugin.check_health(PATIENCE).expect_err("there is nobody");
    assert!(matches!(error, PluginSandboxError::WrongState { operation: Operation::Check, .. }), "{error}");
    plugin.load_plugin(library("probe")).expect("it loads");
    for state in [PluginState::Loaded, PluginState::Active] {
        if state == PluginState::Active {
            let own: Arc<OnceLock<PluginSandbox>> = Arc::default();
            let held = Arc::clone(&own);
            let app = App::new().service("check", move |_| {
                match held.get().map(|plugin| plugin.check_health(PATIENCE)) {
                    Some(Err(PluginSandboxError::Reentrant { operation: Operation::Check, .. })) => {
                        Ok(b"reentrant".to_vec())
                    }
                    other => Err(format!("{other:?}")),
                }
            });
            plugin.activate_plugin(app).expect("it activates");
            assert!(own.set(plugin.clone()).is_ok());
            assert_eq!(plugin.attempt("service", "check\n").text(), "replied reentrant");
        }
        let health = plugin.check_health(PATIENCE).unwrap_or_else(|error| panic!("{}", explained(&error)));
        assert!(matches!(health.answer, Answer::Answered { .. }), "{health:?}");
        assert_eq!(health.state, state);
        let process = health.process.expect("it lives");
        assert!(!process.stopped && process.threads >= 1, "{process:?}");
    }
    let caller = plugin.clone();
    let calling = thread::spawn(move || caller.call("sleep_forever", b""));
    let busy = until("the call", || match plugin.check_health(PATIENCE).ok()?.answer {
        Answer::Busy { operation, .. } => Some(operation),
        _ => None,
    });
    assert_eq!(busy, Operation::Call);
    plugin.unload_plugin().expect("it unloads");
    calling.join().expect("it ends").expect_err("it was unloaded");
}

#[test]
fn a_plugin_that_does_not_answer_a_check_is_ended_and_comes_back() {
    let plugin = probe_with(policy(RestartPolicy::on_crash().backoff(soon())));
    let helper = plugin.process_id().and_then(|pid| i32::try_from(pid).ok()).expect("it lives");
    kill(Pid::from_raw(helper), Signal::SIGSTOP).expect("a host may");
    let timeout = Duration::from_millis(200);
    let error = plugin.check_health(timeout).expect_err("it is stopped");
    let PluginSandboxError::Ended { cause, .. } = &error else { panic!("{}", explained(&error)) };
    assert_eq!(*cause, Cause::Deadline { operation: Operation::Check, timeout });
    assert!(plugin.wait_until_active(PATIENCE), "its restart policy says so");
    // The restart that has just made it active may not have let go of its turn yet.
    until("an answer", || {
        let health = plugin.check_health(PATIENCE).unwrap_or_else(|error| panic!("{}", explained(&error)));
        matches!(health.answer, Answer::Answered { .. }).then_some(())
    });
}

#[test]
fn what_nobody_could_call_any_more_is_found_without_asking_it() {
    // The deadlines are longer than anybody waits here.
    let limits = patient().call_timeout(HOUR);
    let with = |limits: &ResourceLimits| {
        probe_with(PluginPolicy::new().limits(limits.clone()).permission(PERMISSION_PROCESS))
    };
    // One that is well, with a child that is stopped: before the others, so that it is looked at as often.
    let well = with(&limits);
    assert!(well.attempt("stopped", "").got_it());
    for (method, payload, how) in
        [("kill_self", "19", "stopped itself"), ("end_first_thread", "", "thread that it is called on")]
    {
        let error = with(&limits).refused(method, payload);
        let PluginSandboxError::Ended { cause: Cause::Hung { how: told }, .. } = &error else {
            panic!("{method}: {}", explained(&error))
        };
        assert!(told.contains(how), "{told}");
    }
    let idle = with(&limits);
    let events = idle.events();
    let helper = idle.process_id().and_then(|pid| i32::try_from(pid).ok()).expect("it lives");
    kill(Pid::from_raw(helper), Signal::SIGSTOP).expect("a host may");
    let cause = expect(&events, "its end", |kind| match kind {
        EventKind::Ended { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert!(matches!(cause, Cause::Hung { .. }), "{cause}");
    assert_eq!(well.attempt("echo", "x").text(), "x");
}

// ---- the end of all

#[test]
fn a_plugin_that_is_drained_ends_its_calls_and_takes_no_new_ones() {
    let ((entered, has_entered), (release, released)) = (channel(), channel::<()>());
    let released = Mutex::new(released);
    let app = App::new().service("gate", move |_| {
        let _ = entered.send(());
        let _ = released.lock().map(|released| released.recv());
        Ok(b"passed".to_vec())
    });
    let plugin = active("probe", policy(RestartPolicy::always()), library("probe"), app);
    let under_way = {
        let plugin = plugin.clone();
        thread::spawn(move || plugin.attempt("service", "gate\n"))
    };
    has_entered.recv_timeout(PATIENCE).expect("the call calls");
    let draining = {
        let plugin = plugin.clone();
        thread::spawn(move || plugin.drain_plugin(PATIENCE))
    };
    // Whoever asks for something that takes no turn is told so as soon as nobody is let in.
    let refused = until("the drain", || {
        let error = plugin.activate_plugin_if_let_in();
        matches!(error, PluginSandboxError::ShuttingDown { .. }).then_some(error)
    });
    assert!(refused.to_string().contains("being shut down"), "{refused}");
    drop(release);
    assert_eq!(under_way.join().expect("it is answered").text(), "replied passed");
    draining.join().expect("it ends").expect("it unloads");
    assert_eq!(plugin.state(), PluginState::Unloaded);
    plugin.load_plugin(library("probe")).expect("it may be loaded again");
}

/// Whether somebody is let in, found out without waiting for a turn that is taken.
trait LetIn {
    fn activate_plugin_if_let_in(&self) -> PluginSandboxError;
}

impl LetIn for PluginSandbox {
    fn activate_plugin_if_let_in(&self) -> PluginSandboxError {
        // It waits for its turn if it is let in: on a thread of its own, which ends with the test's plugin.
        let (done, is_done) = channel();
        let plugin = self.clone();
        thread::spawn(move || done.send(plugin.activate_plugin(())));
        match is_done.recv_timeout(Duration::from_millis(20)) {
            Ok(result) => result.expect_err("it is active"),
            Err(_) => PluginSandboxError::Reentrant {
                plugin: self.plugin_id().clone(),
                operation: Operation::Activate,
            },
        }
    }
}

#[test]
fn a_shutdown_ends_every_plugin_within_its_bound_and_tells_how() {
    let scratch = Scratch::new();
    let manager = Arc::new(PluginSandboxManager::new());
    let register = |id: &str, restart: RestartPolicy| {
        manager.register_plugin(id, policy(restart)).expect("it is new");
        manager.create_sandbox(id).expect("it is there")
    };
    let up = |id: &str, restart: RestartPolicy, package: &str| {
        let plugin = register(id, restart);
        plugin.load_plugin(library(package)).unwrap_or_else(|error| panic!("{id}: {}", explained(&error)));
        plugin.activate_plugin(()).unwrap_or_else(|error| panic!("{id}: {}", explained(&error)));
        plugin
    };
    let never = RestartPolicy::never();
    register("only-registered", never);
    let well = up("well", never, "probe");
    let crashed = up("crashed", never, "probe");
    crashed.refused("abort", "");
    let comes_back = up("comes-back", RestartPolicy::on_crash().backoff(late()), "probe");
    comes_back.refused("abort", "");
    let in_call = up("in-a-call", RestartPolicy::always().backoff(soon()), "probe");
    let in_deactivate = up("in-deactivate", never, "probe-life");
    in_deactivate.call("at_deactivate", b"hang").expect("it answers");
    let in_drop = up("in-drop", never, "probe-life");
    in_drop.call("at_drop", b"hang").expect("it answers");
    let aborts = up("aborts", never, "probe-life");
    aborts.call("at_deactivate", b"abort").expect("it answers");
    let in_load = register("in-load", never);
    let hangs = constructor_that(&scratch, "hang");

    let calling = {
        let plugin = in_call.clone();
        thread::spawn(move || plugin.call("sleep_forever", b""))
    };
    until("the call", || {
        matches!(in_call.check_health(PATIENCE).ok()?.answer, Answer::Busy { .. }).then_some(())
    });
    let loading = {
        let plugin = in_load.clone();
        thread::spawn(move || plugin.load_plugin(hangs).map(drop))
    };
    until("the constructor", || in_load.process_id());
    let live: Vec<_> = [&well, &in_call, &in_deactivate, &in_drop, &aborts, &in_load]
        .iter()
        .map(|plugin| watch(plugin.process_id().expect("it lives")))
        .collect();

    let report = manager.shutdown(Duration::from_secs(2)).expect("from no service");
    live.iter().for_each(|helper| assert!(helper.has_ended()));
    let killed = PluginEnding::Ended { cause: Cause::HostShutdown };
    let ending = |id: &str| {
        let found = report.plugins.iter().find(|(plugin, _)| plugin.as_str() == id);
        found.unwrap_or_else(|| panic!("{id}: {report:?}")).1.clone()
    };
    for (id, expected) in [
        ("only-registered", PluginEnding::NotLoaded),
        ("crashed", PluginEnding::NotLoaded),
        ("comes-back", PluginEnding::NotLoaded),
        ("well", PluginEnding::Unloaded),
        ("in-a-call", killed.clone()),
        ("in-deactivate", killed.clone()),
        ("in-drop", killed.clone()),
        ("in-load", killed),
    ] {
        assert_eq!(ending(id), expected, "{id}: {report:?}");
    }
    assert!(
        matches!(ending("aborts"), PluginEnding::Ended { cause: Cause::Signal { .. } }),
        "{:?}",
        ending("aborts")
    );
    assert!(!report.is_clean());
    for result in [calling.join().expect("it ends").map(drop), loading.join().expect("it ends")] {
        let error = result.expect_err("it was killed");
        assert!(
            matches!(&error, PluginSandboxError::Ended { cause: Cause::HostShutdown, .. }),
            "{}",
            explained(&error)
        );
    }

    // For good, and as often as one likes.
    let again = manager.shutdown(PATIENCE).expect("from no service");
    assert!(again.plugins.iter().all(|(_, ending)| *ending == PluginEnding::NotLoaded), "{again:?}");
    register("new", never);
    for id in ["well", "comes-back", "new"] {
        let error = manager.load_plugin(id, library("probe")).expect_err("nothing new begins");
        assert!(matches!(error, PluginSandboxError::ShuttingDown { .. }), "{id}: {}", explained(&error));
    }
    assert_eq!(comes_back.state(), PluginState::Unloaded);
}

#[test]
fn a_shutdown_in_the_middle_of_restarts_ends_them_within_its_bound_and_nothing_comes_back() {
    let scratch = Scratch::new();
    let [first, second] = with_another_that_hangs(&scratch);
    let manager = Arc::new(PluginSandboxManager::new());
    // None of a restart's own deadlines comes while anybody waits here.
    let limits = patient().load_timeout(HOUR).activate_timeout(HOUR);
    let plugins = ["in-its-load", "in-its-activation"].map(|id| {
        let policy = PluginPolicy::new().limits(limits.clone()).restart(comes_back());
        manager.register_plugin(id, policy).expect("it is new");
        manager.create_sandbox(id).expect("it is there")
    });
    let [in_load, in_activation] = &plugins;
    hold_up_in_its_load(in_load, [&first, &second]);
    let release = hold_up_in_its_activation(in_activation);
    let helpers = plugins.each_ref().map(|plugin| watch(plugin.process_id().expect("it lives")));
    let events = plugins.each_ref().map(PluginSandbox::events);

    let (done, is_done) = channel();
    let shuts = Arc::clone(&manager);
    thread::spawn(move || done.send(shuts.shutdown(Duration::from_millis(50))));
    let report = is_done.recv_timeout(PATIENCE).expect("it is bounded").expect("from no service");
    assert!(helpers.iter().all(|helper| helper.has_ended()), "{report:?}");
    for (id, ending) in &report.plugins {
        assert_eq!(*ending, PluginEnding::Ended { cause: Cause::HostShutdown }, "{id}");
    }

    // The restart that is in the host's own code gives way once that returns.
    drop(release);
    manager.shutdown(PATIENCE).expect("from no service");
    for (plugin, events) in plugins.iter().zip(events) {
        assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Unloaded, None));
        let told: Vec<_> = events.try_iter().map(|event| event.kind).collect();
        let comes_back = |kind: &EventKind| {
            matches!(kind, EventKind::RestartScheduled { .. } | EventKind::Restarted { .. })
        };
        assert!(!told.iter().any(comes_back), "{told:#?}");
    }
}

#[test]
fn a_shutdown_from_a_service_that_a_plugin_waits_for_is_an_error_and_changes_nothing() {
    let manager = Arc::new(PluginSandboxManager::new());
    manager.register_plugin("probe", policy(RestartPolicy::never())).expect("it is new");
    manager.load_plugin("probe", library("probe")).expect("it loads");
    let held = Arc::downgrade(&manager);
    let app =
        App::new().service("shut", move |_| match held.upgrade().map(|manager| manager.shutdown(PATIENCE)) {
            Some(Err(PluginSandboxError::Reentrant { .. })) => Ok(b"refused".to_vec()),
            other => Err(format!("{other:?}")),
        });
    manager.activate_plugin("probe", app).expect("it activates");
    let plugin = manager.create_sandbox("probe").expect("it is there");
    assert_eq!(plugin.attempt("service", "shut\n").text(), "replied refused");
    assert_eq!(plugin.attempt("echo", "x").text(), "x");
    // From a thread of the plugin's own nobody waits for the service, and it may.
    manager.shutdown(PATIENCE).expect("from no service");
}

#[test]
fn a_shutdown_does_not_wait_for_a_service_that_never_returns() {
    let ((entered, has_entered), (release, released)) = (channel(), channel::<()>());
    let released = Mutex::new(released);
    let manager = PluginSandboxManager::new();
    manager.register_plugin("probe", policy(RestartPolicy::never())).expect("it is new");
    manager.load_plugin("probe", library("probe")).expect("it loads");
    let app = App::new().service("gate", move |_| {
        let _ = entered.send(());
        let _ = released.lock().map(|released| released.recv());
        Ok(Vec::new())
    });
    manager.activate_plugin("probe", app).expect("it activates");
    let plugin = manager.create_sandbox("probe").expect("it is there");
    let helper = watch(plugin.process_id().expect("it lives"));
    let calling = thread::spawn(move || plugin.call("service", b"gate\n"));
    has_entered.recv_timeout(PATIENCE).expect("the call calls");
    let report = manager.shutdown(Duration::from_millis(50)).expect("from no service");
    assert!(helper.has_ended());
    assert_eq!(report.plugins[0].1, PluginEnding::Ended { cause: Cause::HostShutdown });
    drop(release);
    calling.join().expect("it ends").expect_err("it was killed");
}

#[test]
fn a_policy_that_cannot_be_is_refused_when_it_is_registered() {
    let policy = PluginPolicy::new().restart(RestartPolicy::on_crash().quarantine_after(0, HOUR));
    let error = PluginSandbox::new("p", policy).expect_err("no crash at all");
    assert!(matches!(&error, PluginSandboxError::Limit(limit) if limit.name == "restart.crashes"), "{error}");
    drop(loaded("hello", PluginPolicy::new().restart(RestartPolicy::always()), library("hello")));
}
