//! Plugins that turn the sandbox's own means against the host: its channel, its unload, its services, its broker's writes.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};

use rig::causes::short;
use rig::child::{self, Part};
use rig::events::expect;
use rig::plugins::{Attempts, explained};
use rig::unconfined;
use rig::wait::{PATIENCE, until, watch};
use rig::{Answer, Scratch, active, library, probe, probe_with};
use sandbox_core::{
    App, Cause, EventKind, Operation, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, PluginSandboxError,
    PluginState, ResourceLimits,
};

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[("is flooded", is_flooded)];

fn life(limits: ResourceLimits, app: App) -> PluginSandbox {
    active("life", PluginPolicy::new().limits(limits), library("probe-life"), app)
}

#[track_caller]
fn cause_of(error: &PluginSandboxError) -> &Cause {
    match error {
        PluginSandboxError::Ended { cause, .. } => cause,
        other => panic!("it did not end: {}", explained(other)),
    }
}

/// Unloads on a thread of its own, so that one that never ends fails the test.
#[track_caller]
fn unload_in_time(plugin: &PluginSandbox) -> Result<(), PluginSandboxError> {
    let (done, is_done) = channel();
    let plugin = plugin.clone();
    std::thread::spawn(move || done.send(plugin.unload_plugin()));
    is_done.recv_timeout(PATIENCE).expect("an unload ends")
}

// ---- unloading

#[test]
fn a_service_that_touches_its_own_plugin_while_an_unload_deactivates_it_gets_an_error() {
    type Touch = fn(&PluginSandbox) -> Result<(), PluginSandboxError>;
    let touches: [(Operation, Touch); 4] = [
        (Operation::Call, |plugin| plugin.call("now", b"ok").map(drop)),
        (Operation::Deactivate, |plugin| plugin.deactivate_plugin()),
        (Operation::Activate, |plugin| plugin.activate_plugin(())),
        (Operation::Load, |plugin| plugin.load_plugin(library("probe-life")).map(drop)),
    ];
    for (operation, touch) in touches {
        let own: Arc<OnceLock<PluginSandbox>> = Arc::default();
        let (told, was_told) = channel();
        let app = {
            let own = Arc::clone(&own);
            App::new().service("test.deactivate", move |_| {
                let own = own.get().ok_or("set below")?;
                let _ = told.send(touch(own));
                Ok(Vec::new())
            })
        };
        let plugin = life(ResourceLimits::default(), app);
        own.set(plugin.clone()).unwrap_or_else(|_| panic!("set once"));
        plugin.call("at_deactivate", b"service").expect("it answers");
        unload_in_time(&plugin).unwrap_or_else(|error| panic!("{operation}: {}", explained(&error)));
        let refused = was_told.try_recv().expect("the service ran").expect_err("the plugin is busy");
        assert!(
            matches!(&refused, PluginSandboxError::Reentrant { operation: named, .. } if *named == operation),
            "{operation}: {}",
            explained(&refused)
        );
        assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Unloaded, None));
    }
}

#[test]
fn a_service_that_unloads_its_own_plugin_while_an_unload_deactivates_it_unloads_it_once() {
    let own: Arc<OnceLock<PluginSandbox>> = Arc::default();
    let app = {
        let own = Arc::clone(&own);
        App::new().service("test.deactivate", move |_| {
            own.get().ok_or("set below")?.unload_plugin().map_err(|error| error.to_string())?;
            Ok(Vec::new())
        })
    };
    let plugin = life(ResourceLimits::default(), app);
    own.set(plugin.clone()).unwrap_or_else(|_| panic!("set once"));
    plugin.call("at_deactivate", b"service").expect("it answers");
    unload_in_time(&plugin).expect("it is unloaded");
    assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Unloaded, None));
}

