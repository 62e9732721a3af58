//! A SIGSYS handler that makes a stat by descriptor out of what the filter traps: seccomp(2), SECCOMP_RET_TRAP.
//!
//! Runs in a helper that has no empty root. glibc 2.33 to 2.38 has no fstat(3) but `newfstatat(fd, "", AT_EMPTY_PATH)`, and a
//! filter cannot see that the path is empty; the kernel, asked so, would stat any of the host's files. Runs with nothing but
//! the plugin's own rights, so that a plugin which replaces it gains nothing.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Answers trapped calls from now on.
pub(crate) fn answer_stats() -> Result<(), Errno> {
    let action = SigAction::new(SigHandler::SigAction(on_trap), SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler makes one system call and touches nothing but the interrupted context that it is given, all of
    // which is async-signal-safe.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO the kernel passes the interrupted context, which is this handler's alone until it returns.
    let Some(context) = (unsafe { context.as_mut() }) else { return };
    let registers = Registers::of(context);
    let (fd, path, stat) = (registers.argument(0), registers.argument(1), registers.argument(2));
    // The plugin's own pointer: it may be wrong.
    let empty = path != 0 && first_byte(path) == Some(0);
    let result = if empty {
        // SAFETY: fstat(2) writes to `stat` or answers EFAULT; it is the caller's own buffer for just this.
        let rc = unsafe { libc::syscall(libc::SYS_fstat, fd, stat) };
        if rc < 0 { -i64::from(Errno::last_raw()) } else { 0 }
    } else {
        -i64::from(libc::EACCES)
    };
    Registers::of(context).set_result(result);
}

/// The byte at `address`; `None` if nothing is mapped there.
fn first_byte(address: u64) -> Option<u8> {
    let page = address & !4095;
    let mut resident = 0u8;
    // SAFETY: mincore(2) writes one byte for one page to `resident`, and answers ENOMEM if nothing is mapped at `page`.
    let rc = unsafe { libc::syscall(libc::SYS_mincore, page, 1usize, &raw mut resident) };
    if rc != 0 {
        return None;
    }
    // SAFETY: something is mapped there. If it is not readable, the fault ends the plugin's own process: its own pointer.
    Some(unsafe { (address as *const u8).read_volatile() })
}

/// The registers of a trapped system call.
struct Registers<'a>(&'a mut libc::mcontext_t);

impl<'a> Registers<'a> {
    fn of(context: &'a mut libc::ucontext_t) -> Self {
        Self(&mut context.uc_mcontext)
    }

    #[cfg(target_arch = "x86_64")]
    fn argument(&self, index: usize) -> u64 {
        let names = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX];
        let name = names.get(index).and_then(|name| usize::try_from(*name).ok());
        name.and_then(|name| self.0.gregs.get(name)).map_or(0, |value| value.cast_unsigned())
    }

    #[cfg(target_arch = "x86_64")]
    fn set_result(self, value: i64) {
        let rax = usize::try_from(libc::REG_RAX).ok();
        if let Some(place) = rax.and_then(|rax| self.0.gregs.get_mut(rax)) {
            *place = value;
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn argument(&self, index: usize) -> u64 {
        self.0.regs.get(index).copied().unwrap_or_default()
    }

    #[cfg(target_arch = "aarch64")]
    fn set_result(self, value: i64) {
        if let Some(place) = self.0.regs.first_mut() {
            *place = value.cast_unsigned();
        }
    }
}
