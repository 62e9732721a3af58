//! Opening and closing a granted file. The clock is the plugin's own, so that the call that orders it does not count.

use std::time::Duration;

use rig::{Scratch, library};
use sandbox_core::{PERMISSION_FILE_READ, PluginPolicy};

use crate::bare::{Notified, Notifying};
use crate::cpus::{Placement, placed};
use crate::in_process;
use crate::options::Options;
use crate::table::Figures;

const COUNT: u32 = 100;
const IN_PROCESS: &str = "same library in process";

pub(crate) fn measure(options: &Options) -> Figures {
    let mut figures = Figures::new("open and close a granted file, us", "us");
    let scratch = Scratch::new();
    let file = scratch.file("granted", "what is in it");
    let order = [&COUNT.to_le_bytes()[..], file.as_bytes()].concat();
    let path = library("probe-bench");
    let granted = PERMISSION_FILE_READ.scoped_to_path(scratch.path()).expect("an absolute path");
    let sandbox = rig::active("bench", PluginPolicy::new().permission(granted), &path, ());
    let helper = sandbox.process_id().expect("it runs");
    let mut direct = in_process::active(&path);

    let placements = Placement::all();
    let sandboxed = |placement: Placement| format!("sandbox{}", placement.name());
    let ours = sandboxed(Placement::Free);
    placements.iter().for_each(|placement| {
        figures.row(sandboxed(*placement), (*placement != Placement::Free).then_some(ours.as_str()));
    });
    let mut bare = Vec::new();
    for (what, name) in [
        (Notified::Open, "bare notification, answered with a file"),
        (Notified::Value, "bare notification, answered with a number"),
    ] {
        match Notifying::start(what, file.as_ref()) {
            Ok(process) => bare.push((name, process)),
            Err(why) => figures.note(why),
        }
    }
    let bare_name = |name: &str, placement: Placement| format!("{name}{}", placement.name());
    for (name, _) in &bare {
        // Each beside the sandbox that is placed alike.
        placements.iter().for_each(|placement| {
            figures.row(bare_name(name, *placement), Some(&sandboxed(*placement)));
        });
    }
    figures.row(IN_PROCESS, Some(&ours));

    figures.rounds(options.rounds(40), |figures| {
        for placement in &placements {
            let answer = placed(*placement, helper, || sandbox.call("open", &order));
            let answer = answer.expect("a granted file opens");
            times(&answer).for_each(|time| figures.put_time(&sandboxed(*placement), time));
            for (name, process) in &mut bare {
                let times = placed(*placement, process.id(), || process.times(COUNT));
                let name = bare_name(name, *placement);
                times.into_iter().for_each(|time| figures.put_time(&name, time));
            }
        }
        let answer = direct.call("open", &order).expect("the file opens");
        times(&answer).for_each(|time| figures.put_time(IN_PROCESS, time));
    });
    figures
}

pub(crate) fn times(answer: &[u8]) -> impl Iterator<Item = Duration> {
    answer.as_chunks::<8>().0.iter().map(|nanos| Duration::from_nanos(u64::from_le_bytes(*nanos)))
}
