//! `process`: programs of the system's run for a plugin, confined as it is, and end with it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rig::events::{expect, expect_denial};
use rig::plugins::Attempts;
use rig::{Answer, Scratch, inventory, probe, probe_with, unconfined, wait};
use sandbox_core::{
    Cause, EventKind, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_PROCESS, PluginPermission,
    PluginPolicy, PluginSandbox, PluginSandboxError, PluginState, ResourceLimits, Ruling,
};

const EACCES: Answer = Answer::Errno(libc::EACCES);
const EPERM: Answer = Answer::Errno(libc::EPERM);

fn start(path: &str) -> PluginPermission {
    PERMISSION_PROCESS.scoped_to_path(path).expect("absolute")
}

fn read(path: &str) -> PluginPermission {
    PERMISSION_FILE_READ.scoped_to_path(path).expect("absolute")
}

fn with(permissions: impl IntoIterator<Item = PluginPermission>) -> PluginSandbox {
    probe_with(PluginPolicy::new().permissions(permissions))
}

#[track_caller]
fn told(plugin: &PluginSandbox, method: &str, payload: &str) -> String {
    let events = plugin.events();
    match plugin.attempt(method, payload) {
        Answer::Got(told) => String::from_utf8_lossy(&told).into_owned(),
        other => panic!("{method} {payload:?}: {other:?}; {:#?}", events.try_iter().collect::<Vec<_>>()),
    }
}

/// A program that prints what it reads.
const CAT: &str = "/bin/cat";

/// The program `env`, which prints what it is given: where this system has it, under a name that is no link.
fn env() -> &'static str {
    ["/usr/bin/env", "/bin/env"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("every system has one")
}

/// Waits until a plugin's processes are as many as `wanted`, beside its own.
#[track_caller]
fn expect_processes(helper: u32, wanted: usize) {
    wait::until(&format!("{wanted} processes of a plugin's"), || {
        (inventory::descendants(helper).len() == wanted).then_some(())
    });
}

#[test]
fn a_granted_program_runs_with_its_output_and_status() {
    let plugin = with([PERMISSION_PROCESS]);
    for method in ["run", "run_by_fork", "run_in_group"] {
        assert_eq!(told(&plugin, method, "/bin/cat\n\nwhat it reads"), "exit 0\nwhat it reads", "{method}");
        assert_eq!(told(&plugin, method, "/bin/sh\n-c\nexit 7"), "exit 7\n", "{method}");
    }
    assert_eq!(told(&plugin, "run", env()), "exit 0\nGREETING=hello\n");
    assert_eq!(told(&plugin, "run_as", "other name\n/bin/sh\n-c\necho $0"), "exit 0\nother name\n");
    assert_eq!(told(&plugin, "system", "exit 3"), (3 << 8).to_string());
    assert_eq!(told(&plugin, "popen", "echo from a shell"), "from a shell\n");
    assert_eq!(told(&plugin, "run_and_kill", "/bin/cat"), "signal 9");
    assert_eq!(told(&plugin, "child_that_aborts", ""), "signal 6");
    assert_eq!(told(&plugin, "fork", ""), "0");
}

#[test]
fn without_the_permission_nothing_is_started_and_each_try_is_reported() {
    let plugin = probe();
    let events = plugin.events();
    for (method, payload, expected) in
        [("fork", "", EPERM), ("run", "/bin/cat", EPERM), ("exec", "/bin/true", EACCES)]
    {
        assert!(unconfined::attempt(method, payload).reached(), "{method} works outside");
        assert_eq!(plugin.attempt(method, payload), expected, "{method}");
    }
    expect_denial(&events, "/bin/true");
    assert!(unconfined::attempt("popen", "echo x").reached() && !plugin.attempt("popen", "echo x").got_it());
}

