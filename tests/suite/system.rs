//! `system`: what a plugin learns of the machine with it and without it, and that nothing else is opened by it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rig::events::expect;
use rig::plugins::Attempts;
use rig::unconfined;
use rig::wait::PATIENCE;
use rig::{Answer, probe, probe_with};
use sandbox_core::{EventKind, PERMISSION_FILE_READ, PERMISSION_SYSTEM, PluginPolicy, Ruling};

const REFUSED: Answer = Answer::Errno(libc::EACCES);

/// What says something of the machine, and what it starts with.
const FACTS: [(&str, &str); 12] = [
    ("/proc/cpuinfo", "processor"),
    ("/proc/loadavg", ""),
    ("/proc/meminfo", "MemTotal:"),
    ("/proc/stat", "cpu "),
    ("/proc/uptime", ""),
    ("/proc/version", "Linux version "),
    ("/proc/sys/kernel/hostname", ""),
    ("/proc/sys/kernel/osrelease", ""),
    ("/proc/sys/kernel/ostype", "Linux"),
    ("/sys/devices/system/cpu/present", ""),
    ("/etc/hostname", ""),
    ("/etc/os-release", ""),
];

fn named(permission: &str, path: &str, verdict: bool, kind: &EventKind) -> Option<()> {
    match kind {
        EventKind::Access { permission: under, object, granted, .. } => {
            (*under == permission && object == path && *granted == verdict).then_some(())
        }
        _ => None,
    }
}

#[test]
fn facts_of_the_machine_are_read_with_the_permission_of_that_moment_and_not_without() {
    let plugin = probe();
    let events = plugin.events();
    for (path, start) in FACTS {
        if !Path::new(path).exists() {
            println!("not proven: this machine has no {path}");
            continue;
        }
        assert!(unconfined::attempt("open", path).reached(), "{path} is read outside");
        for method in ["open", "open_c", "stat", "access"] {
            assert_eq!(plugin.attempt(method, path), REFUSED, "{method} {path}");
            let permission = if path.starts_with("/etc") { "file-read" } else { "system" };
            expect(&events, &format!("a refused {path}"), |kind| named(permission, path, false, kind));
            plugin.grant_permission(PERMISSION_SYSTEM);
            let answer = plugin.attempt(method, path);
            assert!(answer.got_it(), "{method} {path}: {answer:?}");
            expect(&events, &format!("a granted {path}"), |kind| named("system", path, true, kind));
            if method.starts_with("open") {
                assert!(answer.text().starts_with(start), "{path}: {answer:?}");
            }
            assert!(plugin.revoke_permission(&PERMISSION_SYSTEM));
        }
        assert_eq!(plugin.attempt("open", path), REFUSED, "{path}, once it is revoked");
    }
}

#[test]
fn facts_are_the_hosts_own() {
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_SYSTEM));
    let host = |path: &str| fs::read_to_string(path).expect("anybody may read it");
    for path in ["/proc/version", "/proc/sys/kernel/hostname", "/sys/devices/system/cpu/possible"] {
        assert_eq!(plugin.attempt("open", path).text(), host(path), "{path}");
    }
    let memory = |text: String| text.lines().next().map(str::to_owned);
    assert_eq!(memory(plugin.attempt("open", "/proc/meminfo").text()), memory(host("/proc/meminfo")));
    assert!(host("/proc/stat").contains("\nintr "), "outside it is there");
    let stat = plugin.attempt("open", "/proc/stat").text();
    assert!(stat.contains("\nbtime ") && !stat.contains("intr"), "interrupts are nobody's business: {stat}");
}

#[test]
fn a_fact_is_a_copy_of_one_moment_and_nothing_of_the_kernels() {
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_SYSTEM));
    let held = plugin.attempt("held_open", "r\n/proc/uptime").text();
    let first = plugin.attempt("held_read", &held).text();
    rig::wait::until("time to pass", || {
        let now = plugin.attempt("open", "/proc/uptime").text();
        (now != first).then_some(())
    });
    assert_eq!(plugin.attempt("held_read", &held).text(), first);
    plugin.revoke_permission(&PERMISSION_SYSTEM);
    assert_eq!(plugin.attempt("held_open", "r\n/proc/uptime"), REFUSED);
    assert_eq!(plugin.attempt("held_read", &held).text(), first, "what it was told it knows");
}

