//! `--ask`: puts what nobody has decided about to the person at the terminal.
//!
//! Runs in the application's process: the questions on the sandbox's deciding threads, the answers on one of its own that
//! reads lines. Owns the wording. The sandbox owns how often a plugin may ask, and has escaped what comes from it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::sync::Mutex;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use sandbox_core::{AccessRequest, PluginSandbox, Ruling};

use crate::failure::{Exit, Failure};
use crate::output::escape;
use crate::output::human::Look;

/// How long a person has; what is not answered by then is denied.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until the sandbox gives up on this program's answer: the person's time is to be up first, and be said so.
const DEADLINE: Duration = Duration::from_secs(65);

/// Has everything that nobody has decided about asked at the terminal.
///
/// # Errors
/// If there is no terminal.
pub(crate) fn at_terminal(sandbox: &PluginSandbox) -> Result<(), Failure> {
    let terminal = Terminal::open().map_err(|error| {
        Failure::new(Exit::Usage, "no-terminal", format!("--ask has nobody to ask: /dev/tty: {error}"))
            .with_help("run it in a terminal, or grant what it needs with --grant")
    })?;
    let terminal = Mutex::new(terminal);
    sandbox.set_decider(DEADLINE, move |request| match terminal.lock() {
        Ok(mut terminal) => terminal.ask(request),
        Err(_) => Ruling::Deny,
    });
    Ok(())
}

struct Terminal {
    screen: File,
    look: Look,
    lines: Receiver<String>,
}

impl Terminal {
    fn open() -> std::io::Result<Self> {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let (screen, look) = (tty.try_clone()?, Look::of(&std::io::stderr()));
        // One line at most: what is typed before a question is no answer to it.
        let (typed, lines) = bounded(1);
        std::thread::Builder::new().name("terminal".to_owned()).spawn(move || {
            for line in BufReader::new(tty).lines() {
                let Ok(line) = line else { return };
                if typed.send(line).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { screen, look, lines })
    }

    fn ask(&mut self, request: &AccessRequest) -> Ruling {
        while self.lines.try_recv().is_ok() {}
        let question = question(self.look, request);
        if self.screen.write_all(question.as_bytes()).and_then(|()| self.screen.flush()).is_err() {
            return Ruling::Deny;
        }
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => answer(&line),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.screen.write_all(b"\nno answer: denied\n");
                Ruling::Deny
            }
            Err(RecvTimeoutError::Disconnected) => Ruling::Deny,
        }
    }
}

fn question(look: Look, request: &AccessRequest) -> String {
    let object = escape::line(&request.object);
    let led_to = request.resolved.as_ref().filter(|resolved| **resolved != request.object);
    let led_to = led_to.map(|resolved| format!(" -> {}", escape::line(resolved))).unwrap_or_default();
    format!(
        "{} {} {object}{led_to}\n{} allow {}? [o]nce, [a]lways, [N]o: ",
        look.doubtful(&format!("{} asks:", request.plugin)),
        request.action,
        look.dim("         "),
        escape::line(&request.permission.to_string()),
    )
}

/// Only what was clearly meant allows anything.
fn answer(line: &str) -> Ruling {
    match line.trim().to_lowercase().as_str() {
        "o" | "once" => Ruling::AllowOnce,
        "a" | "always" => Ruling::AllowAlways,
        _ => Ruling::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_allows_anything() {
        for (line, ruling) in [
            ("o", Ruling::AllowOnce),
            (" Once\r", Ruling::AllowOnce),
            ("a", Ruling::AllowAlways),
            ("ALWAYS", Ruling::AllowAlways),
            ("", Ruling::Deny),
            ("n", Ruling::Deny),
            ("y", Ruling::Deny),
            ("oa", Ruling::Deny),
        ] {
            assert_eq!(answer(line), ruling, "{line:?}");
        }
    }
}
