//! What a host lacks or loses in the middle of a load: processes, descriptors, memory, /proc, system calls that its kernel does not
//! have or that somebody refuses, its zygote, its helper. Each is an error that names the thing and the reason, nothing is left
//! behind, and the next load works.
//!
//! Each host is a child. What is refused is refused to one thread of it, which makes the load: whatever that starts inherits it, and
//! the host's other threads go on without.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::child::{self, Part};
use rig::inventory::{Inventory, descendants};
use rig::plugins::{Attempts, explained};
use rig::wait::{PATIENCE, until};
use rig::{library, loaded};
use sandbox_core::{
    Cause, Layer, LayerPolicy, PluginPolicy, PluginSandbox, PluginSandboxError, PluginState, ResourceLimits,
};

use crate::weakened;

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[
    ("calls are refused", calls_are_refused),
    ("ever more processes", ever_more_processes),
    ("ever more descriptors", ever_more_descriptors),
    ("without /proc", without_proc),
    ("helpers are killed", helpers_are_killed),
    ("the launcher is killed", launcher_is_killed),
    ("the zygote is killed", zygote_is_killed),
];

fn policy(layers: LayerPolicy) -> PluginPolicy {
    let limits = ResourceLimits::default().call_timeout(PATIENCE);
    PluginPolicy::new().limits(limits).layers(layers)
}

/// Loads, calls and unloads a plugin.
fn whole(layers: &LayerPolicy) -> Result<PluginSandbox, PluginSandboxError> {
    let plugin = PluginSandbox::new("probe", policy(layers.clone()))?;
    plugin.load_plugin(library("probe"))?;
    plugin.activate_plugin(())?;
    let answer = plugin.call("echo", b"x")?;
    assert_eq!(answer, b"ok x");
    plugin.unload_plugin()?;
    Ok(plugin)
}

#[track_caller]
fn works_again(what: &str) {
    drop(whole(&LayerPolicy::strict()).unwrap_or_else(|error| panic!("after {what}: {}", explained(&error))));
}

/// A system call that is refused, with what of its first argument.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    nr: libc::c_long,
    /// Only if of these bits of the first argument's lower half, those are set.
    flags: Option<(i32, i32)>,
    errno: i32,
}

pub const fn refused(nr: libc::c_long, errno: i32) -> Refusal {
    Refusal { nr, flags: None, errno }
}

pub const fn refused_if(nr: libc::c_long, mask: i32, bits: i32, errno: i32) -> Refusal {
    Refusal { nr, flags: Some((mask, bits)), errno }
}

/// Flags of clone3(2) sit in memory: the C library and ours fall back to clone(2).
const NO_CLONE3: Refusal = refused(libc::SYS_clone3, libc::ENOSYS);
/// What the C library calls to start a program, or to fork.
const PROGRAM: (i32, i32) = (libc::CLONE_THREAD | libc::CLONE_PARENT | libc::CLONE_PIDFD, 0);
const SPAWN: (i32, i32) = (libc::CLONE_VFORK | libc::CLONE_PIDFD, libc::CLONE_VFORK | libc::CLONE_PIDFD);

/// Refuses these calls to the calling thread and to whatever it starts, for good.
pub fn refuse_here(refusals: &[Refusal]) {
    let code = |code: u32| u16::try_from(code).expect("an instruction");
    let instruction = |of: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code(of), jt, jf, k };
    let load = |offset: u32| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equal = |k: u32, jf: u8| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, jf, k);
    let ret = |k: u32| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    const ARGUMENT: u32 = 16; // offsetof(struct seccomp_data, args)
    let mut program = Vec::new();
    for Refusal { nr, flags, errno } in refusals {
        let errno = ret(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned());
        let nr = u32::try_from(*nr).expect("a call's number");
        program.push(load(0));
        match flags {
            None => program.extend([equal(nr, 1), errno]),
            Some((mask, bits)) => program.extend([
                equal(nr, 4),
                load(ARGUMENT),
                instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask.cast_unsigned()),
                equal(bits.cast_unsigned(), 1),
                errno,
            ]),
        }
    }
    program.push(ret(libc::SECCOMP_RET_ALLOW));
    // SAFETY: integers.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let len = u16::try_from(program.len()).expect("a program that fits");
    let fprog = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: as many instructions as it says, which live until the call returns.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const fprog) };
    assert_eq!(rc, 0, "a filter: {}", Errno::last());
}

