//! How the host comes by a helper's listener and memory: it takes both or, where it may not, the helper hands them over.
//!
//! Runs in the host, on the thread that loads. Owns that nothing is believed of what comes over the socket: two packets with one
//! descriptor each, of the very things that were promised, and nobody left who could send another. Waits for no helper.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::instance::Instance;
use super::procfs::{self, HostPid};
use crate::error::PluginSandboxError;
use crate::shared::errno::from_rustix;
use crate::shared::wire::hand_over::HandedOver;
use crate::shared::wire::packets;
use crate::shared::wire::report::{Call, Failure};

/// How long a process that the application has forked may take to its exec: until then it has copies of all descriptors.
const CLOSED_WITHIN: u16 = 1000;

/// A helper's listener, and its memory.
pub(super) type Taken = (OwnedFd, File);

/// Why the host has not got one of the two.
pub(super) struct NotTaken {
    pub(super) why: String,
    /// Whether it may not, now and ever: who tries again comes to the same.
    pub(super) is_for_good: bool,
}

/// Takes both, while the kernel still lets the host: pidfd_getfd(2), proc_pid_mem(5).
pub(super) fn take(instance: &Instance, listener: RawFd) -> Result<Taken, NotTaken> {
    let failed = |what: &str, errno: Errno| {
        let refused = matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS);
        // Of one that ends nothing can be had by anybody.
        NotTaken { why: format!("{what}: {errno}"), is_for_good: refused && !instance.is_gone() }
    };
    let taken = instance.descriptor(listener);
    let listener = taken.map_err(|errno| failed("taking its listener: pidfd_getfd", from_rustix(errno)))?;
    let memory =
        OpenOptions::new().read(true).write(true).open(memory_path(instance.pid)).map_err(|error| {
            failed("opening its memory", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        })?;
    Ok((listener, memory))
}

fn memory_path(of: HostPid) -> String {
    format!("/proc/{}/mem", of.0)
}

/// The host's end of the socket over which a helper hands both over.
pub(super) struct Receiver(OwnedFd);

impl Receiver {
    /// One, and the helper's end.
    pub(super) fn new() -> Result<(Self, OwnedFd), PluginSandboxError> {
        let flags = SocketFlags::CLOEXEC;
        let made = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (ours, theirs) = made.map_err(PluginSandboxError::io("making a helper's socket"))?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)
            .map_err(PluginSandboxError::io("making a socket non-blocking"))?;
        Ok((Self(ours), theirs))
    }

    /// Both of the helper `pid`, which has reported, so that all it had to send is here. Else why not: what it has noted
    /// itself comes first.
    pub(super) fn receive(self, pid: HostPid, noted: &[Failure]) -> Result<Taken, String> {
        self.receive_of(pid).map_err(|why| {
            let noted = noted.iter().find(|failure| is_of_hand_over(failure.call));
            noted.map_or(why, |Failure { step, call, errno }| {
                format!("step {step}: {}: {}", call.name(), Errno::from_raw(*errno))
            })
        })
    }

    fn receive_of(&self, pid: HostPid) -> Result<Taken, String> {
        // The courier has no filter. It has ended, or the kernel does not show it, which is not enough.
        if !procfs::shows_children() || !procfs::descendants(pid).is_empty() {
            return Err("its courier cannot be seen to have ended".to_owned());
        }
        // Neither the helper, nor who shared its descriptors, nor the zygote.
        let mut end = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let polled = poll(&mut end, PollTimeout::from(CLOSED_WITHIN));
        let is_closed =
            end.iter().all(|end| end.revents().is_some_and(|end| end.contains(PollFlags::POLLHUP)));
        if polled.is_err() || !is_closed {
            return Err("somebody still holds its socket".to_owned());
        }
        let (memory, listener) = (self.next(HandedOver::Memory)?, self.next(HandedOver::Listener)?);
        if !matches!(packets::receive::<HandedOver>(self.0.as_fd()), Ok(None)) {
            return Err("more came than its memory and its listener".to_owned());
        }
        if !is_memory_of(memory.as_fd(), pid) {
            return Err("what came is not its memory".to_owned());
        }
        if !is_listener(listener.as_fd()) {
            return Err("what came is no listener".to_owned());
        }
        Ok((listener, File::from(memory)))
    }

    /// The next descriptor, which has come as `expected`, alone.
    fn next(&self, expected: HandedOver) -> Result<OwnedFd, String> {
        let missing = |why: &str| format!("its {} did not come: {why}", name(expected));
        let (came, descriptors) = packets::receive::<HandedOver>(self.0.as_fd())
            .map_err(|errno| missing(&errno.to_string()))?
            .ok_or_else(|| missing("it has closed its socket"))?;
        match <[OwnedFd; 1]>::try_from(descriptors) {
            Ok([descriptor]) if came == expected => Ok(descriptor),
            Ok(_) => Err(missing("something else came")),
            Err(descriptors) => Err(missing(&format!("{} descriptors came, not one", descriptors.len()))),
        }
    }
}

fn name(what: HandedOver) -> &'static str {
    match what {
        HandedOver::Memory => "memory",
        HandedOver::Listener => "listener",
    }
}

fn is_of_hand_over(call: Call) -> bool {
    matches!(call, Call::OwnMemory | Call::Eventfd | Call::Clone | Call::Waitid | Call::Sendmsg)
}

