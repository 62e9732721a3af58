//! `plugin-host top`: what the plugins of a host are doing, as it changes, and the keys that do something about it.
//!
//! Runs in the application's process. Owns what is asked of the host when. Never shows text of a plugin's unescaped.

mod draw;
mod model;
mod rows;
mod screen;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use self::rows::{COLUMNS, rows};
use crate::cli::TopArgs;
use crate::failure::{Exit, Failure};
use crate::monitor::Monitor;
use crate::output::human::Look;
use crate::output::{human, json};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows them, or prints them once.
///
/// # Errors
/// That there is no such host, that it is gone, or that there is no terminal.
pub(crate) fn execute(args: &TopArgs) -> Result<(), Failure> {
    if !args.once && !io::stdout().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "no-terminal",
            "top wants a terminal, and stdout is none".to_owned(),
        )
        .with_help("--once prints the figures and ends, --once --json for a program"));
    }
    let mut monitor = Monitor::connect(&args.socket)?;
    if args.json {
        return json::print("top", monitor.figures()?, None);
    }
    if args.once {
        return print_once(&mut monitor);
    }
    screen::show(monitor)
}

/// What a person reads of one second.
fn print_once(monitor: &mut Monitor) -> Result<(), Failure> {
    let (before, since) = (monitor.figures()?, Instant::now());
    std::thread::sleep(INTERVAL);
    let now = monitor.figures()?;
    let mut table = Look::of(&io::stdout()).table(&COLUMNS.map(|column| column.heading));
    for row in rows(&now, Some((&before, since.elapsed()))) {
        table.add_row(COLUMNS.map(|column| (column.cell)(&row)));
    }
    human::result((human::rendered(table, COLUMNS.len()) + "\n").as_bytes())
}
