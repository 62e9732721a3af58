//! Attempts to start programs, as unmodified code does it: the standard library, and a C library's shell.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::{Attempt, check, number, split_line, text};

/// A program and its arguments, one a line; what is behind an empty line goes to its standard input.
fn command(payload: &[u8]) -> io::Result<(Command, String)> {
    let payload = text(payload)?;
    let (words, input) = payload.split_once("\n\n").unwrap_or((payload, ""));
    let mut words = words.lines();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok((command, input.to_owned()))
}

fn talk(mut child: Child, input: &str) -> io::Result<Output> {
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(input.as_bytes()); // a program need not read it
    }
    child.wait_with_output()
}

fn told(output: &Output) -> Vec<u8> {
    let mut told = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit {code}\n"),
        (None, signal) => format!("signal {}\n", signal.unwrap_or(0)),
    }
    .into_bytes();
    told.extend(&output.stdout);
    told.extend(&output.stderr);
    told
}

/// Starts a program and waits for it, by posix_spawn(3).
pub(crate) fn run(payload: &[u8]) -> Attempt {
    let (mut command, input) = command(payload)?;
    command.env_clear().env("GREETING", "hello");
    Ok(told(&talk(command.spawn()?, &input)?))
}

/// The same by fork(2) and execve(2).
pub(crate) fn run_by_fork(payload: &[u8]) -> Attempt {
    let (mut command, input) = command(payload)?;
    // SAFETY: nothing is done between the two.
    unsafe { command.pre_exec(|| Ok(())) };
    Ok(told(&talk(command.spawn()?, &input)?))
}

/// The same in a process group of its own.
pub(crate) fn run_in_group(payload: &[u8]) -> Attempt {
    let (mut command, input) = command(payload)?;
    command.process_group(0);
    Ok(told(&talk(command.spawn()?, &input)?))
}

/// The same under another name, its argument 0.
pub(crate) fn run_as(payload: &[u8]) -> Attempt {
    let (name, rest) = split_line(payload);
    let (mut command, input) = command(rest)?;
    command.arg0(text(name)?);
    Ok(told(&talk(command.spawn()?, &input)?))
}

/// What system(3) comes to.
pub(crate) fn system(payload: &[u8]) -> Attempt {
    let line = CString::new(payload).map_err(io::Error::other)?;
    // SAFETY: a terminated string that lives until the call returns.
    let status = check(unsafe { libc::system(line.as_ptr()) })?;
    Ok(status.to_string().into_bytes())
}

/// What a shell's line prints, by popen(3).
pub(crate) fn popen(payload: &[u8]) -> Attempt {
    let line = CString::new(payload).map_err(io::Error::other)?;
    // SAFETY: terminated strings.
    let stream = unsafe { libc::popen(line.as_ptr(), c"r".as_ptr()) };
    if stream.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut told = vec![0u8; 4096];
    // SAFETY: writes at most so many bytes to a buffer of that size; the stream is open.
    let len = unsafe { libc::fread(told.as_mut_ptr().cast(), 1, told.len(), stream) };
    told.truncate(len);
    // SAFETY: open, and not used afterwards.
    check(unsafe { libc::pclose(stream) })?;
    Ok(told)
}

/// Starts a program whose path another thread changes meanwhile, so many times: the paths, which are as long as each other,
/// one a line. Answers which exit codes there were.
pub(crate) fn start_while_it_changes(payload: &[u8]) -> Attempt {
    let (tries, rest) = split_line(payload);
    let (one, other) = split_line(rest);
    let tries = number(tries)?;
    if one.len() != other.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let path: Vec<AtomicU8> = one.iter().chain(&[0]).copied().map(AtomicU8::new).collect();
    let over = AtomicBool::new(false);
    let mut told = BTreeMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for which in [other, one].iter().cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                path.iter().zip(which.iter()).for_each(|(at, byte)| at.store(*byte, Ordering::Relaxed));
            }
        });
        for _ in 0..tries {
            let outcome = spawn_by_pointer(path.as_ptr().cast()).and_then(wait_for);
            let outcome = match outcome {
                Ok(status) => format!("exit {}", libc::WEXITSTATUS(status)),
                Err(error) => format!("errno {}", error.raw_os_error().unwrap_or(0)),
            };
            *told.entry(outcome).or_insert(0) += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    let told: Vec<String> = told.into_keys().collect();
    Ok(told.join(",").into_bytes())
}

/// posix_spawn(3), whose child reads the path from this process's own memory.
fn spawn_by_pointer(path: *const libc::c_char) -> io::Result<i32> {
    let arguments = [c"x".as_ptr().cast_mut(), std::ptr::null_mut()];
    let (mut child, nothing) = (0, [std::ptr::null_mut()]);
    // SAFETY: the path always ends with the same zero, and the arrays with a null pointer; all live until the call returns.
    let rc = unsafe {
        libc::posix_spawn(
            &raw mut child,
            path,
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            nothing.as_ptr(),
        )
    };
    if rc == 0 { Ok(child) } else { Err(io::Error::from_raw_os_error(rc)) }
}

/// A program that is started, and neither talked to nor waited for.
pub(crate) fn start_and_leave(payload: &[u8]) -> Attempt {
    let (mut command, _) = command(payload)?;
    let mut child = command.spawn()?;
    let id = child.id().to_string().into_bytes();
    // Its end of the pipe stays open, so that it waits for more to read.
    std::mem::forget(child.stdin.take());
    Ok(id)
}