#[test]
fn a_grant_of_one_program_starts_that_program_alone() {
    let plugin = with([start(env())]);
    let events = plugin.events();
    assert_eq!(told(&plugin, "run", env()), "exit 0\nGREETING=hello\n");
    assert_eq!(plugin.attempt("run", "/bin/cat"), EACCES);
    expect_denial(&events, "/bin/cat");
    // A program that the plugin may start does not start another in its name.
    assert!(told(&plugin, "run", &format!("{}\n/bin/cat", env())).starts_with("exit 126\n"));
    assert_eq!(plugin.attempt("run", format!("{}/", env())), Answer::Errno(libc::ENOTDIR));
    assert_eq!(plugin.attempt("run", "/lib64/ld-linux-x86-64.so.2\n/bin/cat"), EACCES);
    expect(&events, "the loader refused", |kind| match kind {
        EventKind::Access { granted: false, object, .. } if object.contains("ld-linux") => Some(()),
        _ => None,
    });
}

#[test]
fn a_grant_of_a_folder_starts_what_is_really_in_it() {
    let scratch = Scratch::new();
    scratch.folder("tools");
    scratch.program("tools/copy", "/bin/cat");
    scratch.link("tools/link", "/bin/cat");
    scratch.program("beside", "/bin/cat");
    scratch.link("into", scratch.at("tools/copy"));
    let plugin = with([start(&scratch.at("tools"))]);
    for (path, expected) in [
        ("tools/copy", Some("exit 0\ntext")),
        ("into", Some("exit 0\ntext")),
        ("tools/../tools/copy", Some("exit 0\ntext")),
        ("tools/link", None),
        ("beside", None),
    ] {
        let answer = plugin.attempt("run", format!("{}\n\ntext", scratch.at(path)));
        match expected {
            Some(expected) => assert_eq!(answer.text(), expected, "{path}"),
            None => assert_eq!(answer, EACCES, "{path}"),
        }
    }
    assert_eq!(plugin.attempt("run", scratch.at("tools/nothing")), Answer::Errno(libc::ENOENT));
    assert_eq!(plugin.attempt("run", scratch.at("nothing")), EACCES);
}

#[test]
fn without_a_scope_only_programs_that_nobody_but_root_can_change_are_started() {
    let scratch = Scratch::new();
    let own = scratch.program("own", "/bin/cat");
    assert_eq!(told(&with([start(&own)]), "run", &format!("{own}\n\ntext")), "exit 0\ntext");
    assert_eq!(with([PERMISSION_PROCESS]).attempt("run", own), EACCES);
}

#[test]
fn a_script_runs_if_its_interpreter_may_be_started_too() {
    let scratch = Scratch::new();
    let script = scratch.script("script", "#!/bin/sh\necho from $0 with $1\n");
    let both = with([start(&script), start("/bin/sh")]);
    let events = both.events();
    assert_eq!(told(&both, "run", &format!("{script}\nx")), format!("exit 0\nfrom {script} with x\n"));
    for started in [&script, "/bin/sh"] {
        expect(&events, "each of them, for whoever wants to know what is needed", |kind| match kind {
            EventKind::Access { granted: true, action: "execve", object, .. } if object == started => {
                Some(())
            }
            _ => None,
        });
    }
    assert_eq!(with([start(&script)]).attempt("run", &script), EACCES);
}

#[test]
fn the_files_that_a_program_opens_are_the_plugins_to_open() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let line = format!("/bin/cat\n{file}");
    let plugin = with([PERMISSION_PROCESS]);
    assert!(told(&plugin, "run", &line).starts_with("exit 1\n"));
    plugin.grant_permission(read(&file));
    assert_eq!(told(&plugin, "run", &line), "exit 0\ncontents");
    plugin.revoke_permission(&read(&file));
    assert!(told(&plugin, "run", &line).starts_with("exit 1\n"));
    assert!(told(&plugin, "run", "/bin/cat\n/etc/passwd").starts_with("exit 1\n"));
    assert!(told(&plugin, "run", "/bin/cat\n/proc/self/environ").starts_with("exit 1\n"));
}

#[test]
fn a_program_is_confined_as_its_plugin_is() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback address");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let plugin = with([PERMISSION_PROCESS]);
    let host = std::process::id();
    let number = |nr: libc::c_long, rest: &str| format!("{nr} {rest}");
    for (method, payload, expected) in [
        ("connect_loopback", port, "errno 13"),
        ("socket", String::new(), "errno 13"),
        ("kill", host.to_string(), "errno 1"),
        ("kill", "1".to_owned(), "errno 1"),
        ("syscall", number(libc::SYS_clone, "0x10000011 0 0 0 0"), "errno 1"),
        ("syscall", number(libc::SYS_clone, "0x8011 0 0 0 0"), "errno 1"),
        ("mprotect_exec", String::new(), "errno 13"),
        ("open", "/etc/passwd".to_owned(), "errno 13"),
    ] {
        let told = told(&plugin, "in_child", &format!("{method}\n{payload}"));
        assert_eq!(told, expected, "{method} {payload}");
    }
}

