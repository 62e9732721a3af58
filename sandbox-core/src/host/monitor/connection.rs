//! One connection to a monitor: lines in, lines out, and a bound on how long either may take.
//!
//! Runs in the host, on a thread of its own. Whoever connects may be broken: a line that is too long or never ends, and a
//! reader that does not read, end the connection and nothing else.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::commands::Monitored;
use super::http;
use super::wire::{MonitorAnswer, MonitorReply, MonitorRequest};

/// The longest request.
const MOST_LINE_BYTES: usize = 4096;

/// The most lines of headers behind a request of HTTP.
const MOST_HEADERS: usize = 64;

/// How much of what comes behind a request of HTTP is read, so that its answer is.
const MOST_BODY_BYTES: usize = 1 << 20;

/// How long the next request may keep one waiting: a connection takes one of few places.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long whoever asked may take to read the answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    stream: Arc<UnixStream>,
    /// What was read behind the last line.
    rest: Vec<u8>,
}

/// What came instead of a line.
enum NoLine {
    TooLong,
    /// It was closed, or kept us waiting, or failed.
    Over,
}

impl Connection {
    pub(super) fn new(stream: Arc<UnixStream>) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Answers the user `uid` until one of both has enough.
    pub(super) fn serve(mut self, monitored: &Monitored, uid: u32, stopped: &Receiver<()>) {
        loop {
            let line = match self.line(Instant::now() + IDLE_TIMEOUT) {
                Ok(line) => line,
                Err(NoLine::TooLong) => {
                    let message = format!("a request is one line of at most {MOST_LINE_BYTES} bytes");
                    self.answer(MonitorAnswer::Failed { message });
                    return;
                }
                Err(NoLine::Over) => return,
            };
            if let Some(request) = http::request(&line) {
                self.answer_http(request, monitored);
                return;
            }
            let answer = match line.parse::<MonitorRequest>() {
                Ok(request) => monitored.obey(request.command, uid, stopped),
                Err(message) => MonitorAnswer::Failed { message },
            };
            if !self.answer(answer) {
                return;
            }
        }
    }

    /// The next line, without its end.
    fn line(&mut self, deadline: Instant) -> Result<String, NoLine> {
        let mut looked_at = 0;
        loop {
            let new = self.rest.get(looked_at..).unwrap_or_default();
            if let Some(found) = new.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=looked_at + found).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
            }
            looked_at = self.rest.len();
            if looked_at >= MOST_LINE_BYTES {
                return Err(NoLine::TooLong);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // A timeout of zero would be none.
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Err(NoLine::Over);
            }
            let mut piece = [0; MOST_LINE_BYTES];
            let room = piece.get_mut(..MOST_LINE_BYTES - looked_at).unwrap_or_default();
            match (&*self.stream).read(room) {
                Ok(0) => return Err(NoLine::Over),
                Ok(count) => self.rest.extend(piece.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(NoLine::Over),
            }
        }
    }

    fn answer(&mut self, answer: MonitorAnswer) -> bool {
        write(&self.stream, MonitorReply::new(answer).line().as_bytes())
    }

    /// The little of HTTP that `curl --unix-socket` and a scraper need: one GET, answered and closed.
    fn answer_http(&mut self, request: http::Request<'_>, monitored: &Monitored) {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let answer = match (request, self.skip_headers(deadline)) {
            (_, Err(NoLine::Over)) => return,
            (_, Err(NoLine::TooLong)) | (http::Request::Malformed, _) => http::malformed(),
            (http::Request::Other, _) => http::not_allowed(),
            (http::Request::Get("/metrics"), _) => http::metrics(&monitored.figures().prometheus()),
            (http::Request::Get(_), _) => http::not_found(),
        };
        if write(&self.stream, answer.as_bytes()) {
            self.drain(deadline);
        }
    }

    /// To the empty line.
    fn skip_headers(&mut self, deadline: Instant) -> Result<(), NoLine> {
        for _ in 0..MOST_HEADERS {
            if self.line(deadline)?.is_empty() {
                return Ok(());
            }
        }
        Err(NoLine::TooLong)
    }

    /// Reads what else is sent until whoever sends it closes: behind the answer of a socket that is closed with something unread
    /// comes a reset, for which some do not look at the answer.
    fn drain(&self, deadline: Instant) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let (mut piece, mut room) = ([0; MOST_LINE_BYTES], MOST_BODY_BYTES);
        while room > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match (&*self.stream).read(&mut piece) {
                Ok(0) => return,
                Ok(count) => room = room.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Writes all of it; whether it was read in time, or fitted into the socket.
fn write(mut stream: &UnixStream, mut bytes: &[u8]) -> bool {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_write_timeout(Some(left)).is_err() {
            return false;
        }
        match stream.write(bytes) {
            Ok(0) => return false,
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    true
}

/// Tells somebody who is not served why, if that does not keep anybody waiting.
pub(super) fn turn_away(mut stream: UnixStream, message: &str) {
    let reply = MonitorReply::new(MonitorAnswer::Failed { message: message.to_owned() });
    if stream.set_nonblocking(true).is_ok() {
        let _ = stream.write(reply.line().as_bytes());
    }
}
