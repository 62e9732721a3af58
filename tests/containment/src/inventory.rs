//! A count of what a host leaves behind: processes, descriptors, threads, mounts, cgroups.
//!
//! Reads /proc only. What it counts belongs to the whole process, so it says something only where one test runs alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long ends of processes and threads may take on a busy machine before they count as left behind.
const PATIENCE: Duration = Duration::from_secs(30);

/// What there is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Processes below this one, with their names, and every zygote and helper that has it as its ancestor.
    pub processes: BTreeMap<u32, String>,
    /// Open descriptors, by what they are open on.
    pub descriptors: BTreeMap<String, usize>,
    /// Threads of this process, by name.
    pub threads: BTreeMap<String, usize>,
    /// Mounts in this process's sight.
    pub mounts: usize,
    /// Folders of this host's in the cgroup trees that are in sight.
    pub cgroups: BTreeSet<String>,
}

impl Inventory {
    /// Counts.
    pub fn take() -> Self {
        Self {
            processes: descendants(std::process::id()),
            descriptors: descriptors(),
            threads: threads(),
            mounts: fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count()),
            cgroups: cgroups(),
        }
    }

    /// Waits until there is nothing but what there was at this count.
    ///
    /// # Panics
    /// With what is too much, if that does not come to pass in time: ends of processes and threads take their moment.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// Waits until there is nothing but what there was at this count. What is too much, if that does not come to pass in
    /// time.
    pub fn left(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.differences(&Self::take());
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// What there is `now` and was not at this count, in words.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut left = Vec::new();
        for (pid, name) in &now.processes {
            if !self.processes.contains_key(pid) {
                left.push(format!("process {pid} ({name})"));
            }
        }
        for (what, count, before) in [
            ("descriptors on", &now.descriptors, &self.descriptors),
            ("threads called", &now.threads, &self.threads),
        ] {
            for (name, count) in count {
                let before = before.get(name).copied().unwrap_or(0);
                if *count > before {
                    left.push(format!("{} {what} {name}, where there were {before}", *count));
                }
            }
        }
        if now.mounts > self.mounts {
            left.push(format!("{} mounts, where there were {}", now.mounts, self.mounts));
        }
        left.extend(now.cgroups.difference(&self.cgroups).map(|path| format!("cgroup {path}")));
        left
    }
}

/// The parent and the name of a process, out of `PID (NAME) S PARENT ..`.
fn parent_and_name(pid: u32) -> Option<(u32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let parent = tail.split_whitespace().nth(1)?.parse().ok()?;
    Some((parent, name))
}

/// CPU time that a process has used, in hundredths of a second: proc_pid_stat(5).
pub fn cpu_time_used(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    behind_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The parent of a process, as far as it can be seen.
pub fn parent_of(pid: u32) -> Option<u32> {
    parent_and_name(pid).map(|(parent, _)| parent)
}

/// Every process that has `ancestor` above it and has not ended.
pub fn living_descendants(ancestor: u32) -> Vec<u32> {
    descendants(ancestor).into_keys().filter(|pid| !has_ended(*pid)).collect()
}

/// Whether nothing is left of a process but its status: proc_pid_stat(5).
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| matches!(rest.trim_start().chars().next(), Some('Z' | 'X') | None))
}

/// Every process that has `ancestor` above it, with its name.
pub fn descendants(ancestor: u32) -> BTreeMap<u32, String> {
    let all: BTreeMap<u32, (u32, String)> = fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_and_name(pid)?)))
        .collect();
    let is_below = |pid: u32| {
        let mut at = pid;
        while let Some((parent, _)) = all.get(&at) {
            if *parent == ancestor {
                return true;
            }
            at = *parent;
        }
        false
    };
    all.iter().filter(|(pid, _)| is_below(**pid)).map(|(pid, (_, name))| (*pid, name.clone())).collect()
}

fn descriptors() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        // `pipe:[123]`: which one it is does not matter.
        let target = target.to_string_lossy();
        let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind).to_owned();
        // The folder that is being read has a descriptor too.
        if !kind.starts_with("/proc/") || !kind.ends_with("/fd") {
            *found.entry(kind).or_insert(0) += 1;
        }
    }
    found
}

fn threads() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").expect("/proc is mounted").flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        *found.entry(name.trim().to_owned()).or_insert(0) += 1;
    }
    found
}

fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect_folders(Path::new("/sys/fs/cgroup"), 6, &mut found);
    found
}

fn collect_folders(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Other hosts' cgroups come and go meanwhile: ours have our name and number.
            let own = format!("plugin-sandbox-{}-", std::process::id());
            let path = entry.path();
            if path.to_string_lossy().contains(&own) {
                found.insert(path.to_string_lossy().into_owned());
            }
            collect_folders(&path, depth - 1, found);
        }
    }
}
