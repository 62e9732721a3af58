//! The filter three ways: what docs/syscalls.md says, what the compiled programs say when they are judged in user space, and what
//! the running kernel does. All must agree, for every number and for arguments around each value that is compared.
//!
//! The kernel is asked in a child with the very filters of a helper, whose listener this test holds: every notified call is
//! answered with an errno that no call has. What is allowed is made with arguments of which it can only fail.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use rig::child::{self, Part};
use sandbox_core::test_support::{FilterProgram, document, evaluate, filter_programs, is_forbidden, numbers};

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[("three ways", three_ways)];

const PAGE: &str = include_str!("../../docs/syscalls.md");

/// No call of the kernel's fails with this, and the C library still takes it for an errno.
const MARKER: i32 = 3333;

/// How many numbers beyond the greatest that is known are tried too: calls of kernels to come.
const BEYOND: i64 = 200;

/// Calls that are allowed and cannot be made harmlessly.
const NOT_MADE: [(&str, &str); 2] = [
    ("rt_sigreturn", "it takes whatever is on the stack for registers"),
    ("pause", "it waits until a signal comes"),
];

/// uretprobe and uprobe, which kernels that have them run past every filter: who makes one without being watched gets SIGILL, or
/// ENXIO.
#[cfg(target_arch = "x86_64")]
const PAST_FILTERS: [i64; 2] = [335, 336];
#[cfg(not(target_arch = "x86_64"))]
const PAST_FILTERS: [i64; 0] = [];

/// Other arguments than all ones, where those would do something.
const HARMLESS: [(&str, [u64; 6]); 2] = [
    ("umask", [0o022, 0, 0, 0, 0, 0]), // all ones would hide this child's report from its parent
    ("alarm", [0; 6]),
];

#[test]
fn the_document_of_system_calls_is_the_table() {
    if cfg!(not(target_arch = "x86_64")) {
        println!("NOT PROVEN: the page is made on x86-64");
        return;
    }
    if std::env::var_os("UPDATE").is_some() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/syscalls.md");
        fs::write(page, document()).expect("the repository can be written");
        return;
    }
    let (is, should) = (PAGE.lines(), document());
    let differs = is.zip(should.lines()).find(|(is, should)| is != should);
    assert!(PAGE == should, "docs/syscalls.md is out of date, its head says how to make it: {differs:?}");
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Allowed,
    Asked,
    /// Notified like a call that is asked about, and never answered.
    Ends,
    Enosys,
    /// Raises SIGSYS.
    Trapped,
}

/// A row of the page.
#[derive(Debug, Clone)]
enum Rule {
    Always(Becomes),
    AskedIf(Vec<Vec<Condition>>),
}

/// A condition as the page words it.
#[derive(Debug, Clone)]
struct Condition {
    int: bool,
    argument: usize,
    holds: Holds,
}

#[derive(Debug, Clone)]
enum Holds {
    Is(u64),
    NoneOf(Vec<u64>),
    Has(u64),
    Lacks(u64),
    Masked(u64, u64),
}

/// The page's rows, read back from its text.
fn read_page(own_pid: u32, empty_root: bool) -> BTreeMap<i64, (String, Rule)> {
    let numbers = numbers();
    let mut rules = BTreeMap::new();
    let (everywhere, elsewhere) = PAGE.split_once("\n## ").expect("the page has two tables");
    for part in [Some(everywhere), Some(elsewhere).filter(|_| !empty_root)].into_iter().flatten() {
        for line in part.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, becomes, condition, why] = cells[..] else { panic!("no row of four: {line}") };
            assert!(!why.is_empty(), "a row without a reason: {line}");
            let name = name.trim_matches('`');
            let rule = match becomes {
                "allowed" => Rule::Always(Becomes::Allowed),
                "asked" => Rule::Always(Becomes::Asked),
                "ends" => Rule::Always(Becomes::Ends),
                "asked if" => {
                    Rule::AskedIf(condition.split("; or ").map(|all| read_all(all, own_pid)).collect())
                }
                other => panic!("nothing becomes {other}: {line}"),
            };
            let number = *numbers.get(name).unwrap_or_else(|| panic!("no call of this machine: {line}"));
            rules.insert(number, (name.to_owned(), rule));
        }
    }
    rules
}

fn read_all(all: &str, own_pid: u32) -> Vec<Condition> {
    all.split(" and ").map(|text| read_condition(text, own_pid)).collect()
}

