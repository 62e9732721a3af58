//! Starts the launcher and the zygote behind it, asks it for helpers, and hears how they end. Seen from outside: by exec
//! and by `shared::wire`.
//!
//! Runs in the host, on a thread of its own that lives as long as the zygote: the parent-death signal is that thread's.
//! Never forks: the launcher is started by the standard library.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::instance::Instance;
use super::limits::cgroup::Doors;
use crate::error::PluginSandboxError;
use crate::shared::errno::from_rustix;
use crate::shared::policy::Sabotage;
use crate::shared::sys::signals;
use crate::shared::wire::WIRE_VERSION;
use crate::shared::wire::packets;
use crate::shared::wire::report::Failure;
use crate::shared::wire::role::Role;
use crate::shared::wire::zygote::{FromZygote, HelperId, Launch, Reaped, Task, TaskId, ToZygote};

/// How long the zygote may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long it may take to do what it is asked.
const TASK_TIMEOUT: Duration = Duration::from_secs(3);

/// A running zygote.
pub(crate) struct Zygote {
    socket: OwnedFd,
    pub(crate) launch: Launch,
    pub(crate) failures: Vec<Failure>,
    pub(crate) shared_root: bool,
    pub(crate) trees: Option<Arc<Trees>>,
    pub(crate) host_is_root: bool,
    /// Why its host may not take what the broker needs of a helper, once it has tried.
    hands_over: OnceLock<String>,
    book: Mutex<Book>,
}

/// The host's file tree, as the zygote has copied it.
#[derive(Debug)]
pub(crate) struct Trees {
    /// Read-only and `noexec`, detached.
    pub(crate) read: OwnedFd,
    /// The same, but writable.
    pub(crate) write: OwnedFd,
    /// Read-only, detached; what is opened through it can be mapped as code. `None` where there is no such zygote.
    pub(crate) execute: Option<OwnedFd>,
    /// The zygote's own root: what is found through it, the zygote can copy. `None` where there is no such zygote.
    pub(crate) source: Option<OwnedFd>,
}

/// A helper that has been cloned.
pub(crate) struct Spawned {
    pub(crate) pidfd: OwnedFd,
    /// Why it is not in the cgroup that it was to be in.
    pub(crate) not_in_cgroup: Option<Errno>,
}

/// What is done once nothing is left of helpers that have ended. Runs on the thread that hears the zygote.
type AfterSweep = Box<dyn FnOnce() + Send>;

/// Who waits for what.
#[derive(Default)]
struct Book {
    lost: bool,
    spawning: HashMap<HelperId, Sender<Result<Spawned, Errno>>>,
    next_task: u32,
    tasks: HashMap<TaskId, Sender<Result<Option<OwnedFd>, Errno>>>,
    sweeps: HashMap<TaskId, AfterSweep>,
    /// Sweeps for which there was no room in the socket.
    unsent: Vec<TaskId>,
    living: HashMap<HelperId, Weak<Instance>>,
    /// Helpers that were given out and not entered yet.
    given: HashSet<HelperId>,
    /// Who waits for the end of one of those.
    ending: HashMap<HelperId, Sender<Reaped>>,
    /// Ends that came before their instance was entered.
    early: HashMap<HelperId, Reaped>,
}

impl std::fmt::Debug for Zygote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zygote").field("launch", &self.launch).finish_non_exhaustive()
    }
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> PluginSandboxError {
    move |errno| PluginSandboxError::Zygote { what, errno }
}

