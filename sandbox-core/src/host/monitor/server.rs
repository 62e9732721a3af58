//! A monitor's threads: one accepts, and one for each of few connections answers.
//!
//! Runs in the host. Owns the bound on connections, who may connect, and that no thread outlives the monitor.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::commands::Monitored;
use super::connection::{Connection, turn_away};
use super::socket::SocketFile;
use crate::host::protected;
use crate::shared::sys::signals;

/// How many connections there may be at once.
const MOST_CONNECTIONS: usize = 8;

/// How long to wait where a connection cannot be taken for want of descriptors, or of a thread.
const BREATH: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

thread_local! {
    /// Whether this is a thread of a monitor's.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// A Unix socket at which an operator sees what the plugins do, with `plugin-host top` or as metrics, and can deactivate, end
/// and hold back each: [`PluginSandboxManager::monitor_at`](crate::PluginSandboxManager::monitor_at).
///
/// Only root and the user that the host runs as may connect, and no plugin, whatever it is granted. When this is dropped the
/// connections are closed and the socket's file is removed.
#[derive(Debug)]
pub struct MonitorSocket {
    file: SocketFile,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// What the accepting thread has.
struct Server {
    listener: UnixListener,
    stop: OwnedFd,
    monitored: Arc<Monitored>,
    /// Each with its thread, which alone keeps it open.
    connections: Vec<(Weak<UnixStream>, JoinHandle<()>)>,
    /// Disconnected when all is over.
    stopping: Sender<()>,
    stopped: Receiver<()>,
}

impl MonitorSocket {
    pub(crate) fn open(path: &Path, monitored: Monitored) -> io::Result<Self> {
        let (file, listener) = SocketFile::listen(path)?;
        protected::protect(&file.path);
        listener.set_nonblocking(true)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (stopping, stopped) = bounded(0);
        let server = Server {
            listener,
            stop: stop.try_clone()?,
            monitored: Arc::new(monitored),
            connections: Vec::new(),
            stopping,
            stopped,
        };
        let thread =
            std::thread::Builder::new().name("plugin-monitor".to_owned()).spawn(move || server.run())?;
        Ok(Self { file, stop, thread: Some(thread) })
    }

    /// Where the socket is.
    pub fn path(&self) -> &PathBuf {
        &self.file.path
    }
}

impl Drop for MonitorSocket {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        // A service that runs for an operator's command, and drops this, must not wait for itself.
        if let Some(thread) = self.thread.take().filter(|_| !SERVES.get()) {
            let _ = thread.join();
        }
    }
}

impl Server {
    fn run(mut self) {
        signals::block_all();
        while self.wait(None) {
            match self.listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "the monitor could not take a connection");
                    if !self.breathe() {
                        break;
                    }
                }
            }
        }
        drop(self.stopping);
        for stream in self.connections.iter().filter_map(|(stream, _)| stream.upgrade()) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        for (_, thread) in self.connections {
            let _ = thread.join();
        }
    }

    /// Waits for a connection, or so long; false once it is to stop.
    fn wait(&self, time: Option<&Timespec>) -> bool {
        let mut ends = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        let (watched, _) = ends.split_at_mut(if time.is_some() { 1 } else { 2 });
        // EINTR cannot come, with every signal blocked; then, and if poll fails, all is as if a connection were there.
        let _ = poll(watched, time);
        watched.first().is_some_and(|stop| stop.revents().is_empty())
    }

    fn breathe(&self) -> bool {
        self.wait(Some(&BREATH))
    }

    fn take(&mut self, stream: UnixStream) {
        let uid = match rustix::net::sockopt::socket_peercred(&stream) {
            Ok(peer) => peer.uid.as_raw(),
            Err(_) => return,
        };
        if ![rustix::process::geteuid().as_raw(), 0].contains(&uid) {
            tracing::warn!(uid, "another user has connected to the monitor, and was turned away");
            turn_away(stream, "only root and the user of this host may use its monitor");
            return;
        }
        self.connections.retain(|(_, thread)| !thread.is_finished());
        if self.connections.len() >= MOST_CONNECTIONS {
            turn_away(stream, &format!("{MOST_CONNECTIONS} others are connected, and no more may be"));
            return;
        }
        // It inherits nothing of the listener's flags on Linux; to be sure of it costs nothing.
        let Ok(()) = stream.set_nonblocking(false) else { return };
        let stream = Arc::new(stream);
        let known = Arc::downgrade(&stream);
        let (monitored, stopped) = (Arc::clone(&self.monitored), self.stopped.clone());
        let serve = move || {
            signals::block_all();
            SERVES.set(true);
            Connection::new(stream).serve(&monitored, uid, &stopped);
        };
        match std::thread::Builder::new().name("plugin-monitor".to_owned()).spawn(serve) {
            Ok(thread) => self.connections.push((known, thread)),
            Err(error) => tracing::warn!(%error, "the monitor has no thread for a connection"),
        }
    }
}