#[test]
fn a_forbidden_call_ends_the_plugin_whichever_process_of_its_own_code_makes_it() {
    let ended =
        |outcome| matches!(outcome, unconfined::Outcome::Answered(Answer::Got(status)) if status == b"0");
    for (method, payload, call) in [
        ("in_child", "ptrace\n".to_owned(), "ptrace"),
        ("in_child", format!("syscall\n{} 0x10000000", libc::SYS_unshare), "unshare"),
        ("ptrace_in_vforked_child", String::new(), "ptrace"),
    ] {
        let plugin = with([PERMISSION_PROCESS]);
        let helper = wait::watch(plugin.process_id().expect("it lives"));
        let PluginSandboxError::Ended { cause, .. } = plugin.refused(method, &payload) else {
            panic!("{method} {payload}: it does not end")
        };
        assert!(
            matches!(&cause, Cause::ForbiddenCall { call: Some(named), .. } if *named == call),
            "{method} {payload}: {cause}"
        );
        helper.ended();
    }
    // Where nothing confines it such a child goes on to its end.
    assert!(ended(unconfined::attempt("ptrace_in_vforked_child", "")));
}

#[test]
fn a_granted_program_that_makes_a_forbidden_call_ends_alone() {
    const UNSHARE: &str = "/usr/bin/unshare"; // of util-linux, which every Debian has
    if !Path::new(UNSHARE).exists() {
        eprintln!("NOT TESTED: this machine has no {UNSHARE}");
        return;
    }
    let plugin = with([PERMISSION_PROCESS]);
    let events = plugin.events();
    assert!(told(&plugin, "run", &format!("{UNSHARE}\n--uts\n/bin/cat")).starts_with("signal 9\n"));
    expect(&events, "the call", |kind| match kind {
        EventKind::Access { action: "unshare", granted: false, rule, .. } if rule.contains("ends who") => {
            Some(())
        }
        _ => None,
    });
    assert_eq!((plugin.state(), plugin.attempt("echo", "x").text()), (PluginState::Active, "x".to_owned()));
}

#[test]
fn what_is_granted_and_revoked_counts_at_the_very_next_start() {
    let plugin = probe();
    let line = "/bin/cat\n\ntext";
    assert_eq!(plugin.attempt("run", line), EPERM);
    for _ in 0..3 {
        plugin.grant_permission(start("/bin/cat"));
        assert_eq!(told(&plugin, "run", line), "exit 0\ntext");
        assert_eq!(plugin.attempt("run", env()), EACCES);
        plugin.revoke_permission(&start("/bin/cat"));
        assert_eq!(plugin.attempt("run", line), EPERM);
        assert_eq!(plugin.attempt("fork", ""), EPERM);
    }
    plugin.grant_permission(PERMISSION_PROCESS);
    plugin.revoke_permission(&start("/bin/cat"));
    assert_eq!(plugin.attempt("run", line), EACCES);
    assert!(plugin.attempt("run", env()).got_it());
}

#[test]
fn what_one_plugin_may_start_is_in_no_other_ones_root() {
    let (one, other) = (with([PERMISSION_PROCESS]), with([PERMISSION_PROCESS]));
    assert!(one.attempt("run", env()).got_it());
    let mounts = |plugin: &PluginSandbox| {
        let text =
            std::fs::read_to_string(format!("/proc/{}/mountinfo", plugin.process_id().expect("it lives")));
        let lines: Vec<String> = text.expect("it can be seen").lines().map(str::to_owned).collect();
        lines
    };
    let place = |line: &String| line.split(' ').nth(4).unwrap_or_default().to_owned();
    let shown: Vec<String> = mounts(&one).iter().map(place).filter(|at| at != "/").collect();
    assert!(shown.contains(&env().to_owned()), "{shown:?}");
    for line in mounts(&one).iter().filter(|line| place(line) != "/") {
        let options = line.split(' ').nth(5).unwrap_or_default();
        let bare = ["ro", "nosuid", "nodev"].iter().all(|want| options.split(',').any(|has| has == *want));
        assert!(bare, "{line}");
    }
    assert!(mounts(&other).iter().all(|line| place(line) == "/"), "{:?}", mounts(&other));
    // The one way to a name in the root that asks nobody: newfstatat with AT_EMPTY_PATH.
    let stat = format!("{} -100 s:{} q:{} 0x1000", libc::SYS_newfstatat, env(), ["0"; 20].join(","));
    assert!(one.attempt("syscall", &stat).got_it());
    assert_eq!(other.attempt("syscall", &stat), Answer::Errno(libc::ENOENT));
}