enum Expected {
    /// No load, for this layer.
    Lacks(Layer),
    /// No load, since the zygote could not be had.
    Zygote,
    /// No load, since the program that is to become launcher, zygote and helpers cannot be started.
    Program,
    /// No load, for something of the host's own.
    Host,
    /// A load all the same, which lacks this layer alone.
    LoadsWithout(Layer),
    /// A load all the same, with every layer that there otherwise is: the helper hands over what the host may not take.
    LoadsHandedOver,
}
use Expected::{Host, Lacks, LoadsHandedOver, LoadsWithout, Program, Zygote};

struct Row {
    name: &'static str,
    refuses: &'static [Refusal],
    /// As root, and as an ordinary user.
    expected: [Expected; 2],
    /// What the error, or the report, must say.
    says: &'static [&'static str],
}

macro_rules! both {
    ($expected:expr) => {
        [$expected, $expected]
    };
}

const ROWS: &[Row] = &[
    Row {
        name: "no thread",
        refuses: &[
            NO_CLONE3,
            refused_if(libc::SYS_clone, libc::CLONE_THREAD, libc::CLONE_THREAD, libc::EAGAIN),
        ],
        expected: both!(Host),
        says: &["thread", "temporarily unavailable"],
    },
    Row {
        name: "no process for the launcher",
        refuses: &[
            NO_CLONE3,
            refused_if(libc::SYS_clone, PROGRAM.0, PROGRAM.1, libc::EAGAIN),
            #[cfg(target_arch = "x86_64")]
            refused(libc::SYS_vfork, libc::EAGAIN),
        ],
        expected: both!(Program),
        says: &["/proc/self/exe", "temporarily unavailable"],
    },
    Row {
        name: "no process for the zygote",
        refuses: &[
            NO_CLONE3,
            refused_if(libc::SYS_clone, libc::CLONE_PARENT, libc::CLONE_PARENT, libc::EAGAIN),
        ],
        expected: both!(Zygote),
        says: &["cloning it", "EAGAIN"],
    },
    Row {
        name: "no process for the helper",
        refuses: &[NO_CLONE3, refused_if(libc::SYS_clone, SPAWN.0, SPAWN.1, libc::EAGAIN)],
        expected: both!(Zygote),
        says: &["cloning a helper", "EAGAIN"],
    },
    Row {
        name: "no program in the zygote's place",
        refuses: &[refused(libc::SYS_execveat, libc::EACCES)],
        expected: both!(Zygote),
        says: &["ready", "ECONNRESET"],
    },
    Row {
        name: "no user namespace",
        refuses: &[
            NO_CLONE3,
            refused_if(libc::SYS_clone, libc::CLONE_NEWUSER, libc::CLONE_NEWUSER, libc::EPERM),
            refused_if(libc::SYS_unshare, libc::CLONE_NEWUSER, libc::CLONE_NEWUSER, libc::EPERM),
        ],
        // Root needs none to have the others; an ordinary user has them by it alone.
        expected: [LoadsWithout(Layer::UserNamespace), Lacks(Layer::PidNamespace)],
        says: &["no namespaces for this user", "EPERM"],
    },
    Row {
        name: "no Landlock",
        refuses: &[refused(libc::SYS_landlock_create_ruleset, libc::ENOSYS)],
        expected: both!(Lacks(Layer::Landlock)),
        says: &["this kernel has no Landlock"],
    },
    Row {
        name: "a Landlock that nobody may use",
        refuses: &[refused(libc::SYS_landlock_restrict_self, libc::EPERM)],
        expected: both!(Lacks(Layer::Landlock)),
        says: &["landlock_restrict_self", "EPERM"],
    },
    Row {
        name: "no seccomp",
        refuses: &[refused(libc::SYS_seccomp, libc::EINVAL)],
        expected: both!(Lacks(Layer::Seccomp)),
        says: &["seccomp", "EINVAL"],
    },
    Row {
        name: "nobody may take the filter's listener",
        refuses: &[refused(libc::SYS_pidfd_getfd, libc::EPERM)],
        expected: both!(LoadsHandedOver),
        says: &["listener handed over"],
    },
    Row {
        name: "nobody may take the filter's listener, and no child shares descriptors",
        refuses: &[
            refused(libc::SYS_pidfd_getfd, libc::EPERM),
            refused_if(libc::SYS_clone, libc::CLONE_FILES | libc::CLONE_VM, libc::CLONE_FILES, libc::EAGAIN),
        ],
        expected: both!(Lacks(Layer::Seccomp)),
        says: &["pidfd_getfd", "EPERM", "handed over", "clone", "EAGAIN"],
    },
    Row {
        name: "no new way to mount",
        refuses: &[refused(libc::SYS_fsopen, libc::ENOSYS)],
        expected: both!(Lacks(Layer::EmptyRoot)),
        says: &["fsopen", "ENOSYS"],
    },
    Row {
        name: "no copies of a file tree",
        refuses: &[refused(libc::SYS_open_tree, libc::EPERM)],
        expected: both!(Lacks(Layer::NoExecFiles)),
        says: &["open_tree", "EPERM"],
    },
    Row {
        name: "no attributes of mounts",
        refuses: &[refused(libc::SYS_mount_setattr, libc::ENOSYS)],
        expected: both!(Lacks(Layer::NoExecFiles)),
        says: &["mount_setattr", "ENOSYS"],
    },
    Row {
        name: "no capability is given up",
        refuses: &[refused(libc::SYS_capset, libc::EPERM)],
        expected: both!(Lacks(Layer::Capabilities)),
        says: &["capset", "EPERM"],
    },
    Row {
        name: "no epoll",
        refuses: &[refused(libc::SYS_epoll_create1, libc::EMFILE)],
        expected: both!(Host),
        says: &["epoll", "Too many open files"],
    },
    Row {
        name: "no socket",
        refuses: &[refused(libc::SYS_socketpair, libc::ENFILE)],
        expected: both!(Zygote),
        says: &["socket", "ENFILE"],
    },
    Row {
        name: "no memory file for the checked bytes",
        refuses: &[refused(libc::SYS_memfd_create, libc::ENOMEM)],
        expected: both!(Host),
        says: &["memory"],
    },
];

