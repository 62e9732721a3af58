//! Becomes a host of one tier: its cgroup, its filter, its capabilities, its user; then the program.
//!
//! Runs in a process of its own, on the machine that the tier is tried on. Never changes anything of that machine.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::filters;
use crate::tiers::{Around, Tier};

/// Where the guest keeps a tier's part of cgroup v2, for the host to be in.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup/tier/host";

/// What Docker leaves a container's root.
const CONTAINER: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// Runs `command` as a host of this tier. Returns only if that failed, or where somebody has to stay beside it.
pub(crate) fn enter(tier: &Tier, command: &[String]) -> Result<ExitCode> {
    let [program, arguments @ ..] = command else { bail!("no program is named") };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/tmp");
    for name in ["PLUGIN_TESTS_LIBRARIES", "RUST_BACKTRACE", "PLUGIN_HOST_LOG"] {
        if let Ok(value) = std::env::var(name) {
            command.env(name, value);
        }
    }
    if tier.cgroup && Path::new(CGROUP).exists() {
        std::fs::write(format!("{CGROUP}/cgroup.procs"), "0").context("joining the cgroup")?;
    }
    let mut listener = None;
    // While there is CAP_SYS_ADMIN: without it a filter wants `no_new_privs`.
    match tier.around {
        Around::Nothing => {}
        Around::Container => {
            filters::container()?;
            for capability in caps::all() {
                let known = caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false);
                if known && !CONTAINER.contains(&capability) {
                    caps::drop(None, CapSet::Bounding, capability)?;
                }
            }
        }
        Around::Listener => listener = Some(filters::listener()?),
        Around::EmptyUserNamespaces => filters::empty_user_namespaces()?,
    }
    if tier.uid != 0 {
        let (uid, gid) = (Uid::from_raw(tier.uid), Gid::from_raw(tier.uid));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    if listener.is_some() {
        // There is no other while this one is open.
        let status = command.status().with_context(|| format!("starting {program}"))?;
        drop(listener);
        return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)));
    }
    Err(command.exec()).with_context(|| format!("starting {program}"))
}
