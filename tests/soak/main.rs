//! Loads, calls, changes, crashes and unloads plugins at random, from several threads, for as long as it is told to.
//!
//! `cargo run --release -p integration-tests --bin soak -- --minutes 30 --threads 4`. What each thread does follows from the
//! seed alone. Every answer is compared with the one that must come, every crash with the cause that it must have, and what
//! there is at the end with what there was at the beginning. Ends with 1 if anything differs.
//!
//! Runs as a host application; each helper is this program run again.
//! Never does anything to a process that it has not started, or to the machine.
#![allow(unsafe_code, reason = "counts what is allocated")]

mod memory;
mod options;
mod steps;
mod tally;
mod weather;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rig::inventory::Inventory;
use rig::wait::PATIENCE;
use rig::{Scratch, library};
use sandbox_core::{App, PluginPolicy, PluginSandboxManager};

use memory::Memory;
use options::Options;
use tally::Tally;
use weather::Weather;
use worker::{Files, Worker, lenient};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// How often it is told how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// A step takes longer only if something hangs: each wait in it gives up after [`PATIENCE`].
const STUCK: Duration = Duration::from_secs(300);

/// A plugin that every thread calls.
const NEIGHBOUR: &str = "neighbour";

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    memory::keep_little();
    // Cargo is asked for the libraries here, and not while anything is counted.
    rig::libraries::folder();
    println!(
        "soak: {} s, {} threads, seed {} (uid {})",
        options.time.as_secs(),
        options.threads,
        options.seed,
        nix::unistd::getuid()
    );
    let files = Files::make();
    let before = Inventory::take();

    // What is made once and kept, and what allocators keep, is there after this: only what grows from then on is a leak.
    // The same seed's steps with another salt, and every kind of step at least once.
    let warm_up = (options.time / 10).clamp(Duration::from_secs(10), Duration::from_secs(60));
    let mut failed = run(&options, &files, "warming up", warm_up, options.seed ^ 0x5eed);
    let (warm, warm_differences) = settle(&before);
    println!("after warming up: {warm}");
    failed |= report("after warming up", &warm_differences);

    failed |= run(&options, &files, "soaking", options.time, options.seed);
    let (end, mut differences) = settle(&before);
    differences.extend(warm.grown_to(&end));
    println!("at the end:       {end}");
    failed |= report("at the end", &differences);
    if failed {
        println!("soak: FAILED, seed {}", options.seed);
        return ExitCode::FAILURE;
    }
    println!("soak: every answer was right, and nothing is left behind");
    ExitCode::SUCCESS
}

/// Steps of every thread for so long. Whether anything went wrong.
fn run(options: &Options, files: &Arc<Files>, what: &str, time: Duration, seed: u64) -> bool {
    let manager = Arc::new(PluginSandboxManager::new());
    let (tally, weather) = (Arc::new(Tally::new(options.threads)), Arc::new(Weather::default()));
    manager.register_plugin(NEIGHBOUR, PluginPolicy::new().limits(lenient())).expect("it is new");
    manager.load_plugin(NEIGHBOUR, library("probe")).expect("it loads");
    manager.activate_plugin(NEIGHBOUR, App::new()).expect("it activates");
    let (began, done) = (Instant::now(), AtomicBool::new(false));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads)
            .map(|number| {
                let (tally, weather) = (Arc::clone(&tally), Arc::clone(&weather));
                let (manager, files, done) = (Arc::clone(&manager), Arc::clone(files), &done);
                scope.spawn(move || {
                    let mut worker = Worker::new(number, seed, manager, files, weather, tally);
                    while !done.load(Ordering::Relaxed) {
                        worker.step();
                    }
                    worker.leave();
                })
            })
            .collect();
        let mut next = PROGRESS;
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::park_timeout(Duration::from_millis(50));
            if began.elapsed() >= time {
                done.store(true, Ordering::Relaxed);
            }
            if began.elapsed() >= next {
                next += PROGRESS;
                println!("{what}: {:4} s, {}, {}", began.elapsed().as_secs(), tally.line(), Memory::now());
            }
            if let Some(stuck) = tally.stuck(STUCK) {
                println!("soak: FAILED, seed {}: {stuck}", options.seed);
                std::process::exit(1);
            }
        }
    });
    println!("{what}: {} s, {}", began.elapsed().as_secs(), tally.line());
    print!("{}", tally.table());
    tally.failed()
}

/// Waits until all is gone that goes with the last sandbox. What memory there is then, and what is left behind.
fn settle(before: &Inventory) -> (Memory, Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = before.differences(&Inventory::take());
        if left.is_empty() || Instant::now() >= deadline {
            return (Memory::settled(), left);
        }
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// Prints what differs. Whether anything does.
fn report(when: &str, differences: &[String]) -> bool {
    for difference in differences {
        println!("{when}, left behind: {difference}");
    }
    !differences.is_empty()
}

impl Files {
    /// What the plugins read, and the libraries that are no plugins or break at once.
    fn make() -> Arc<Self> {
        let scratch = Scratch::new();
        let libraries = rig::libraries::with_modules(&scratch);
        rig::libraries::compile_c(&scratch, worker::MORE, "int probe_more(void) { return 7; }", &[]);
        let breaking = steps::CONSTRUCTORS.map(|act| {
            // One folder for each: they all have the same name.
            let scratch = Scratch::new();
            let path = rig::libraries::constructor_that(&scratch, act);
            (act, path, scratch)
        });
        Arc::new(Self {
            granted: scratch.file("granted/file", "contents"),
            folder: scratch.at("granted"),
            outside: scratch.file("outside", "secret"),
            text: scratch.file("text.so", "this is no library"),
            modules: libraries,
            breaking: breaking.into(),
            _scratch: scratch,
        })
    }
}