/// Whether `found` is what was expected, in words if not.
fn judge(row: &Row, found: Result<PluginSandbox, PluginSandboxError>) -> Result<String, String> {
    let root = nix::unistd::geteuid().is_root();
    let expected = &row.expected[usize::from(!root)];
    let (told, right) = match &found {
        Ok(plugin) => {
            let report = plugin.enforcement_report().expect("there was a load");
            let lacks = |layer| report.layers.iter().find(|one| one.layer == layer && !one.enforced);
            match expected {
                LoadsWithout(layer) => (
                    lacks(*layer).and_then(|layer| layer.why_not.clone()).unwrap_or_default(),
                    lacks(*layer).is_some(),
                ),
                LoadsHandedOver => {
                    let seccomp = report.layer(Layer::Seccomp).expect("every layer is there");
                    (seccomp.evidence.clone(), seccomp.enforced)
                }
                _ => ("it loads".to_owned(), false),
            }
        }
        Err(error) => {
            let right = match (expected, error) {
                (Lacks(layer), PluginSandboxError::LayerMissing { layer: missing, .. }) => layer == missing,
                (Zygote, PluginSandboxError::Zygote { .. })
                | (Program, PluginSandboxError::HelperProgram { .. })
                | (Host, PluginSandboxError::Io { .. } | PluginSandboxError::Library(_)) => true,
                _ => false,
            };
            (explained(error), right)
        }
    };
    let says = row.says.iter().all(|words| told.contains(words));
    if right && says { Ok(told) } else { Err(format!("{}: {told}", row.name)) }
}

