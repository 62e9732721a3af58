//! A control group of its own for each helper, where the host may make one: cgroups(7), version 2.
//!
//! Runs in the host. Owns the folder, which goes with the helper. Never moves a process: a helper is cloned into its group,
//! since a move waits for the kernel for milliseconds. Version 1 is left alone.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::shared::policy::ResourceLimits;

/// How every group of ours is called; the rest is the host's process id and a number.
const PREFIX: &str = "plugin-sandbox-";

/// What the kernel itself keeps for a helper, beside what its limit is about: page tables, pipes, the start of its image.
const KERNELS_OWN_BYTES: u64 = 16 << 20;

/// Where groups can be made, or why none can.
#[derive(Debug)]
pub(crate) enum Groups {
    Under(PathBuf),
    None { why: String },
}

/// One helper's group. Removed when it is dropped, if not before; either must be after the helper's end.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    removed: AtomicBool,
}

impl Groups {
    /// Looks for a folder below which this process may make groups with a memory controller: its own group, or, where that
    /// may have no groups beside processes, the one above, as a service manager delegates it.
    pub(crate) fn find() -> Self {
        let why = |why: String| Self::None { why };
        let Some(mount) = mount_point() else { return why("no cgroup v2 is mounted".to_owned()) };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
            return why("this process is in no cgroup v2".to_owned());
        };
        let own = mount.join(own);
        let mut last = "this process may make none below its own".to_owned();
        for folder in [own.as_path(), own.parent().unwrap_or(&own)] {
            if !folder.starts_with(&mount) {
                continue;
            }
            let controllers = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
            if !controllers.split_whitespace().any(|controller| controller == "memory") {
                last = "no memory controller is delegated to this process".to_owned();
                continue;
            }
            let trial = folder.join(new_name());
            match fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)) {
                Ok(()) => {
                    sweep(folder);
                    return Self::Under(folder.to_owned());
                }
                Err(error) => last = format!("{error}"),
            }
        }
        why(last)
    }

    /// A new group with these limits.
    pub(crate) fn make(&self, limits: &ResourceLimits) -> Result<Group, String> {
        let parent = match self {
            Self::Under(parent) => parent,
            Self::None { why } => return Err(why.clone()),
        };
        let folder = parent.join(new_name());
        fs::create_dir(&folder).map_err(|error| error.to_string())?;
        let group = Group { folder, removed: AtomicBool::new(false) };
        group.set_memory(limits.max_memory_mb).map_err(|error| format!("memory.max: {error}"))?;
        // Not there on every kernel, or without swap: the limit above is what counts.
        let _ = fs::write(group.folder.join("memory.swap.max"), "0");
        let _ = fs::write(group.folder.join("memory.oom.group"), "1");
        Ok(group)
    }
}

impl Group {
    /// For clone3(2)'s CLONE_INTO_CGROUP.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.folder, flags, Mode::empty())?)
    }

    /// Sets the limit, of a running helper too.
    pub(crate) fn set_memory(&self, max_mb: Option<u64>) -> io::Result<()> {
        let text = max_mb.map_or_else(|| "max".to_owned(), |mb| ((mb << 20) + KERNELS_OWN_BYTES).to_string());
        fs::write(self.folder.join("memory.max"), text)
    }

    /// What stands, as the kernel tells it: the limit in bytes, if the process is in this group.
    pub(crate) fn stands_for(&self, pid: i32) -> Option<String> {
        let name = self.folder.file_name()?.to_str()?;
        let of = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        of.lines().find(|line| line.starts_with("0::") && line.ends_with(name))?;
        let max = fs::read_to_string(self.folder.join("memory.max")).ok()?;
        Some(format!("memory.max: {}", max.trim()))
    }

    /// How many bytes are charged to it, and the most that were: from Linux 5.19 on.
    pub(crate) fn memory(&self) -> Option<(u64, Option<u64>)> {
        let number = |file: &str| fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok();
        Some((number("memory.current")?, number("memory.peak")))
    }

    /// Whether the kernel has killed a member for want of memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.folder.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }
}

impl Group {
    /// Removes it, its helper having ended.
    pub(crate) fn remove(&self) {
        if self.removed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!(%error, "a helper's cgroup stays behind; the next host here removes it");
        }
    }
}

/// A name that no other group has: of this process, and of this moment in it.
fn new_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}

fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split_whitespace().nth(4).map(PathBuf::from)
}

/// Removes the empty groups of hosts that were killed.
fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let host = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if host.is_some_and(|host| !Path::new(&format!("/proc/{host}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
