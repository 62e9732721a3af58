//! The first process of an emulated machine: mounts what a system has, sets the tier up, runs the jobs, switches off.
//!
//! Runs as process 1 of a guest, out of an initramfs. Tells what came on the second serial port, one JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::enter;
use crate::jobs::{self, Job, Ran};
use crate::tiers::Tier;

/// Where the initramfs has the files for the jobs.
pub(crate) const FOLDER: &str = "/w";
/// Where it has kernel modules to be loaded.
pub(crate) const MODULES: &str = "/modules";
/// What the kernel's command line names the tier by; an argument that the kernel does not know is in its first process's
/// environment.
pub(crate) const TIER: &str = "KERNEL_TESTS_TIER";
/// What it says there how much of the containment suite is to be run by; not there, where none of it.
pub(crate) const EVERY: &str = "KERNEL_TESTS_EVERY";

/// The whole life of the machine.
pub(crate) fn main() -> ! {
    if let Err(error) = live() {
        println!("guest: {error:#}");
    }
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
    std::process::exit(1)
}

fn live() -> Result<()> {
    mount_all()?;
    load_modules();
    let mut port = OpenOptions::new().write(true).open("/dev/ttyS1").context("the second serial port")?;
    let mut settings = tcgetattr(&port)?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings)?;
    let name = std::env::var(TIER).context("no tier is named on the kernel's command line")?;
    let tier = Tier::named(&name).with_context(|| format!("no tier is called {name}"))?;
    let every = std::env::var(EVERY).ok().and_then(|number| number.parse().ok());
    let ran = set_up(&tier)
        .and_then(|()| jobs::run_all(&tier, Path::new(FOLDER), every, |ran| tell(&mut port, &ran)));
    if let Err(error) = ran {
        let stderr = format!("{error:#}");
        tell(&mut port, &Ran { job: Job::Broken, code: None, stdout: String::new(), stderr, png: false })?;
    }
    Ok(())
}

fn tell(port: &mut File, ran: &Ran) -> Result<()> {
    let mut line = serde_json::to_vec(ran)?;
    line.push(b'\n');
    port.write_all(&line)?;
    rustix::termios::tcdrain(&*port)?;
    Ok(())
}

fn mount_all() -> Result<()> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("securityfs", "/sys/kernel/security"),
    ] {
        let _ = fs::create_dir_all(at);
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {at}"))?;
    }
    fs::set_permissions("/dev/shm", PermissionsExt::from_mode(0o1777))?;
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0")] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    // IFF_UP and IFF_LOOPBACK; its addresses come by themselves.
    fs::write("/sys/class/net/lo/flags", "0x9").context("bringing the loopback interface up")
}

/// What a system has loaded by the time that somebody logs in. A kernel that has it built in brings none.
fn load_modules() {
    for entry in fs::read_dir(MODULES).into_iter().flatten().flatten() {
        let loaded = File::open(entry.path())
            .map_err(anyhow::Error::from)
            .and_then(|file| Ok(finit_module(&file, c"", ModuleInitFlags::empty())?));
        if let Err(error) = loaded {
            println!("guest: {}: {error}", entry.path().display());
        }
    }
    if Path::new("/dev/fuse").exists() {
        let _ = fs::set_permissions("/dev/fuse", PermissionsExt::from_mode(0o666)); // as udev does
    }
}

fn set_up(tier: &Tier) -> Result<()> {
    let put = |file: &str, text: &str| fs::write(file, text).with_context(|| format!("{text} into {file}"));
    if tier.no_user_namespaces {
        put("/proc/sys/user/max_user_namespaces", "0")?;
    }
    if tier.yama != 0 {
        put("/proc/sys/kernel/yama/ptrace_scope", &tier.yama.to_string())?;
    }
    if tier.cgroup {
        // As a service manager delegates: the folder and the files that its owner moves processes and controllers with.
        put("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu")?;
        let part = Path::new(enter::CGROUP).parent().context("a folder above")?;
        fs::create_dir(part)?;
        fs::write(part.join("cgroup.subtree_control"), "+memory +pids +cpu")?;
        fs::create_dir(enter::CGROUP)?;
        for folder in [part, Path::new(enter::CGROUP)] {
            chown(folder, Some(tier.uid), Some(tier.uid))?;
            for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
                chown(folder.join(file), Some(tier.uid), Some(tier.uid))?;
            }
        }
    }
    Ok(())
}
