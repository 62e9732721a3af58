//! The design's bare C program, where it stands beside the repository: what the steps of a spawn cost with nothing around.

use std::path::{Path, PathBuf};
use std::process::Command;

use rig::Scratch;

/// The compiled program, in a folder of its own.
#[derive(Debug)]
pub(crate) struct Chain {
    scratch: Scratch,
}

impl Chain {
    /// Compiles it. Says why not if it is not there or there is no compiler.
    pub(crate) fn compile() -> Result<Self, String> {
        let sources: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/chain");
        if !sources.join("chain.c").exists() {
            return Err("../shared/chain does not stand beside the repository: not compared to it".to_owned());
        }
        let scratch = Scratch::new();
        let source = |name: &str| sources.join(name).into_os_string();
        let target = |name: &str| scratch.path().join(name).into_os_string();
        gcc(&["-std=gnu11"], source("chain.c"), target("chain"), &[])?;
        let libraries = ["-Wl,--no-as-needed", "-lm"];
        gcc(&["-shared", "-fPIC"], source("chain_plugin.c"), target("chain_plugin.so"), &libraries)?;
        Ok(Self { scratch })
    }

    /// Spawns so many helpers in turn: the median and the 99th percentile of request to first echo, in microseconds.
    pub(crate) fn time(&self, count: usize, flags: &[&str]) -> Option<(f64, f64)> {
        let mut command = Command::new(self.scratch.path().join("chain"));
        command.arg("time").arg(count.to_string()).args(flags).current_dir(self.scratch.path());
        let output = command.output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let row = text.lines().find_map(|line| line.trim().strip_prefix("= request to first echo"))?;
        let mut numbers = row.split_whitespace().map_while(|word| word.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    }
}

fn gcc(
    before: &[&str],
    source: std::ffi::OsString,
    target: std::ffi::OsString,
    after: &[&str],
) -> Result<(), String> {
    let mut command = Command::new("gcc");
    command.arg("-O2").args(before).arg("-o").arg(target).arg(source).args(after);
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "../shared/chain does not compile, so not compared to it: {}",
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()
        )),
        Err(error) => Err(format!("no gcc, so not compared to ../shared/chain: {error}")),
    }
}
