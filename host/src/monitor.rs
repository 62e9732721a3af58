//! The other end of a host's monitor: asks, and says what is wrong where nothing comes back.
//!
//! Runs in the application's process. Believes the socket no more than a file: answers are bounded, in size and in time.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandbox_core::{HostFigures, MonitorAnswer, MonitorCommand, MonitorReply, MonitorRequest};

use crate::failure::{Exit, Failure};

/// The longest answer: some thousand plugins.
const MOST_ANSWER_BYTES: u64 = 64 << 20;

/// How long an answer may take. Most of it is what a plugin needs to be deactivated.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a host.
#[derive(Debug)]
pub(crate) struct Monitor {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// That there is none, that nobody serves it, that it is another user's.
    pub(crate) fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).map_err(|error| of_connecting(path, &error))?;
        let waits =
            stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        waits.map_err(|error| Failure::of_file("cannot use", path, &error))?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks for `command`, and waits for what comes of it.
    ///
    /// # Errors
    /// That the host is gone, or that this is no monitor. That the command failed is an answer.
    pub(crate) fn ask(&mut self, command: MonitorCommand) -> Result<MonitorAnswer, Failure> {
        let line = MonitorRequest::new(command).line();
        // Who turns one away has answered before anything was asked, and closed.
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        let mut bytes = Vec::new();
        let read = (&mut self.stream).take(MOST_ANSWER_BYTES).read_until(b'\n', &mut bytes);
        if !bytes.ends_with(b"\n") {
            let error = sent.and(read.map(drop)).err();
            return Err(self.nothing_came(error.as_ref(), !bytes.is_empty()));
        }
        let reply = String::from_utf8_lossy(&bytes).parse::<MonitorReply>();
        reply.map(|reply| reply.answer).map_err(|error| self.no_monitor(&error))
    }

    /// The figures of all plugins.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and what the host says instead.
    pub(crate) fn figures(&mut self) -> Result<HostFigures, Failure> {
        match self.ask(MonitorCommand::Snapshot)? {
            MonitorAnswer::Figures { figures } => Ok(figures),
            other => Err(self.refused(other)),
        }
    }

    /// The figures as text for Prometheus.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and what the host says instead.
    pub(crate) fn metrics(&mut self) -> Result<String, Failure> {
        match self.ask(MonitorCommand::Metrics)? {
            MonitorAnswer::Metrics { text } => Ok(text),
            other => Err(self.refused(other)),
        }
    }

    fn refused(&self, answer: MonitorAnswer) -> Failure {
        match answer {
            MonitorAnswer::Failed { message } => {
                Failure::new(Exit::Plugin, "monitor", format!("the host at {} says no", self.path.display()))
                    .because(message)
            }
            other => self.no_monitor(&format!("another answer than was asked for: {other:?}")),
        }
    }

    fn nothing_came(&self, error: Option<&io::Error>, began: bool) -> Failure {
        let path = self.path.display();
        match error.map(io::Error::kind) {
            Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Failure::new(
                Exit::Plugin,
                "monitor",
                format!("the host at {path} did not answer within {PATIENCE:?}"),
            ),
            _ if began => self.no_monitor("half a line"),
            _ => Failure::new(
                Exit::Plugin,
                "monitor",
                format!("the host at {path} has gone, or has closed its monitor"),
            ),
        }
    }

    fn no_monitor(&self, why: &str) -> Failure {
        let message = format!("{} does not answer as a monitor of this version does", self.path.display());
        Failure::new(Exit::Usage, "monitor", message)
            .because(why.chars().take(200).collect())
            .with_help("use the plugin-host of the same version as the host's sandbox-core")
    }
}

fn of_connecting(path: &Path, error: &io::Error) -> Failure {
    const OPEN_ONE: &str = "a host opens one with `monitor_at`, `plugin-host run` with --monitor SOCKET";
    let shown = path.display();
    let is_socket = fs::metadata(path).is_ok_and(|about| about.file_type().is_socket());
    let message = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no socket at {shown}"),
        io::ErrorKind::ConnectionRefused if is_socket => format!("no host serves {shown} any more"),
        io::ErrorKind::ConnectionRefused => format!("{shown} is no socket"),
        io::ErrorKind::PermissionDenied => {
            return Failure::of_file("cannot connect to", path, error)
                .with_help("only root and the user that the host runs as may use its monitor");
        }
        _ => return Failure::of_file("cannot connect to", path, error),
    };
    Failure::new(Exit::Usage, "monitor", message).with_help(OPEN_ONE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What is made of a peer that answers so, and closes.
    fn answered(bytes: &'static [u8]) -> Failure {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.write_all(bytes).expect("it is written");
            drop(stream.shutdown(std::net::Shutdown::Write));
            drop(stream.read_to_end(&mut Vec::new()));
        });
        let failure = Monitor::connect(&path).expect("it is there").figures().expect_err("no figures");
        peer.join().expect("the peer ends");
        failure
    }

    #[test]
    fn each_answer_that_is_none_is_told_as_what_it_is() {
        for (bytes, exit, said) in [
            (&b""[..], Exit::Plugin, "has gone"),
            (b"SSH-2.0", Exit::Usage, "half a line"),
            (b"SSH-2.0\r\n", Exit::Usage, "does not answer as a monitor"),
            (b"{\"v\":9,\"answer\":\"other\"}\n", Exit::Usage, "version 9"),
            (b"{\"v\":2,\"answer\":\"done\",\"message\":\"\"}\n", Exit::Usage, "another answer"),
            (b"{\"v\":2,\"answer\":\"failed\",\"message\":\"8 others\"}\n", Exit::Plugin, "8 others"),
        ] {
            let failure = answered(bytes);
            let text = failure.chain.join(": ");
            assert!(text.contains(said), "{text}");
            assert_eq!((failure.exit, failure.kind), (exit, "monitor"), "{text}");
        }
    }

    #[test]
    fn what_is_no_socket_or_has_nobody_behind_it_is_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let (dead, file) = (folder.path().join("dead"), folder.path().join("file"));
        drop(UnixListener::bind(&dead).expect("a socket"));
        fs::write(&file, "").expect("a file");
        for (path, said) in [
            (folder.path().join("none"), "there is no socket at"),
            (dead, "any more"),
            (file, "is no socket"),
        ] {
            let failure = Monitor::connect(&path).expect_err("nobody is there");
            assert!(failure.chain.join(": ").contains(said), "{failure:?}");
            assert_eq!(failure.exit, Exit::Usage);
        }
    }
}
