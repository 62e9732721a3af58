//! The system-call filters that stand around a host before it starts.
//!
//! Runs in the process that becomes the host. Never judges what the host does under them.
#![allow(unsafe_code, reason = "seccomp(2) without `no_new_privs` and with a listener is in no crate")]

use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Compare, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

type Rules = Vec<(libc::c_long, Vec<SeccompRule>)>;

/// Every kind of namespace that clone(2) and unshare(2) make.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Calls that nobody without CAP_SYS_ADMIN gets through, whatever they name.
const ADMINISTRATORS: [libc::c_long; 13] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// As Docker's default profile answers a container without CAP_SYS_ADMIN and CAP_SYS_PTRACE, as far as it concerns a sandbox:
/// <https://github.com/moby/profiles/blob/main/seccomp/default.json>.
pub(crate) fn container() -> Result<()> {
    let mut refused = always(&ADMINISTRATORS);
    refused.extend(always(&[
        libc::SYS_unshare,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_process_madvise,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
    ]));
    refused.push((libc::SYS_clone, with_any_flag(&NAMESPACES)?));
    install(0, refused, libc::EPERM)?;
    no_clone3()
}

/// A user namespace can be made, alone, and whatever wants a capability in it fails.
pub(crate) fn empty_user_namespaces() -> Result<()> {
    let beside_users = NAMESPACES.get(1..).unwrap_or_default();
    let mut refused = always(&ADMINISTRATORS);
    refused.push((libc::SYS_clone, with_any_flag(beside_users)?));
    refused.push((libc::SYS_unshare, with_any_flag(beside_users)?));
    install(0, refused, libc::EPERM)?;
    // Its flags are in memory, where no filter sees them.
    no_clone3()
}

/// A listener for a call that nobody here makes. While it is open there can be no other.
pub(crate) fn listener() -> Result<OwnedFd> {
    let program = compile(always(&[libc::SYS_acct]), SeccompAction::Trace(0))?;
    let trace = libc::SECCOMP_RET_TRACE;
    let program: Vec<sock_filter> = program
        .into_iter()
        .map(|mut step| {
            // seccompiler has no such action: one that it has is written over.
            if step.code == RETURN && step.k == trace {
                step.k = libc::SECCOMP_RET_USER_NOTIF;
            }
            step
        })
        .collect();
    let fd = seccomp(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, &program)?;
    // SAFETY: with NEW_LISTENER a successful call returns a descriptor that it made for the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// BPF_RET | BPF_K.
const RETURN: u16 = 0x06;

fn no_clone3() -> Result<()> {
    install(0, always(&[libc::SYS_clone3]), libc::ENOSYS)
}

fn always(calls: &[libc::c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// A rule for each flag of the first argument: one of them is enough.
fn with_any_flag(flags: &[libc::c_int]) -> Result<Vec<SeccompRule>> {
    flags
        .iter()
        .map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            let set = SeccompCondition::new(0, Width::Qword, Compare::MaskedEq(flag), flag)?;
            Ok(SeccompRule::new(vec![set])?)
        })
        .collect()
}

fn compile(rules: Rules, action: SeccompAction) -> Result<Vec<sock_filter>> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, action, arch)?;
    Ok(filter.try_into()?)
}

fn install(flags: libc::c_ulong, rules: Rules, errno: libc::c_int) -> Result<()> {
    let program = compile(rules, SeccompAction::Errno(errno.cast_unsigned()))?;
    seccomp(flags, &program).map(drop)
}

/// Not seccompiler's own: that sets `no_new_privs`, which neither a container nor a supervisor need have set.
fn seccomp(flags: libc::c_ulong, program: &[sock_filter]) -> Result<i32> {
    let len = u16::try_from(program.len()).context("a filter of this size")?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    // SAFETY: `fprog` points at `len` instructions that outlive the call, of the same `repr(C)` layout as the kernel's; the
    // kernel copies and checks the program and never writes through the pointer.
    let rc =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) };
    if rc < 0 {
        return Err(std::io::Error::last_os_error()).context("seccomp");
    }
    Ok(i32::try_from(rc)?)
}
