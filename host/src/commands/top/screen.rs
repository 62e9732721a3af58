//! The terminal of `top`: what is drawn when, and that it is as it was afterwards, whatever ends it.
//!
//! Runs in the application's process; the host is asked on a thread of its own, so that one that does not answer does not keep
//! a key from working.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use sandbox_core::{HostFigures, MonitorAnswer, MonitorCommand};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::INTERVAL;
use super::draw::draw;
use super::model::{Model, Reaction};
use crate::failure::{Exit, Failure};
use crate::monitor::Monitor;

/// How long a key or an answer may wait to be seen.
const GLANCE: Duration = Duration::from_millis(50);

enum Heard {
    Figures(HostFigures, Instant),
    Said(String),
    Lost(Failure),
}

/// Shows the host until `q`, a signal, or its end.
///
/// # Errors
/// That the host is gone, or that the terminal does not work.
pub(crate) fn show(monitor: Monitor) -> Result<(), Failure> {
    let signal = Arc::new(AtomicUsize::new(0));
    for which in [SIGHUP, SIGINT, SIGTERM] {
        let number = usize::try_from(which).unwrap_or_default();
        signal_hook::flag::register_usize(which, Arc::clone(&signal), number)
            .map_err(|error| of_terminal(&error))?;
    }
    let (orders, to_host) = bounded(16);
    let (from_host, heard) = bounded(16);
    let thread = std::thread::Builder::new().name("monitor".to_owned());
    thread.spawn(move || follow(monitor, &to_host, &from_host)).map_err(|error| of_terminal(&error))?;

    // Restores the terminal on a panic too.
    let ended = match ratatui::try_init() {
        Ok(mut terminal) => interact(&mut terminal, &orders, &heard, &signal),
        Err(error) => Err(of_terminal(&error)),
    };
    ratatui::restore();
    if let Some(number) = i32::try_from(signal.load(Ordering::Relaxed)).ok().filter(|number| *number > 0) {
        // Ends the process, as whoever sent it expects.
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
    ended
}

fn of_terminal(error: &io::Error) -> Failure {
    Failure::new(Exit::Usage, "no-terminal", "the terminal does not work".to_owned())
        .because(error.to_string())
}

fn interact(
    terminal: &mut DefaultTerminal,
    orders: &Sender<MonitorCommand>,
    heard: &Receiver<Heard>,
    signal: &AtomicUsize,
) -> Result<(), Failure> {
    let mut model = Model::default();
    while signal.load(Ordering::Relaxed) == 0 {
        for heard in heard.try_iter() {
            match heard {
                Heard::Figures(figures, when) => model.take(figures, when),
                Heard::Said(message) => model.message = message,
                Heard::Lost(failure) => return Err(failure),
            }
        }
        terminal.draw(|frame| draw(frame, &model)).map_err(|error| of_terminal(&error))?;
        if !event::poll(GLANCE).map_err(|error| of_terminal(&error))? {
            continue;
        }
        let Event::Key(key) = event::read().map_err(|error| of_terminal(&error))? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        model.message.clear();
        match model.press(key) {
            Reaction::Nothing => {}
            Reaction::Quit => return Ok(()),
            Reaction::Ask(command) => {
                // Full only while the host does not answer.
                let message =
                    if orders.try_send(command).is_ok() { "asked" } else { "the host does not answer" };
                message.clone_into(&mut model.message);
            }
        }
    }
    Ok(())
}

/// Asks the host, once a second for figures, until nobody listens or it is gone.
fn follow(mut monitor: Monitor, orders: &Receiver<MonitorCommand>, heard: &Sender<Heard>) {
    loop {
        let figures = match monitor.figures() {
            Ok(figures) => Heard::Figures(figures, Instant::now()),
            Err(failure) => Heard::Lost(failure),
        };
        let is_lost = matches!(figures, Heard::Lost(_));
        if heard.send(figures).is_err() || is_lost {
            return;
        }
        let said = match orders.recv_timeout(INTERVAL) {
            Ok(command) => monitor.ask(command),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let said = match said {
            Ok(MonitorAnswer::Done { message } | MonitorAnswer::Failed { message }) => Heard::Said(message),
            Ok(other) => Heard::Said(format!("another answer than was asked for: {other:?}")),
            Err(failure) => Heard::Lost(failure),
        };
        if heard.send(said).is_err() {
            return;
        }
    }
}