#[test]
fn the_permission_opens_its_list_and_nothing_beside_it() {
    let both = PluginPolicy::new().permissions([PERMISSION_SYSTEM, PERMISSION_FILE_READ]);
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_SYSTEM));
    let with_files = probe_with(both);
    let host = std::process::id();
    for path in [
        "/proc/self/environ",
        "/proc/self/status",
        "/proc/1/cmdline",
        &format!("/proc/{host}/environ"),
        "/proc/cmdline",
        "/proc/mounts",
        "/proc/net/dev",
        "/proc/sys/kernel/random/boot_id",
        "/proc/../proc/cpuinfo",
        "/proc/cpuinfo/",
        "/sys/class/net",
        "/sys/kernel/uevent_seqnum",
    ] {
        for plugin in [&plugin, &with_files] {
            let answer = plugin.attempt("open", path);
            let hidden =
                matches!(answer, Answer::Errno(libc::EACCES | libc::ENOENT | libc::ELOOP | libc::ENOTDIR));
            assert!(hidden, "{path}: {answer:?}");
        }
    }
    assert_eq!(plugin.attempt("open", "/etc/passwd"), REFUSED);
    assert!(with_files.attempt("open", "/etc/passwd").got_it(), "that is another permission's");
    for path in ["/proc/sys/kernel/hostname", "/etc/hostname", "/proc/uptime"] {
        assert_eq!(plugin.attempt("write_file", path), REFUSED, "{path}");
    }
}

#[test]
fn the_number_of_cpus_is_neutral_without_the_permission_and_true_with_it() {
    let plugin = probe();
    let online = "/sys/devices/system/cpu/online";
    let neutral = plugin.attempt("open", online).text();
    assert!(neutral.starts_with('0'), "{neutral}");
    plugin.grant_permission(PERMISSION_SYSTEM);
    assert_eq!(plugin.attempt("open", online).text(), fs::read_to_string(online).expect("it is there"));
}

#[test]
fn name_memory_and_uptime_are_neutral_without_the_permission_and_true_with_it() {
    let host = nix::sys::utsname::uname().expect("it cannot fail");
    let name = host.nodename().to_string_lossy().into_owned();
    let plugin = probe();
    let before = plugin.attempt("sysinfo", "").text();
    assert_eq!(plugin.attempt("host_name", "").text(), "localhost");
    assert!(before.ends_with(" 0 1"), "no uptime, one process: {before}");
    plugin.grant_permission(PERMISSION_SYSTEM);
    assert_eq!(plugin.attempt("host_name", "").text(), name);
    let outside = match unconfined::attempt("sysinfo", "") {
        unconfined::Outcome::Answered(answer) => answer.text(),
        other => panic!("{other:?}"),
    };
    let memory = |text: &str| text.split(' ').next().map(str::to_owned);
    let inside = plugin.attempt("sysinfo", "").text();
    assert_eq!(memory(&inside), memory(&outside), "the machine's own");
    assert!(memory(&inside) != memory(&before) && !inside.ends_with(" 0 1"), "{inside}");
    plugin.revoke_permission(&PERMISSION_SYSTEM);
    assert_eq!(plugin.attempt("sysinfo", "").text(), before);
    assert_eq!(plugin.attempt("host_name", "").text(), "localhost");
}

#[test]
fn facts_are_asked_about_where_somebody_decides_and_neutral_answers_are_not() {
    let plugin = probe();
    let asked = Arc::new(Mutex::new(Vec::new()));
    plugin.set_decider(PATIENCE, {
        let asked = Arc::clone(&asked);
        move |request| {
            asked.lock().expect("nobody panics with it").push(request.permission.clone());
            Ruling::AllowOnce
        }
    });
    assert_eq!(plugin.attempt("host_name", "").text(), "localhost");
    assert!(plugin.attempt("open", "/sys/devices/system/cpu/online").got_it());
    assert!(asked.lock().expect("as above").is_empty());
    assert!(plugin.attempt("open", "/proc/uptime").got_it());
    assert_eq!(*asked.lock().expect("as above"), [PERMISSION_SYSTEM]);
    assert!(!plugin.has_permission(&PERMISSION_SYSTEM), "that was once");
    plugin.remove_decider();
    assert_eq!(plugin.attempt("open", "/proc/uptime"), REFUSED);
}
