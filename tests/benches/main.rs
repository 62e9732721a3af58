//! What the sandbox costs, beside what the same thing costs without it, measured in turns in one run.
//!
//! `cargo bench` for a table, `-- --quick` for a rough one, `-- spawn call open read revoke memory` for a part of it, and
//! `-- --json FILE` for the figures as a file, to compare before and after.
//!
//! This program is the host, and, run again with `--part`, each of the bare processes that the host's plugins are
//! compared to. Owns the choice of comparisons. Never judges a figure: machines differ, so that only ratios count.

mod bare;
mod calls;
mod chain;
mod cpus;
mod in_process;
mod memory;
mod opens;
mod options;
mod reads;
mod revokes;
mod spawns;
mod table;

use std::time::Instant;

use options::{Options, Panel};
use table::{Figures, print_head};

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(bare::PART) {
        let arguments: Vec<String> = arguments.collect();
        return bare::play(&arguments);
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{}", options::USAGE);
            std::process::exit(2);
        }
    };
    let began = Instant::now();
    print_head(&options);
    let mut all = Vec::new();
    for panel in &options.panels {
        let figures: Figures = match panel {
            Panel::Spawn => spawns::measure(&options),
            Panel::Call => calls::measure(&options),
            Panel::Open => opens::measure(&options),
            Panel::Read => reads::measure(&options),
            Panel::Revoke => revokes::measure(&options),
            Panel::Memory => memory::measure(&options),
        };
        figures.print();
        all.push(figures);
    }
    println!("\n{:.0} s in all", began.elapsed().as_secs_f64());
    if let Some(path) = &options.json {
        let text = table::json(&options, &all);
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("{}: {error}", path.display());
            std::process::exit(1);
        }
    }
}