fn read_condition(text: &str, own_pid: u32) -> Condition {
    let (int, rest) = text.strip_prefix("int ").map_or((false, text), |rest| (true, rest));
    let rest = rest.strip_prefix("arg").unwrap_or_else(|| panic!("no condition: {text}"));
    let (argument, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("no condition: {text}"));
    let value = |text: &str| read_value(text, own_pid);
    let holds = if let Some(rest) = rest.strip_prefix("& ") {
        let (mask, rest) = rest.split_once(" is ").unwrap_or_else(|| panic!("no mask: {text}"));
        Holds::Masked(value(mask), value(rest))
    } else if let Some(list) = rest.strip_prefix("is none of ") {
        Holds::NoneOf(list.split(' ').map(value).collect())
    } else if let Some(one) = rest.strip_prefix("is not ") {
        Holds::NoneOf(vec![value(one)])
    } else if let Some(one) = rest.strip_prefix("is ") {
        Holds::Is(value(one))
    } else if let Some(bits) = rest.strip_prefix("has ") {
        Holds::Has(value(bits))
    } else if let Some(bits) = rest.strip_prefix("lacks ") {
        Holds::Lacks(value(bits))
    } else {
        panic!("no condition: {text}")
    };
    Condition { int, argument: argument.parse().expect("a register's number"), holds }
}

fn read_value(text: &str, own_pid: u32) -> u64 {
    if text == "own-pid" {
        return own_pid.into();
    }
    if let Some(which) = text.strip_prefix("own-clock-") {
        // clock_getcpuclockid(3)
        return (!own_pid << 3 | which.parse::<u32>().expect("0 to 2")).into();
    }
    let number = text.split_once('(').map_or(text, |(_, number)| number.trim_end_matches(')'));
    let read = match number.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => number.parse(),
    };
    read.unwrap_or_else(|_| panic!("no value: {text}"))
}

impl Condition {
    fn is_true(&self, args: &[u64; 6]) -> bool {
        let argument = if self.int { args[self.argument] & 0xffff_ffff } else { args[self.argument] };
        match &self.holds {
            Holds::Is(value) => argument == *value,
            Holds::NoneOf(values) => !values.contains(&argument),
            Holds::Has(bits) => argument & bits == *bits,
            Holds::Lacks(bits) => argument & bits == 0,
            Holds::Masked(mask, value) => argument & mask == *value,
        }
    }

    fn values(&self) -> Vec<u64> {
        match &self.holds {
            Holds::Is(value) | Holds::Has(value) | Holds::Lacks(value) => vec![*value],
            Holds::NoneOf(values) => values.clone(),
            Holds::Masked(mask, value) => vec![*mask, *value],
        }
    }
}

impl Rule {
    fn says(&self, args: &[u64; 6]) -> Becomes {
        match self {
            Self::Always(becomes) => *becomes,
            Self::AskedIf(lists) if lists.iter().any(|list| list.iter().all(|one| one.is_true(args))) => {
                Becomes::Asked
            }
            Self::AskedIf(_) => Becomes::Allowed,
        }
    }
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Arguments to try: all ones but where something is compared, there what is around each value, in both halves.
fn samples(name: &str, rule: &Rule, random: &mut Random) -> Vec<[u64; 6]> {
    let plain = HARMLESS.iter().find(|(known, _)| *known == name).map_or([u64::MAX; 6], |(_, args)| *args);
    let lists = match rule {
        Rule::Always(Becomes::Allowed) => return vec![plain],
        // Never made: any arguments will do.
        Rule::Always(_) => {
            return vec![plain, [0; 6], std::array::from_fn(|_| random.next())];
        }
        Rule::AskedIf(lists) => lists,
    };
    let mut compared: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for condition in lists.iter().flatten() {
        let around = condition.values().into_iter().flat_map(|value| {
            let upper = value | 1 << 32;
            [
                value,
                value.wrapping_add(1),
                value.wrapping_sub(1),
                upper,
                value | 1 << 63,
                value & (value >> 1),
            ]
        });
        compared.entry(condition.argument).or_default().extend(around);
    }
    let mut all = vec![plain];
    for (argument, mut values) in compared {
        values.extend([0, 1, u64::MAX, 1 << 32, u64::MAX << 32]);
        // Every bit, and random ones in either half.
        values.extend((0..64).map(|bit| 1 << bit));
        values.extend((0..8).map(|_| random.next() & 0xffff_ffff));
        values.extend((0..8).map(|_| random.next()));
        values.sort_unstable();
        values.dedup();
        let mut with: Vec<[u64; 6]> = all
            .iter()
            .flat_map(|args| {
                values.iter().map(move |value| {
                    let mut args = *args;
                    args[argument] = *value;
                    args
                })
            })
            .collect();
        // Two arguments are tried together, within reason: each value at least once with some of the other's.
        const MOST: usize = 2000;
        if with.len() > MOST {
            let step = with.len().div_ceil(MOST) | 1;
            with = with.into_iter().step_by(step).collect();
        }
        all = with;
    }
    all
}

fn judged(programs: &[FilterProgram], nr: i64, args: [u64; 6]) -> Becomes {
    let answer = evaluate(programs, u32::try_from(nr).expect("a call's number"), args);
    match answer & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ALLOW => Becomes::Allowed,
        libc::SECCOMP_RET_USER_NOTIF if is_forbidden(nr) => Becomes::Ends,
        libc::SECCOMP_RET_USER_NOTIF => Becomes::Asked,
        libc::SECCOMP_RET_TRAP => Becomes::Trapped,
        libc::SECCOMP_RET_ERRNO if answer & libc::SECCOMP_RET_DATA == libc::ENOSYS.cast_unsigned() => {
            Becomes::Enosys
        }
        other => panic!("no answer of ours: {other:#x}"),
    }
}

