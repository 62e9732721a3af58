//! What a tier is asked to do, one program after the other: `doctor`, the README's thumbnail, the containment suite.
//!
//! Runs on the machine that the tier is tried on. Owns how the programs are started. Never judges what they say.

use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tiers::Tier;

/// The files that the jobs want, in one folder: programs, plugins, the picture.
pub(crate) const PROGRAM: &str = "plugin-host";
pub(crate) const PLUGIN: &str = "libimage_thumbnail.so";
pub(crate) const PICTURE: &str = "lake.jpg";
/// The folder in it that anybody may write to.
pub(crate) const OUT: &str = "out";
/// The folder of the probes that the containment suite loads.
pub(crate) const PROBES: &str = "probes";
/// The test program of `integration-tests`, where it was asked for.
pub(crate) const TESTS: &str = "tests";

/// Emulated machines are slow, which is no tier's fault.
const PATIENCE: [&str; 10] = [
    "--limit",
    "load_timeout=120s",
    "--limit",
    "activate_timeout=120s",
    "--limit",
    "call_timeout=120s",
    "--limit",
    "deactivate_timeout=120s",
    "--limit",
    "max_cpu_time_sec=none",
];

/// One program that has run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) job: Job,
    /// `None` for one that a signal ended.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Whether a PNG was made.
    pub(crate) png: bool,
}

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    Doctor,
    /// With every required layer.
    Strict,
    /// With what `doctor` found missing given up by name.
    Weaker,
    /// The containment suite, `plugin-host prove`, under the layers under which plugins load.
    Suite,
    /// The test program of `integration-tests`.
    Tests,
    /// The tier could not be set up.
    Broken,
}

/// Runs all of them in the tier, from the files in `folder`, and tells of each; of the suite every so manieth row, if any.
pub(crate) fn run_all(
    tier: &Tier,
    folder: &Path,
    every: Option<NonZeroUsize>,
    mut tell: impl FnMut(Ran) -> Result<()>,
) -> Result<()> {
    let out = folder.join(OUT);
    // What another tier has made would be taken for this one's.
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir(&out)?;
    fs::set_permissions(&out, PermissionsExt::from_mode(0o1777))?;
    let doctor = run(tier, Job::Doctor, folder, &[PROGRAM, "doctor", "--json"])?;
    let given_up = given_up(&doctor.stdout);
    tell(doctor)?;
    let strict = thumbnail(tier, Job::Strict, folder, &[])?;
    let mut loads = strict.code == Some(0);
    tell(strict)?;
    if !loads {
        let weaker = thumbnail(tier, Job::Weaker, folder, &given_up)?;
        loads = weaker.code == Some(0);
        tell(weaker)?;
    }
    if let Some(every) = every.filter(|_| loads) {
        let (probes, every) = (folder.join(PROBES).to_string_lossy().into_owned(), every.to_string());
        let mut arguments = vec![PROGRAM, "prove", "--json", "--probes", &probes, "--every", &every];
        arguments.extend(["--patience", "300s"]);
        arguments.extend(best_effort(&given_up));
        tell(run(tier, Job::Suite, folder, &arguments)?)?;
    }
    if folder.join(TESTS).exists() {
        tell(run(tier, Job::Tests, folder, &[TESTS])?)?;
    }
    Ok(())
}

/// The required layers that there are not.
pub(crate) fn given_up(doctor: &str) -> Vec<String> {
    let doctor: Value = serde_json::from_str(doctor).unwrap_or_default();
    let layers = doctor["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let missing = layers.iter().filter(|layer| layer["enforced"] == false && layer["demand"] == "required");
    missing.filter_map(|layer| layer["layer"].as_str().map(str::to_owned)).collect()
}

fn best_effort(given_up: &[String]) -> impl Iterator<Item = &str> {
    given_up.iter().flat_map(|layer| ["--best-effort", layer.as_str()])
}

fn thumbnail(tier: &Tier, job: Job, folder: &Path, given_up: &[String]) -> Result<Ran> {
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let png = at(&format!("{OUT}/{job:?}.png"));
    let (plugin, picture) = (at(PLUGIN), at(PICTURE));
    let mut arguments = vec![PROGRAM, "run", &plugin, "--json", "--call", "thumbnail"];
    arguments.extend(["--payload-file", &picture, "--out", &png]);
    arguments.extend(PATIENCE);
    arguments.extend(best_effort(given_up));
    let mut ran = run(tier, job, folder, &arguments)?;
    let mut signature = [0; 8];
    let read = File::open(&png).and_then(|mut file| file.read_exact(&mut signature));
    ran.png = read.is_ok() && signature == *b"\x89PNG\r\n\x1a\n";
    Ok(ran)
}

fn run(tier: &Tier, job: Job, folder: &Path, command: &[&str]) -> Result<Ran> {
    let [program, arguments @ ..] = command else { anyhow::bail!("no program is named") };
    let output = Command::new(std::env::current_exe()?)
        .args(["enter", tier.name, "--"])
        .arg(folder.join(program))
        .args(arguments)
        .env("PLUGIN_TESTS_LIBRARIES", folder.join(PROBES))
        .current_dir(folder)
        .output()
        .with_context(|| format!("starting {program}"))?;
    Ok(Ran {
        job,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        png: false,
    })
}