/// A program that would sleep for long, ended by a signal.
pub(crate) fn run_and_kill(payload: &[u8]) -> Attempt {
    let (mut command, _) = command(payload)?;
    let mut child = command.spawn()?;
    child.kill()?;
    let status = child.wait()?;
    Ok(format!("signal {}", status.signal().unwrap_or(0)).into_bytes())
}

/// A child of this very code that aborts.
pub(crate) fn child_that_aborts() -> Attempt {
    let status = wait_for(fork(|| std::process::abort())?)?;
    Ok(format!("signal {}", status & 0x7f).into_bytes())
}

/// So many children at once, each of which sleeps; and how many there could be.
pub(crate) fn sleepers(payload: &[u8]) -> Attempt {
    let wanted = number(payload)?;
    let mut got = 0;
    for _ in 0..wanted {
        match fork(sleep) {
            Ok(_) => got += 1,
            Err(error) if got == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(got.to_string().into_bytes())
}

/// Children that start children, for as long as they can; and how many of the first generation there could be.
pub(crate) fn fork_bomb() -> Attempt {
    fn multiply() {
        for _ in 0..64 {
            let _ = fork(multiply);
        }
        sleep();
    }
    fork(multiply)?;
    Ok(Vec::new())
}

/// A child whose child outlives it, in a session of its own if that can be had.
pub(crate) fn daemon() -> Attempt {
    let first = fork(|| {
        // SAFETY: takes and gives integers.
        unsafe { libc::setsid() };
        let _ = fork(sleep);
    })?;
    wait_for(first).map(|status| status.to_string().into_bytes())
}

/// A file that is open in one child alone, which passes it on to a child of its own and ends, and so on without an end; among
/// others that have nothing to pass on.
#[expect(clippy::disallowed_methods, reason = "a child of the plugin's forks")]
pub(crate) fn pass_along(payload: &[u8]) -> Attempt {
    // SAFETY: a disposition, no handler. Who ends is gone at once, and not waited for.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let relay = || {
        loop {
            // SAFETY: a forked child makes system calls only, and its parent ends.
            if unsafe { libc::fork() } > 0 {
                return;
            }
        }
    };
    for _ in 0..3 {
        fork(relay)?;
    }
    let file = std::fs::File::open(text(payload)?)?;
    fork(relay)?;
    drop(file);
    Ok(Vec::new())
}

/// A child that stands still.
pub(crate) fn stopped() -> Attempt {
    let child = fork(|| {
        // SAFETY: a valid signal.
        unsafe { libc::raise(libc::SIGSTOP) };
        sleep();
    })?;
    let mut status = 0;
    // SAFETY: fills the one integer that it is given; the child is this process's own.
    #[expect(clippy::disallowed_methods, reason = "the child is the plugin's own")]
    check(unsafe { libc::waitpid(child, &raw mut status, libc::WUNTRACED) })?;
    Ok(format!("stopped {}", libc::WIFSTOPPED(status)).into_bytes())
}

/// A child that computes for so many milliseconds of its own CPU time, and is waited for or not.
pub(crate) fn child_that_computes(payload: &[u8]) -> Attempt {
    let millis = number(payload)?;
    let child = fork(|| crate::threads::spin(millis).clear())?;
    wait_for(child).map(|status| status.to_string().into_bytes())
}

/// What becomes of attempts in a child of this code: each a method of the probe, with its payload behind a blank.
pub(crate) fn in_child(payload: &[u8], attempt: impl FnOnce(&[u8]) -> Vec<u8>) -> Attempt {
    let (mut from, into) = io::pipe()?;
    let child = fork(|| {
        let _ = (&into).write_all(&attempt(payload));
    })?;
    drop(into);
    let mut told = Vec::new();
    from.read_to_end(&mut told)?;
    wait_for(child)?;
    Ok(told)
}

/// What ptrace(2) comes to in a child that shares this process's memory, as vfork(2) makes one; how that has ended.
pub(crate) fn trace_in_vforked_child() -> Attempt {
    extern "C" fn child(_: *mut libc::c_void) -> libc::c_int {
        // SAFETY: this request reads none of its other arguments.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        0
    }
    let mut stack = vec![0_u128; 4096];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the end of a block of memory, where a stack grows down from, aligned as one must be, which outlives the child:
    // this thread stands still until it has ended.
    let id = unsafe { libc::clone(child, stack.as_mut_ptr_range().end.cast(), flags, std::ptr::null_mut()) };
    let id = i32::try_from(check(id)?).map_err(io::Error::other)?;
    wait_for(id).map(|status| status.to_string().into_bytes())
}

fn sleep() {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

/// A child that does `work` and ends.
#[expect(clippy::disallowed_methods, reason = "whether and how a plugin can fork is the question")]
fn fork(work: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: the helper's other threads, if any, hold no lock that the child's work takes.
    match check(unsafe { libc::fork() })? {
        0 => {
            work();
            // SAFETY: ends this process without running anything of it.
            unsafe { libc::_exit(0) }
        }
        child => i32::try_from(child).map_err(io::Error::other),
    }
}

#[expect(clippy::disallowed_methods, reason = "the child is the plugin's own")]
fn wait_for(child: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: fills the one integer that it is given.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
    Ok(status)
}
