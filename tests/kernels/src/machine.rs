//! Kernels of Debian's, and qemu to boot them: fetched once, kept below `target/`, gone through by nobody but us.
//!
//! Owns what is downloaded and installed. Wants apt for the kernels; root only to install qemu.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

use crate::guest;
use crate::jobs::Ran;
use crate::tiers::Tier;

/// The kernels that are tried, newest first.
pub(crate) const SERIES: [&str; 2] = ["6.12", "6.1"];

const QEMU: &str = "qemu-system-x86_64";
/// Modules that a system has loaded and that these kernels may not have built in.
const MODULES: [&str; 1] = ["fuse"];

/// A kernel that can be booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) modules: Vec<PathBuf>,
}

/// Has qemu, installing it if this may. What is missing, in words, if not.
pub(crate) fn have_qemu() -> Result<()> {
    if is_there(QEMU) {
        return Ok(());
    }
    ensure!(
        nix::unistd::geteuid().is_root() && is_there("apt-get"),
        "{QEMU} is not there: as root, apt-get install --no-install-recommends qemu-system-x86"
    );
    eprintln!("installing qemu-system-x86");
    update()?;
    let status = Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends", "qemu-system-x86"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success() && is_there(QEMU), "qemu-system-x86 could not be installed: {status}");
    Ok(())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn update() -> Result<()> {
    let status = Command::new("apt-get").args(["update", "-qq"]).stdout(Stdio::null()).status();
    ensure!(status.context("starting apt-get")?.success(), "apt-get update failed");
    Ok(())
}

/// The kernel of this series, out of `cache` or, once, out of Debian's archive.
pub(crate) fn kernel(series: &str, cache: &Path) -> Result<Kernel> {
    let folder = cache.join(series);
    if let Ok(kernel) = unpacked(&folder) {
        return Ok(kernel);
    }
    fs::create_dir_all(cache)?;
    let package = match package(series)? {
        Some(package) => package,
        None if nix::unistd::geteuid().is_root() => {
            update()?;
            package(series)?.with_context(|| format!("apt knows no linux-image-{series}.*-cloud-amd64"))?
        }
        None => bail!("apt knows no linux-image-{series}.*-cloud-amd64"),
    };
    eprintln!("fetching {package}");
    let fresh = tempfile::tempdir_in(cache)?;
    let quiet = |command: &mut Command| {
        let output = command.current_dir(fresh.path()).output().context("starting apt-get or dpkg-deb")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    quiet(Command::new("apt-get").args(["download", "-qq", &package]))?;
    let deb = find(fresh.path(), |name| name.ends_with(".deb")).context("apt-get downloaded nothing")?;
    quiet(Command::new("dpkg-deb").arg("-x").arg(deb).arg("."))?;
    // The whole package is a hundred times what is wanted of it.
    let kept = fresh.path().join("kept");
    fs::create_dir(&kept)?;
    let image =
        find(&fresh.path().join("boot"), |name| name.starts_with("vmlinuz-")).context("no vmlinuz in it")?;
    fs::copy(&image, kept.join(image.file_name().unwrap_or_default()))?;
    for module in MODULES {
        if let Some(path) = find(&fresh.path().join("lib/modules"), |name| name == format!("{module}.ko")) {
            fs::copy(path, kept.join(format!("{module}.ko")))?;
        }
    }
    let _ = fs::remove_dir_all(&folder);
    fs::rename(kept, &folder)?;
    unpacked(&folder)
}

fn unpacked(folder: &Path) -> Result<Kernel> {
    let image = find(folder, |name| name.starts_with("vmlinuz-")).context("no kernel")?;
    let modules =
        MODULES.iter().map(|module| folder.join(format!("{module}.ko"))).filter(|path| path.exists());
    Ok(Kernel { image, modules: modules.collect() })
}

/// The first file below a folder whose name is as wanted.
fn find(folder: &Path, wanted: impl Fn(&str) -> bool + Copy) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let here = entries.iter().find(|path| path.is_file() && wanted(&name(path)));
    here.cloned().or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, wanted)))
}

/// The newest package with a kernel of this series. Cloud kernels: small, and with all that a sandbox wants.
fn package(series: &str) -> Result<Option<String>> {
    let pattern = format!("^linux-image-{}\\.[0-9].*-cloud-amd64$", series.replace('.', "\\."));
    let output = Command::new("apt-cache")
        .args(["search", "--names-only", &pattern])
        .output()
        .context("there is no apt to find kernels with")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    Ok(names.max_by_key(|name| numbers(name)))
}

/// The numbers in a name, in their order: so that 100 comes after 99.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Boots the kernel as this tier, and tells what came of each job.
pub(crate) fn boot(
    kernel: &Kernel,
    initramfs: &Path,
    tier: &Tier,
    every: Option<NonZeroUsize>,
    timeout: Duration,
) -> Result<Vec<Ran>> {
    let folder = tempfile::tempdir()?;
    let (console, results) = (folder.path().join("console"), folder.path().join("results"));
    // Without the check: emulated on a busy machine the timer may seem not to work, and the kernel panics.
    let mut append =
        format!("console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init {}={}", guest::TIER, tier.name);
    if let Some(every) = every {
        append.push_str(&format!(" {}={every}", guest::EVERY));
    }
    if !tier.kernel_arguments.is_empty() {
        append.push_str(&format!(" {}", tier.kernel_arguments));
    }
    let file = |path: &Path| format!("file:{}", path.display());
    let mut command = Command::new(QEMU);
    // Not KVM, even where there is one: on a machine that is itself a guest it may hang, and every machine has this.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
    command.args(["-serial", &file(&console), "-serial", &file(&results)]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs).args(["-append", &append]);
    let mut machine = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting qemu")?;
    let ended = rustix::process::pidfd_open(Pid::from_child(&machine), PidfdFlags::empty())?;
    let timeout_spec = Timespec::try_from(timeout)?;
    let has_ended = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout_spec));
    if !matches!(has_ended, Ok(1..)) {
        machine.kill()?;
    }
    let status = machine.wait()?;
    let has_ended = has_ended.context("waiting for qemu")?;
    let said = fs::read_to_string(&console).unwrap_or_default();
    let tail: Vec<&str> = said.lines().rev().take(15).collect();
    let tail: String = tail.into_iter().rev().flat_map(|line| [line, "\n"]).collect();
    ensure!(has_ended > 0, "{} s were not enough for it\n{tail}", timeout.as_secs());
    ensure!(status.success(), "qemu: {status}\n{tail}");
    let results = fs::read_to_string(&results).unwrap_or_default();
    let ran: Vec<Ran> =
        results.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("the guest's results")?;
    ensure!(!ran.is_empty(), "the guest has told nothing\n{tail}");
    Ok(ran)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_that_with_the_highest_numbers() {
        let names = ["linux-image-6.12.99+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64"];
        assert_eq!(names.into_iter().max_by_key(|name| numbers(name)), Some(names[1]));
    }
}
