//! Controls: the very code of a probe in a child process that nothing confines.
//!
//! A refusal in the sandbox proves something only if the same attempt succeeds outside it. The child is the host's own program
//! run again: it is told what to do over a socket in place of its standard input, and tells over it what came of it.
//! Owns the bounds of that child, and its end with all that it has started. Never plays for anybody but the program that it is
//! itself: a socket from elsewhere, a terminal, or a pipe is refused.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use plugin_abi::loader::{ENTRY_SYMBOL, LoadedPlugin, open};
use plugin_abi::{PluginError, ServiceError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::inventory::living_descendants;
use crate::{Answer, Step};

/// How a child that can play controls is started: the program with the arguments that lead it to [`play`].
pub type Starter = dyn Fn() -> io::Result<Command> + Send + Sync;

/// What an unconfined attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The probe answered.
    Answered(Answer),
    /// The library could not be loaded, or the plugin failed, in these words.
    Failed(String),
    /// The process ended by itself: it became another program, for example.
    Exited(i32),
    /// A signal ended it.
    Signal(i32),
    /// It had not ended when it was looked at, and was killed.
    RunsOn,
}

impl Outcome {
    /// Whether the attempt went well: an answer of success, or a program that ended well.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Answered(Answer::Got(_)) | Self::Exited(0))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "{answer:?}"),
            Self::Failed(text) => write!(f, "failed: {text}"),
            Self::Exited(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::RunsOn => f.write_str("runs on"),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    library: PathBuf,
    steps: Vec<Step>,
}

/// The most that a child may send: an answer is small, or was cut by whoever asked for it.
const MOST_BYTES: u64 = 64 << 20;

/// Tries `steps` in a plugin of `library` outside any sandbox, for at most `patience`; what the last one came to.
///
/// # Errors
/// That the child could not be started or talked to.
pub fn attempt(starter: &Starter, library: &Path, steps: &[Step], patience: Duration) -> io::Result<Outcome> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut command = starter()?;
    command
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    // The command holds their end of the socket.
    drop(command);
    let request = Request { library: library.to_owned(), steps: steps.to_vec() };
    let outcome = (|| {
        ours.write_all(&postcard::to_stdvec(&request).map_err(io::Error::other)?)?;
        ours.shutdown(std::net::Shutdown::Write)?;
        listen(&ours, &mut child, patience)
    })();
    end(&mut child);
    outcome
}

