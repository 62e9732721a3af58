//! Bare processes to compare a helper to: this program run again, doing one thing.
//!
//! The second half of this file runs in those, each with one thread, told by its arguments what to do. What they say goes
//! through a pair of pipes and nothing else. Never sandboxes anything but by the one-line filter that is measured.
#![allow(unsafe_code, reason = "system calls that no crate wraps: seccomp(2) and the ioctls of its listener")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// The first argument of such a process.
pub(crate) const PART: &str = "--part";

/// One of them.
#[derive(Debug)]
pub(crate) struct Bare {
    process: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Bare {
    /// Starts this program again as `part`.
    pub(crate) fn start(part: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a bench knows its name"));
        command.arg(PART).arg(part).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the bench runs again");
        let to = process.stdin.take().expect("it was asked for");
        let from = process.stdout.take().expect("it was asked for");
        Self { process, to, from }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its next eight bytes, as a number.
    pub(crate) fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.from.read_exact(&mut bytes).expect("a bare process that lives");
        u64::from_le_bytes(bytes)
    }

    /// Sends bytes and waits for as many. `back` is where they go, and must be as long.
    pub(crate) fn exchange(&mut self, bytes: &[u8], back: &mut [u8]) {
        self.to.write_all(bytes).expect("a bare process that lives");
        self.from.read_exact(back).expect("as above");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts this program again, to its first byte: the least that any process of ours costs.
pub(crate) fn time_to_first_byte() -> Duration {
    let began = Instant::now();
    let mut bare = Bare::start("first-byte", &[]);
    bare.number();
    began.elapsed()
}

/// What a fresh process of this program measured of itself, in which it did `part` with a library.
pub(crate) fn time_in_fresh_process(part: &str, library: &Path) -> Duration {
    let library = library.to_str().expect("libraries have plain names");
    Duration::from_nanos(Bare::start(part, &[library]).number())
}

/// The system call whose every use is a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notified {
    /// getppid(2), answered with a number.
    Value,
    /// openat(2), answered with a descriptor that was opened afresh.
    Open,
}

/// A process with a filter of one call, and the listener of that.
#[derive(Debug)]
pub(crate) struct Notifying {
    bare: Bare,
    listener: OwnedFd,
    file: PathBuf,
}

impl Notifying {
    /// Starts one.
    pub(crate) fn start(what: Notified, file: &Path) -> Result<Self, String> {
        let part = match what {
            Notified::Value => "notify-value",
            Notified::Open => "notify-open",
        };
        let mut bare = Bare::start(part, &[file.to_str().expect("scratch files have plain names")]);
        let number = bare.number();
        let number = RawFd::try_from(number).map_err(|_| "seccomp(2) gives no listener".to_owned())?;
        let pid = i32::try_from(bare.id()).ok().and_then(Pid::from_raw).expect("a process id");
        let listener = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .and_then(|pidfd| rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()))
            .map_err(|errno| format!("no bare listener: {errno}"))?;
        Ok(Self { bare, listener, file: file.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.bare.id()
    }

    /// Lets it make its call so many times, and answers each. What each took, as the process itself saw it.
    pub(crate) fn times(&mut self, count: u32) -> Vec<Duration> {
        self.bare.to.write_all(&count.to_le_bytes()).expect("a bare process that lives");
        for _ in 0..count {
            self.answer_one().expect("a notification that is answered");
        }
        (0..count).map(|_| Duration::from_nanos(self.bare.number())).collect()
    }

    fn answer_one(&self) -> Result<(), Errno> {
        let mut asked = libc::seccomp_notif {
            id: 0,
            pid: 0,
            flags: 0,
            data: libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] },
        };
        let listener = self.listener.as_raw_fd();
        // SAFETY: the request writes one `struct seccomp_notif`, which `asked` is, zeroed as the kernel demands.
        let rc = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        Errno::result(rc)?;
        if i64::from(asked.data.nr) != libc::SYS_openat {
            let answer = libc::seccomp_notif_resp { id: asked.id, val: 1, error: 0, flags: 0 };
            // SAFETY: the request reads one `struct seccomp_notif_resp`, which `answer` is.
            let rc = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
            return Errno::result(rc).map(drop);
        }
        let file = File::open(&self.file).expect("the bench's own file");
        let answer = libc::seccomp_notif_addfd {
            id: asked.id,
            flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SEND).map_err(|_| Errno::EINVAL)?,
            srcfd: file.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC.cast_unsigned(),
        };
        // SAFETY: the request reads one `struct seccomp_notif_addfd`, which `answer` is; `file` is open until its end.
        let rc = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const answer) };
        Errno::result(rc).map(drop)
    }
}

