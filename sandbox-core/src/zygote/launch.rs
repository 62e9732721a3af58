//! Makes the zygote: a sibling in namespaces of its own, whose ids are mapped before it execs.
//!
//! Runs in the launcher, a fresh exec of the host's image that has one thread and ends when this is done. It exists so
//! that the host, which has many threads, need never clone itself. Owns the choice of namespaces: what can be had.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::fs::{Mode, OFlags};

use crate::shared::errno::from_rustix;
use crate::shared::plan::caps::{IdRange, id_range};
use crate::shared::policy::{Layer, Sabotage};
use crate::shared::sys::clone::{Cloned, clone_sibling};
use crate::shared::sys::{inherited, signals};
use crate::shared::wire::WIRE_VERSION;
use crate::shared::wire::packets;
use crate::shared::wire::role::Role;
use crate::shared::wire::zygote::{FromZygote, Launch, ToZygote};

/// What stands in the zygote's arguments: whether it has namespaces of its own.
pub(crate) const WITH_NAMESPACES: &std::ffi::CStr = c"with-namespaces";
const WITHOUT_NAMESPACES: &std::ffi::CStr = c"without-namespaces";

/// Makes the zygote, tells the host, and ends.
pub(crate) fn main() -> ! {
    signals::reset();
    let Ok(socket) = inherited::take(0) else { inherited::exit_at_once(70) };
    let hello = packets::receive::<ToZygote>(socket.as_fd());
    let Ok(Some((ToZygote::Hello { wire_version: WIRE_VERSION, sabotage }, _))) = hello else {
        inherited::exit_at_once(71);
    };
    // Whatever the host had open without close-on-exec ends here.
    inherited::close_from(3);
    let (answer, pidfd) = match launch(socket.as_fd(), &sabotage) {
        Ok((launch, pidfd)) => (FromZygote::Launched(launch), Some(pidfd)),
        Err(errno) => (FromZygote::LaunchFailed { errno: errno as i32 }, None),
    };
    let pidfd: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
    let sent = packets::send(socket.as_fd(), &answer, &pidfd);
    inherited::exit_at_once(if sent.is_ok() { 0 } else { 72 })
}

fn launch(socket: BorrowedFd<'_>, sabotage: &Sabotage) -> Result<(Launch, OwnedFd), Errno> {
    let others = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
    let mut spaces = CloneFlags::CLONE_NEWNS;
    spaces.set(CloneFlags::CLONE_NEWPID, !sabotage.takes(Layer::PidNamespace));
    spaces.set(CloneFlags::CLONE_NEWNET, !sabotage.takes(Layer::NetworkNamespace));
    spaces.set(others, !sabotage.takes(Layer::OtherNamespaces));
    let image = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(from_rustix)?;
    let uid_map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ids = if Uid::effective().is_root() { id_range(&uid_map) } else { None };
    let mut why = None;
    // As much as can be had: a user namespace is what an ordinary user needs for the others; root can do without it.
    for (user_namespace, namespaces) in [(true, true), (false, true), (false, false)] {
        if user_namespace && sabotage.takes(Layer::UserNamespace) {
            continue;
        }
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWUSER, user_namespace);
        flags.set(spaces, namespaces);
        match attempt(socket, image.as_fd(), flags, ids) {
            Ok(pidfd) => return Ok((Launch { user_namespace, namespaces, ids, errno: why }, pidfd)),
            Err(errno) => why = why.or(Some(errno as i32)),
        }
    }
    Err(why.map_or(Errno::EPERM, Errno::from_raw))
}

/// One try: the clone waits until its ids are mapped, then execs as the zygote. If the mapping is refused it ends.
fn attempt(
    socket: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
    flags: CloneFlags,
    ids: Option<IdRange>,
) -> Result<OwnedFd, Errno> {
    let (wait, go) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (user, user_group) = (Uid::effective(), Gid::effective());
    match clone_sibling(flags)? {
        Cloned::Child => become_zygote(socket, image, go, &wait, flags),
        Cloned::Parent { pid, pidfd } => {
            drop(wait);
            if flags.contains(CloneFlags::CLONE_NEWUSER)
                && let Err(errno) = map_ids(pid, user, user_group, ids)
            {
                // Unwritten it closes, and the clone ends; waited for, so that the host finds it when it reaps.
                drop(go);
                let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                return Err(errno);
            }
            nix::unistd::write(&go, b"g")?;
            Ok(pidfd)
        }
    }
}

fn become_zygote(
    socket: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
    go: OwnedFd,
    wait: &OwnedFd,
    flags: CloneFlags,
) -> ! {
    drop(go);
    let mut word = [0];
    if nix::unistd::read(wait, &mut word) != Ok(1) || inherited::place(socket, 0).is_err() {
        inherited::exit_at_once(73);
    }
    let named = flags.contains(CloneFlags::CLONE_NEWNS);
    let detail = if named { WITH_NAMESPACES } else { WITHOUT_NAMESPACES };
    inherited::exec(image, [c"plugin-zygote", Role::Zygote.mark(), detail]);
    inherited::exit_at_once(74)
}

/// Maps 0 to the host's own user, and for root a range of ids that nobody else has. user_namespaces(7).
fn map_ids(pid: i32, user: Uid, group: Gid, ids: Option<IdRange>) -> Result<(), Errno> {
    let put = |file: &str, text: String| {
        std::fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    };
    if user.is_root() {
        let helpers = ids.map(|IdRange { first, count }| format!("1 {first} {count}\n"));
        let range = format!("0 0 1\n{}", helpers.unwrap_or_default());
        put("uid_map", range.clone())?;
        put("gid_map", range)
    } else {
        put("setgroups", "deny".to_owned())?;
        put("uid_map", format!("0 {user} 1\n"))?;
        // Nested namespaces want this one too, else their making fails with EPERM.
        put("gid_map", format!("0 {group} 1\n"))
    }
}
