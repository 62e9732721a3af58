//! Ends of every kind that the kernel makes of what a program does, and lies about them.

use std::io;
use std::ptr;

use crate::{Attempt, check, text};

/// The option of prctl(2) by which a helper shows a fault to its host; no constant of the sandbox's is public.
const SHOW_FAULT: libc::c_long = 0x5a5a_0001;

/// What it is asked to break on.
pub(crate) fn fault(payload: &[u8]) -> Attempt {
    match text(payload)? {
        "write" => write_nowhere(),
        "thread" => {
            let thread = std::thread::Builder::new().name("faulty".to_owned()).spawn(write_nowhere);
            let _ = thread?.join();
        }
        "overflow" => drop(fill_the_stack(&[1; 512])),
        "null-call" => call_nothing(),
        "default" => {
            // SAFETY: the default disposition runs no code.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            write_nowhere();
        }
        "blocked" => {
            block_everything()?;
            write_nowhere();
        }
        "forged" => return forge(),
        other => return Err(io::Error::other(format!("no such fault: {other}"))),
    }
    Err(io::Error::other("it goes on"))
}

#[inline(never)]
fn write_nowhere() {
    // SAFETY: none. A write to an address where nothing is mapped is what this is here to make.
    unsafe { ptr::without_provenance_mut::<u8>(0x10).write_volatile(1) };
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "it is to end for want of stack")]
fn fill_the_stack(above: &[u8; 512]) -> u8 {
    let mut here = *above;
    here[0] = here[0].wrapping_add(1);
    let below = fill_the_stack(std::hint::black_box(&here));
    below.wrapping_add(std::hint::black_box(here[1]))
}

#[inline(never)]
fn call_nothing() {
    let nothing = std::hint::black_box(0usize);
    // SAFETY: none. The call of an address where nothing is mapped is what this is here to make.
    let nothing: extern "C" fn() = unsafe { std::mem::transmute::<usize, extern "C" fn()>(nothing + 1) };
    nothing();
    std::hint::black_box(());
}

fn block_everything() -> io::Result<()> {
    // SAFETY: an empty set of signals is a valid one.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is this function's own.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: the set is live, and nobody asks for the old one.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Shows the host faults that never were: of nothing, and of a stack, registers and a list of modules that lead in circles.
fn forge() -> Attempt {
    let show = |info: usize, context: usize, loaded: usize| {
        // SAFETY: the kernel knows no such option, and reads nothing of what it is given.
        check(unsafe { libc::syscall(libc::SYS_prctl, SHOW_FAULT, info, context, loaded, 0) })
    };
    show(0, usize::MAX, 1)?;
    let mut info = [0u32; 32];
    info[0] = libc::SIGSEGV.unsigned_abs();
    info[2] = 1;
    let mut context = vec![0u64; 256];
    let here = context.as_ptr().addr() as u64;
    context.fill(here);
    let mut map = [0u64; 4];
    map[3] = map.as_ptr().addr() as u64; // the next one is itself
    map[1] = here;
    let loaded = [1u64, map[3]];
    show(info.as_ptr().addr(), context.as_ptr().addr(), loaded.as_ptr().addr())?;
    info[0] = u32::MAX;
    show(info.as_ptr().addr(), context.as_ptr().addr(), loaded.as_ptr().addr())?;
    std::hint::black_box((&context, &map));
    Ok(Vec::new())
}
