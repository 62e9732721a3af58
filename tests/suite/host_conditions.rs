//! Hosts as they are: with threads, children, handlers, closed streams and little room. Each is a child process that
//! loads, calls and loses plugins under its condition, and then checks that the condition is as it was.

use std::os::fd::RawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use rig::child::{self, Part};
use rig::inventory::{descendants, parent_of};
use rig::libraries::{compile_c, with_modules, without_modules};
use rig::plugins::{Attempts, explained};
use rig::unconfined::{self, Outcome};
use rig::wait::{PATIENCE, watch, watch_if_alive};
use rig::{Answer, Scratch, active, library, probe_with};
use sandbox_core::{
    App, Backoff, Cause, LibraryError, PERMISSION_FILE_READ, PERMISSION_PROCESS, PluginPolicy, PluginSandbox,
    PluginSandboxError, PluginSandboxManager, PluginState, ResourceLimits, RestartPolicy,
};

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[
    ("hundred threads", hundred_threads),
    ("reaps every child", reaps_every_child),
    ("handles SIGCHLD", handles_sigchld),
    ("ignores SIGCHLD", ignores_sigchld),
    ("default SIGPIPE", default_sigpipe),
    ("closed streams", closed_streams),
    ("no working directory", no_working_directory),
    ("few descriptors", few_descriptors),
    ("blocks all signals", blocks_all_signals),
    ("unusual umask", unusual_umask),
    ("keeps ended plugins", keeps_ended_plugins),
    ("waits to be killed", waits_to_be_killed),
    ("loader told of libraries", loader_told_of_libraries),
    ("first load on a thread that ends", first_load_on_a_thread_that_ends),
];

/// Operations that do not end for a busy machine.
fn patient() -> PluginPolicy {
    let limits = ResourceLimits::default().load_timeout(PATIENCE).activate_timeout(PATIENCE);
    PluginPolicy::new().limits(limits.call_timeout(PATIENCE).deactivate_timeout(PATIENCE))
}

fn probe() -> PluginSandbox {
    probe_with(patient())
}

/// A whole life with a call, a service, a brokered open and a crash.
fn a_life() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let policy = patient().permission(PERMISSION_FILE_READ);
    let app = App::new().service("log", |_| Ok(b"logged".to_vec()));
    let plugin = active("probe", policy, library("probe"), app);
    assert_eq!(plugin.attempt("echo", "x").text(), "x");
    assert_eq!(plugin.attempt("service", "log\n").text(), "replied logged");
    assert_eq!(plugin.attempt("open", &file).text(), "contents");
    let error = plugin.refused("abort", "");
    let PluginSandboxError::Ended { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(rig::causes::short(cause), "SIGABRT");
    plugin.load_plugin(library("probe")).expect("it loads again");
    plugin.activate_plugin(()).expect("it activates again");
    plugin.deactivate_plugin().expect("it deactivates");
    plugin.unload_plugin().expect("it unloads");
}

macro_rules! conditions {
    ($($test:ident: $part:literal;)*) => {$(
        #[test]
        fn $test() {
            child::run($part, &[]);
        }
    )*};
}

conditions! {
    a_host_may_have_a_hundred_threads: "hundred threads";
    a_host_may_reap_whatever_child_ends: "reaps every child";
    a_host_may_handle_sigchld: "handles SIGCHLD";
    a_host_may_ignore_sigchld: "ignores SIGCHLD";
    a_host_may_leave_sigpipe_at_its_default: "default SIGPIPE";
    a_host_may_have_closed_its_standard_streams: "closed streams";
    a_host_may_have_lost_its_working_directory: "no working directory";
    a_plugin_that_has_ended_and_is_kept_holds_no_descriptor: "keeps ended plugins";
    a_host_with_few_descriptors_gets_an_error_and_works_again_when_it_has_more: "few descriptors";
    a_host_may_block_every_signal: "blocks all signals";
    a_host_may_have_an_unusual_umask: "unusual umask";
    a_thread_that_loaded_the_first_plugin_may_end: "first load on a thread that ends";
}

fn hundred_threads(_: &[String]) -> Vec<u8> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..100 {
            let done = &done;
            scope.spawn(move || {
                let mut kept = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    // Holding the allocator's lock as often as not is what makes a fork dangerous.
                    kept.push(vec![0_u8; 64 + n]);
                    kept.truncate(8);
                    thread::park_timeout(Duration::from_millis(1));
                }
            });
        }
        let ended = std::panic::catch_unwind(|| (0..3).for_each(|_| a_life()));
        done.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    Vec::new()
}

fn sleeper() -> std::process::Child {
    Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("every system has it")
}

