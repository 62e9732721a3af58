//! The final filter: the programs that say what the table says.
//!
//! Pure. Owns how the table is told to the kernel. Up to four programs are stacked, of which the kernel takes the strictest answer
//! (seccomp(2)): one ends what is not of this architecture, one knows what exists at all, one sends to the host; one traps where
//! there is no empty root.

use std::collections::BTreeMap;

use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};

use super::seccomp_conditions::{Condition, Holds, named};
use super::seccomp_table::{Row, Verdict, table};
pub(crate) use super::seccomp_table::{Surroundings, forbidden};

use crate::shared::sys::seccomp::sock_filter;

/// The programs, in the order in which they are installed: the last one lets no other be installed.
pub(crate) struct Programs {
    /// ENOSYS for what is not in the table, so that the next C library's next call falls back. Ends the process for another
    /// architecture's calls and x32's, whose numbers mean something else.
    pub(crate) known: Vec<sock_filter>,
    /// Traps a stat by descriptor, for the handler in `sys::trap`; only where there is no empty root.
    pub(crate) trap: Option<Vec<sock_filter>>,
    /// Sends to the host what the broker serves, and what it ends the process for; comes with the listener. Nothing of that is
    /// done by the kernel unless the host says so, and without a listener it is ENOSYS.
    pub(crate) notify: Vec<sock_filter>,
}

/// How many of them stand everywhere.
pub(crate) const LEAST_PROGRAMS: u32 = 2;

/// seccompiler has no user notification: this data of its `Trace` marks the place where one goes.
const MARKER: u32 = 0x5a5a;
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

fn arch() -> TargetArch {
    #[cfg(target_arch = "x86_64")]
    return TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    return TargetArch::aarch64;
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(
    rules: Rules,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, mismatch, matched, arch())?.try_into().map(shortened)
}

/// The same with two instructions for each call without conditions, where seccompiler has five: the call's number is compared,
/// and jumps lead from there to an answer or over it. A call with another number goes through one of them instead of two, and
/// the kernel tries every number there is on a program that is installed.
///
/// No jump leads into those five or over them: each call's instructions stand for themselves, one behind the other.
fn shortened(program: BpfProgram) -> BpfProgram {
    let is = |code: u32| move |i: &sock_filter| u32::from(i.code) == code;
    let (equal, jump) = (is(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), is(libc::BPF_JMP | libc::BPF_JA));
    let ret = is(libc::BPF_RET | libc::BPF_K);
    let mut short = Vec::with_capacity(program.len());
    let mut rest = program.as_slice();
    loop {
        match rest {
            [number, yes, no, answer, other, behind @ ..]
                // To the answer, or behind all of it.
                if (equal(number) && (number.jt, number.jf) == (0, 1))
                    && (jump(yes) && yes.k == 1 && jump(no) && no.k == 2)
                    && (ret(answer) && ret(other)) =>
            {
                short.extend([number.clone(), answer.clone()]);
                rest = behind;
            }
            [instruction, behind @ ..] => {
                short.push(instruction.clone());
                rest = behind;
            }
            [] => return short,
        }
    }
}

/// The rule that holds if all of `conditions` do.
fn rule(conditions: &[Condition], own_pid: u32) -> Result<SeccompRule, BackendError> {
    let compiled: Result<Vec<_>, _> = conditions.iter().map(|one| one.compiled(own_pid)).collect();
    SeccompRule::new(compiled?.concat())
}

/// The filter of a helper with this process id (in its own pid namespace).
///
/// # Errors
/// Only if seccompiler refuses the table, which a test rules out.
pub(crate) fn programs(around: Surroundings, own_pid: u32) -> Result<Programs, BackendError> {
    let (mut asked, mut known) = (Rules::new(), Rules::new());
    for Row { nr, verdict, .. } in table(around) {
        known.insert(nr, vec![]);
        match verdict {
            Verdict::Allow => {}
            Verdict::Ask | Verdict::Kill => drop(asked.insert(nr, vec![])),
            Verdict::AskIf(lists) => {
                let rules: Result<_, _> = lists.iter().map(|list| rule(list, own_pid)).collect();
                asked.insert(nr, rules?);
            }
        }
    }

    let notify = notifying(asked)?;
    let enosys = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let known = x32_first(compile(known, enosys, SeccompAction::Allow)?);
    let trap = if around.empty_root {
        None
    } else {
        let [flag] = named![AT_EMPTY_PATH];
        let by_descriptor = rule(&[Condition::new(3, Holds::Has(flag))], own_pid)?;
        let rules = Rules::from([(libc::SYS_newfstatat, vec![by_descriptor])]);
        Some(compile(rules, SeccompAction::Allow, SeccompAction::Trap)?)
    };
    Ok(Programs { known, trap, notify })
}

