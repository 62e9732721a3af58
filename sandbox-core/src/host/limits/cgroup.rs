//! A control group of its own for each helper, where the host may make one: cgroups(7), version 2, and version 1 for the
//! controllers that are there.
//!
//! Runs in the host. Owns the folders, which go with the helper. Never moves a process: a helper is cloned into its group, or
//! joins it itself before it is one, since a move of another process waits for the kernel for milliseconds.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::usage::MemoryMeter;
use crate::host::lock::lock;
use crate::shared::policy::{Layer, ResourceLimits, Sabotage};
use crate::shared::sys::signals;

/// How every group of ours is called; the rest is the host's process id and a number.
const PREFIX: &str = "plugin-sandbox-";

/// What the kernel itself keeps for a helper, beside what its limit is about: page tables, pipes, the start of its image.
const KERNELS_OWN_BYTES: u64 = 16 << 20;

/// In what time a CPU share is to be kept, in microseconds: as the kernel has it from the start.
const CPU_PERIOD_US: u64 = 100_000;

/// What of a machine a group can bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// Where groups with one controller can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Home {
    /// Version 2: one group for all controllers.
    Unified(PathBuf),
    /// Version 1: a tree for each.
    Legacy(PathBuf),
}

/// Where groups can be made with each controller, or why none can.
#[derive(Debug)]
pub(crate) struct Groups {
    memory: Result<Home, String>,
    pids: Result<Home, String>,
    cpu: Result<Home, String>,
    leftovers: Arc<Leftovers>,
}

/// One helper's groups. Removed when it is dropped, if not before; either must be after the helper's end.
#[derive(Debug)]
pub(crate) struct Group {
    unified: Option<PathBuf>,
    legacy_memory: Option<PathBuf>,
    legacy_cpu: Option<PathBuf>,
    /// Whether each is bounded, or why it is not.
    memory: Result<(), String>,
    pids: Result<(), String>,
    cpu: Result<(), String>,
    removed: AtomicBool,
    leftovers: Arc<Leftovers>,
}

/// By what a helper's groups hold it; else why they do not.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) memory: Result<String, String>,
    /// Its CPU share.
    pub(crate) cpu: Result<String, String>,
    /// Its threads and processes together.
    pub(crate) tasks: Result<String, String>,
}

/// What a zygote needs to have a helper in its groups from the start.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    /// For clone3(2)'s CLONE_INTO_CGROUP.
    pub(crate) unified: Option<OwnedFd>,
    /// `tasks` of version 1: a thread that writes 0 there is in that group, without a wait.
    pub(crate) legacy: Vec<OwnedFd>,
}

impl Groups {
    /// Looks for folders below which this process may make groups: its own group, or, where that may have no groups beside
    /// processes, the one above, as a service manager delegates it.
    pub(crate) fn find() -> Self {
        let unified = Unified::find();
        let home = |controller: Controller| {
            let of_two = unified.as_ref().map_err(Clone::clone).and_then(|unified| unified.home(controller));
            // Threads and processes are counted by an rlimit where there is no version 2.
            of_two.or_else(|why| match controller {
                Controller::Pids => Err(why),
                _ => legacy_home(controller).map_err(|of_one| format!("{why}; {of_one}")),
            })
        };
        let groups = Self {
            memory: home(Controller::Memory),
            pids: home(Controller::Pids),
            cpu: home(Controller::Cpu),
            leftovers: Arc::default(),
        };
        for home in [&groups.memory, &groups.cpu].into_iter().flatten() {
            let (Home::Unified(folder) | Home::Legacy(folder)) = home;
            sweep(folder);
        }
        groups
    }