fn reaps_every_child(_: &[String]) -> Vec<u8> {
    let done = AtomicBool::new(false);
    let mut own = sleeper();
    thread::scope(|scope| {
        let reaper = scope.spawn(|| {
            let mut reaped = Vec::new();
            while !done.load(Ordering::Relaxed) {
                match nix::sys::wait::waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD | Errno::EINTR) => {
                        thread::park_timeout(Duration::from_millis(1));
                    }
                    Ok(status) => reaped.extend(status.pid()),
                    Err(errno) => panic!("waitpid: {errno}"),
                }
            }
            reaped
        });
        let ended = std::panic::catch_unwind(|| (0..3).for_each(|_| a_life()));
        assert!(
            own.try_wait().is_ok_and(|status| status.is_none()),
            "the sandbox left the host's own child alone"
        );
        done.store(true, Ordering::Relaxed);
        let reaped = reaper.join().expect("it ends");
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let own = i32::try_from(own.id()).expect("a process id");
        assert!(!reaped.iter().any(|pid| pid.as_raw() == own), "and it still lives");
    });
    own.kill().expect("it is ours");
    own.wait().expect("it is ours, and nobody else waits any more");
    Vec::new()
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

fn set_handler(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers of this file only count, which is allowed in a handler, or are the kernel's own.
    unsafe { sigaction(signal, &action) }.expect("a signal that can be handled");
}

/// What a signal's handler is, as an address.
fn handler_of(signal: i32) -> usize {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: changes nothing, and fills the one structure that it is given.
    let rc = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    assert_eq!(rc, 0, "sigaction({signal})");
    // SAFETY: filled just now.
    unsafe { action.assume_init() }.sa_sigaction
}

fn handles_sigchld(_: &[String]) -> Vec<u8> {
    set_handler(Signal::SIGCHLD, SigHandler::Handler(count_signal));
    let before = handler_of(libc::SIGCHLD);
    a_life();
    assert_eq!(handler_of(libc::SIGCHLD), before, "the handler is the host's own");
    let signals = SIGNALS.load(Ordering::SeqCst);
    let mut own = Command::new("true").spawn().expect("every system has it");
    own.wait().expect("it is ours");
    rig::wait::until("the host's own SIGCHLD", || (SIGNALS.load(Ordering::SeqCst) > signals).then_some(()));
    Vec::new()
}

fn ignores_sigchld(_: &[String]) -> Vec<u8> {
    set_handler(Signal::SIGCHLD, SigHandler::SigIgn);
    a_life();
    a_life();
    assert_eq!(handler_of(libc::SIGCHLD), libc::SIG_IGN);
    Vec::new()
}

fn default_sigpipe(_: &[String]) -> Vec<u8> {
    // Rust ignores it at its start; most hosts do not.
    set_handler(Signal::SIGPIPE, SigHandler::SigDfl);
    a_life();
    for _ in 0..50 {
        let plugin = probe();
        let helper = plugin.process_id().and_then(|pid| i32::try_from(pid).ok()).expect("it lives");
        let watched = watch(helper.unsigned_abs());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper), Signal::SIGKILL).expect("a host may");
        // At once, so that some of these write to a pipe whose reader is gone.
        plugin.call("echo", &vec![b'x'; 1 << 20]).expect_err("it was killed");
        watched.ended();
    }
    assert_eq!(handler_of(libc::SIGPIPE), libc::SIG_DFL);
    Vec::new()
}

fn close(fd: RawFd) {
    // SAFETY: an integer. Nothing in this process uses the streams from here on.
    unsafe { libc::close(fd) };
}

fn closed_streams(_: &[String]) -> Vec<u8> {
    (0..3).for_each(close);
    a_life();
    let plugin = probe();
    assert!(plugin.attempt("print", "printed").got_it());
    rig::wait::until("what it printed", || plugin.printed().contains("printed").then_some(()));
    assert_eq!(plugin.attempt("descriptors", "").text(), "0:device 1:pipe 2:pipe 3:pipe 4:pipe");
    Vec::new()
}

fn no_working_directory(_: &[String]) -> Vec<u8> {
    let scratch = Scratch::new();
    let folder = scratch.folder("gone");
    let library = library("probe").canonicalize().expect("it was built");
    std::env::set_current_dir(&folder).expect("it is there");
    std::fs::remove_dir(&folder).expect("it is empty");
    std::env::current_dir().expect_err("it is gone");
    active("probe", patient(), library, ());
    Vec::new()
}

