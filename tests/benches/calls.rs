//! One call and its answer.

use std::time::{Duration, Instant};

use rig::library;
use sandbox_core::{PluginHandle, PluginSandbox};

use crate::bare::Bare;
use crate::cpus::{Placement, placed};
use crate::in_process;
use crate::options::Options;
use crate::table::Figures;

/// Payloads, and how many calls of each make a turn.
const SIZES: [(usize, &str, usize); 2] = [(64, "64 B", 200), (1 << 20, "1 MiB", 10)];

/// A direct call is shorter than a look at the clock: so many make a sample.
const DIRECT_CALLS: u32 = 1000;

pub(crate) fn measure(options: &Options) -> Figures {
    let mut figures = Figures::new("call, us", "us");
    let path = library("probe-bench");
    let plugin: PluginHandle = sandbox_core::run(&path).expect("the plugin runs");
    let sandbox: &PluginSandbox = plugin.sandbox();
    let helper = sandbox.process_id().expect("it runs");
    let mut direct = in_process::active(&path);
    let placements = Placement::all();
    let sandboxed = |size: &str, placement: Placement| format!("sandbox, {size}{}", placement.name());
    let piped =
        |size: &str, placement: Placement| format!("bare process and pipes, {size}{}", placement.name());
    let in_process = |size: &str| format!("same library in process, {size}");
    for (_, size, _) in SIZES {
        let ours = sandboxed(size, Placement::Free);
        placements.iter().for_each(|placement| {
            let against = (*placement != Placement::Free).then_some(ours.as_str());
            figures.row(sandboxed(size, *placement), against);
        });
        placements.iter().for_each(|placement| figures.row(piped(size, *placement), Some(&ours)));
        figures.row(in_process(size), Some(&ours));
    }
    let mut echoes = SIZES.map(|(bytes, ..)| Bare::start("echo", &[&bytes.to_string()]));

    figures.rounds(options.rounds(40), |figures| {
        for ((bytes, size, count), echo) in SIZES.into_iter().zip(&mut echoes) {
            let payload = vec![7; bytes];
            for placement in &placements {
                let times = placed(*placement, helper, || {
                    timed(count, || {
                        let answer = plugin.call("echo", &payload).expect("it answers");
                        assert_eq!(answer.len(), bytes);
                    })
                });
                times.into_iter().for_each(|time| figures.put_time(&sandboxed(size, *placement), time));
                let mut back = vec![0; bytes];
                let times =
                    placed(*placement, echo.id(), || timed(count, || echo.exchange(&payload, &mut back)));
                times.into_iter().for_each(|time| figures.put_time(&piped(size, *placement), time));
            }
            let repeats = if bytes < 1024 { DIRECT_CALLS } else { 1 };
            let times = timed(count, || {
                for _ in 0..repeats {
                    let answer = direct.call("echo", &payload).expect("it answers");
                    assert_eq!(answer.len(), bytes);
                }
            });
            times.into_iter().for_each(|time| figures.put_time(&in_process(size), time / repeats));
        }
    });
    figures
}

fn timed(count: usize, mut act: impl FnMut()) -> Vec<Duration> {
    let mut once = || {
        let began = Instant::now();
        act();
        began.elapsed()
    };
    once(); // the first one after a move to another CPU finds cold caches
    (0..count).map(|_| once()).collect()
}