#[test]
fn a_plugin_that_breaks_while_an_unload_deactivates_it_is_unloaded_with_its_cause_told() {
    let timeout = std::time::Duration::from_millis(300);
    for (misdeed, cause) in [
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("exit", "exit 3"),
        ("ptrace", "forbidden ptrace"),
        ("hang", "deadline deactivate"),
    ] {
        let plugin = life(ResourceLimits::default().deactivate_timeout(timeout), App::new());
        let (helper, events) = (watch(plugin.process_id().expect("it lives")), plugin.events());
        plugin.call("at_deactivate", misdeed.as_bytes()).expect("it answers");
        let error = unload_in_time(&plugin).expect_err(misdeed);
        assert_eq!(short(cause_of(&error)), cause, "{misdeed}");
        let PluginSandboxError::Ended { operation: Operation::Unload, .. } = &error else {
            panic!("{misdeed}: {}", explained(&error))
        };
        assert_eq!((plugin.state(), plugin.process_id()), (PluginState::Unloaded, None), "{misdeed}");
        helper.ended();
        let told = expect(&events, "its end", |kind| match kind {
            EventKind::Ended { cause, .. } => Some(cause.clone()),
            _ => None,
        });
        assert_eq!(&told, cause_of(&error), "{misdeed}");
        plugin.load_plugin(library("probe-life")).expect("it loads again");
    }
}

#[test]
fn a_service_that_holds_its_own_plugin_is_let_go_however_the_plugin_ends() {
    type End = fn(&PluginSandbox);
    let ends: [(&str, End); 6] = [
        ("unloaded", |plugin| plugin.unload_plugin().expect("it unloads")),
        ("deactivated before", |plugin| {
            plugin.deactivate_plugin().expect("it deactivates");
            plugin.unload_plugin().expect("it unloads");
        }),
        ("unloaded by the service itself", |plugin| {
            assert_eq!(cause_of(&plugin.refused("service", "unload")), &Cause::Unloaded);
        }),
        ("aborts in a call", |plugin| drop(plugin.refused("now", "abort"))),
        ("hangs in a call", |plugin| drop(plugin.refused("now", "hang"))),
        ("aborts while an unload deactivates it", |plugin| {
            plugin.call("at_deactivate", b"abort").expect("it answers");
            plugin.unload_plugin().expect_err("it aborts");
        }),
    ];
    for (how, end) in ends {
        let own: Arc<OnceLock<PluginSandbox>> = Arc::default();
        let held = Arc::downgrade(&own);
        let app = App::new().service("unload", move |_| {
            own.get().ok_or("set below")?.unload_plugin().map_err(|error| error.to_string())?;
            Ok(Vec::new())
        });
        let limits = ResourceLimits::default().call_timeout(std::time::Duration::from_millis(300));
        let plugin = life(limits, app);
        let cell = held.upgrade().expect("the service holds it");
        cell.set(plugin.clone()).unwrap_or_else(|_| panic!("set once"));
        drop(cell);
        let helper = watch(plugin.process_id().expect("it lives"));
        end(&plugin);
        helper.ended();
        // A worker lets go of it where the end came by itself.
        until(&format!("the service to be let go: {how}"), || held.upgrade().is_none().then_some(()));
    }
}

// ---- floods

/// The largest message of a plugin that floods. Each flood is of sixty such, or more.
const LARGEST: usize = 2 << 20;

#[test]
fn a_plugin_that_calls_services_and_does_not_read_the_replies_is_ended_for_it() {
    let limits = ResourceLimits::default().max_message_bytes(LARGEST as u64);
    let app = App::new().service("large", |_| Ok(vec![b'x'; LARGEST]));
    let flooded =
        || active("probe", PluginPolicy::new().limits(limits.clone()), library("probe"), app.clone());
    let plugin = flooded();
    assert!(plugin.attempt("call_unread", "3 0\nlarge").got_it());
    assert!(plugin.attempt("echo", "x").got_it(), "calls that are made by hand are as good as others");
    let error = plugin.refused("call_and_never_read", "60 0\nlarge");
    assert!(
        matches!(cause_of(&error), Cause::Protocol { field: "replies", what } if what.contains("does not read")),
        "{}",
        explained(&error)
    );
}

