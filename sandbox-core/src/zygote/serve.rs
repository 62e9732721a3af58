//! The zygote's loop: a request clones a helper, a SIGCHLD reaps one, the end of the socket ends all.
//!
//! Runs in the zygote, freshly execed inside its namespaces. As first process of its pid namespace it takes every helper
//! along when it ends. Never opens, reads or connects to anything for a helper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::clone::{Ends, Mold};
use super::launch::WITH_NAMESPACES;
use super::tasks::Workshop;
use super::{clone, orphans, reap, roots};
use crate::shared::errno::from_rustix;
use crate::shared::notes::Notes;
use crate::shared::policy::Sabotage;
use crate::shared::sys::{inherited, signals};
use crate::shared::wire::WIRE_VERSION;
use crate::shared::wire::hand_over::HAND_OVER_FD;
use crate::shared::wire::packets;
use crate::shared::wire::report::{Call, Step};
use crate::shared::wire::zygote::{FromZygote, HelperId, Task, TaskId, ToZygote};

/// What a helper keeps of the bounding set until it drops it itself; the rest is cut here, once for all helpers.
const STILL_NEEDED: [caps::Capability; 6] = [
    caps::Capability::CAP_SYS_ADMIN,
    caps::Capability::CAP_SYS_CHROOT,
    caps::Capability::CAP_SETPCAP,
    caps::Capability::CAP_SETUID,
    caps::Capability::CAP_SETGID,
    caps::Capability::CAP_SETFCAP, // to map the zygote's 0 into a namespace of one's own: user_namespaces(7)
];

/// Prepares what all helpers share, then serves until the host is gone.
pub(crate) fn main() -> ! {
    signals::reset();
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let Ok(socket) = inherited::take(0) else { inherited::exit_at_once(70) };
    inherited::close_from(3);
    let hello = packets::receive::<ToZygote>(socket.as_fd());
    let Ok(Some((ToZygote::Hello { wire_version: WIRE_VERSION, sabotage }, _))) = hello else {
        inherited::exit_at_once(71);
    };
    match prepare(socket.as_fd(), &sabotage) {
        Ok((mut mold, workshop, children)) => serve(socket.as_fd(), &mut mold, &workshop, &children),
        Err(_) => inherited::exit_at_once(75),
    }
    inherited::exit_at_once(0)
}

fn prepare(socket: BorrowedFd<'_>, sabotage: &Sabotage) -> Result<(Mold, Workshop, SignalFd), Errno> {
    let _ = rustix::thread::set_name(c"plugin-zygote");
    nix::unistd::chdir("/")?;
    // What is made for a helper is for another user; helpers have their own.
    let _ = rustix::process::umask(Mode::empty());
    // 3 to 6 are where a helper's own descriptors go: held here, so that none to be moved there stands in the way.
    let open = |path: &str, flags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(from_rustix)
    };
    let held: Vec<OwnedFd> =
        (3..=HAND_OVER_FD).map(|_| open("/dev/null", OFlags::RDONLY)).collect::<Result<_, _>>()?;
    let image = open("/proc/self/exe", OFlags::PATH)?;
    std::mem::forget(held);

    let mut notes = Notes::default();
    let (mut trees, mut empty_namespace, mut home) = (None, None, None);
    let namespaces = std::env::args_os()
        .nth(2)
        .is_some_and(|detail| detail.as_encoded_bytes() == WITH_NAMESPACES.to_bytes());
    if namespaces {
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        notes.tried(Step::Spawn, Call::Sethostname, nix::unistd::sethostname("localhost"));
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        notes.tried(Step::Spawn, Call::MountPrivate, mount_change("/", private));
        trees = roots::file_trees(sabotage, &mut notes);
        empty_namespace = roots::empty_namespace(&mut notes);
        home = open("/proc/self/ns/mnt", OFlags::RDONLY).ok();
    }
    cut_bounding_set();

    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_set_mask()?;
    let children = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let ready = FromZygote::Ready {
        failures: notes.into_failures(),
        shared_root: empty_namespace.is_some(),
        trees: trees.is_some(),
    };
    let trees =
        trees.map_or_else(Vec::new, |trees| vec![trees.read, trees.write, trees.execute, trees.source]);
    let trees: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
    packets::send(socket, &ready, &trees)?;
    Ok((
        Mold { image, empty_namespace, stack: vec![0; 64 << 10], is_killed: false },
        Workshop { home },
        children,
    ))
}