/// What is left of it for a helper that a test makes without the layer: the loader's opens go to the broker, and every other
/// call goes ahead.
pub(crate) fn loading_program() -> Result<Vec<sock_filter>, BackendError> {
    notifying(Rules::from([(libc::SYS_openat, vec![])]))
}

/// A program that sends these calls to the broker.
fn notifying(asked: Rules) -> Result<Vec<sock_filter>, BackendError> {
    let mut program = compile(asked, SeccompAction::Allow, SeccompAction::Trace(MARKER))?;
    let marked = libc::SECCOMP_RET_TRACE | MARKER;
    let ret = u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap_or(6);
    for instruction in program.iter_mut().filter(|i| i.code == ret && i.k == marked) {
        instruction.k = libc::SECCOMP_RET_USER_NOTIF;
    }
    Ok(program)
}

/// x32's calls carry this architecture's mark and a bit in the number: they end the process before anything is compared.
fn x32_first(program: BpfProgram) -> BpfProgram {
    if !cfg!(target_arch = "x86_64") {
        return program;
    }
    let instruction =
        |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k };
    let nr = 0; // offsetof(struct seccomp_data, nr)
    // Behind the architecture check, which is seccompiler's first three instructions.
    let (arch, rest) = program.split_at(3.min(program.len()));
    let mut whole = arch.to_vec();
    whole.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, nr));
    whole.push(instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_SYSCALL_BIT));
    whole.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    whole.extend_from_slice(rest);
    whole
}

#[cfg(test)]
mod tests {
    use super::super::seccomp_conditions::Value;
    use super::super::seccomp_evaluator::{ARCH, evaluate, strictest};
    use super::super::seccomp_table::THREAD_FLAGS;
    use super::*;

    const PID: u32 = 7;
    #[derive(Debug, PartialEq)]
    enum Becomes {
        Allowed,
        Asked,
        Refused(i32),
        Killed,
    }

    fn becomes_on(arch: u32, nr: u32, args: [u64; 6]) -> Becomes {
        let programs = programs(Surroundings { empty_root: true }, PID).unwrap();
        let all = [&programs.notify, &programs.known];
        let answer = strictest(all.iter().map(|program| evaluate(program, arch, nr, args)));
        match answer & libc::SECCOMP_RET_ACTION_FULL {
            libc::SECCOMP_RET_ALLOW => Becomes::Allowed,
            libc::SECCOMP_RET_USER_NOTIF => Becomes::Asked,
            libc::SECCOMP_RET_KILL_PROCESS => Becomes::Killed,
            libc::SECCOMP_RET_ERRNO => Becomes::Refused((answer & libc::SECCOMP_RET_DATA) as i32),
            other => panic!("{other:#x}"),
        }
    }

    fn becomes(nr: libc::c_long, args: &[u64]) -> Becomes {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        becomes_on(ARCH, nr as u32, all)
    }