#[test]
fn a_plugin_that_calls_more_services_than_are_run_is_ended_for_it() {
    let limits = ResourceLimits::default().max_message_bytes(LARGEST as u64);
    let few = limits.clone().max_pending_services(2);
    for (count, bytes, limits) in [(200, 0, &limits), (200, LARGEST, &limits), (4, 0, &few)] {
        let (release, wait_for_release) = channel::<()>();
        let wait_for_release = Mutex::new(wait_for_release);
        let app = App::new().service("slow", move |_| {
            let _ = wait_for_release.lock().map(|wait| wait.recv());
            Ok(Vec::new())
        });
        let plugin = active("probe", PluginPolicy::new().limits(limits.clone()), library("probe"), app);
        let flood = plugin.call("call_and_never_read", format!("{count} {bytes}\nslow").as_bytes());
        // The last sandbox of a host's waits for its services.
        drop(release);
        let error = flood.expect_err("it is ended");
        assert!(
            matches!(cause_of(&error), Cause::Protocol { field: "service calls", what } if what.contains("too many services")),
            "{count} calls of {bytes} bytes: {}",
            explained(&error)
        );
    }
}

#[test]
fn a_plugin_that_floods_its_host_does_not_fill_the_hosts_memory() {
    let report = child::run("is flooded", &[]);
    let grown_kib: u64 = String::from_utf8_lossy(&report).parse().expect("a number");
    // Unbounded, the smaller flood would take 120 MiB, and the larger one 400.
    assert!(grown_kib < 96 << 10, "{grown_kib} KiB more at the worst moment");
}

/// The most memory that this process has ever had, in KiB: proc_pid_status(5).
fn most_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Both floods, in a process where nobody else takes memory.
fn is_flooded(_: &[String]) -> Vec<u8> {
    drop(probe().attempt("echo", "x"));
    let before = most_memory_kib();
    a_plugin_that_calls_services_and_does_not_read_the_replies_is_ended_for_it();
    a_plugin_that_calls_more_services_than_are_run_is_ended_for_it();
    (most_memory_kib() - before).to_string().into_bytes()
}

// ---- the broker's answers

#[test]
fn an_answer_of_the_brokers_is_not_written_where_the_plugin_itself_may_not() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let place = format!("q:{}", ["0"; 64].join(","));
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    for (call, before, behind) in [
        (libc::SYS_newfstatat, format!("-100 s:{file}"), "0"),
        (libc::SYS_newfstatat, "-100 s:/dev/null".to_owned(), "0"),
        (libc::SYS_uname, String::new(), ""),
        (libc::SYS_sysinfo, String::new(), ""),
    ] {
        let call = |place: &str| format!("{call} {before} {place} {behind}");
        assert!(plugin.attempt("syscall_into_code", call(&place)).got_it(), "{}", call("PLACE"));
        let into_code = plugin.attempt("syscall_into_code", call("code"));
        assert_eq!(into_code, Answer::Errno(libc::EFAULT), "{}", call("code"));
        // The kernel's own answer.
        let outside = unconfined::attempt("syscall_into_code", &call("code"));
        assert_eq!(outside, unconfined::Outcome::Answered(into_code), "{}", call("code"));
    }
    assert!(plugin.attempt("echo", "x").got_it());
}

#[test]
fn a_way_of_opening_that_the_broker_does_not_offer_is_a_call_that_does_not_exist() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let link = scratch.link("link", &file);
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    let open = |path: &str, resolve: u64| format!("{} -100 s:{path} q:0,0,{resolve} 24", libc::SYS_openat2);
    assert!(plugin.attempt("syscall", open(&file, 0)).got_it(), "as open(2) does it");
    // openat2(2), from RESOLVE_NO_XDEV on. The fourth and fifth are about paths below a folder.
    for (resolve, errno) in [
        (1, Some(libc::ENOSYS)),
        (2, None),
        (4, None),
        (8, Some(libc::ENOSYS)),
        (0x10, Some(libc::ENOSYS)),
        (0x20, Some(libc::EAGAIN)),
        (1 << 40, Some(libc::EINVAL)),
    ] {
        let answer = plugin.attempt("syscall", open(&file, resolve));
        match errno {
            None => assert!(answer.got_it(), "{resolve:#x}: {answer:?}"),
            Some(errno) => assert_eq!(answer, Answer::Errno(errno), "{resolve:#x}"),
        }
    }
    let no_links = plugin.attempt("syscall", open(&link, 4));
    assert_eq!(no_links, Answer::Errno(libc::ELOOP), "RESOLVE_NO_SYMLINKS");
    assert!(plugin.attempt("syscall", open(&link, 0)).got_it());
}