fn few_descriptors(_: &[String]) -> Vec<u8> {
    let library = library("probe");
    let load = || -> Result<(), PluginSandboxError> {
        let plugin = PluginSandbox::new("probe", patient())?;
        plugin.load_plugin(&library)?;
        plugin.activate_plugin(())?;
        plugin.call("echo", b"x").map(drop)
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be read");
    let (mut refused, mut worked) = (0, 0);
    // From hardly any to enough: each number makes another step the one that fails.
    for most in 4..80 {
        setrlimit(Resource::RLIMIT_NOFILE, most, hard).expect("lowering is allowed");
        let result = load();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("up to the hard limit");
        match result {
            Ok(()) => worked += 1,
            // Whichever step it was: an error that says what, and no call that was half done.
            Err(error) => {
                assert!(!matches!(error, PluginSandboxError::PluginFailed { .. }), "{}", explained(&error));
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && worked > 0, "{refused} refused, {worked} worked");
    load().unwrap_or_else(|error| panic!("with enough again: {}", explained(&error)));
    Vec::new()
}

fn blocks_all_signals(_: &[String]) -> Vec<u8> {
    SigSet::all().thread_set_mask().expect("a set of signals");
    a_life();
    let plugin = probe();
    // A mask outlives an exec: the plugin must not have inherited it.
    let PluginSandboxError::Ended { cause, .. } = plugin.refused("kill_self", "15") else {
        panic!("it ends")
    };
    assert_eq!(cause, Cause::Signal { signal: libc::SIGTERM, fault_address: None });
    Vec::new()
}

fn unusual_umask(_: &[String]) -> Vec<u8> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o777));
    let plugin = probe();
    assert_eq!(plugin.attempt("echo", "x").text(), "x");
    Vec::new()
}

fn first_load_on_a_thread_that_ends(_: &[String]) -> Vec<u8> {
    // A parent-death signal goes by the thread that started the child, not by its process.
    let plugin = thread::spawn(probe).join().expect("it loads");
    let helper = watch(plugin.process_id().expect("it lives"));
    (0..20).for_each(|_| drop(thread::spawn(|| {}).join()));
    assert!(plugin.attempt("echo", "x").got_it() && !helper.has_ended());
    a_life();
    Vec::new()
}

fn keeps_ended_plugins(_: &[String]) -> Vec<u8> {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("this process's descriptors").count();
    // What all plugins share is there, and stays.
    let other = probe();
    let before = descriptors();
    let ended: Vec<PluginSandbox> = (0..6).map(|_| probe()).collect();
    assert!(descriptors() >= before + 6 * 5, "a plugin that lives holds some");
    for (index, plugin) in ended.iter().enumerate() {
        match index % 2 {
            0 => plugin.unload_plugin().expect("it unloads"),
            _ => drop(plugin.refused("abort", "")),
        }
    }
    // A broker's worker that hears the end may hold the listener a moment longer; another may have held a file before.
    rig::wait::until("what was held to be let go", || (descriptors() <= before).then_some(()));
    assert_eq!(other.attempt("echo", "x").text(), "x");
    assert_eq!(ended.len(), 6);
    Vec::new()
}

fn long_calls() -> ResourceLimits {
    let limits = ResourceLimits::default().load_timeout(PATIENCE).activate_timeout(PATIENCE);
    limits.call_timeout(Duration::from_secs(600))
}

fn supervised(restart: RestartPolicy) -> PluginSandbox {
    probe_with(PluginPolicy::new().limits(long_calls()).restart(restart))
}

fn waits_to_be_killed(_: &[String]) -> Vec<u8> {
    let plugins: Vec<_> = ["sleep_forever", "spin_forever"]
        .map(|method| {
            let limits = long_calls().max_cpu_time_sec(None);
            let plugin = probe_with(PluginPolicy::new().limits(limits).permission(PERMISSION_PROCESS));
            for leaves in ["sleepers", "daemon", "stopped"] {
                assert!(plugin.attempt(leaves, "1").got_it(), "{leaves}");
            }
            let caller = plugin.clone();
            thread::spawn(move || drop(caller.call(method, b"")));
            plugin
        })
        .into();
    // One that comes back in an hour, and those that nobody can talk to.
    let waits = supervised(
        RestartPolicy::on_crash()
            .backoff(Backoff::default().first(Duration::from_secs(3600)).most(Duration::from_secs(3600))),
    );
    waits.refused("abort", "");
    rig::wait::until("a restart to be due", || (waits.state() == PluginState::Restarting).then_some(()));
    let misfits: Vec<_> = [("block_signals_and_sleep", ""), ("end_first_thread", ""), ("kill_self", "19")]
        .map(|(method, payload)| {
            let plugin = supervised(RestartPolicy::on_crash());
            let caller = plugin.clone();
            thread::spawn(move || drop(caller.call(method, payload.as_bytes())));
            plugin
        })
        .into();
    drop(thread::spawn(move || {
        // Kept as they are until the host is gone.
        let _kept = (waits, misfits);
        loop {
            thread::park();
        }
    }));
    let ids: Vec<String> =
        plugins.iter().filter_map(PluginSandbox::process_id).map(|pid| pid.to_string()).collect();
    child::report_early(ids.join(" ").as_bytes());
    loop {
        thread::park();
    }
}

