//! What no plugin may do: each attempt's exact outcome inside, and its success outside, by the same code.
//!
//! The attempts are the rows of `tests/containment`, which `plugin-host prove` tries too; what is beside them here needs more
//! than one plugin, or another look.

use ::containment::inventory::Inventory;
use ::containment::run::Unshown;
use ::containment::{Group, Rig, Stage, Verdict, table};
use rig::child::{self, Part};
use rig::plugins::Attempts;
use rig::unconfined::{self, Outcome};
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, probe, probe_with};
use sandbox_core::{
    Cause, PERMISSION_PROCESS, PluginPermission, PluginPolicy, PluginSandbox, PluginSandboxError,
    PluginState, STANDARD_PERMISSIONS,
};

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[("a group of rows", group_of_rows)];

macro_rules! groups {
    ($($test:ident: $group:ident;)*) => {
        $(
            #[test]
            fn $test() {
                print!("{}", String::from_utf8_lossy(&child::run("a group of rows", &[Group::$group.name()])));
            }
        )*

        #[test]
        fn every_row_belongs_to_a_group_that_is_tried() {
            let tried = [$(Group::$group),*];
            for row in table() {
                assert!(tried.contains(&row.group), "{}: {}", row.group, row.name);
            }
        }
    };
}

groups! {
    every_row_about_files_holds: Files;
    every_row_about_the_network_holds: Network;
    every_row_about_processes_holds: Processes;
    every_row_about_the_kernel_holds: Kernel;
    every_row_about_exhaustion_holds: Exhaustion;
    every_row_about_the_protocol_holds: Protocol;
    every_row_about_the_loader_holds: Loader;
    every_row_about_information_holds: Information;
    every_row_about_the_life_cycle_holds: Lifecycle;
}