    /// New groups for a helper with these limits, as far as they can be had. They bound nothing yet.
    pub(crate) fn make(&self, limits: &ResourceLimits, sabotage: &Sabotage) -> Group {
        let left_out = Err("it was left out, for a test".to_owned());
        let memory = if sabotage.takes(Layer::MemoryCgroup) { &left_out } else { &self.memory };
        let name = new_name();
        let make = |folder: &Path| {
            let folder = folder.join(&name);
            fs::create_dir(&folder).map(|()| folder).map_err(|error| format!("making a group: {error}"))
        };
        let homes = [memory, &self.pids, &self.cpu];
        let unified = homes.into_iter().flatten().find_map(|home| match home {
            Home::Unified(folder) => Some(make(folder)),
            Home::Legacy(_) => None,
        });
        let legacy = |home: &Result<Home, String>, wanted: bool| match home {
            Ok(Home::Legacy(folder)) if wanted => Some(make(folder)),
            _ => None,
        };
        let mut group = Group {
            legacy_memory: None,
            legacy_cpu: None,
            memory: memory.as_ref().map(drop).map_err(Clone::clone),
            pids: self.pids.as_ref().map(drop).map_err(Clone::clone),
            cpu: self.cpu.as_ref().map(drop).map_err(Clone::clone),
            unified: None,
            removed: AtomicBool::new(false),
            leftovers: Arc::clone(&self.leftovers),
        };
        match unified {
            Some(Ok(folder)) => group.unified = Some(folder),
            Some(Err(why)) => {
                let lost = [(memory, &mut group.memory), (&self.pids, &mut group.pids)];
                for (home, state) in lost.into_iter().chain([(&self.cpu, &mut group.cpu)]) {
                    if matches!(home, Ok(Home::Unified(_))) {
                        *state = Err(why.clone());
                    }
                }
            }
            None => {}
        }
        match legacy(memory, true) {
            Some(Ok(folder)) => group.legacy_memory = Some(folder),
            Some(Err(why)) => group.memory = Err(why),
            None => {}
        }
        match legacy(&self.cpu, limits.max_cpu_percent.is_some()) {
            Some(Ok(folder)) => group.legacy_cpu = Some(folder),
            Some(Err(why)) => group.cpu = Err(why),
            None => {}
        }
        group
    }
}

