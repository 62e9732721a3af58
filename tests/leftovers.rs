//! Nothing is left behind: processes, descriptors, threads, mounts and cgroups are counted before and after.
//!
//! A test program of its own with a single test in it, since all of that belongs to the whole process.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rig::inventory::Inventory;
use rig::libraries::constructor_that;
use rig::plugins::Attempts;
use rig::wait::PATIENCE;
use rig::{Scratch, active, library, loaded, probe, probe_with};
use sandbox_core::{
    App, AuditLog, Backoff, Grade, PERMISSION_FILE_READ, PERMISSION_PROCESS, PluginPolicy, PluginSandbox,
    PluginSandboxManager, QuarantineStore, ResourceLimits, RestartPolicy,
};

fn whole_life() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let policy = PluginPolicy::new().permission(PERMISSION_FILE_READ);
    let app = App::new().service("log", |_| Ok(Vec::new()));
    let plugin = active("probe", policy, library("probe"), app);
    let events = plugin.events();
    let log = AuditLog::open(scratch.at("log")).expect("a new file");
    plugin.audit_to(&log);
    assert_eq!(plugin.attempt("open", &file).text(), "contents");
    assert_eq!(plugin.attempt("service", "log\n").text(), "replied ");
    assert_eq!(plugin.attempt("service_from_thread", "log\n").text(), "replied ");
    plugin.deactivate_plugin().expect("it deactivates");
    plugin.unload_plugin().expect("it unloads");
    drop((events, log));
}

/// Ends with files in its scratch space.
fn scratch_space() {
    for end in ["unload", "abort"] {
        let limits = ResourceLimits::default().max_scratch_mb(1);
        let plugin = probe_with(PluginPolicy::new().limits(limits));
        assert!(plugin.attempt("write_file", "/tmp/file").got_it());
        assert_eq!(plugin.attempt("read_dir", "/tmp").text(), "1");
        match end {
            "unload" => plugin.unload_plugin().expect("it unloads"),
            _ => drop(plugin.refused("abort", "")),
        }
    }
}

/// Its connections, and the threads that serve them, are there when it is dropped.
fn monitors() {
    let scratch = Scratch::new();
    let manager = PluginSandboxManager::new();
    let monitor = manager.monitor_at(scratch.at("monitor")).expect("a monitor");
    let connections: Vec<_> = (0..10)
        .map(|_| UnixStream::connect(monitor.path()).expect("it is served, or told why not"))
        .collect();
    drop(monitor);
    assert!(!scratch.path().join("monitor").exists());
    drop(connections);
}

/// Ends with served files open and mapped, in the middle of reads of them, or by a page that was taken back.
fn mediated_files() {
    if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        println!("no file can be mediated here");
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = || {
        let policy = PluginPolicy::new().permission_as(PERMISSION_FILE_READ, Grade::Mediated);
        let plugin = probe_with(policy);
        assert!(plugin.attempt("held_open", format!("r\n{file}")).got_it());
        assert!(plugin.attempt("held_map", "0\nshared").got_it());
        assert_eq!(plugin.attempt("held_peek", "0").text(), "contents");
        plugin
    };
    plugin().unload_plugin().expect("it unloads");
    drop(plugin());
    let reading = plugin();
    assert!(reading.attempt("loop_open", &file).got_it());
    reading.unload_plugin().expect("it unloads");
    plugin().refused("abort", "");
    let touching = plugin();
    assert!(touching.revoke_permission(&PERMISSION_FILE_READ));
    touching.refused("held_peek", "0");
}

fn refused_libraries() {
    let scratch = Scratch::new();
    let plugin = PluginSandbox::new("bad", PluginPolicy::new()).expect("a sandbox");
    for path in ["/nowhere".into(), scratch.file("text", "text"), scratch.fifo("fifo")] {
        plugin.load_plugin(path).expect_err("it is no plugin");
    }
    plugin.load_plugin(library("probe-lying-layout")).expect_err("it does not fit");
    for act in ["segfault", "exit", "rubbish", "close"] {
        plugin.load_plugin(constructor_that(&scratch, act)).expect_err(act);
    }
}

fn ends_of_all_kinds() {
    for (method, payload) in [
        ("abort", ""),
        ("segfault", ""),
        ("exit", "0"),
        ("ptrace", ""),
        ("close_channel", ""),
        ("write_channel", "rubbish!"),
    ] {
        probe().refused(method, payload);
    }
    let limits = ResourceLimits::default().call_timeout(Duration::from_millis(200));
    probe_with(PluginPolicy::new().limits(limits)).refused("sleep_forever", "");
    let plugin = probe();
    plugin.refused("panic", "caught");
    assert!(!plugin.attempt("fork", "").got_it());
    assert!(plugin.attempt("threads", "8").got_it());
}