/// Best effort: whoever may not drop from it has nothing to lose in it, and each helper tries again and reports.
fn cut_bounding_set() {
    for capability in caps::all() {
        if !STILL_NEEDED.contains(&capability) {
            let _ = caps::drop(None, caps::CapSet::Bounding, capability);
        }
    }
}

fn serve(socket: BorrowedFd<'_>, mold: &mut Mold, workshop: &Workshop, children: &SignalFd) {
    let mut living = reap::Living::new();
    let mut sweeps: Vec<TaskId> = Vec::new();
    loop {
        let mut ready =
            [PollFd::new(socket, PollFlags::POLLIN), PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let [asked, ended] = ready.map(|fd| fd.any().unwrap_or(true));
        if ended {
            while let Ok(Some(_)) = children.read_signal() {}
            reap::all(socket, &mut living);
        }
        // Each that dies leaves its own children here before it can be reaped: none is missed.
        if !sweeps.is_empty() && !orphans::end_all(&living) {
            let done = sweeps.drain(..).map(|id| FromZygote::Done { id, errno: None });
            if done.into_iter().any(|done| packets::send(socket, &done, &[]).is_err()) {
                return;
            }
        }
        if !asked {
            continue;
        }
        let Ok(Some((order, given))) = packets::receive::<ToZygote>(socket) else { return };
        let sent = match order {
            ToZygote::Spawn { id, hands_over, into_cgroup, is_killed } => {
                mold.is_killed = is_killed;
                spawn(socket, mold, &mut living, id, (hands_over, into_cgroup), given)
            }
            ToZygote::Do { id, task: Task::Sweep } => {
                if orphans::end_all(&living) {
                    sweeps.push(id);
                    continue;
                }
                packets::send(socket, &FromZygote::Done { id, errno: None }, &[])
            }
            ToZygote::Do { id, task } => {
                let (made, errno) = match workshop.perform(&task, &given, &living) {
                    Ok(made) => (made, None),
                    Err(errno) => (None, Some(errno as i32)),
                };
                let made: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
                packets::send(socket, &FromZygote::Done { id, errno }, &made)
            }
            ToZygote::Hello { .. } => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn spawn(
    socket: BorrowedFd<'_>,
    mold: &mut Mold,
    living: &mut reap::Living,
    id: HelperId,
    (hands_over, into_cgroup): (bool, bool),
    mut ends: Vec<OwnedFd>,
) -> Result<(), Errno> {
    let mut rest = ends.split_off(ends.len().min(3)).into_iter();
    let hand_over = if hands_over { rest.next() } else { None };
    let cgroup = if into_cgroup { rest.next() } else { None };
    let Ok([input, output, printed]) = <[OwnedFd; 3]>::try_from(ends) else {
        return packets::send(socket, &FromZygote::SpawnFailed { id, errno: libc::EMFILE }, &[]);
    };
    let ends = Ends { input, output, printed, hand_over, tasks: rest.collect() };
    let (mut cloned, mut cgroup_errno) = (clone::helper(mold, &ends, cgroup.as_ref()), None);
    if let (Err(errno), Some(_)) = (&cloned, cgroup) {
        // It may be this zygote that may not: the host is told, and decides whether it goes on without.
        cgroup_errno = Some(*errno as i32);
        cloned = clone::helper(mold, &ends, None);
    }
    // Before the host hears of it: that nobody has the socket any more is how it knows that no more can come.
    drop(ends);
    match cloned {
        Ok((pid, pidfd)) => {
            living.insert(pid, id);
            packets::send(socket, &FromZygote::Spawned { id, cgroup_errno }, &[pidfd.as_fd()])
        }
        Err(errno) => packets::send(socket, &FromZygote::SpawnFailed { id, errno: errno as i32 }, &[]),
    }
}