impl Group {
    /// What has a helper in it from its start.
    pub(crate) fn doors(&self) -> io::Result<Doors> {
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let unified = self.unified.as_ref().map(|path| rustix::fs::open(path, folder, Mode::empty()));
        let join = |path: &PathBuf| {
            rustix::fs::open(path.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let legacy = self.legacy_memory.iter().chain(&self.legacy_cpu).map(join);
        Ok(Doors { unified: unified.transpose()?, legacy: legacy.collect::<Result<_, _>>()? })
    }

    /// The helper could not be cloned into its group.
    pub(crate) fn was_not_entered(&mut self, why: &str) {
        for (folder, state) in [(&self.legacy_memory, &mut self.memory), (&self.legacy_cpu, &mut self.cpu)] {
            if folder.is_none() && state.is_ok() {
                *state = Err(why.to_owned());
            }
        }
        if self.pids.is_ok() {
            self.pids = Err(why.to_owned());
        }
    }

    /// Sets the limits for the first time: while the helper starts, which takes longer. None of the plugin's code runs before
    /// the host has read them back.
    pub(crate) fn bound(&mut self, limits: &ResourceLimits) {
        let failed = |error: io::Error| error.to_string();
        if self.memory.is_ok() {
            self.memory = self.set_memory(limits.max_memory_mb).and_then(|()| self.bound_swap());
        }
        if self.pids.is_ok() {
            self.pids = self.set_tasks(limits).map_err(failed);
        }
        if self.cpu.is_ok() {
            self.cpu = self.set_cpu(limits.max_cpu_percent).map_err(failed);
        }
    }

    /// Sets the limit, of a running helper too.
    pub(crate) fn set_memory(&self, max_mb: Option<u64>) -> Result<(), String> {
        let bytes = max_mb.map(|mb| (mb << 20).saturating_add(KERNELS_OWN_BYTES));
        if let Some(folder) = &self.legacy_memory {
            let text = bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
            let (memory, both) =
                (folder.join("memory.limit_in_bytes"), folder.join("memory.memsw.limit_in_bytes"));
            // The first may never be above the second: whichever way it goes, one of the two orders is right.
            return fs::write(&memory, &text)
                .and_then(|()| write_if_there(&both, &text))
                .or_else(|_| write_if_there(&both, &text).and_then(|()| fs::write(&memory, &text)))
                .map_err(|error| format!("memory.limit_in_bytes: {error}"));
        }
        let text = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        self.write("memory.max", &text).map_err(|error| format!("memory.max: {error}"))
    }

    /// A bound on memory that lets it be swapped out is none.
    fn bound_swap(&self) -> Result<(), String> {
        let bounded = match &self.legacy_memory {
            Some(folder) => folder.join("memory.memsw.limit_in_bytes").exists(),
            None => {
                let _ = self.write("memory.oom.group", "1");
                self.write("memory.swap.max", "0").is_ok()
            }
        };
        if bounded || !swap_is_on() {
            return Ok(());
        }
        Err("swap is on and cannot be bounded: a bound on memory alone is none".to_owned())
    }

    /// Sets how many threads and processes there may be together.
    pub(crate) fn set_tasks(&self, limits: &ResourceLimits) -> io::Result<()> {
        let most = limits.max_threads.zip(limits.max_processes);
        // As RLIMIT_NPROC counts them: all that runs.
        let most = most.map(|(threads, processes)| threads.saturating_add(processes).saturating_add(1));
        let text = most.map_or_else(|| "max".to_owned(), |most| most.to_string());
        self.write("pids.max", &text)
    }

    /// Sets which part of one CPU it may use.
    pub(crate) fn set_cpu(&self, percent: Option<u64>) -> io::Result<()> {
        let quota = percent.map(|percent| percent.saturating_mul(CPU_PERIOD_US / 100));
        if let Some(folder) = &self.legacy_cpu {
            let text = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
            return fs::write(folder.join("cpu.cfs_quota_us"), text);
        }
        match (&self.unified, quota) {
            (Some(_), quota) => {
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                self.write("cpu.max", &format!("{quota} {CPU_PERIOD_US}"))
            }
            // Its tree was not entered, since no share was asked for.
            (None, None) => Ok(()),
            (None, Some(_)) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Changes all of them while the helper runs, as far as they are held.
    pub(crate) fn set_limits(&self, limits: &ResourceLimits) {
        let text = |error: io::Error| error.to_string();
        let changes = [
            self.memory.is_ok().then(|| self.set_memory(limits.max_memory_mb)),
            self.pids.is_ok().then(|| self.set_tasks(limits).map_err(text)),
            self.has_cpu().then(|| self.set_cpu(limits.max_cpu_percent).map_err(text)),
        ];
        for error in changes.into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(error, "a limit of a running plugin's cgroup stays as it was");
        }
    }

    /// Whether a running helper's CPU share can be changed.
    pub(crate) fn has_cpu(&self) -> bool {
        self.cpu.is_ok() && (self.unified.is_some() || self.legacy_cpu.is_some())
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let folder = self.unified.as_ref().ok_or(io::ErrorKind::NotFound)?;
        fs::write(folder.join(file), text)
    }

    fn read(&self, folder: Option<&PathBuf>, file: &str) -> Option<String> {
        Some(fs::read_to_string(folder?.join(file)).ok()?.trim().to_owned())
    }

    /// What holds a helper, as the kernel tells it.
    pub(crate) fn standing(&self, pid: i32) -> Standing {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Standing {
            memory: self.memory_stands(&groups),
            cpu: self.cpu_stands(&groups),
            tasks: self.tasks_stand(&groups),
        }
    }

    /// Whether a process of these groups is in that one.
    fn has(&self, groups: &str, folder: &Path, controller: Controller) -> bool {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { return false };
        let unified = self.unified.as_deref() == Some(folder);
        groups.lines().filter(|line| line.ends_with(name)).any(|line| {
            let controllers = line.split(':').nth(1).unwrap_or_default();
            if unified {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|has| has == controller.name())
            }
        })
    }

    fn memory_stands(&self, groups: &str) -> Result<String, String> {
        self.memory.clone()?;
        let show = |folder: Option<&PathBuf>, file: &str| {
            self.read(folder, file).map(|text| format!("{file}: {text}"))
        };
        let (folder, files) = match &self.legacy_memory {
            Some(folder) => (Some(folder), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
            None => (self.unified.as_ref(), ["memory.max", "memory.swap.max"]),
        };
        let is_in = folder.is_some_and(|folder| self.has(groups, folder, Controller::Memory));
        let shown = show(folder, files[0]).filter(|_| is_in);
        let shown = shown.ok_or("the kernel does not show the helper in its group")?;
        let swap = show(folder, files[1]).unwrap_or_else(|| "no swap is on".to_owned());
        Ok(format!("{shown}, {swap}"))
    }

    fn cpu_stands(&self, groups: &str) -> Result<String, String> {
        self.cpu.clone()?;
        let (folder, file) = match &self.legacy_cpu {
            Some(folder) => (Some(folder), "cpu.cfs_quota_us"),
            None => (self.unified.as_ref(), "cpu.max"),
        };
        let is_in = folder.is_some_and(|folder| self.has(groups, folder, Controller::Cpu));
        let shown = self.read(folder, file).filter(|_| is_in);
        shown
            .map(|text| format!("{file}: {text}"))
            .ok_or_else(|| "the kernel does not show the helper in its group".to_owned())
    }

    fn tasks_stand(&self, groups: &str) -> Result<String, String> {
        self.pids.clone()?;
        let is_in = self.unified.as_ref().is_some_and(|folder| self.has(groups, folder, Controller::Pids));
        let shown = self.read(self.unified.as_ref(), "pids.max").filter(|_| is_in);
        shown.map(|text| format!("pids.max: {text}")).ok_or_else(|| "it is in no such group".to_owned())
    }

    /// By whose account, and which files of it: how many bytes are charged now, and the most that were.
    fn account(&self) -> Option<(MemoryMeter, &PathBuf, [&'static str; 2])> {
        self.memory.as_ref().ok()?;
        match (&self.legacy_memory, &self.unified) {
            (Some(folder), _) => {
                let files = ["memory.usage_in_bytes", "memory.max_usage_in_bytes"];
                Some((MemoryMeter::CgroupV1, folder, files))
            }
            (None, Some(folder)) => Some((MemoryMeter::CgroupV2, folder, ["memory.current", "memory.peak"])),
            (None, None) => None,
        }
    }

    /// How many bytes are charged to it, and the most that were: of version 2 from Linux 5.19 on. By whose account.
    pub(crate) fn memory(&self) -> Option<(MemoryMeter, u64, Option<u64>)> {
        let (meter, folder, [now, peak]) = self.account()?;
        let number = |file| self.read(Some(folder), file)?.parse().ok();
        Some((meter, number(now)?, number(peak)))
    }

    /// The most bytes that were charged to it, at the end.
    pub(crate) fn most_memory(&self) -> Option<(MemoryMeter, Option<u64>)> {
        let (meter, folder, [_, peak]) = self.account()?;
        Some((meter, self.read(Some(folder), peak).and_then(|text| text.parse().ok())))
    }

    /// Whether the kernel has killed a member for want of memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        let (folder, file) = match &self.legacy_memory {
            Some(folder) => (Some(folder), "memory.oom_control"),
            None => (self.unified.as_ref(), "memory.events"),
        };
        let events = self.read(folder, file).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Removes them, their helper having ended. Who ends plugins does this, and does not wait for what a plugin may hold up: a
    /// member that does not end.
    pub(crate) fn remove(&self) {
        if self.removed.swap(true, Ordering::AcqRel) {
            return;
        }
        for folder in self.unified.iter().chain(&self.legacy_memory).chain(&self.legacy_cpu) {
            match remove_empty(folder) {
                Err(error) if is_busy(&error) => self.leftovers.add(folder.clone()),
                other => told(other),
            }
        }
    }
}

/// How long a group may still have members that have been killed, at once and afterwards, and in which steps it is looked:
/// /sys/fs/cgroup has no event for it in version 1.
const AT_ONCE: Duration = Duration::from_millis(5);
const LOOK_AT_ONCE: Duration = Duration::from_millis(1);
const EMPTIED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long the last of a host waits for the groups that are left.
const AT_THE_END: Duration = Duration::from_secs(2);

/// Removes a group whose members have ended, or are about to: where the zygote itself was killed, or a helper could not be taken
/// over, nobody has seen them end.
fn remove_empty(folder: &Path) -> io::Result<()> {
    let deadline = Instant::now() + AT_ONCE;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(LOOK_AT_ONCE),
            other => return other,
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

fn told(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "a helper's cgroup stays behind; the next host here removes it");
    }
}

/// Groups that still had members when their helper had ended. A thread of their own tries again, for as long as there are any.
#[derive(Debug, Default)]
struct Leftovers {
    list: Mutex<Left>,
    none_left: Condvar,
}

#[derive(Debug, Default)]
struct Left {
    /// Each with when it is given up.
    folders: Vec<(PathBuf, Instant)>,
    has_thread: bool,
}

impl Leftovers {
    fn add(self: &Arc<Self>, folder: PathBuf) {
        let mut left = lock(&self.list);
        left.folders.push((folder, Instant::now() + EMPTIED_WITHIN));
        if !left.has_thread {
            let leftovers = Arc::clone(self);
            let thread = std::thread::Builder::new().name("plugin-cgroups".to_owned());
            // Where there is none the next that is left tries again.
            left.has_thread = thread.spawn(move || leftovers.remove()).is_ok();
        }
    }

    fn remove(&self) {
        signals::block_all();
        loop {
            std::thread::sleep(LOOK_AGAIN);
            let mut left = lock(&self.list);
            left.folders.retain(|(folder, deadline)| match fs::remove_dir(folder) {
                Err(error) if is_busy(&error) && Instant::now() < *deadline => true,
                other => {
                    told(other);
                    false
                }
            });
            if left.folders.is_empty() {
                left.has_thread = false;
                self.none_left.notify_all();
                return;
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let left = lock(&self.leftovers.list);
        let is_at_work = |left: &mut Left| left.has_thread;
        let waited = self.leftovers.none_left.wait_timeout_while(left, AT_THE_END, is_at_work);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A folder of version 2 below which groups can be made.
struct Unified {
    folder: PathBuf,
    controllers: String,
}

impl Unified {
    fn find() -> Result<Self, String> {
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

    fn home(&self, controller: Controller) -> Result<Home, String> {
        let is_there = self.controllers.split_whitespace().any(|name| name == controller.name());
        let why = || format!("cgroup v2 is delegated without the {} controller", controller.name());
        is_there.then(|| Home::Unified(self.folder.clone())).ok_or_else(why)
    }
}

/// The group of version 1 that this process is in, if it may make others below.
fn legacy_home(controller: Controller) -> Result<Home, String> {
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

fn write_if_there(file: &Path, text: &str) -> io::Result<()> {
    match fs::write(file, text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A kernel without accounts of swap does not let the file be made, either.
        Err(_) if !file.exists() => Ok(()),
        other => other,
    }
}

fn swap_is_on() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// A name that no other group has: of this process, and of this moment in it.
fn new_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Ends with the test, however that ends.
    struct Member(Child);

    impl Drop for Member {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_group_with_a_member_that_lives_on_is_not_waited_for_and_goes_with_it() {
        let groups = Groups::find();
        let group = groups.make(&ResourceLimits::default(), &Sabotage::default());
        let Some(folder) = group.unified.clone().or_else(|| group.legacy_memory.clone()) else {
            println!("no group can be made here: nothing is proven");
            return;
        };
        let member = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let member = Member(member);
        fs::write(folder.join("cgroup.procs"), member.0.id().to_string()).unwrap();
        group.remove();
        assert!(folder.exists(), "it has a member");
        // Which outlives whatever whoever ends plugins could wait for.
        drop(groups);
        assert!(folder.exists(), "it has a member");
        drop(member);
        let deadline = Instant::now() + EMPTIED_WITHIN;
        while folder.exists() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!folder.exists(), "{}", folder.display());
    }
}