fn calls_are_refused(_: &[String]) -> Vec<u8> {
    works_again("nothing");
    let before = Inventory::take();
    let (mut wrong, mut told) = (Vec::new(), String::new());
    for row in ROWS {
        let found = thread::scope(|scope| {
            let loads = scope.spawn(|| {
                refuse_here(row.refuses);
                whole(&LayerPolicy::strict())
            });
            loads.join()
        });
        match found.map_err(|_| format!("{}: a panic", row.name)).and_then(|found| judge(row, found)) {
            Ok(said) => {
                told.push_str(&format!("{}: {}\n", row.name, said.lines().next().unwrap_or_default()))
            }
            Err(said) => wrong.push(said),
        }
        works_again(row.name);
        before.assert_nothing_left();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    told.into_bytes()
}

/// Tries a load under each number that `set` sets, from hardly any to enough, and after each failure one without.
fn ever_more(numbers: impl Iterator<Item = u64>, set: impl Fn(Option<u64>), reasons: &[&str]) -> Vec<u8> {
    works_again("nothing");
    let before = Inventory::take();
    let (mut told, mut worked) = (BTreeMap::new(), 0);
    for number in numbers {
        set(Some(number));
        let found = catch_unwind(AssertUnwindSafe(|| whole(&LayerPolicy::strict())));
        set(None);
        match found {
            Ok(Ok(plugin)) => {
                drop(plugin);
                worked += 1;
            }
            Ok(Err(error)) => {
                let text = explained(&error);
                assert!(
                    reasons.iter().any(|reason| text.contains(reason)),
                    "with {number}: no reason: {text}"
                );
                told.entry(text.lines().next().unwrap_or_default().to_owned()).or_insert(number);
            }
            Err(_) => panic!("with {number}: a panic"),
        }
        works_again(&format!("a load with {number}"));
        before.assert_nothing_left();
        if worked == 3 {
            break;
        }
    }
    assert!(!told.is_empty() && worked > 0, "{told:?}, {worked} worked");
    let lines: Vec<String> = told.iter().map(|(text, number)| format!("with {number}: {text}")).collect();
    lines.join("\n").into_bytes()
}

fn soft(resource: Resource) -> impl Fn(Option<u64>) {
    let (soft, hard) = getrlimit(resource).expect("it can be read");
    move |number| setrlimit(resource, number.unwrap_or(soft), hard).expect("up to the hard limit")
}

fn ever_more_processes(_: &[String]) -> Vec<u8> {
    // This user namespace counts for itself: nobody else's processes are in it.
    ever_more(1..60, soft(Resource::RLIMIT_NPROC), &["temporarily unavailable", "EAGAIN"])
}

fn ever_more_descriptors(_: &[String]) -> Vec<u8> {
    let reasons = ["Too many open files", "EMFILE"];
    ever_more(4..120, soft(Resource::RLIMIT_NOFILE), &reasons)
}

fn without_proc(_: &[String]) -> Vec<u8> {
    // An ordinary user's host plays root in a user namespace of its own, to be able to hide it; such a host has no other ids.
    let layers =
        if Ids::are_there() { LayerPolicy::strict() } else { LayerPolicy::strict().best_effort(Layer::Ids) };
    let again = || drop(whole(&layers).unwrap_or_else(|error| panic!("with it: {}", explained(&error))));
    again();
    let before = Inventory::take();
    let error = thread::scope(|scope| {
        let loads = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("this host may");
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).expect("its own namespace");
            rustix::mount::mount("none", "/proc", "tmpfs", rustix::mount::MountFlags::empty(), None)
                .expect("its own namespace");
            whole(&layers)
        });
        loads.join().expect("no panic").expect_err("there is no /proc")
    });
    let text = explained(&error);
    assert!(matches!(error, PluginSandboxError::HelperProgram { .. }) && text.contains("/proc"), "{text}");
    again();
    before.assert_nothing_left();
    text.into_bytes()
}

struct Ids;