// What follows runs in those processes.

/// Plays the part that the arguments name.
pub(crate) fn play(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["first-byte"] => say(0),
        ["echo", size] => echo(size.parse().expect("a size")),
        ["in-process", library] => {
            let began = Instant::now();
            let plugin = crate::in_process::active(Path::new(library));
            say_time(began.elapsed());
            drop(plugin);
        }
        ["in-process-memory", library] => {
            let before = crate::memory::of(std::process::id()).map_or(0, |memory| memory.total_kib());
            let plugin = crate::in_process::active(Path::new(library));
            let after = crate::memory::of(std::process::id()).map_or(0, |memory| memory.total_kib());
            say(after.saturating_sub(before));
            drop(plugin);
        }
        ["first-sandbox", library] => {
            let began = Instant::now();
            let plugin = sandbox_core::run(library).expect("the plugin runs");
            say_time(began.elapsed());
            drop(plugin);
        }
        ["notify-value", _] => notify(libc::SYS_getppid, || {
            nix::unistd::getppid();
        }),
        ["notify-open", file] => notify(libc::SYS_openat, || drop(File::open(file).expect("it is answered"))),
        other => panic!("no part: {other:?}"),
    }
}

fn say(number: u64) {
    let mut out = std::io::stdout();
    out.write_all(&number.to_le_bytes()).and_then(|()| out.flush()).expect("the bench listens");
}

fn say_time(time: Duration) {
    say(u64::try_from(time.as_nanos()).expect("less than centuries"));
}

/// Two system calls to read, and two to write, for what fits into a pipe.
fn echo(size: usize) {
    let (mut input, mut output) = (own(0), own(1));
    let mut bytes = vec![0; size];
    while input.read_exact(&mut bytes).is_ok() && output.write_all(&bytes).is_ok() {}
}

/// A standard stream without the buffer that the standard library puts around it.
fn own(number: RawFd) -> File {
    // SAFETY: this process was started with pipes at 0 and 1 and has one thread; each is taken once, by the one part that
    // it plays, which uses the standard library's handles to them no more.
    unsafe { File::from_raw_fd(number) }
}

fn notify(call: libc::c_long, act: impl Fn()) {
    rustix::thread::set_no_new_privs(true).expect("it takes no right to give some up");
    say(listen_for(call).map_or(u64::MAX, |fd| u64::try_from(fd).unwrap_or(u64::MAX)));
    let mut input = own(0);
    let mut count = [0; 4];
    while input.read_exact(&mut count).is_ok() {
        let times: Vec<Duration> = (0..u32::from_le_bytes(count))
            .map(|_| {
                let began = Instant::now();
                act();
                began.elapsed()
            })
            .collect();
        times.into_iter().for_each(say_time);
    }
}

/// Installs a filter that notifies of this one call and allows all others. The listener's number.
fn listen_for(call: libc::c_long) -> Result<i64, Errno> {
    const NUMBER_AT: u32 = 0; // offsetof(struct seccomp_data, nr)
    let code = |code: u32| u16::try_from(code).map_err(|_| Errno::EINVAL);
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS)?, 0, 0, NUMBER_AT),
        step(
            code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K)?,
            0,
            1,
            u32::try_from(call).map_err(|_| Errno::EINVAL)?,
        ),
        step(code(libc::BPF_RET | libc::BPF_K)?, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(code(libc::BPF_RET | libc::BPF_K)?, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let fprog = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    let (set, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: `fprog` points at the four instructions of `program`, which outlives the call; the kernel copies them.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const fprog) };
    Errno::result(rc)
}
