//! Where this process may make groups: its own group, or, where that may have no groups beside processes, the one above, as a
//! service manager delegates it.
//!
//! Runs in the host. Finds out by making one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// How every group of ours is called; the rest is the host's process id and a number.
const PREFIX: &str = "plugin-sandbox-";

/// What of a machine a group can bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// Where groups with one controller can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    /// Version 2: one group for all controllers.
    Unified(PathBuf),
    /// Version 1: a tree for each.
    Legacy(PathBuf),
}

/// A folder of version 2 below which groups can be made.
pub(super) struct Unified {
    folder: PathBuf,
    controllers: String,
}

impl Unified {
    pub(super) fn find() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let mount = mount.and_then(|line| line.split_whitespace().nth(4)).map(PathBuf::from);
        let mount = mount.ok_or("no cgroup v2 is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = mount.join(own.ok_or("this process is in no cgroup v2")?);
        let mut last = "this process may make no cgroup v2".to_owned();
        for folder in [own.as_path(), own.parent().unwrap_or(&own)] {
            if !folder.starts_with(&mount) {
                continue;
            }
            let controllers = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
            let known = [Controller::Memory, Controller::Pids, Controller::Cpu].map(Controller::name);
            if !controllers.split_whitespace().any(|controller| known.contains(&controller)) {
                last = "no controller of cgroup v2 is delegated to this process".to_owned();
                continue;
            }
            match try_in(folder) {
                Ok(()) => return Ok(Self { folder: folder.to_owned(), controllers }),
                Err(error) => last = format!("cgroup v2: {error}"),
            }
        }
        Err(last)
    }

    pub(super) fn home(&self, controller: Controller) -> Result<Home, String> {
        let is_there = self.controllers.split_whitespace().any(|name| name == controller.name());
        let why = || format!("cgroup v2 is delegated without the {} controller", controller.name());
        is_there.then(|| Home::Unified(self.folder.clone())).ok_or_else(why)
    }
}

/// The group of version 1 that this process is in, if it may make others below.
pub(super) fn legacy_home(controller: Controller) -> Result<Home, String> {
    let name = controller.name();
    let none = || format!("no {name} controller of cgroup v1 is mounted");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts.lines().find(|line| {
        let options = line.split_once(" - cgroup ").map(|(_, rest)| rest);
        let options = options.and_then(|rest| rest.split_whitespace().last());
        options.is_some_and(|options| options.split(',').any(|option| option == name))
    });
    let mut fields = mount.ok_or_else(none)?.split_whitespace().skip(3);
    let (root, at) = (fields.next().ok_or_else(none)?, fields.next().ok_or_else(none)?);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == name).then_some(path)
    });
    let below = Path::new(own.ok_or_else(none)?).strip_prefix(root);
    let own = Path::new(at).join(below.map_err(|_| format!("cgroup v1, {name}: its group is not in sight"))?);
    try_in(&own).map_err(|error| format!("cgroup v1, {name}: {error}"))?;
    Ok(Home::Legacy(own))
}

/// Whether this process may make groups there, by making one.
fn try_in(folder: &Path) -> io::Result<()> {
    let trial = folder.join(new_name());
    fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial))
}

/// A name that no other group has: of this process, and of this moment in it.
pub(super) fn new_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the empty groups of hosts that were killed.
pub(super) fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let host = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if host.is_some_and(|host| !Path::new(&format!("/proc/{host}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