#[test]
fn as_many_processes_as_allowed_can_run_and_not_one_more() {
    for most in [1, 3] {
        let limits = ResourceLimits::default().max_processes(most);
        let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_PROCESS).limits(limits));
        let events = plugin.events();
        assert_eq!(told(&plugin, "sleepers", "20"), most.to_string());
        expect(&events, "the limit", |kind| match kind {
            EventKind::Access { granted: false, rule, .. } if *rule == format!("max_processes is {most}") => {
                Some(())
            }
            _ => None,
        });
        plugin.set_resource_limits(ResourceLimits::default().max_processes(most + 1)).expect("it is raised");
        assert_eq!(told(&plugin, "sleepers", "20"), "1");
    }
    let limits = ResourceLimits::default().max_processes(0);
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_PROCESS).limits(limits));
    assert_eq!(plugin.attempt("fork", ""), Answer::Errno(libc::EAGAIN));
}

#[test]
fn whatever_a_plugin_has_started_ends_with_it() {
    let limits = || ResourceLimits::default().max_processes(4);
    let policy = || PluginPolicy::new().permission(PERMISSION_PROCESS).limits(limits());
    for (what, payload, left) in
        [("sleepers", "3", 3), ("daemon", "", 1), ("stopped", "", 1), ("fork_bomb", "", 4)]
    {
        for end in ["unload", "crash", "kill", "drop"] {
            let plugin = probe_with(policy());
            let helper = plugin.process_id().expect("it lives");
            assert!(plugin.attempt(what, payload).got_it(), "{what}");
            expect_processes(helper, left);
            let processes: Vec<_> = inventory::descendants(helper).into_keys().map(wait::watch).collect();
            match end {
                "unload" => plugin.unload_plugin().expect("it unloads"),
                "crash" => drop(plugin.refused("segfault", "")),
                "kill" => {
                    nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(helper.try_into().expect("a pid")),
                        nix::sys::signal::Signal::SIGKILL,
                    )
                    .expect("it is ours");
                    drop(plugin.refused("echo", ""));
                }
                _ => drop(plugin),
            }
            assert!(processes.iter().all(wait::Watched::has_ended), "{what}, {end}: {processes:?}");
        }
    }
}