impl Ids {
    /// Whether this host's user namespace has ids beside its own.
    fn are_there() -> bool {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace()
            .nth(2)
            .and_then(|count| count.parse::<u64>().ok())
            .is_some_and(|count| count > 1)
    }
}

fn children_named(name: &str) -> Vec<u32> {
    let all = descendants(std::process::id());
    let is = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.starts_with(name.as_bytes())
    };
    all.into_keys().filter(is).collect()
}

fn end(pid: u32) {
    // It may have ended by itself meanwhile; nobody of this process's reaps it before the zygote has.
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), Signal::SIGKILL);
}

/// Loads again and again, while whoever is called `name` is killed as soon as it is seen. What came of the loads.
fn killing(name: &'static str, least: usize) -> Vec<Result<(), PluginSandboxError>> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let kills = scope.spawn(|| {
            let mut killed = 0;
            while !done.load(Ordering::Relaxed) {
                for pid in children_named(name) {
                    end(pid);
                    killed += 1;
                }
            }
            killed
        });
        let mut results = Vec::new();
        let mut failed = 0;
        while failed < least && results.len() < 400 {
            let result = whole(&LayerPolicy::strict()).map(drop);
            failed += usize::from(result.is_err());
            results.push(result);
        }
        done.store(true, Ordering::Relaxed);
        assert!(kills.join().expect("it ends") > 0, "nobody was seen");
        results
    })
}

fn summary(results: &[Result<(), PluginSandboxError>]) -> Vec<u8> {
    let mut counts = BTreeMap::new();
    for result in results {
        let text = result.as_ref().map_or_else(|error| error.to_string(), |()| "it worked".to_owned());
        *counts.entry(text).or_insert(0) += 1;
    }
    format!("{counts:#?}").into_bytes()
}

fn helpers_are_killed(_: &[String]) -> Vec<u8> {
    works_again("nothing");
    let before = Inventory::take();
    let results = killing("plugin-helper", 40);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        let killed = |cause: &Cause| matches!(cause, Cause::Signal { signal: libc::SIGKILL, .. });
        let right = match error {
            PluginSandboxError::Ended { cause, .. } => killed(cause),
            PluginSandboxError::WrongState { ended: Some(cause), .. } => killed(cause),
            _ => false,
        };
        assert!(right, "{}", explained(error));
    }
    works_again("kills");
    before.assert_nothing_left();
    summary(&results)
}

fn launcher_is_killed(_: &[String]) -> Vec<u8> {
    works_again("nothing");
    let before = Inventory::take();
    let results = killing("plugin-launcher", 10);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(matches!(error, PluginSandboxError::Zygote { .. }), "{}", explained(error));
    }
    works_again("kills");
    before.assert_nothing_left();
    summary(&results)
}

fn zygote_is_killed(_: &[String]) -> Vec<u8> {
    works_again("nothing");
    let before = Inventory::take();
    let active = || {
        let plugin = loaded("probe", policy(LayerPolicy::strict()), library("probe"));
        plugin.activate_plugin(()).expect("it activates");
        let zygote = children_named("plugin-zygote");
        assert_eq!(zygote.len(), 1, "{zygote:?}");
        (plugin, zygote[0])
    };
    let is_lost = |error: &PluginSandboxError| {
        matches!(
            error,
            PluginSandboxError::Ended { cause: Cause::ZygoteLost, .. }
                | PluginSandboxError::WrongState { ended: Some(Cause::ZygoteLost), .. }
        )
    };
    // While nobody does anything.
    let (plugin, zygote) = active();
    end(zygote);
    until("the crash", || (plugin.state() == PluginState::Crashed).then_some(()));
    let error = plugin.refused("echo", "x");
    assert!(is_lost(&error), "{}", explained(&error));
    plugin.load_plugin(library("probe")).expect("by another zygote");
    drop(plugin);
    // During a call.
    let (plugin, zygote) = active();
    let error = thread::scope(|scope| {
        let called = scope.spawn(|| plugin.refused("sleep_forever", ""));
        until("the call", || {
            let helper = plugin.process_id()?;
            let doing = fs::read_to_string(format!("/proc/{helper}/wchan")).ok()?;
            doing.contains("futex").then_some(())
        });
        end(zygote);
        called.join().expect("no panic")
    });
    assert!(is_lost(&error), "{}", explained(&error));
    drop(plugin);
    // While it ends what a plugin has left behind.
    let limits = ResourceLimits::default().call_timeout(PATIENCE);
    let policy = PluginPolicy::new().limits(limits).permission(sandbox_core::PERMISSION_PROCESS);
    let plugin = loaded("probe", policy, library("probe"));
    plugin.activate_plugin(()).expect("it activates");
    assert!(plugin.attempt("sleepers", "4").got_it());
    let zygote = children_named("plugin-zygote");
    thread::scope(|scope| {
        let unloads = scope.spawn(|| plugin.unload_plugin());
        zygote.into_iter().for_each(end);
        // It is gone either way.
        let _ = unloads.join().expect("no panic");
    });
    assert_eq!(plugin.process_id(), None);
    drop(plugin);
    before.assert_nothing_left();
    // In the middle of loads.
    let results = killing("plugin-zygote", 20);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(is_lost(error) || matches!(error, PluginSandboxError::Zygote { .. }), "{}", explained(error));
    }
    works_again("kills");
    before.assert_nothing_left();
    summary(&results)
}