/// Whether `file` is the memory of `pid`, which lives, to read and to write: the very inode that the kernel shows there now.
/// Asked of no file system that would have to ask somebody else.
fn is_memory_of(file: BorrowedFd<'_>, pid: HostPid) -> bool {
    let identity = |stat: rustix::fs::Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    let held = statx(file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO);
    let shown = statx(CWD, memory_path(pid), AtFlags::STATX_DONT_SYNC, StatxFlags::INO);
    // O_PATH reads as an access mode of its own.
    let access = rustix::fs::fcntl_getfl(file).map(|flags| flags & (OFlags::RWMODE | OFlags::PATH));
    matches!((held, shown), (Ok(held), Ok(shown)) if identity(held) == identity(shown))
        && access == Ok(OFlags::RDWR)
}

/// Whether it is a listener for a filter's notifications: a name that the kernel gives to nothing else, and that no path is.
fn is_listener(file: BorrowedFd<'_>) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    link.is_ok_and(|link| link.as_os_str() == "anon_inode:seccomp notify")
}

#[cfg(test)]
mod tests {
    use super::*;
    use HandedOver::{Listener, Memory};

    fn own() -> HostPid {
        HostPid(std::process::id().cast_signed())
    }

    fn own_memory() -> OwnedFd {
        OpenOptions::new().read(true).write(true).open("/proc/self/mem").expect("one's own").into()
    }

    /// Anything that is neither of the two.
    fn other() -> OwnedFd {
        File::open("/dev/null").expect("it is there").into()
    }

    fn refused(plays: impl FnOnce(&OwnedFd)) -> String {
        let (receiver, theirs) = Receiver::new().expect("a socket");
        plays(&theirs);
        drop(theirs);
        receiver.receive(own(), &[]).expect_err("it was nothing to be believed")
    }

    fn send(socket: &OwnedFd, what: HandedOver, descriptors: &[&OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        packets::send(socket.as_fd(), &what, &descriptors).expect("there is room");
    }

    #[test]
    fn what_a_helper_does_not_send_as_promised_is_refused() {
        let (memory, other) = (own_memory(), other());
        type Row<'a> = (&'a str, &'a str, &'a dyn Fn(&OwnedFd));
        let rows: [Row<'_>; 10] = [
            ("nothing", "its memory did not come: it has closed its socket", &|_| {}),
            ("no descriptor", "0 descriptors came", &|socket| send(socket, Memory, &[])),
            ("two descriptors", "2 descriptors came", &|socket| send(socket, Memory, &[&memory, &memory])),
            ("more than a packet takes", "its memory did not come", &|socket| {
                use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
                let many = [memory.as_fd(); 100];
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
                let bytes = [std::io::IoSlice::new(&[0])];
                sendmsg(socket, &bytes, &mut control, SendFlags::empty()).expect("there is room");
            }),
            ("bytes that are no message", "EBADMSG", &|socket| {
                rustix::io::write(socket, &[0xff; 64]).expect("there is room");
            }),
            ("the listener first", "something else came", &|socket| send(socket, Listener, &[&memory])),
            ("the memory alone", "its listener did not come", &|socket| send(socket, Memory, &[&memory])),
            ("another file as the memory", "not its memory", &|socket| {
                send(socket, Memory, &[&other]);
                send(socket, Listener, &[&other]);
            }),
            ("another file as the listener", "no listener", &|socket| {
                send(socket, Memory, &[&memory]);
                send(socket, Listener, &[&other]);
            }),
            ("a third", "more came", &|socket| {
                send(socket, Memory, &[&memory]);
                send(socket, Listener, &[&other]);
                send(socket, Listener, &[&other]);
            }),
        ];
        let before = std::fs::read_dir("/proc/self/fd").expect("proc").count();
        for (what, says, plays) in rows {
            let why = refused(plays);
            assert!(why.contains(says), "{what}: {why}");
        }
        // Other tests of this program open files meanwhile; a leak of a hundred would show.
        let after = std::fs::read_dir("/proc/self/fd").expect("proc").count();
        assert!(after < before + 50, "{before} descriptors, then {after}");
    }

    #[test]
    fn a_helper_that_keeps_its_socket_is_waited_for_no_longer_than_a_fork_takes() {
        let (receiver, theirs) = Receiver::new().expect("a socket");
        let why = receiver.receive(own(), &[]).expect_err("more could come");
        assert!(why.contains("still holds its socket"), "{why}");
        drop(theirs);
    }

    #[test]
    fn memory_is_that_of_the_very_process_to_read_and_to_write() {
        assert!(is_memory_of(own_memory().as_fd(), own()));
        let parent = HostPid(nix::unistd::getppid().as_raw());
        assert!(!is_memory_of(own_memory().as_fd(), parent));
        let open =
            |flags| rustix::fs::open("/proc/self/mem", flags, rustix::fs::Mode::empty()).expect("one's own");
        for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::PATH] {
            assert!(!is_memory_of(open(flags).as_fd(), own()), "{flags:?}");
        }
        let other = File::open("/proc/self/maps").expect("one's own");
        assert!(!is_memory_of(other.as_fd(), own()));
    }

    #[test]
    fn no_file_of_any_name_is_a_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("anon_inode:seccomp notify");
        let file = File::create(&path).expect("a file");
        assert!(!is_listener(file.as_fd()));
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("one");
        assert!(!is_listener(eventfd.as_fd()));
    }
}