#[test]
fn the_cpu_time_of_what_a_plugin_starts_is_the_plugins() {
    let limits = ResourceLimits::default().max_cpu_time_sec(2).call_timeout(wait::PATIENCE);
    let policy = PluginPolicy::new().permission(PERMISSION_PROCESS).limits(limits);
    let plugin = probe_with(policy);
    assert!(plugin.attempt("child_that_computes", "100").got_it());
    match plugin.refused("child_that_computes", "8000") {
        PluginSandboxError::Ended { cause: Cause::CpuTime { limit_sec: 2, .. }, .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_path_that_changes_while_it_is_judged_starts_nothing_that_was_not_granted() {
    let scratch = Scratch::new();
    // Scripts say by their exit code which one it was.
    let granted = scratch.script("granted1", "#!/bin/sh\nexit 21\n");
    let other = scratch.script("granted2", "#!/bin/sh\nexit 22\n");
    let secret = scratch.script("nothing1", "#!/bin/sh\nexit 23\n");
    let limits = ResourceLimits::default().call_timeout(wait::PATIENCE).max_cpu_time_sec(None);
    let policy = PluginPolicy::new().permissions([start(&granted), start(&other), start("/bin/sh")]);
    let plugin = probe_with(policy.limits(limits));
    let between =
        |one: &str, other: &str| told(&plugin, "start_while_it_changes", &format!("200\n{one}\n{other}"));
    assert_eq!(told(&with([start(&secret), start("/bin/sh")]), "run", &secret), "exit 23\n", "a control");
    let outcomes = between(&granted, &secret);
    assert!(outcomes.contains("exit 21") && !outcomes.contains("exit 23"), "{outcomes}");
    let outcomes = between(&granted, &other);
    assert!(outcomes.contains("exit 21") && outcomes.contains("exit 22"), "{outcomes}");
}

#[test]
fn a_program_that_is_linked_statically_runs_too() {
    let found = ["/sbin/ldconfig", "/bin/busybox"]
        .into_iter()
        .find(|path| std::fs::read(path).is_ok_and(|file| !file.windows(7).any(|part| part == b"ld-linu")));
    let Some(program) = found else {
        println!("this system has no such program: nothing to try");
        return;
    };
    let told = told(&with([start(program)]), "run", &format!("{program}\n--help"));
    assert!(told.starts_with("exit 0\n") && told.contains("sage"), "{told}");
}

#[test]
fn a_program_writes_and_goes_where_its_plugin_may() {
    let scratch = Scratch::new();
    let folder = scratch.folder("folder");
    scratch.file("folder/file", "in the folder");
    let write = PERMISSION_FILE_WRITE.scoped_to_path(&folder).expect("absolute");
    let plugin = with([PERMISSION_PROCESS, read(&folder), write]);
    let shell = |line: &str| told(&plugin, "run", &format!("/bin/sh\n-c\n{line}"));
    assert_eq!(shell(&format!("echo written >{folder}/new && cat {folder}/new")), "exit 0\nwritten\n");
    assert_eq!(shell(&format!("cd {folder} && cat file && pwd")), format!("exit 0\nin the folder{folder}\n"));
    assert_eq!(
        shell(&format!("cd {folder} && (cd / && cat file; cd - >/dev/null; cat file)"))
            .matches("in the folder")
            .count(),
        1
    );
    assert_ne!(shell(&format!("echo written >{}", scratch.at("beside"))), "exit 0\n");
    assert!(!Path::new(&scratch.at("beside")).exists());
    // A program by a path that counts from there.
    let script = scratch.script("folder/script", "#!/bin/sh\necho ran\n");
    let plugin = with([start(&script), start("/bin/sh"), read(&folder)]);
    assert_eq!(told(&plugin, "run", &format!("/bin/sh\n-c\ncd {folder} && ./script")), "exit 0\nran\n");
}

#[test]
fn a_program_tells_nothing_of_what_is_outside() {
    let scratch = Scratch::new();
    scratch.file("there", "x");
    let plugin = with([start(CAT)]);
    let said = |path: &str| told(&plugin, "run", &format!("{CAT}\n{path}")).replace(path, "");
    let up = "../".repeat(8);
    for folder in ["/lib", "/usr/lib", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"] {
        let to = |name: &str| format!("{folder}/{up}{}", scratch.at(name).trim_start_matches('/'));
        assert_eq!(said(&to("there")), said(&to("not-there")), "{folder}");
    }
    let outside = |path: &str| match unconfined::attempt("run", &format!("{CAT}\n{path}")) {
        unconfined::Outcome::Answered(answer) => answer.text().replace(path, ""),
        other => panic!("{other:?}"),
    };
    assert_ne!(outside("/lib/../"), outside("/lib/../nowhere"), "outside it is told");
}

#[test]
fn a_program_reads_no_other_that_may_not_be_started() {
    let scratch = Scratch::new();
    let own = scratch.script("own", "#!/bin/sh\n# contents\n");
    let line = format!("{CAT}\n{own}");
    let plugin = with([PERMISSION_PROCESS]);
    assert!(told(&plugin, "run", &line).starts_with("exit 1\n"));
    plugin.grant_permission(start(&own));
    assert_eq!(told(&plugin, "run", &line), "exit 0\n#!/bin/sh\n# contents\n");
}

#[test]
fn a_program_that_is_replaced_is_shown_in_the_place_of_the_old_one() {
    let scratch = Scratch::new();
    let tools = scratch.folder("tools");
    let plugin = with([start(&tools)]);
    let at = scratch.at("tools/tool");
    for _ in 0..4 {
        std::fs::rename(scratch.program("new", CAT), &at).expect("ours");
        assert_eq!(told(&plugin, "run", &format!("{at}\n\ntext")), "exit 0\ntext");
    }
    let mounts =
        std::fs::read_to_string(format!("/proc/{}/mountinfo", plugin.process_id().expect("it lives")));
    let mounts = mounts.expect("it can be seen");
    assert_eq!(mounts.lines().filter(|line| line.split(' ').nth(4) == Some(&at)).count(), 1, "{mounts}");
}

#[test]
fn a_revoke_finds_a_file_that_is_passed_from_process_to_process() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    for _ in 0..3 {
        let limits = ResourceLimits::default().max_processes(64);
        let policy = PluginPolicy::new().permissions([PERMISSION_PROCESS, read(&file)]).limits(limits);
        let plugin = probe_with(policy);
        let events = plugin.events();
        assert!(plugin.attempt("pass_along", &file).got_it());
        assert!(plugin.revoke_permission(&read(&file)));
        assert_eq!(plugin.state(), PluginState::Crashed);
        expect(&events, "its end", |kind| match kind {
            EventKind::Ended { cause: Cause::Revoked { .. }, .. } => Some(()),
            _ => None,
        });
    }
}

#[test]
fn a_revoke_ends_the_programs_that_nothing_else_lets_run() {
    let scratch = Scratch::new();
    let (one, other) = (scratch.program("one", CAT), scratch.program("other", CAT));
    let plugin = with([start(&one), start(&other)]);
    let helper = plugin.process_id().expect("it lives");
    let started = |program: &str| {
        let before = inventory::descendants(helper);
        assert!(plugin.attempt("start_and_leave", program).got_it());
        let new = |pid: &u32| !before.contains_key(pid);
        let pid = inventory::descendants(helper).into_keys().find(new).expect("it was started");
        let exe = || std::fs::read_link(format!("/proc/{pid}/exe")).ok()?.to_str().map(str::to_owned);
        wait::until("the program", || exe().filter(|exe| exe.ends_with(program)));
        wait::watch(pid)
    };
    let (first, second) = (started(&one), started(&other));
    assert!(plugin.revoke_permission_leaving_open(&start(&one)));
    assert!(!first.has_ended());
    assert!(!plugin.revoke_permission(&start(&one)), "it is not held any more, but what it left is ended");
    first.ended();
    assert!(!second.has_ended());
    plugin.grant_permission(PERMISSION_PROCESS);
    assert!(plugin.attempt("sleepers", "1").got_it());
    let all: Vec<_> = inventory::descendants(helper).into_keys().map(wait::watch).collect();
    assert!(plugin.revoke_permission(&PERMISSION_PROCESS));
    second.ended();
    all.iter().for_each(wait::Watched::ended);
    assert_eq!(plugin.attempt("echo", "x").text(), "x", "the plugin goes on");
}

#[test]
fn somebody_can_be_asked_about_a_program() {
    let plugin = probe();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    plugin.set_decider(wait::PATIENCE, move |request| {
        log.lock().expect("no panic").push(request.permission.to_string());
        if request.permission.to_string().contains("cat") { Ruling::AllowOnce } else { Ruling::Deny }
    });
    assert_eq!(told(&plugin, "run", &format!("{CAT}\n\ntext")), "exit 0\ntext");
    assert_eq!(plugin.attempt("run", env()), EACCES);
    let real =
        |path: &str| format!("process:{}", Path::new(path).canonicalize().expect("it is there").display());
    assert_eq!(*asked.lock().expect("no panic"), [real(CAT), real(env())]);
    plugin.remove_decider();
    assert_eq!(plugin.attempt("run", CAT), EPERM);
}

#[test]
fn a_setuid_program_gains_nothing() {
    let found = ["/usr/bin/su", "/bin/su", "/usr/bin/passwd", "/bin/mount"].into_iter().find(|path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o4000 != 0)
    });
    let Some(program) = found else {
        println!("this system has no setuid program: nothing to try");
        return;
    };
    let plugin = with([PERMISSION_PROCESS]);
    let told = told(&plugin, "run", &format!("{program}\n--help"));
    assert!(told.starts_with("exit "), "{told}");
}
