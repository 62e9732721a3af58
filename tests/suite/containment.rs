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
    every_row_about_the_kernel_holds: Kernel;
}

/// A host of its own tries them, so that what they leave behind can be counted.
fn group_of_rows(arguments: &[String]) -> Vec<u8> {
    let group: Group = arguments[0].parse().expect("the test names one");
    let rig = Rig {
        probes: rig::libraries::folder().to_owned(),
        starter: Box::new(unconfined::starter),
        policy: Box::new(|policy| policy),
    };
    let before = Inventory::take();
    let mut wrong = Vec::new();
    let mut told = String::new();
    {
        let stage = Stage::new(&rig).unwrap_or_else(|error| panic!("{error}"));
        for row in table().into_iter().filter(|row| row.group == group) {
            match stage.judge(&row).verdict {
                Verdict::Held => {}
                Verdict::NotShown(why @ (Unshown::NeedsRoot | Unshown::NoSuchCall)) => {
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

/// What becomes of an attempt in the sandbox.
#[derive(Debug, Clone, Copy)]
enum Confined {
    /// Exactly this error.
    Errno(i32),
    /// The plugin ends for a forbidden call.
    Killed,
}

/// What becomes of it outside, in a bounded and harmless form.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Control {
    /// It works.
    Works,
    /// It needs more rights than an ordinary user has, so that only root's control says something.
    WorksForRoot,
    /// It is not done outside, or fails there for its arguments: only the errno tells that the sandbox was asked first.
    NotTried,
}

struct Probe {
    name: &'static str,
    method: &'static str,
    payload: String,
    control: Control,
    confined: Confined,
}

fn probe_of(
    name: &'static str,
    method: &'static str,
    payload: impl Into<String>,
    control: Control,
    confined: Confined,
) -> Probe {
    Probe { name, method, payload: payload.into(), control, confined }
}

/// A raw call by its number.
fn raw(name: &'static str, nr: libc::c_long, arguments: &str, control: Control, confined: Confined) -> Probe {
    probe_of(name, "syscall", format!("{nr} {arguments}"), control, confined)
}

fn check(probes: Vec<Probe>) {
    check_with(probes, STANDARD_PERMISSIONS.to_vec());
}

/// `granted`: the most that may be granted without anything of this becoming possible.
fn check_with(probes: Vec<Probe>, granted: Vec<PluginPermission>) {
    let root = nix::unistd::geteuid().is_root();
    let mut wrong = Vec::new();
    for Probe { name, method, payload, control, confined } in probes {
        if control == Works || (control == WorksForRoot && root) {
            let outside = unconfined::attempt(method, &payload);
            if !outside.reached() {
                wrong.push(format!("{name}: the control does not work: {outside:?}"));
            }
        }
        // Whatever is granted: none of this is to be had in this version.
        for (policy, granted) in [
            (PluginPolicy::new(), "nothing"),
            (PluginPolicy::new().permissions(granted.clone()), "everything"),
        ] {
            let plugin = probe_with(policy);
            let inside = plugin.call(method, payload.as_bytes());
            let right = match (&inside, confined) {
                (Ok(reply), Confined::Errno(errno)) => Answer::read(reply) == Answer::Errno(errno),
                // The very call that was tried, where the kernel tells which it was.
                (
                    Err(PluginSandboxError::Ended { cause: Cause::ForbiddenCall { number, .. }, .. }),
                    Killed,
                ) => {
                    let tried = payload.split(' ').next();
                    method != "syscall" || number.is_none_or(|nr| tried == Some(nr.to_string().as_str()))
                }
                _ => false,
            };
            if !right {
                let shown = inside
                    .map(|reply| format!("{:?}", Answer::read(&reply)))
                    .map_err(|error| error.to_string());
                wrong
                    .push(format!("{name} with {granted} granted: expected {confined:?}, came to {shown:?}"));
            }
            if matches!(confined, Confined::Errno(_)) && plugin.state() != PluginState::Active {
                wrong.push(format!("{name}: the plugin is {}", plugin.state()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const EACCES: Confined = Confined::Errno(libc::EACCES);
const EPERM: Confined = Confined::Errno(libc::EPERM);
const ENOSYS: Confined = Confined::Errno(libc::ENOSYS);
use Confined::Killed;
use Control::{NotTried, Works, WorksForRoot};

#[test]
fn no_socket_but_those_of_tcp_and_udp() {
    let errno = Confined::Errno;
    check(vec![
        raw("makes a Unix socket", libc::SYS_socket, "1 1 0", Works, EACCES),
        raw("makes a netlink socket", libc::SYS_socket, "16 3 0", Works, errno(libc::EAFNOSUPPORT)),
        raw("makes a raw socket", libc::SYS_socket, "2 3 1", WorksForRoot, EPERM),
        raw("makes a packet socket", libc::SYS_socket, "17 3 0", WorksForRoot, errno(libc::EAFNOSUPPORT)),
        raw("makes another protocol's", libc::SYS_socket, "2 1 262", NotTried, errno(libc::EPROTONOSUPPORT)),
        raw("makes a pair of another family", libc::SYS_socketpair, "2 1 0 0", NotTried, EACCES),
    ]);
}

#[test]
fn no_process_and_no_program() {
    let others: Vec<_> = STANDARD_PERMISSIONS.into_iter().filter(|of| *of != PERMISSION_PROCESS).collect();
    let probes = vec![
        probe_of("forks", "fork", "", Works, EPERM),
        raw("forks the old way", libc::SYS_clone, "17 0 0 0 0", NotTried, EPERM),
        raw("forks in its parent's memory", libc::SYS_vfork, "", NotTried, EPERM),
    ];
    check_with(probes, others);
    check(vec![
        raw("clones the new way", libc::SYS_clone3, "0 0", NotTried, ENOSYS),
        probe_of("becomes another program", "exec", "/bin/true", Works, EACCES),
        raw("becomes a program by descriptor", libc::SYS_execveat, "0 s: 0 0 4096", NotTried, EACCES),
        raw("clones a thread in a namespace", libc::SYS_clone, "0x103d0f00 0 0 0 0", NotTried, EPERM),
        raw("makes namespaces", libc::SYS_unshare, "0x10000000", NotTried, Killed),
    ]);
}

#[test]
fn no_other_process_is_touched() {
    let host = std::process::id();
    check(vec![
        probe_of("signals the host", "kill", host.to_string(), Works, EPERM),
        probe_of("signals the first process", "kill", "1", WorksForRoot, EPERM),
        raw("signals everybody", libc::SYS_kill, "-1 0", Works, EPERM),
        raw("signals another's thread", libc::SYS_tgkill, &format!("{host} {host} 0"), Works, EPERM),
        raw("takes hold of the host", libc::SYS_pidfd_open, &format!("{host} 0"), Works, EPERM),
        raw("reads the limits of the host", libc::SYS_prlimit64, &format!("{host} 7 0 0"), Works, EPERM),
        raw("raises its own limits", libc::SYS_setrlimit, "7 0", NotTried, EPERM),
        // Not tried: a thread that is traced by its parent is never quite gone before that has waited for it.
        raw("raises them the new way", libc::SYS_prlimit64, "0 7 4096 0", NotTried, EPERM),
        raw("lets others look into it", libc::SYS_prctl, "4 1 0 0 0", Works, EPERM),
        raw("types into a terminal", libc::SYS_ioctl, "0 0x5412 0", NotTried, Confined::Errno(libc::ENOTTY)),
        probe_of("is traced", "ptrace", "", NotTried, Killed),
        raw(
            "reads the host's memory",
            libc::SYS_process_vm_readv,
            &format!("{host} 0 0 0 0 0"),
            NotTried,
            Killed,
        ),
        raw(
            "compares itself with the host",
            libc::SYS_kcmp,
            &format!("{host} {host} 0 0 0"),
            NotTried,
            Killed,
        ),
    ]);
}

#[test]
fn no_new_code_and_no_shared_memory() {
    check(vec![
        probe_of("turns a page into code", "mprotect_exec", "", Works, EACCES),
        probe_of("maps memory that is writable code", "mmap_exec", "", Works, EPERM),
        probe_of("maps shared memory", "mmap_shared", "", Works, EPERM),
        probe_of("shares a device's memory", "mmap_shared_device", "", Works, EACCES),
        probe_of("maps memory that grows as a stack does", "mmap_growing", "", Works, EPERM),
        probe_of("makes a memory file", "memfd", "", Works, EPERM),
        raw("makes System V memory", libc::SYS_shmget, "0 4096 0x380", NotTried, EPERM),
    ]);
}

#[test]
fn no_table_of_descriptors_beside_the_one_that_is_counted() {
    check(vec![raw("unshares its table", libc::SYS_close_range, "100000 4294967295 2", Works, EPERM)]);
    let answer = probe().attempt("syscall", format!("{} 100000 4294967295 0", libc::SYS_close_range));
    assert!(answer.got_it(), "closing stays its own affair: {answer:?}");
}

/// The CPU clock of a process: clock_getcpuclockid(3).
fn cpu_clock_of(pid: u32) -> i32 {
    const SCHEDULED: u32 = 2;
    (!pid << 3 | SCHEDULED).cast_signed()
}

#[test]
fn no_clock_of_another_process() {
    let (host, first) = (cpu_clock_of(std::process::id()), cpu_clock_of(1));
    check(vec![
        raw("reads the host's", libc::SYS_clock_gettime, &format!("{host} q:0,0"), Works, EPERM),
        raw("reads the first process's", libc::SYS_clock_gettime, &format!("{first} q:0,0"), Works, EPERM),
        raw("asks whether there is one", libc::SYS_clock_getres, &format!("{first} q:0,0"), Works, EPERM),
        raw("waits for one", libc::SYS_clock_nanosleep, &format!("{first} 1 q:0,1 0"), Works, EPERM),
        raw("is woken by one", libc::SYS_timer_create, &format!("{first} 0 q:0"), Works, EPERM),
    ]);
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
fn no_device_is_made() {
    let scratch = Scratch::new();
    let device = format!("s:{} 8630 259", scratch.at("null"));
    check(vec![raw("makes a device", libc::SYS_mknod, &device, NotTried, EACCES)]);
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
fn the_kernels_doors_are_shut() {
    check(vec![
        raw("mounts", libc::SYS_mount, "0 0 0 0 0", NotTried, Killed),
        raw("pivots the root", libc::SYS_pivot_root, "0 0", NotTried, Killed),
        raw("changes the root", libc::SYS_chroot, "s:/", NotTried, Killed),
        raw("copies a mount tree", libc::SYS_open_tree, "-100 s:/ 0", NotTried, Killed),
        raw("enters a namespace", libc::SYS_setns, "0 0", NotTried, Killed),
        raw("installs a filter", libc::SYS_seccomp, "1 0 0", NotTried, Killed),
        raw("loads BPF", libc::SYS_bpf, "0 0 0", NotTried, Killed),
        raw("handles its own faults", libc::SYS_userfaultfd, "0", NotTried, Killed),
        raw("counts events", libc::SYS_perf_event_open, "0 0 -1 -1 0", NotTried, Killed),
        raw("keeps keys", libc::SYS_add_key, "0 0 0 0 0", NotTried, Killed),
        raw("opens by handle", libc::SYS_open_by_handle_at, "-100 0 0", NotTried, Killed),
        raw("restarts the machine", libc::SYS_reboot, "0 0 0 0", NotTried, Killed),
        raw("sets up io_uring", libc::SYS_io_uring_setup, "1 0", NotTried, ENOSYS),
        raw("makes a call of a kernel to come", 600, "", NotTried, ENOSYS),
        raw("filters the old way", libc::SYS_prctl, "22 2 0 0 0", NotTried, EPERM),
        raw("becomes root", libc::SYS_setuid, "0", WorksForRoot, EPERM),
        raw("raises its priority", libc::SYS_setpriority, "0 0 -5", WorksForRoot, EPERM),
    ]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn another_architectures_calls_end_the_plugin() {
    const X32: libc::c_long = 0x4000_0000;
    check(vec![
        probe_of("asks for its id as a 32-bit program", "int80", "", NotTried, Killed),
        raw("asks for its id as an x32 program", X32 | libc::SYS_getpid, "", NotTried, Killed),
        raw(
            "asks for its id as itself, with a bit too many",
            1 << 31 | libc::SYS_getpid,
            "",
            NotTried,
            Killed,
        ),
    ]);
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