/// A host of its own tries them, so that what they leave behind can be counted.
fn group_of_rows(arguments: &[String]) -> Vec<u8> {
    let group: Group = arguments[0].parse().expect("the test names one");
    let rig = Rig {
        probes: rig::libraries::folder().to_owned(),
        starter: Box::new(unconfined::starter),
        policy: Box::new(|policy| policy),
        patience: PATIENCE,
    };
    let before = Inventory::take();
    let mut wrong = Vec::new();
    let mut told = String::new();
    {
        let stage = Stage::new(&rig).unwrap_or_else(|error| panic!("{error}"));
        for row in table().into_iter().filter(|row| row.group == group) {
            match stage.judge(&row).verdict {
                Verdict::Held => {}
                Verdict::NotShown(why @ (Unshown::NeedsRoot | Unshown::NoSuchCall | Unshown::Filtered)) => {
                    told.push_str(&format!("not shown: {}: {why}\n", row.name));
                }
                Verdict::NotShown(why) => wrong.push(format!("{}: not shown: {why}", row.name)),
                Verdict::NotHeld(why) => wrong.push(format!("{}: {}", row.name, why.join("; "))),
            }
        }
    }
    wrong.extend(before.left().into_iter().map(|left| format!("left behind: {left}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    told.into_bytes()
}

#[test]
fn no_two_rows_are_called_alike() {
    let mut names: Vec<_> = table().into_iter().map(|row| row.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn what_has_no_harmless_control_is_refused_too() {
    let refused = |payload: String, errno: i32| {
        for policy in [PluginPolicy::new(), PluginPolicy::new().permissions(without_programs())] {
            let plugin = probe_with(policy);
            assert_eq!(plugin.attempt("syscall", &payload), Answer::Errno(errno), "{payload}");
            assert_eq!(plugin.state(), PluginState::Active, "{payload}");
        }
    };
    refused(format!("{} 17 0 0 0 0", libc::SYS_clone), libc::EPERM); // a fork whose child would answer as well
    refused(format!("{} 0 0x5412 0", libc::SYS_ioctl), libc::ENOTTY); // TIOCSTI, which needs a terminal to type into
    refused("600".to_owned(), libc::ENOSYS); // a call of a kernel to come
    #[cfg(target_arch = "x86_64")]
    refused(libc::SYS_vfork.to_string(), libc::EPERM); // a child in its parent's very frame
    let ends = |method: &str, payload: String| match probe().refused(method, &payload) {
        PluginSandboxError::Ended { cause: Cause::ForbiddenCall { .. }, .. } => {}
        other => panic!("{method} {payload}: {other}"),
    };
    ends("ptrace", String::new()); // whoever is traced by its parent is never quite gone before that has waited for it
    #[cfg(target_arch = "x86_64")]
    ends("syscall", (1_i64 << 31 | libc::SYS_getpid).to_string()); // a number with a bit too many
}

fn without_programs() -> impl Iterator<Item = PluginPermission> {
    STANDARD_PERMISSIONS.into_iter().filter(|permission| *permission != PERMISSION_PROCESS)
}

#[test]
fn closing_a_range_of_descriptors_stays_its_own_affair() {
    let answer = probe().attempt("syscall", format!("{} 100000 4294967295 0", libc::SYS_close_range));
    assert!(answer.got_it(), "{answer:?}");
}

/// The CPU clock of a process: clock_getcpuclockid(3).
fn cpu_clock_of(pid: u32) -> i32 {
    const SCHEDULED: u32 = 2;
    (!pid << 3 | SCHEDULED).cast_signed()
}

#[test]
fn its_own_clocks_are_read_in_every_way() {
    let plugin = probe();
    for clock in [cpu_clock_of(0), cpu_clock_of(own_id(&plugin))] {
        let answer = plugin.attempt("syscall", format!("{} {clock} q:0,0", libc::SYS_clock_gettime));
        assert!(answer.got_it(), "its own clock: {answer:?}");
    }
    let Outcome::Answered(outside) = unconfined::attempt("own_clocks", "") else {
        panic!("the control answers")
    };
    assert_eq!(plugin.attempt("own_clocks", "").text(), outside.text(), "its own, in every way");
}

#[test]
fn nothing_is_written_or_made_where_nothing_is_granted() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let (folder, new) = (scratch.at("folder"), scratch.at("new"));
    let mode = format!("{} s:{file} 511", libc::SYS_chmod);
    let attempts = [
        ("mkdir", &folder),
        ("write_file", &new),
        ("write_file", &file),
        ("syscall", &mode),
        ("unlink", &file),
    ];
    let plugin = probe();
    for (method, payload) in attempts {
        assert_eq!(plugin.attempt(method, payload), Answer::Errno(libc::EACCES), "{method} {payload}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "contents");
    assert!(!std::path::Path::new(&new).exists() && !std::path::Path::new(&folder).exists());
    for (method, payload) in attempts {
        assert!(unconfined::attempt(method, payload).reached(), "{method} {payload} works outside");
    }
}

#[test]
fn a_refusal_of_the_brokers_is_reported() {
    let plugin = probe();
    let events = plugin.events();
    assert_eq!(plugin.attempt("socket", ""), Answer::Errno(libc::EACCES));
    rig::events::expect(&events, "a refused socket", |kind| match kind {
        sandbox_core::EventKind::Access { permission, action: "socket", granted: false, .. } => {
            (*permission == "network").then_some(())
        }
        _ => None,
    });
    assert_eq!(plugin.attempt("exec", "/bin/true"), Answer::Errno(libc::EACCES));
    rig::events::expect(&events, "a refused program", |kind| match kind {
        sandbox_core::EventKind::Access { permission, action: "execve", granted: false, .. } => {
            (*permission == "process").then_some(())
        }
        _ => None,
    });
}

/// The facts that a plugin finds, by name.
fn facts(text: &str) -> std::collections::HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// The process's id as the plugin itself sees it, in the namespace that it shares with others.
fn own_id(plugin: &PluginSandbox) -> u32 {
    facts(&plugin.attempt("facts", "").text())["pid"].parse().expect("a number")
}

#[test]
fn a_plugin_sees_a_place_that_tells_nothing() {
    let Outcome::Answered(outside) = unconfined::attempt("facts", "") else { panic!("the control answers") };
    let (outside, inside) = (outside.text(), probe().attempt("facts", "").text());
    let (outside, inside) = (facts(&outside), facts(&inside));
    assert_eq!(inside["no_new_privs"], "1");
    assert_eq!(inside["capabilities"], "none");
    assert_eq!(inside["variables"], "0", "an empty environment");
    assert_ne!(outside["variables"], "0");
    for id in ["uid", "euid", "gid"] {
        assert_ne!(inside[id], "0", "not even inside its own namespace");
    }
    assert_eq!(inside["sysname"], "Linux");
    assert_ne!(inside["version"], outside["version"], "which kernel it is stays untold");
    assert_eq!(inside["nodename"], "localhost");
    assert_ne!(inside["cpus"], "0");
}

#[test]
fn a_plugin_holds_its_channel_and_nothing_else() {
    assert_eq!(probe().attempt("descriptors", "").text(), "0:device 1:pipe 2:pipe 3:pipe 4:pipe");
    let policy = PluginPolicy::new().permissions(STANDARD_PERMISSIONS);
    assert_eq!(probe_with(policy).attempt("descriptors", "").text(), "0:device 1:pipe 2:pipe 3:pipe 4:pipe");
}

#[test]
fn two_plugins_cannot_touch_each_other() {
    let (one, other) = (probe(), probe());
    let (id, others) = (own_id(&one), own_id(&other));
    assert_eq!(one.attempt("kill", others.to_string()), Answer::Errno(libc::EPERM));
    assert_eq!(other.attempt("kill", id.to_string()), Answer::Errno(libc::EPERM));
    assert!(one.attempt("kill", id.to_string()).got_it(), "only itself");
    let clock = format!("{} {} q:0,0", libc::SYS_clock_gettime, cpu_clock_of(others));
    assert_eq!(
        one.attempt("syscall", &clock),
        Answer::Errno(libc::EPERM),
        "how busy it is, it does not tell"
    );
    assert!(other.attempt("syscall", clock).got_it(), "but to itself");
}