fn call(nr: i64, args: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: either never made, or with arguments of which none names memory of this process or an open descriptor.
    let rc = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if rc == -1 { Errno::last_raw() } else { 0 }
}

/// A program as the kernel takes it, and whether it notifies.
type ForKernel = (Vec<libc::sock_filter>, bool);

fn for_kernel(programs: &[FilterProgram]) -> Vec<ForKernel> {
    let instruction = |(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k };
    let program =
        |of: &FilterProgram| (of.instructions().into_iter().map(instruction).collect(), of.notifies);
    programs.iter().map(program).collect()
}

/// Puts the filters upon this thread. The listener, a number in this process.
fn confine_thread(programs: &[ForKernel]) -> RawFd {
    // SAFETY: integers.
    let rc = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(rc, 0, "no_new_privs: {}", Errno::last());
    let mut listener = -1;
    for (program, notifies) in programs {
        let flags = if *notifies { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
        let len = u16::try_from(program.len()).expect("a program that fits");
        let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
        // SAFETY: as many instructions as it says, which live until the call returns.
        let rc = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog)
        };
        assert!(rc >= 0, "a filter: {}", Errno::last());
        if *notifies {
            listener = RawFd::try_from(rc).expect("a descriptor");
        }
    }
    listener
}

/// Answers every notification with [`MARKER`].
fn answer_all(listener: RawFd) {
    loop {
        // SAFETY: plain numbers, for which zero is a value.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: writes one notification, which `asked` is, zeroed as the kernel demands.
        let rc = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        if rc != 0 {
            assert!(matches!(Errno::last(), Errno::EINTR | Errno::ENOENT), "receiving: {}", Errno::last());
            continue;
        }
        let mut answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error: -MARKER, flags: 0 };
        // SAFETY: reads one answer, which `answer` is.
        let rc = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
        assert!(rc == 0 || Errno::last() == Errno::ENOENT, "answering: {}", Errno::last());
    }
}

