//! Control groups: where one can be made a plugin is in it from its start, and bounded by it; where none can, that is said.
//!
//! Whether one can be made is tried here too, by hand: the machine decides which half of each claim is proven.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rig::plugins::{Attempts, explained};
use rig::{library, probe_with};
use sandbox_core::{Layer, MemoryMeter, PluginPolicy, PluginSandbox, PluginSandboxError, ResourceLimits};

/// The folder of the group that a process is in, of version 1 or 2.
fn folder_of(pid: &str, controller: Option<&str>) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let has = |list: &str| controller.map_or(list.is_empty(), |name| list.split(',').any(|one| one == name));
    let path = groups.lines().find_map(|line| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        has(list).then_some(path)
    })?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (root, at) = mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let (kind, options) = (tail.split(' ').next()?, tail.split(' ').next_back()?);
        let is_it = match controller {
            Some(_) => kind == "cgroup" && options.split(',').any(|one| Some(one) == controller),
            None => kind == "cgroup2",
        };
        let mut fields = head.split(' ').skip(3);
        is_it.then(|| Some((fields.next()?.to_owned(), fields.next()?.to_owned())))?
    })?;
    Some(Path::new(&at).join(Path::new(path).strip_prefix(root).ok()?))
}

/// Whether this process may make groups with this controller, and of which version.
fn version_at_hand(controller: &str) -> Option<u32> {
    let can_make = |folder: &Path| {
        let trial = folder.join(format!("plugin-trial-{}-{controller}", std::process::id()));
        fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)).is_ok()
    };
    let unified = folder_of("self", None);
    let delegated = |folder: &Path| {
        let controllers = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        controllers.split_whitespace().any(|one| one == controller)
    };
    let of_two = unified.iter().flat_map(|own| [Some(own.as_path()), own.parent()]).flatten();
    if of_two.into_iter().any(|folder| delegated(folder) && can_make(folder)) {
        return Some(2);
    }
    folder_of("self", Some(controller)).is_some_and(|own| can_make(&own)).then_some(1)
}