impl Zygote {
    /// Starts one, on a thread that hears it until its end.
    pub(crate) fn start(
        program: Option<PathBuf>,
        sabotage: Sabotage,
    ) -> Result<(Arc<Self>, JoinHandle<()>), PluginSandboxError> {
        let (ready, started) = bounded(1);
        let hear = move || {
            signals::block_all();
            match start(program, sabotage) {
                Ok((zygote, pidfd)) => {
                    let zygote = Arc::new(zygote);
                    if ready.send(Ok(Arc::clone(&zygote))).is_ok() {
                        zygote.hear();
                    }
                    drop(zygote);
                    // ECHILD is an answer: the application may reap what it likes.
                    let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new()
            .name("plugin-zygote".to_owned())
            .spawn(hear)
            .map_err(|source| PluginSandboxError::Io { what: "starting a thread for the zygote", source })?;
        let zygote = started.recv_timeout(START_TIMEOUT).unwrap_or(Err(PluginSandboxError::Zygote {
            what: "it is not ready in time",
            errno: Errno::ETIMEDOUT,
        }))?;
        Ok((zygote, thread))
    }

    /// Why helpers have to hand over what the host may not take of them; `None` where it takes it, or has not tried yet.
    pub(crate) fn hands_over(&self) -> Option<&str> {
        self.hands_over.get().map(String::as_str)
    }

    /// From now on they do.
    pub(crate) fn must_hand_over(&self, why: String) {
        tracing::info!(why, "helpers hand over what this host may not take");
        let _ = self.hands_over.set(why);
    }

    /// Asks for a helper, which gets `ends`: input, output, and what it prints, and its end of the socket over which it hands
    /// over; in the groups behind `doors`.
    pub(crate) fn spawn(
        &self,
        id: HelperId,
        (ends, hand_over): ([OwnedFd; 3], Option<OwnedFd>),
        doors: Doors,
        is_killed: bool,
        deadline: Instant,
    ) -> Result<Spawned, PluginSandboxError> {
        let (done, spawned) = bounded(1);
        {
            let mut book = self.book();
            if book.lost {
                return Err(PluginSandboxError::Zygote { what: "it has ended", errno: Errno::EPIPE });
            }
            book.spawning.insert(id, done);
        }
        let (hands_over, into_cgroup) = (hand_over.is_some(), doors.unified.is_some());
        let request = ToZygote::Spawn { id, hands_over, into_cgroup, is_killed };
        let descriptors = ends.iter().chain(&hand_over).chain(&doors.unified).chain(&doors.legacy);
        let descriptors: Vec<_> = descriptors.map(AsFd::as_fd).collect();
        packets::send(self.socket.as_fd(), &request, &descriptors).map_err(failed("asking for a helper"))?;
        let spawned = spawned.recv_deadline(deadline);
        self.book().spawning.remove(&id);
        match spawned {
            Ok(spawned) => spawned.map_err(failed("cloning a helper")),
            Err(RecvTimeoutError::Timeout) => Err(failed("it gave no helper in time")(Errno::ETIMEDOUT)),
            Err(RecvTimeoutError::Disconnected) => Err(failed("it has ended")(Errno::EPIPE)),
        }
    }

    /// Has the zygote do something, and waits for it: a zygote that takes longer than [`TASK_TIMEOUT`] counts as one that
    /// cannot.
    pub(crate) fn perform(&self, task: Task, given: &[BorrowedFd<'_>]) -> Result<Option<OwnedFd>, Errno> {
        let (done, performed) = bounded(1);
        let id = {
            let mut book = self.book();
            if book.lost {
                return Err(Errno::EPIPE);
            }
            book.next_task = book.next_task.wrapping_add(1);
            let id = TaskId(book.next_task);
            book.tasks.insert(id, done);
            id
        };
        let sent = packets::send(self.socket.as_fd(), &ToZygote::Do { id, task }, given);
        let performed =
            sent.and_then(|()| performed.recv_timeout(TASK_TIMEOUT).unwrap_or(Err(Errno::ETIMEDOUT)));
        self.book().tasks.remove(&id);
        performed
    }

    /// Ends all that helpers which have ended have left behind; then, or if the zygote itself ends, which takes everything
    /// along, does `then`. Never waits: the thread that hears the zygote asks for this.
    pub(crate) fn sweep(&self, then: AfterSweep) {
        let mut book = self.book();
        if book.lost {
            drop(book);
            return then();
        }
        book.next_task = book.next_task.wrapping_add(1);
        let id = TaskId(book.next_task);
        book.sweeps.insert(id, then);
        book.unsent.push(id);
        self.send_sweeps(&mut book);
    }

    /// Asks for the sweeps that are wanted. What the socket has no room for is asked for after the zygote's next word: it
    /// has some to say before there can be room.
    fn send_sweeps(&self, book: &mut Book) {
        while let Some(id) = book.unsent.last() {
            let order = ToZygote::Do { id: *id, task: Task::Sweep };
            if packets::send_if_room(self.socket.as_fd(), &order) == Err(Errno::EAGAIN) {
                return;
            }
            book.unsent.pop();
        }
    }

    /// How a helper has ended that was gone before it could be entered. `None` if the zygote ended with it, or does not tell.
    pub(crate) fn early_end(&self, id: HelperId, deadline: Instant) -> Option<Reaped> {
        let (done, ended) = bounded(1);
        {
            let mut book = self.book();
            if let Some(end) = book.early.remove(&id) {
                return Some(end);
            }
            if book.lost {
                return None;
            }
            book.ending.insert(id, done);
        }
        let end = ended.recv_deadline(deadline).ok();
        self.book().ending.remove(&id);
        end
    }

    /// From now on the end of the helper `id` is `instance`'s.
    pub(crate) fn enter(&self, id: HelperId, instance: &Arc<Instance>) {
        let mut book = self.book();
        book.given.remove(&id);
        if let Some(reaped) = book.early.remove(&id) {
            drop(book);
            instance.has_exited(&reaped);
        } else if book.lost {
            drop(book);
            instance.zygote_lost();
        } else {
            book.living.insert(id, Arc::downgrade(instance));
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_lost(&self) -> bool {
        self.book().lost
    }

    /// Ends it, and every helper with it.
    pub(crate) fn stop(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self) {
        while let Ok(Some((message, mut descriptors))) = packets::receive::<FromZygote>(self.socket.as_fd()) {
            match message {
                FromZygote::Spawned { id, cgroup_errno } => {
                    let mut book = self.book();
                    let Some(waiting) = book.spawning.remove(&id) else { continue };
                    let not_in_cgroup = cgroup_errno.map(Errno::from_raw);
                    // Without room for the pidfd the helper is nobody's, and ends when its pipes are closed.
                    let spawned = descriptors.pop().map(|pidfd| Spawned { pidfd, not_in_cgroup });
                    if spawned.is_some() {
                        book.given.insert(id);
                    }
                    drop(book);
                    let _ = waiting.send(spawned.ok_or(Errno::EMFILE));
                }
                FromZygote::SpawnFailed { id, errno } => {
                    if let Some(waiting) = self.book().spawning.remove(&id) {
                        let _ = waiting.send(Err(Errno::from_raw(errno)));
                    }
                }
                FromZygote::Done { id, errno } => {
                    let swept = self.book().sweeps.remove(&id);
                    if let Some(then) = swept {
                        then();
                    } else if let Some(waiting) = self.book().tasks.remove(&id) {
                        let made = errno.map_or(Ok(descriptors.pop()), |errno| Err(Errno::from_raw(errno)));
                        let _ = waiting.send(made);
                    }
                }
                FromZygote::Exited { id, reaped } => {
                    let mut book = self.book();
                    match book.living.remove(&id) {
                        Some(instance) => {
                            drop(book);
                            if let Some(instance) = instance.upgrade() {
                                instance.has_exited(&reaped);
                            }
                        }
                        None if !book.given.remove(&id) => {}
                        None => match book.ending.remove(&id) {
                            Some(waiting) => drop(waiting.send(reaped)),
                            None => drop(book.early.insert(id, reaped)),
                        },
                    }
                }
                FromZygote::Launched(_) | FromZygote::Ready { .. } | FromZygote::LaunchFailed { .. } => break,
            }
            self.send_sweeps(&mut self.book());
        }
        let mut book = self.book();
        book.lost = true;
        let living: Vec<_> = book.living.drain().filter_map(|(_, instance)| instance.upgrade()).collect();
        book.spawning.clear();
        book.tasks.clear();
        book.early.clear();
        book.given.clear();
        book.ending.clear();
        let swept = std::mem::take(&mut book.sweeps);
        drop(book);
        swept.into_values().for_each(|then| then());
        living.iter().for_each(|instance| instance.zygote_lost());
    }
}

/// The launcher's whole life, then the zygote's first word. Returns the zygote and its pidfd.
fn start(program: Option<PathBuf>, sabotage: Sabotage) -> Result<(Zygote, OwnedFd), PluginSandboxError> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| failed("making its socket")(from_rustix(errno)))?;
    // By way of /proc, so that an image which was replaced or removed meanwhile still is this very one.
    let program = program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(&program);
    command.arg0("plugin-launcher").arg(Role::Launcher.mark().to_string_lossy().as_ref()).env_clear();
    // A process group of its own, by which whatever becomes of it, and of what it has cloned, can be reaped.
    command
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/");
    let launcher = command
        .spawn()
        .map_err(|source| PluginSandboxError::HelperProgram { program: program.clone(), source })?;
    // The launcher's copy of the socket must be the only other one, so that its end is heard.
    drop(command);
    let group = nix::unistd::Pid::from_raw(i32::try_from(launcher.id()).unwrap_or(0));
    // Held while it waits for the first word, so that nobody can have reaped it: the number is still its own.
    let launcher = pidfd(group);
    let started = greet(ours, sabotage);
    if started.is_err() {
        end_group(group);
        return started;
    }
    // It has said its last word, and ends. What it had cloned in vain has ended before.
    if let Some(launcher) = launcher {
        let _ = waitid(Id::PIDFd(launcher.as_fd()), WaitPidFlag::WEXITED);
    }
    reap_group(group, WaitPidFlag::WNOHANG);
    started
}

fn pidfd(pid: nix::unistd::Pid) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw())?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// Reaps what has ended of the launcher's process group: the launcher, which is a child of this process until then, and what it
/// has cloned. ECHILD is an answer: the application may reap what it likes.
fn reap_group(group: nix::unistd::Pid, how: WaitPidFlag) {
    while matches!(waitid(Id::PGid(group), WaitPidFlag::WEXITED | how), Ok(ended) if ended != WaitStatus::StillAlive)
    {
    }
}

/// Ends the launcher and what it has cloned.
fn end_group(group: nix::unistd::Pid) {
    // As long as there is a child of this process in the group, its number is no other group's.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if waitid(Id::PGid(group), look).is_ok() {
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
    reap_group(group, WaitPidFlag::empty());
}

/// Speaks with the launcher at the other end of `ours`, and then with the zygote.
fn greet(ours: OwnedFd, sabotage: Sabotage) -> Result<(Zygote, OwnedFd), PluginSandboxError> {
    let hello = ToZygote::Hello { wire_version: WIRE_VERSION, sabotage };
    packets::send(ours.as_fd(), &hello, &[]).map_err(failed("greeting the launcher"))?;
    let launched =
        receive(&ours, "the launcher ended before it was done: does this program link sandbox-core?");
    let (launch, pidfd) = match launched? {
        (FromZygote::Launched(launch), mut descriptors) => (launch, descriptors.pop()),
        (FromZygote::LaunchFailed { errno }, _) => return Err(failed("cloning it")(Errno::from_raw(errno))),
        _ => return Err(failed("the launcher said something else")(Errno::EPROTO)),
    };
    let pidfd = pidfd.ok_or_else(|| failed("receiving its pidfd")(Errno::EMFILE))?;
    match packets::send(ours.as_fd(), &hello, &[]) {
        // Of one that has ended already it is said below.
        Ok(()) | Err(Errno::EPIPE) => {}
        Err(errno) => return Err(failed("greeting it")(errno)),
    }
    let (ready, descriptors) = receive(&ours, "it ended before it was ready")?;
    let FromZygote::Ready { failures, shared_root, trees } = ready else {
        return Err(failed("it said something else")(Errno::EPROTO));
    };
    let trees = match <[OwnedFd; 4]>::try_from(descriptors) {
        Ok([read, write, execute, source]) if trees => {
            Some(Arc::new(Trees { read, write, execute: Some(execute), source: Some(source) }))
        }
        _ if trees => return Err(failed("receiving its file tree")(Errno::EMFILE)),
        _ => None,
    };
    let host_is_root = rustix::process::geteuid().is_root();
    let book = Mutex::default();
    tracing::debug!(?launch, shared_root, "the zygote is ready, pidfd {}", pidfd.as_raw_fd());
    let hands_over = OnceLock::new();
    Ok((Zygote { socket: ours, launch, failures, shared_root, trees, host_is_root, hands_over, book }, pidfd))
}

fn receive(socket: &OwnedFd, what: &'static str) -> Result<(FromZygote, Vec<OwnedFd>), PluginSandboxError> {
    // A program that does not become a launcher would never answer: it must not be waited for without an end.
    let timeout = Some(START_TIMEOUT);
    rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, timeout)
        .map_err(|errno| failed("setting a timeout")(from_rustix(errno)))?;
    let received = packets::receive::<FromZygote>(socket.as_fd());
    let _ = rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, None);
    received.map_err(failed(what))?.ok_or_else(|| failed(what)(Errno::ECONNRESET))
}