    #[test]
    fn each_call_becomes_what_the_table_says() {
        use Becomes::{Allowed, Asked, Refused};
        let rows: &[(&str, libc::c_long, &[u64], Becomes)] = &[
            ("read", libc::SYS_read, &[], Allowed),
            ("futex", libc::SYS_futex, &[], Allowed),
            ("openat", libc::SYS_openat, &[], Asked),
            ("socket", libc::SYS_socket, &[], Asked),
            ("sending to the peer", libc::SYS_sendto, &[3, 0x1000, 8, 0, 0, 0], Allowed),
            ("sending to somebody", libc::SYS_sendto, &[3, 0x1000, 8, 0, 0x2000, 16], Asked),
            ("sending behind a high half", libc::SYS_sendto, &[3, 0x1000, 8, 0, 1 << 32, 16], Asked),
            ("a message", libc::SYS_sendmsg, &[3, 0x1000], Asked),
            ("messages", libc::SYS_sendmmsg, &[3, 0x1000, 2], Asked),
            ("receiving", libc::SYS_recvfrom, &[3, 0x1000, 8], Allowed),
            ("receiving a message", libc::SYS_recvmsg, &[3, 0x1000], Allowed),
            ("the end of a connection", libc::SYS_shutdown, &[3, 2], Allowed),
            ("connect", libc::SYS_connect, &[3, 0x1000, 16], Asked),
            ("accept4", libc::SYS_accept4, &[3], Asked),
            ("a pair of Unix sockets", libc::SYS_socketpair, &[1, 1, 0, 0x1000], Allowed),
            ("a pair of another family", libc::SYS_socketpair, &[2, 1, 0, 0x1000], Asked),
            ("TCP_NODELAY", libc::SYS_setsockopt, &[3, 6, 1], Allowed),
            ("SO_KEEPALIVE", libc::SYS_setsockopt, &[3, 1, 9], Allowed),
            ("SO_SNDTIMEO", libc::SYS_setsockopt, &[3, 1, 21], Asked),
            ("SO_LINGER", libc::SYS_setsockopt, &[3, 1, 13], Asked),
            ("SO_BINDTODEVICE", libc::SYS_setsockopt, &[3, 1, 25], Asked),
            ("IP_TRANSPARENT", libc::SYS_setsockopt, &[3, 0, 19], Asked),
            ("an option of another level", libc::SYS_setsockopt, &[3, 17, 1], Asked),
            ("an option behind a high half", libc::SYS_setsockopt, &[3, 1 << 32 | 1, 9], Asked),
            ("SO_ERROR", libc::SYS_getsockopt, &[3, 1, 4], Allowed),
            ("SO_PEERCRED", libc::SYS_getsockopt, &[3, 1, 17], Asked),
            ("SIOCGIFCONF", libc::SYS_ioctl, &[3, 0x8912], Asked),
            ("execve", libc::SYS_execve, &[], Asked),
            ("ptrace", libc::SYS_ptrace, &[], Asked),
            ("seccomp", libc::SYS_seccomp, &[], Asked),
            ("mount", libc::SYS_mount, &[], Asked),
            ("clone3", libc::SYS_clone3, &[], Refused(libc::ENOSYS)),
            ("io_uring_setup", libc::SYS_io_uring_setup, &[], Refused(libc::ENOSYS)),
            ("statx", libc::SYS_statx, &[], Refused(libc::ENOSYS)),
            ("a call of the next kernel", 600, &[], Refused(libc::ENOSYS)),
            ("a thread", libc::SYS_clone, &[THREAD_FLAGS], Allowed),
            ("a process", libc::SYS_clone, &[libc::SIGCHLD as u64], Asked),
            ("a thread in a namespace", libc::SYS_clone, &[THREAD_FLAGS | libc::CLONE_NEWUSER as u64], Asked),
            ("a thread and a high bit", libc::SYS_clone, &[THREAD_FLAGS | 1 << 40], Asked),
            ("a signal to oneself", libc::SYS_kill, &[PID as u64, 9], Allowed),
            ("a signal to all", libc::SYS_kill, &[-1i64 as u64, 9], Asked),
            ("a signal to a sibling", libc::SYS_tgkill, &[8, 8, 9], Asked),
            ("own pid with a high half", libc::SYS_kill, &[PID as u64 | 1 << 32, 9], Asked),
            ("private memory", libc::SYS_mmap, &[0, 4096, 3, 0x22], Allowed),
            ("a library's text", libc::SYS_mmap, &[0, 4096, 5, 0x802, 3], Allowed),
            ("shared memory", libc::SYS_mmap, &[0, 4096, 3, 0x21], Asked),
            ("writable code", libc::SYS_mmap, &[0, 4096, 7, 0x2, 3], Asked),
            ("anonymous code", libc::SYS_mmap, &[0, 4096, 5, 0x22], Asked),
            ("relro", libc::SYS_mprotect, &[0, 4096, 1], Allowed),
            ("memory made code", libc::SYS_mprotect, &[0, 4096, 5], Asked),
            ("own limits read", libc::SYS_prlimit64, &[0, 7, 0, 1], Allowed),
            ("own limits set", libc::SYS_prlimit64, &[0, 7, 1, 0], Asked),
            ("a limit behind a high half", libc::SYS_prlimit64, &[0, 7, 1 << 32, 0], Asked),
            ("another's limits", libc::SYS_prlimit64, &[1, 7, 0, 1], Asked),
            ("becoming undumpable", libc::SYS_prctl, &[4, 0], Allowed),
            ("becoming dumpable", libc::SYS_prctl, &[4, 1], Asked),
            ("another prctl", libc::SYS_prctl, &[35, 0], Asked),
            ("fstat by descriptor", libc::SYS_newfstatat, &[3, 0, 0, 0x1000], Allowed),
            ("stat by path", libc::SYS_newfstatat, &[3, 0, 0, 0], Asked),
            ("TIOCSTI", libc::SYS_ioctl, &[0, 0x5412], Asked),
            ("isatty", libc::SYS_ioctl, &[0, libc::TCGETS], Allowed),
        ];
        for (what, nr, args, expected) in rows {
            assert_eq!(becomes(*nr, args), *expected, "{what}");
        }
    }