fn group_of(plugin: &PluginSandbox, controller: &str, version: u32) -> PathBuf {
    let pid = plugin.process_id().expect("it lives").to_string();
    folder_of(&pid, (version == 1).then_some(controller)).expect("it is in a group")
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

#[test]
fn what_an_end_says_of_memory_names_its_meter_though_nobody_had_looked_before() {
    let plugin = probe_with(PluginPolicy::new());
    let meter = match version_at_hand("memory") {
        Some(2) => MemoryMeter::CgroupV2,
        Some(_) => MemoryMeter::CgroupV1,
        None => MemoryMeter::Resident,
    };
    plugin.unload_plugin().expect("it ends");
    let last = plugin.resource_usage().expect("it was loaded");
    assert!(last.ended && last.memory_bytes.peak > 0, "{last:?}");
    assert_eq!(last.memory_meter, meter);
}

#[test]
fn where_a_group_for_memory_can_be_made_a_plugin_is_in_one_that_bounds_it_with_its_swap() {
    let plugin = probe_with(PluginPolicy::new().limits(ResourceLimits::default().max_memory_mb(50)));
    let report = plugin.enforcement_report().expect("it was loaded");
    let layer = report.layer(Layer::MemoryCgroup).expect("it is among them").clone();
    let held_by = &report.limit("max_memory_mb").expect("a limit").held_by;
    let usage = plugin.resource_usage().expect("it was loaded");
    let Some(version) = version_at_hand("memory") else {
        println!("no group for memory can be made here: that a plugin is in one is not proven");
        assert!(!layer.enforced && layer.why_not.is_some(), "{layer:?}");
        assert!(held_by.starts_with("RLIMIT_DATA"), "{held_by}");
        assert_eq!(usage.memory_meter, MemoryMeter::Resident);
        return;
    };
    assert!(layer.enforced, "{layer:?}");
    assert!(held_by.starts_with("memory."), "{held_by}");
    let group = group_of(&plugin, "memory", version);
    let bytes = ((50 << 20) + (16 << 20)).to_string();
    if version == 2 {
        assert_eq!(read(&group, "memory.max"), bytes);
        if group.join("memory.swap.max").exists() {
            assert_eq!(read(&group, "memory.swap.max"), "0");
        }
        assert_eq!(usage.memory_meter, MemoryMeter::CgroupV2);
    } else {
        assert_eq!(read(&group, "memory.limit_in_bytes"), bytes);
        if group.join("memory.memsw.limit_in_bytes").exists() {
            assert_eq!(read(&group, "memory.memsw.limit_in_bytes"), bytes);
        }
        assert_eq!(usage.memory_meter, MemoryMeter::CgroupV1);
    }
    for most in [80, 30] {
        plugin.set_resource_limits(ResourceLimits::default().max_memory_mb(most)).expect("in range");
        let file = if version == 2 { "memory.max" } else { "memory.limit_in_bytes" };
        assert_eq!(read(&group, file), ((most + 16) << 20).to_string(), "while it runs");
    }
    plugin.unload_plugin().expect("it ends");
    assert!(!group.exists(), "and it goes with the plugin");
    let last = plugin.resource_usage().expect("it was loaded");
    assert!(last.memory_bytes.peak > 0 && last.memory_bytes.now == 0, "{last:?}");
}

#[test]
fn a_cpu_share_is_held_where_a_group_can_hold_it_and_else_nothing_is_loaded() {
    let limits = |percent: u64| {
        ResourceLimits::default().max_cpu_percent(percent).call_timeout(Duration::from_secs(120))
    };
    let plugin = |percent| {
        let policy = PluginPolicy::new().limits(limits(percent));
        PluginSandbox::new("probe", policy).expect("a sandbox")
    };
    let Some(version) = version_at_hand("cpu") else {
        println!("no group for the CPU can be made here: that a share is held is not proven");
        let error = plugin(50).load_plugin(library("probe")).expect_err("nothing here could hold it");
        assert!(
            matches!(error, PluginSandboxError::LimitNotHeld { limit: "max_cpu_percent", .. }),
            "{}",
            explained(&error)
        );
        assert!(error.help().is_some_and(|help| help.contains("max_cpu_percent")), "{}", explained(&error));
        return;
    };
    let throttled = |group: &Path| -> u64 {
        let stat = read(group, "cpu.stat");
        let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        count.expect("a CPU controller counts them").parse().expect("a number")
    };
    for (percent, is_throttled) in [(20, true), (102_400, false)] {
        let plugin = probe_with(PluginPolicy::new().limits(limits(percent)));
        let held_by = plugin.enforcement_report().expect("loaded").limit("max_cpu_percent").cloned();
        assert!(held_by.is_some_and(|held| held.held_by.starts_with("cpu.")), "{percent}");
        let group = group_of(&plugin, "cpu", version);
        // Longer than a whole period's share of a fifth.
        assert!(plugin.attempt("spin", "200").got_it());
        assert_eq!(throttled(&group) > 0, is_throttled, "{percent}");
        plugin.set_resource_limits(limits(50)).expect("it can be changed");
        let quota = if version == 2 { "50000 100000" } else { "50000" };
        assert_eq!(read(&group, if version == 2 { "cpu.max" } else { "cpu.cfs_quota_us" }), quota);
        drop(plugin);
        assert!(!group.exists());
    }
    let without = probe_with(PluginPolicy::new());
    match without.set_resource_limits(limits(50)) {
        Ok(()) => assert_eq!(version, 2),
        Err(error) => {
            assert_eq!(version, 1, "{error}");
            assert!(error.to_string().starts_with("limit max_cpu_percent is 50: "), "{error}");
            assert_eq!(without.resource_limits().max_cpu_percent, None);
        }
    }
}