#[test]
fn a_host_that_is_killed_leaves_no_process_behind() {
    let mut host = child::start("waits to be killed", &[]);
    let report = String::from_utf8(host.early_report()).expect("numbers");
    let helpers: Vec<u32> = report.split(' ').map(|pid| pid.parse().expect("a process id")).collect();
    assert_eq!(helpers.len(), 2);
    let zygote = parent_of(helpers[0]).expect("a helper has a parent");
    assert!(descendants(host.id()).contains_key(&zygote), "the zygote is the host's");
    let started = descendants(zygote);
    assert!(started.len() >= 2 + 2 * 3, "helpers, and what they have started: {started:?}");
    assert!(started.len() >= 2 + 2 * 3 + 2, "and those that nobody can talk to: {started:?}");
    // One that hangs may be found out, and ended and loaded again, at this very moment.
    let watched: Vec<_> = started.into_keys().chain([zygote]).filter_map(watch_if_alive).collect();
    host.kill();
    watched.iter().for_each(|process| process.ended());
}

#[test]
fn a_host_may_name_another_program_for_its_helpers() {
    let scratch = Scratch::new();
    let copy = scratch.at("helper-program");
    std::fs::copy(std::env::current_exe().expect("a test program knows its name"), &copy)
        .expect("it can be read");
    let manager = PluginSandboxManager::with_helper_program(&copy);
    manager.register_plugin("hello", patient()).expect("it is new");
    manager.load_plugin("hello", library("hello")).expect("it loads");
    manager.activate_plugin("hello", ()).expect("it activates");
    assert_eq!(manager.call("hello", "greet", b"you").expect("it answers"), b"hello, you");
    let helper = manager.create_sandbox("hello").expect("it is there").process_id().expect("it lives");
    assert_ne!(std::fs::read_link(format!("/proc/{helper}/exe")).ok(), std::env::current_exe().ok());
}

#[test]
fn a_program_that_cannot_be_a_helper_is_an_error_and_not_a_wait() {
    // One runs and is none of ours, the others cannot even be started, and are named.
    for (program, starts) in [("/bin/true", true), ("/nowhere/helper", false), ("/etc/passwd", false)] {
        let manager = PluginSandboxManager::with_helper_program(program);
        manager.register_plugin("hello", patient()).expect("it is new");
        let error = manager.load_plugin("hello", library("hello")).expect_err("it is no helper");
        let named = match &error {
            PluginSandboxError::Zygote { .. } => starts,
            PluginSandboxError::HelperProgram { program: named, .. } => {
                !starts && named.to_str() == Some(program)
            }
            _ => false,
        };
        assert!(named, "{program}: {}", explained(&error));
    }
}

#[test]
fn what_a_hosts_environment_tells_the_loader_is_nothing_to_a_helper() {
    const ANSWERS: &str = r#"
        #include <string.h>
        int gethostname(char *name, size_t len) { strncpy(name, "preloaded", len); return 0; }
    "#;
    let scratch = Scratch::new();
    let preloaded = compile_c(&scratch, "libpreloaded.so", ANSWERS, &[]);
    with_modules(&scratch);
    let folder = scratch.path().to_str().expect("a folder of ours");
    let own = std::env::current_exe().expect("a test program knows its name");
    child::start_as("loader told of libraries", &[], &own, |command| {
        command.env("LD_PRELOAD", preloaded).env("LD_LIBRARY_PATH", folder).env("LD_BIND_NOT", "1");
    })
    .end()
    .well();
}

fn loader_told_of_libraries(_: &[String]) -> Vec<u8> {
    let preloaded = Outcome::Answered(Answer::Got(b"preloaded".to_vec()));
    assert_eq!(unconfined::attempt("host_name", ""), preloaded, "it is, where nothing confines it");
    assert_eq!(probe().attempt("host_name", "").text(), "localhost");

    // Nothing is beside the library: its modules are in the folder that the loader is told of, and nowhere else.
    let scratch = Scratch::new();
    let library = without_modules(&scratch);
    assert!(unconfined::attempt_of(&library, "add", "1").reached(), "they are found there otherwise");
    let policy = patient().allow_modules(["libprobe_near.so", "libprobe_far.so"]);
    let plugin = PluginSandbox::new("modules", policy).expect("a sandbox");
    match plugin.load_plugin(&library) {
        Err(PluginSandboxError::Library(LibraryError::ModuleNotFound { .. })) => {}
        other => panic!("{other:?}"),
    }
    Vec::new()
}