macro_rules! hosts {
    ($($test:ident: $part:literal;)*) => {$(
        #[test]
        fn $test() {
            println!("{}", String::from_utf8_lossy(&child::run($part, &[])));
        }
    )*};
}

hosts! {
    a_call_that_is_refused_is_an_error_that_names_it_and_the_next_load_works: "calls are refused";
    a_host_without_descriptors_at_any_point_of_a_load_gets_an_error_and_loses_nothing: "ever more descriptors";
    a_helper_that_is_killed_at_any_moment_is_an_error_and_the_next_load_works: "helpers are killed";
    a_launcher_that_is_killed_is_an_error_and_the_next_load_works: "the launcher is killed";
    a_zygote_that_is_killed_takes_its_helpers_along_and_the_next_load_works: "the zygote is killed";
}

#[test]
fn a_host_without_processes_at_any_point_of_a_load_gets_an_error_and_loses_nothing() {
    // Root is not counted: the child is an ordinary user, in a user namespace, which counts for itself.
    println!("{}", weakened::play_in_user_namespace("ever more processes", &[], weakened::ORDINARY, true));
}

#[test]
fn a_host_without_proc_is_told_so_and_the_next_load_works() {
    if nix::unistd::geteuid().is_root() {
        println!("{}", String::from_utf8_lossy(&child::run("without /proc", &[])));
    } else {
        println!("{}", weakened::play_in_user_namespace("without /proc", &[], 0, true));
    }
}

/// Of commands that end at once there is always one more than is seen: an application's own children are left alone.
#[test]
fn a_host_that_makes_children_of_its_own_meanwhile_loses_none() {
    thread::scope(|scope| {
        let own = scope
            .spawn(|| (0..40).all(|_| Command::new("true").status().expect("every system has it").success()));
        (0..3).for_each(|_| works_again("nothing"));
        assert!(own.join().expect("it ends"), "each of them was waited for by who made it");
    });
}

#[test]
fn a_helper_that_ends_before_any_step_is_an_error_and_the_next_load_works() {
    for step in 1..=11 {
        let policy = policy(LayerPolicy::strict().ending_before(step));
        let sandbox = PluginSandbox::new("probe", policy).expect("a sandbox");
        let error = sandbox.load_plugin(library("probe")).expect_err("its helper ends");
        let PluginSandboxError::Ended { cause: Cause::Signal { signal: libc::SIGKILL, .. }, .. } = &error
        else {
            panic!("step {step}: {}", explained(&error))
        };
        // One that ends before the first may be reaped before the host knows it: it was never this plugin's then.
        let unknown = step == 1 && sandbox.state() == PluginState::Registered;
        let state = if unknown { PluginState::Registered } else { PluginState::Crashed };
        assert_eq!((sandbox.process_id(), sandbox.state()), (None, state), "step {step}");
        works_again("its end");
    }
}