    #[test]
    fn a_program_that_was_shortened_answers_as_the_one_that_seccompiler_made() {
        let conditions = [Condition::new(1, Holds::Is(Value::Number(7)))];
        let rows = |with: bool| -> Rules {
            let all = table(Surroundings { empty_root: true }).into_iter();
            all.map(|Row { nr, .. }| match with && nr % 3 == 0 {
                true => (nr, vec![rule(&conditions, PID).unwrap(), rule(&conditions, PID).unwrap()]),
                false => (nr, vec![]),
            })
            .collect()
        };
        for (with, mismatch, matched) in [
            (false, SeccompAction::Errno(38), SeccompAction::Allow),
            (true, SeccompAction::Allow, SeccompAction::Trace(MARKER)),
        ] {
            let whole = SeccompFilter::new(rows(with), mismatch, matched, arch()).unwrap();
            let whole: BpfProgram = whole.try_into().unwrap();
            let short = shortened(whole.clone());
            assert!(short.len() < whole.len(), "{} of {}", short.len(), whole.len());
            for (nr, arch) in (0..700).flat_map(|nr| [(nr, ARCH), (nr, ARCH ^ 1)]) {
                for value in [0, 7, 7 | 1 << 32, u64::MAX] {
                    let answer = |program: &BpfProgram| evaluate(program, arch, nr, [value; 6]);
                    assert_eq!(answer(&short), answer(&whole), "{nr}, {value}");
                }
            }
        }
    }

    #[test]
    fn another_architecture_and_x32_end_the_process_whatever_the_number() {
        const I386: u32 = 0x4000_0003;
        for nr in 0..600 {
            assert_eq!(becomes_on(I386, nr, [0; 6]), Becomes::Killed);
            #[cfg(target_arch = "x86_64")]
            assert_eq!(becomes_on(ARCH, nr | X32_SYSCALL_BIT, [0; 6]), Becomes::Killed);
        }
    }

    #[test]
    fn each_program_lets_the_next_one_be_installed_and_the_last_no_other() {
        let programs = programs(Surroundings { empty_root: false }, PID).unwrap();
        let seccomp = libc::SYS_seccomp as u32;
        for program in [&programs.known, &programs.trap.unwrap()] {
            assert_eq!(evaluate(program, ARCH, seccomp, [0; 6]), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(evaluate(&programs.notify, ARCH, seccomp, [0; 6]), libc::SECCOMP_RET_USER_NOTIF);
    }

    #[test]
    fn what_ends_the_process_is_never_decided_by_the_kernel_alone_and_has_a_name() {
        let programs = programs(Surroundings { empty_root: true }, PID).unwrap();
        let forbidden: Vec<_> = (0..600).filter_map(|nr| Some((nr, forbidden(nr)?))).collect();
        assert!(forbidden.contains(&(libc::SYS_ptrace, "ptrace")) && forbidden.len() > 40, "{forbidden:?}");
        for (nr, name) in forbidden {
            let answer = evaluate(&programs.notify, ARCH, u32::try_from(nr).unwrap(), [0; 6]);
            assert_eq!(answer, libc::SECCOMP_RET_USER_NOTIF, "{name}");
        }
    }

    #[test]
    fn without_an_empty_root_a_stat_by_descriptor_is_trapped_and_any_other_goes_to_the_broker() {
        let programs = programs(Surroundings { empty_root: false }, PID).unwrap();
        let nr = libc::SYS_newfstatat as u32;
        let trap = programs.trap.unwrap();
        assert_eq!(evaluate(&trap, ARCH, nr, [3, 0, 0, 0x1000, 0, 0]), libc::SECCOMP_RET_TRAP);
        assert_eq!(evaluate(&trap, ARCH, nr, [3, 0, 0, 0, 0, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(evaluate(&programs.notify, ARCH, nr, [3, 0, 0, 0, 0, 0]), libc::SECCOMP_RET_USER_NOTIF);
    }
}