fn three_ways(arguments: &[String]) -> Vec<u8> {
    let empty_root = arguments == ["empty root"];
    let own_pid = std::process::id();
    let programs = filter_programs(own_pid, empty_root);
    let rules = read_page(own_pid, empty_root);
    let greatest = *rules.keys().next_back().expect("the page has rows");
    let to_kernel = for_kernel(&programs);

    let (ask, asked) = mpsc::channel::<(i64, [u64; 6])>();
    let (tell, told) = mpsc::channel::<i32>();
    let (ready, listener) = mpsc::channel();
    // Never joined: `set_tid_address`, which it makes, is how that would be told.
    thread::spawn(move || {
        ready.send(confine_thread(&to_kernel)).expect("the other thread waits");
        for (nr, args) in asked {
            tell.send(call(nr, args)).expect("the other thread waits");
        }
    });
    let listener = listener.recv().expect("the filters are installed");
    thread::spawn(move || answer_all(listener));

    let none = Rule::Always(Becomes::Enosys);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut wrong, mut tried, mut made, mut left_out) = (Vec::new(), 0, 0, Vec::new());
    for nr in 0..=greatest + BEYOND {
        let (name, rule) = rules.get(&nr).map_or(("", &none), |(name, rule)| (name.as_str(), rule));
        for args in samples(name, rule, &mut random) {
            tried += 1;
            let (says, judged) = (rule.says(&args), judged(&programs, nr, args));
            // The page's second part says it in a sentence: SIGSYS for a stat by descriptor.
            let is_trap = judged == Becomes::Trapped
                && !empty_root
                && nr == libc::SYS_newfstatat
                && args[3] & (libc::AT_EMPTY_PATH as u64) != 0;
            if says != judged && !is_trap {
                wrong.push(format!("{name} ({nr}) {args:x?}: the page says {says:?}, the filter {judged:?}"));
                continue;
            }
            if let Some((_, why)) = NOT_MADE.iter().find(|(left, _)| *left == name) {
                left_out.push(format!("NOT MADE: {name}: {why}"));
                continue;
            }
            if ["exit", "exit_group"].contains(&name) || PAST_FILTERS.contains(&nr) || is_trap {
                continue; // each in a process of its own, below
            }
            ask.send((nr, args)).expect("it waits");
            let errno = told.recv().expect("it answers");
            made += 1;
            let does = match errno {
                MARKER if judged == Becomes::Ends => Becomes::Ends,
                MARKER => Becomes::Asked,
                // A call may be allowed and unknown to this kernel: then it is unknown outside too.
                libc::ENOSYS if judged == Becomes::Allowed && call(nr, args) == libc::ENOSYS => {
                    Becomes::Allowed
                }
                libc::ENOSYS => Becomes::Enosys,
                _ => Becomes::Allowed,
            };
            if does != judged {
                wrong.push(format!("{name} ({nr}) {args:x?}: the filter says {judged:?}, the kernel does {does:?}, errno {errno}"));
            }
        }
    }
    for (name, nr) in [("exit", libc::SYS_exit), ("exit_group", libc::SYS_exit_group)] {
        let status = in_a_process(&programs, || {
            call(nr, [7, 0, 0, 0, 0, 0]);
        });
        if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 7 {
            wrong.push(format!("{name}: status {status:#x}"));
        }
    }
    for nr in PAST_FILTERS {
        let status = in_a_process(&programs, || {
            // SAFETY: an integer; the exit code tells what came of the call.
            unsafe { libc::_exit(i32::from([libc::ENOSYS, libc::ENXIO].contains(&call(nr, [0; 6])))) };
        });
        let refused = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1;
        if !refused && (!libc::WIFSIGNALED(status) || libc::WTERMSIG(status) != libc::SIGILL) {
            wrong.push(format!("a call past the filters, {nr}: status {status:#x}"));
        }
    }
    if !empty_root {
        let status = in_a_process(&programs, || {
            call(libc::SYS_newfstatat, [1, 0, 0, libc::AT_EMPTY_PATH as u64, 0, 0]);
        });
        if !libc::WIFSIGNALED(status) || libc::WTERMSIG(status) != libc::SIGSYS {
            wrong.push(format!("a stat by descriptor, trapped: status {status:#x}"));
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        const X32: i64 = 0x4000_0000;
        let status = in_a_process(&programs, || {
            call(X32 | libc::SYS_getpid, [0; 6]);
        });
        if !libc::WIFSIGNALED(status) || libc::WTERMSIG(status) != libc::SIGSYS {
            wrong.push(format!("a call of x32's: status {status:#x}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    let summary = format!(
        "{} numbers, {} of them on the page; {tried} calls judged, {made} of them made: page, filter and kernel agree\n{}",
        greatest + BEYOND + 1,
        rules.len(),
        left_out.join("\n")
    );
    summary.into_bytes()
}

/// How a process ends that puts the filters upon itself and does `act`; 0 if it comes back from that.
#[expect(clippy::disallowed_methods, reason = "a process of the test's own, which a filter may end")]
fn in_a_process(programs: &[FilterProgram], act: impl Fn()) -> i32 {
    // All that allocates comes before the fork: the process has other threads.
    let to_kernel = for_kernel(programs);
    // SAFETY: the child makes system calls alone, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", Errno::last());
    if child == 0 {
        // SAFETY: two integers. No core is written of what is ended here.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        confine_thread(&to_kernel);
        act();
        // SAFETY: ends this process without running anything of it.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: fills the one integer. The child is ours, and nobody else waits for it.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "waitpid: {}", Errno::last());
    status
}

#[test]
fn page_filter_and_kernel_say_the_same_of_every_call() {
    let report = child::run("three ways", &["empty root"]);
    println!("{}", String::from_utf8_lossy(&report));
}

#[test]
fn page_filter_and_kernel_say_the_same_where_there_is_no_empty_root() {
    let report = child::run("three ways", &["the host's root"]);
    println!("{}", String::from_utf8_lossy(&report));
}