fn programs_and_what_they_leave() {
    let with_programs = || probe_with(PluginPolicy::new().permission(PERMISSION_PROCESS));
    let plugin = with_programs();
    assert_eq!(plugin.attempt("run", "/bin/cat\n\ntext").text(), "exit 0\ntext");
    for leaves in ["sleepers", "daemon", "stopped"] {
        assert!(plugin.attempt(leaves, "1").got_it(), "{leaves}");
    }
    plugin.unload_plugin().expect("it unloads");
    for end in ["abort", "ptrace", "close_channel"] {
        let plugin = with_programs();
        assert!(plugin.attempt("fork_bomb", "").got_it());
        plugin.refused(end, "");
    }
}

fn dropped_in_every_state() {
    drop(PluginSandbox::new("probe", PluginPolicy::new()).expect("a sandbox"));
    drop(loaded("probe", PluginPolicy::new(), library("probe")));
    drop(probe());
    let plugin = probe();
    let caller = plugin.clone();
    let calling = std::thread::spawn(move || drop(caller.call("sleep_forever", b"")));
    plugin.unload_plugin().expect("it unloads");
    calling.join().expect("it ends");
}

fn restarts_and_shutdowns() {
    let scratch = Scratch::new();
    let store = QuarantineStore::open(scratch.at("quarantine.json")).expect("a new file");
    let soon = Backoff::default().first(Duration::from_millis(1));
    let later = Backoff::default().first(Duration::from_secs(3600)).most(Duration::from_secs(3600));
    let crashed = |backoff| {
        let policy = PluginPolicy::new().restart(RestartPolicy::on_crash().backoff(backoff));
        let plugin = probe_with(policy);
        plugin.quarantine_in(&store);
        plugin.refused("abort", "");
        plugin
    };
    let back = crashed(soon);
    assert!(back.wait_until_active(PATIENCE), "it comes back");
    drop(back);
    drop(crashed(soon)); // at whatever moment of its restart
    drop(crashed(later));
    let manager = PluginSandboxManager::new();
    for id in ["well", "hangs"] {
        manager.register_plugin(id, PluginPolicy::new()).expect("it is new");
        manager.load_plugin(id, library("probe")).expect("it loads");
        manager.activate_plugin(id, ()).expect("it activates");
    }
    let hangs = manager.create_sandbox("hangs").expect("it is there");
    let calling = std::thread::spawn(move || drop(hangs.call("sleep_forever", b"")));
    manager.shutdown(Duration::from_millis(100)).expect("from no service");
    calling.join().expect("it ends");
}

fn many_at_once() {
    let manager = PluginSandboxManager::new();
    std::thread::scope(|scope| {
        for n in 0..6 {
            let manager = &manager;
            scope.spawn(move || {
                let id = format!("plugin-{n}");
                manager.register_plugin(&id, PluginPolicy::new()).expect("it is new");
                manager.load_plugin(&id, library("probe")).expect("it loads");
                manager.activate_plugin(&id, ()).expect("it activates");
                manager.call(&id, "echo", b"x").expect("it answers");
            });
        }
    });
}

/// What other tests start in child processes. By itself it does nothing.
#[test]
#[ignore = "the body of child processes that other tests start"]
fn child() {
    rig::child::play(&[]);
}

#[test]
fn nothing_is_left_behind_however_plugins_end() {
    // Cargo is asked for the libraries here, and not while somebody counts.
    rig::libraries::folder();
    let before = Inventory::take();
    assert!(before.processes.is_empty(), "{:?}", before.processes);
    for (what, act) in [
        ("a whole life", whole_life as fn()),
        ("scratch space", scratch_space),
        ("files that the host serves", mediated_files),
        ("monitors with connections", monitors),
        ("libraries that are refused", refused_libraries),
        ("ends of all kinds", ends_of_all_kinds),
        ("programs and what they leave", programs_and_what_they_leave),
        ("sandboxes dropped in every state", dropped_in_every_state),
        ("restarts and shutdowns", restarts_and_shutdowns),
        ("many plugins at once", many_at_once),
    ] {
        println!("{what}");
        for _ in 0..3 {
            act();
        }
        before.assert_nothing_left();
    }
}
