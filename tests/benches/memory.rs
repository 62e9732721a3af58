//! What an idle plugin holds: its share of the pages that are mapped, and its page tables. proc_pid_smaps(5).

use std::fs;

use rig::library;
use sandbox_core::PluginHandle;

use crate::bare::Bare;
use crate::options::Options;
use crate::table::Figures;

const MANY: usize = 50;

/// What one process holds, in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pss_kib: u64,
    /// The part of it that no file stands behind.
    anonymous_kib: u64,
    page_tables_kib: u64,
}

impl Memory {
    pub(crate) fn total_kib(self) -> u64 {
        self.pss_kib + self.page_tables_kib
    }
}

/// Of the process with this id. `None` if this user may not look.
pub(crate) fn of(process: u32) -> Option<Memory> {
    let field = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{process}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some(Memory {
        pss_kib: field("smaps_rollup", "Pss")?,
        anonymous_kib: field("smaps_rollup", "Pss_Anon")?,
        page_tables_kib: field("status", "VmPTE")?,
    })
}

pub(crate) fn measure(options: &Options) -> Figures {
    let mut figures = Figures::new("memory of an idle plugin that has answered once, KiB", "KiB");
    let (alone, many) = ("sandbox, one helper".to_owned(), format!("sandbox, each of {MANY} helpers"));
    let host = "sandbox, what the host itself grows by for each";
    let (bare, in_process) = ("bare process of this image", "same library in a fresh process: what it adds");
    let hello = library("hello");
    for name in [&alone, &many] {
        figures.row(format!("{name}: PSS and page tables"), None);
        figures.row(format!("{name}: of this anonymous"), None);
        figures.row(format!("{name}: of this page tables"), None);
    }
    figures.row(host, None);
    figures.row(bare, Some("sandbox, one helper: PSS and page tables"));
    figures.row(in_process, Some("sandbox, one helper: PSS and page tables"));

    let mut seen = true;
    figures.rounds(options.rounds(5), |figures| {
        let first = answered(&hello);
        seen = first.sandbox().process_id().and_then(of).is_some();
        let put = |figures: &mut Figures, name: &str, plugin: &PluginHandle| {
            if let Some(memory) = plugin.sandbox().process_id().and_then(of) {
                figures.put(&format!("{name}: PSS and page tables"), memory.total_kib() as f64);
                figures.put(&format!("{name}: of this anonymous"), memory.anonymous_kib as f64);
                figures.put(&format!("{name}: of this page tables"), memory.page_tables_kib as f64);
            }
        };
        put(figures, &alone, &first);
        let before = of(std::process::id());
        let others: Vec<PluginHandle> = (1..MANY).map(|_| answered(&hello)).collect();
        others.iter().for_each(|plugin| put(figures, &many, plugin));
        if let (Some(before), Some(after)) = (before, of(std::process::id())) {
            // Without what it shares with them: its part of the common image becomes less with each.
            let grown = after.anonymous_kib.saturating_sub(before.anonymous_kib);
            figures.put(host, grown as f64 / (MANY - 1) as f64);
        }
        drop((first, others));
        let mut echo = Bare::start("echo", &["64"]);
        echo.exchange(&[7; 64], &mut [0; 64]);
        if let Some(memory) = of(echo.id()) {
            figures.put(bare, memory.total_kib() as f64);
        }
        let library = hello.to_str().expect("libraries have plain names");
        figures.put(in_process, Bare::start("in-process-memory", &[library]).number() as f64);
    });
    if !seen {
        figures.note("a helper is not dumpable: this user may not see what it holds");
    }
    figures
}

fn answered(library: &std::path::Path) -> PluginHandle {
    let plugin = sandbox_core::run(library).expect("the plugin runs");
    plugin.call("greet", b"world").expect("it answers");
    plugin
}
