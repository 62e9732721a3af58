//! Reading 4 KiB of a granted file that is open, over and over. The clock is the plugin's own.

use rig::{Scratch, library};
use sandbox_core::{Grade, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox};

use crate::in_process;
use crate::opens::times;
use crate::options::Options;
use crate::table::Figures;

const SAMPLES: u32 = 5;

/// As many reads make a sample in the plugin.
const READS: u32 = 1000;

const IN_PROCESS: &str = "same library in process, opened directly";
const DESCRIPTOR: &str = "sandbox, injected descriptor";
const MEDIATED: &str = "sandbox, mediated";

pub(crate) fn measure(options: &Options) -> Figures {
    let mut figures = Figures::new("read 4 KiB of an open file, us", "us");
    let scratch = Scratch::new();
    let file = scratch.file("granted", vec![b'x'; 64 << 10]);
    let order = [&SAMPLES.to_le_bytes()[..], file.as_bytes()].concat();
    let path = library("probe-bench");
    let granted = PERMISSION_FILE_READ.scoped_to_path(&file).expect("an absolute path");
    let policy = PluginPolicy::new().permission(granted.clone());
    let mut plugins = vec![(DESCRIPTOR, rig::active("bench", policy, &path, ()))];
    // An error here is a machine on which no file can be mediated.
    let policy = PluginPolicy::new().permission_as(granted, Grade::Mediated);
    match PluginSandbox::new("mediated", policy.clone()) {
        Ok(_) => plugins.push((MEDIATED, rig::active("mediated", policy, &path, ()))),
        Err(error) => figures.note(error.to_string()),
    }
    let mut direct = in_process::active(&path);
    plugins.iter().for_each(|(name, _)| figures.row(*name, (*name != DESCRIPTOR).then_some(DESCRIPTOR)));
    figures.row(IN_PROCESS, Some(DESCRIPTOR));
    figures.rounds(options.rounds(40), |figures| {
        let answer = direct.call("read", &order).expect("the file opens");
        times(&answer).for_each(|time| figures.put_time(IN_PROCESS, time / READS));
        for (name, plugin) in &plugins {
            let answer = plugin.call("read", &order).expect("a granted file opens");
            times(&answer).for_each(|time| figures.put_time(name, time / READS));
        }
    });
    figures
}
