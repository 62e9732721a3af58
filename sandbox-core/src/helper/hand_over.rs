//! Hands this process's memory and its filter's listener over to a host that may take neither by itself.
//!
//! Runs in the helper, where the plan says so: the memory goes in step 2, while `/proc` is in sight; the listener when the
//! filter stands, which refuses to send it. That is done by a courier: a child from before the filter, which shares the
//! descriptors, waits for the listener's number, sends it, and ends. Nothing of it is left when the report is written.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::event::EventfdFlags;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::shared::errno::from_rustix;
use crate::shared::notes::Notes;
use crate::shared::sys::clone::clone_sharing_descriptors;
use crate::shared::sys::inherited;
use crate::shared::wire::hand_over::{HAND_OVER_FD, HandedOver};
use crate::shared::wire::packets;
use crate::shared::wire::report::{Call, Step};

/// Told to the courier where there is no listener: no descriptor has this number.
const NONE: u64 = u64::MAX >> 1;

/// Takes over the socket, and sends this process's memory: a process may always open its own, and who holds it open may use it
/// whatever becomes of either's rights.
pub(super) fn memory(notes: &mut Notes) -> Option<OwnedFd> {
    let socket = notes.tried(Step::Detach, Call::Sendmsg, inherited::take_for_good(HAND_OVER_FD))?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let memory = rustix::fs::open("/proc/self/mem", flags, Mode::empty());
    let memory = notes.tried(Step::Detach, Call::OwnMemory, memory)?;
    let sent = packets::send(socket.as_fd(), &HandedOver::Memory, &[memory.as_fd()]);
    notes.tried(Step::Detach, Call::Sendmsg, sent)?;
    Some(socket)
}

/// How often the courier tries to send, a millisecond apart: the host's deadline for a load comes first.
const MOST_TRIES: u32 = 10_000;

/// A child that waits for the listener.
pub(super) struct Courier {
    pid: i32,
    number: OwnedFd,
    // Closed with it: from then on nobody here has the socket.
    _socket: OwnedFd,
}

impl Courier {
    /// Starts it. To be called before the first filter, and with one thread.
    pub(super) fn start(socket: OwnedFd, notes: &mut Notes) -> Option<Self> {
        let number = rustix::event::eventfd(0, EventfdFlags::CLOEXEC);
        let number = notes.tried(Step::Seccomp, Call::Eventfd, number)?;
        let maker = rustix::process::getpid();
        // It counts as one of the plugin's threads, of which there may be none.
        let most = getrlimit(Resource::Nproc);
        let _ = setrlimit(Resource::Nproc, Rlimit { current: most.maximum, ..most });
        let cloned = clone_sharing_descriptors();
        if cloned == Ok(None) {
            let sent = carry(socket.as_fd(), number.as_fd(), maker);
            inherited::exit_at_once(sent.map_or_else(|errno| errno as i32, |()| 0));
        }
        notes.tried(Step::Seccomp, Call::Setrlimit, setrlimit(Resource::Nproc, most));
        let pid = notes.tried(Step::Seccomp, Call::Clone, cloned)??;
        Some(Self { pid, number, _socket: socket })
    }

    /// Has it send `listener`, or nothing, and waits for its end.
    pub(super) fn send(self, listener: Option<BorrowedFd<'_>>, notes: &mut Notes) {
        let number = listener.and_then(|listener| u64::try_from(listener.as_raw_fd()).ok()).unwrap_or(NONE);
        let told = rustix::io::write(&self.number, &number.to_ne_bytes());
        if notes.tried(Step::Seccomp, Call::Eventfd, told).is_none() {
            return; // it ends with this process
        }
        let ended = loop {
            match waitid(Id::Pid(Pid::from_raw(self.pid)), WaitPidFlag::WEXITED) {
                Err(Errno::EINTR) => {}
                ended => break ended,
            }
        };
        let sent = match ended {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, errno)) => Err(Errno::from_raw(errno)),
            Ok(_) => Err(Errno::EINTR),
            Err(errno) => {
                notes.tried(Step::Seccomp, Call::Waitid, Err::<(), _>(errno));
                return;
            }
        };
        notes.tried(Step::Seccomp, Call::Sendmsg, sent);
    }
}

/// The courier's whole life. Drops no descriptor: they are its maker's too.
fn carry(socket: BorrowedFd<'_>, number: BorrowedFd<'_>, maker: rustix::process::Pid) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(from_rustix)?;
    if rustix::process::getppid() != Some(maker) {
        return Err(Errno::ESRCH); // it has ended before the line above
    }
    let mut bytes = [0; 8];
    rustix::io::read(number, &mut bytes).map_err(from_rustix)?;
    let Ok(number) = i32::try_from(u64::from_ne_bytes(bytes)) else { return Ok(()) };
    let listener = std::mem::ManuallyDrop::new(inherited::take(number)?);
    // What is under way between all of a user's processes counts against this limit of each: ETOOMANYREFS, unix(7). It is this
    // process's own.
    let most = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most }).map_err(from_rustix)?;
    // Whoever loads beside this has some under way too, each for a moment.
    for _ in 0..MOST_TRIES {
        match packets::send(socket, &HandedOver::Listener, &[listener.as_fd()]) {
            Err(Errno::ETOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
            sent => return sent,
        }
    }
    Err(Errno::ETOOMANYREFS)
}