fn listen(ours: &UnixStream, child: &mut Child, patience: Duration) -> io::Result<Outcome> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    let deadline = Instant::now() + patience;
    ours.set_nonblocking(true)?;
    let mut told = Vec::new();
    loop {
        if let Some(outcome) = whole(&told) {
            return outcome;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut ends = [PollFd::new(ours, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        let ready = poll(&mut ends, Some(&Timespec::try_from(left).map_err(io::Error::other)?))?;
        let has_ended = !ends[1].revents().is_empty();
        if ready == 0 {
            return Ok(Outcome::RunsOn);
        }
        // Whatever it sent before it ended is there by now.
        let mut bytes = [0; 4096];
        loop {
            match (&mut { ours }).read(&mut bytes) {
                Ok(0) => break,
                Ok(len) if (told.len() as u64) < MOST_BYTES => told.extend_from_slice(&bytes[..len]),
                Ok(_) => return Err(io::Error::other("a control that says too much")),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if has_ended && whole(&told).is_none() {
            let status = child.wait()?;
            return Ok(match (status.code(), status.signal()) {
                (Some(code), _) => Outcome::Exited(code),
                (None, signal) => Outcome::Signal(signal.unwrap_or(0)),
            });
        }
    }
}

/// What is told, once all of it has come: its length, and then either of the two.
fn whole(told: &[u8]) -> Option<io::Result<Outcome>> {
    let (len, rest) = told.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let text = rest.get(..len)?;
    Some(match postcard::from_bytes::<Result<Vec<u8>, String>>(text) {
        Ok(Ok(reply)) => Ok(Outcome::Answered(Answer::of_any(&reply))),
        Ok(Err(text)) => Ok(Outcome::Failed(text)),
        Err(error) => Err(io::Error::other(error)),
    })
}

/// Ends the child and whatever it has started. It takes in what its children leave, and waits for none of it: as long as it
/// is there no number among them comes to mean another process.
fn end(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
        let below = living_descendants(child.id());
        if below.is_empty() {
            break;
        }
        for pid in below {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
    let _ = child.kill();
    // Who is traced by its parent may never quite go.
    while child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

// ---- in the child

/// Plays the control that this process was started for, and ends it. Returns why not, if nobody of ours has started it for that.
pub fn play() -> String {
    match asked() {
        Ok((socket, request)) => {
            let told = carry_out(&request);
            let _ = tell(&socket, &told);
            // The one who asked ends this process, when it has ended what this process has started.
            loop {
                std::thread::park();
            }
        }
        Err(why) => why,
    }
}

fn asked() -> Result<(UnixStream, Request), String> {
    let not_ours = || "this is a part of `plugin-host prove`, which starts it itself".to_owned();
    let peer = rustix::net::sockopt::socket_peercred(rustix::stdio::stdin()).map_err(|_| not_ours())?;
    let parent = rustix::process::getppid().ok_or_else(not_ours)?;
    let program = |path: String| fs::metadata(path).map(|of| (of.dev(), of.ino())).map_err(|_| not_ours());
    if peer.pid != parent
        || program(format!("/proc/{}/exe", parent.as_raw_nonzero()))? != program("/proc/self/exe".to_owned())?
    {
        return Err(not_ours());
    }
    bounded().map_err(|error| format!("its own limits: {error}"))?;
    // Out of the attempt's sight, and closed where it becomes another program.
    const OUT_OF_SIGHT: i32 = 200;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), OUT_OF_SIGHT)
        .map_err(|error| format!("dup: {error}"))?;
    let null = fs::File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    rustix::stdio::dup2_stdin(null.as_fd()).map_err(|error| format!("dup2: {error}"))?;
    let socket = UnixStream::from(socket);
    let mut bytes = Vec::new();
    (&socket).take(MOST_BYTES).read_to_end(&mut bytes).map_err(|error| format!("read: {error}"))?;
    let request = postcard::from_bytes(&bytes).map_err(|error| format!("a request: {error}"))?;
    Ok((socket, request))
}

/// A bomb goes off here as anywhere: it finds little room, no terminal, and somebody who takes in what it leaves.
fn bounded() -> nix::Result<()> {
    const MIB: u64 = 1 << 20;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let _ = rustix::process::setsid();
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_CPU, 30),
        (Resource::RLIMIT_AS, 2048 * MIB),
        (Resource::RLIMIT_FSIZE, 64 * MIB),
        (Resource::RLIMIT_NOFILE, 512),
    ] {
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let most = most.min(hard);
        setrlimit(resource, most, most)?;
    }
    Ok(())
}

fn carry_out(request: &Request) -> Result<Vec<u8>, String> {
    let mut plugin = Some(load(&request.library)?);
    let no_services =
        |service: &str, _: &[u8]| Err(ServiceError::UnknownService { service: service.to_owned() });
    if let Some(plugin) = &mut plugin {
        plugin.activate(no_services).map_err(|error| error.message)?;
    }
    let mut answer = Vec::new();
    for step in &request.steps {
        let came_to: Result<Vec<u8>, PluginError> = match (step, &mut plugin) {
            (Step::Call { method, payload }, Some(plugin)) => plugin.call(method, payload),
            (Step::Deactivate, Some(plugin)) => plugin.deactivate().map(|()| Vec::new()),
            (Step::Unload, held) => held.take().map_or(Ok(()), LoadedPlugin::close).map(|()| Vec::new()),
            (_, None) => Err("it is gone".into()),
        };
        answer = came_to.map_err(|error| error.message)?;
    }
    Ok(answer)
}

fn tell(mut socket: &UnixStream, told: &Result<Vec<u8>, String>) -> io::Result<()> {
    let text = postcard::to_stdvec(told).map_err(io::Error::other)?;
    let len = u32::try_from(text.len()).map_err(io::Error::other)?;
    socket.write_all(&len.to_le_bytes())?;
    socket.write_all(&text)
}

fn load(path: &Path) -> Result<LoadedPlugin, String> {
    // SAFETY: runs the constructors of a library of this repository's, in a process made for it.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
    // SAFETY: only its address is taken.
    let symbol = unsafe { library.get::<*const ()>(ENTRY_SYMBOL) }.map_err(|error| error.to_string())?;
    // SAFETY: the address of the symbol by which plugin-abi exports its root module.
    let address = unsafe { symbol.try_as_raw_ptr() }.ok_or("no address")?;
    std::mem::forget(library);
    // SAFETY: that address, in a library that stays open for the process's life.
    unsafe { open(address.cast_const().cast()) }.map_err(|error| error.to_string())
}
