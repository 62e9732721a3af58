//! From a path to an active plugin.

use std::time::Instant;

use rig::library;
use sandbox_core::{PluginPolicy, PluginSandbox};

use crate::bare;
use crate::chain::Chain;
use crate::options::Options;
use crate::table::Figures;

const ACTIVE: &str = "sandbox: load and activate `hello`";
const ANSWERED: &str = "sandbox: the same, to its first answer";
const LOAD: &str = "  of this: load";
const ACTIVATE: &str = "  of this: activate";
const CALL: &str = "  of this: first call";
const UNLOAD: &str = "sandbox: unload, until the process is gone";
const FIRST: &str = "sandbox: a program's first, with the zygote";
const IN_PROCESS: &str = "same library in a fresh process: load and activate";
const EXEC: &str = "bare exec of this image, to its first byte";
const CHAIN: &str = "the bare chain in C, as designed, to its first echo";
const LEAN: &str = "the bare chain in C, lean, to its first echo";
const LEAN_FLAGS: [&str; 4] = ["oneroot", "fewns", "vfork", "predrop"];

pub(crate) fn measure(options: &Options) -> Figures {
    let mut figures = Figures::new("spawn, us", "us");
    let hello = library("hello");
    for name in [ACTIVE, ANSWERED, LOAD, ACTIVATE, CALL, UNLOAD, FIRST] {
        figures.row(name, None);
    }
    figures.row(IN_PROCESS, Some(ACTIVE));
    figures.row(EXEC, Some(ACTIVE));
    let chain = Chain::compile();
    match &chain {
        Ok(_) => [CHAIN, LEAN].into_iter().for_each(|name| figures.row(name, Some(ANSWERED))),
        Err(why) => figures.note(why.as_str()),
    }
    // What all plugins share lives as long as one of them does.
    let kept = sandbox_core::run(&hello).expect("the plugin runs");
    figures.rounds(options.rounds(30), |figures| {
        for _ in 0..10 {
            let sandbox = PluginSandbox::new("hello", PluginPolicy::new()).expect("a sandbox");
            let began = Instant::now();
            sandbox.load_plugin(&hello).expect("hello loads");
            let loaded = began.elapsed();
            sandbox.activate_plugin(()).expect("hello activates");
            let active = began.elapsed();
            sandbox.call("greet", b"world").expect("hello answers");
            let answered = began.elapsed();
            let began = Instant::now();
            sandbox.unload_plugin().expect("hello goes");
            figures.put_time(UNLOAD, began.elapsed());
            figures.put_time(ACTIVE, active);
            figures.put_time(ANSWERED, answered);
            figures.put_time(LOAD, loaded);
            figures.put_time(ACTIVATE, active - loaded);
            figures.put_time(CALL, answered - active);
        }
        for _ in 0..10 {
            figures.put_time(IN_PROCESS, bare::time_in_fresh_process("in-process", &hello));
            figures.put_time(EXEC, bare::time_to_first_byte());
        }
        for _ in 0..3 {
            figures.put_time(FIRST, bare::time_in_fresh_process("first-sandbox", &hello));
        }
        if let Ok(chain) = &chain {
            for (name, flags) in [(CHAIN, &[][..]), (LEAN, &LEAN_FLAGS)] {
                if let Some((median, p99)) = chain.time(20, flags) {
                    figures.put_summary(name, median, p99);
                }
            }
        }
    });
    drop(kept);
    figures
}
