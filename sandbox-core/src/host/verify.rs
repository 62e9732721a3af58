//! Is that enough? Holds the helper's report, and what can be seen of it from outside, against the plan.
//!
//! Runs in the host, step 9, while the helper waits. Owns the verdict on each layer. What cannot be read does not stand.

use nix::errno::Errno;

use super::limits::cgroup::Standing;
use super::procfs::{self, HostPid, Status};
use super::report::{EnforcementReport, LayerReport, LimitReport};
use super::zygote::Zygote;
use crate::shared::plan::HelperPlan;
use crate::shared::plan::caps::securebits;
use crate::shared::plan::namespaces::RootPlan;
use crate::shared::plan::rlimits::Resource;
use crate::shared::plan::seccomp::LEAST_PROGRAMS;
use crate::shared::policy::{Layer, LayerPolicy, PluginId, ResourceLimits};
use crate::shared::wire::report::{Failure, HelperReport, Step};

/// What is known when the helper has reported.
pub(crate) struct Seen<'a> {
    pub(crate) plugin: &'a PluginId,
    pub(crate) layers: &'a LayerPolicy,
    pub(crate) plan: &'a HelperPlan,
    pub(crate) zygote: &'a Zygote,
    pub(crate) report: &'a HelperReport,
    pub(crate) pid: HostPid,
    pub(crate) limits: &'a ResourceLimits,
    pub(crate) cgroup: &'a Standing,
    /// Whether `RLIMIT_NPROC` counts this helper alone.
    pub(crate) counts_alone: bool,
    /// Whether the host has the filter's listener and all that goes with it; else why not, if there was one to be had.
    pub(crate) broker: &'a Result<(), Option<String>>,
}

/// One layer's verdict, before the demand is put beside it.
struct Finding {
    supported: bool,
    enforced: bool,
    evidence: String,
    why_not: Option<String>,
}

impl Finding {
    fn stands(evidence: impl Into<String>) -> Self {
        Self { supported: true, enforced: true, evidence: evidence.into(), why_not: None }
    }

    fn lacks(supported: bool, evidence: impl Into<String>, why: impl Into<String>) -> Self {
        Self { supported, enforced: false, evidence: evidence.into(), why_not: Some(why.into()) }
    }

    fn when(stands: bool, evidence: impl Into<String>, why: impl FnOnce() -> String) -> Self {
        let evidence = evidence.into();
        if stands { Self::stands(evidence) } else { Self::lacks(true, evidence, why()) }
    }
}

/// How each layer stands.
pub(crate) fn verify(seen: &Seen<'_>) -> EnforcementReport {
    let status = Status::read(seen.pid);
    let layers = Layer::ALL.into_iter().map(|layer| {
        let finding = find(layer, seen, &status);
        LayerReport {
            layer,
            demand: seen.layers.demand(layer),
            supported: finding.supported,
            enforced: finding.enforced,
            evidence: finding.evidence,
            why_not: finding.why_not,
        }
    });
    EnforcementReport {
        plugin: seen.plugin.clone(),
        kernel: kernel_release(),
        layers: layers.collect(),
        limits: limits(seen),
    }
}

/// By what each limit is held, the strongest first.
fn limits(seen: &Seen<'_>) -> Vec<LimitReport> {
    let group = seen.cgroup;
    let and = |group: &Result<String, String>, own: &str| match group {
        Ok(group) => format!("{group}; {own}"),
        Err(why) => format!("{own} ({why})"),
    };
    let share = group.cpu.clone().unwrap_or_else(|why| format!("nothing: {why}"));
    let threads = if seen.counts_alone { "RLIMIT_NPROC" } else { "nothing of its own" };
    let host = || "the host".to_owned();
    let rows = [
        ("max_memory_mb", and(&group.memory, "RLIMIT_DATA, RLIMIT_AS")),
        ("max_cpu_time_sec", "the host, by the CPU clock of the process".to_owned()),
        ("max_cpu_percent", share),
        ("max_file_handles", "RLIMIT_NOFILE".to_owned()),
        ("max_file_size_mb", "RLIMIT_FSIZE".to_owned()),
        ("max_scratch_mb", "the size of a tmpfs of its own".to_owned()),
        ("max_network_connections", "the broker".to_owned()),
        ("max_threads", and(&group.tasks, threads)),
        ("max_processes", and(&group.tasks, "the broker")),
        ("max_message_bytes", host()),
        ("max_output_bytes", host()),
        ("max_output_bytes_per_sec", host()),
        ("max_pending_services", host()),
        ("max_queued_messages", host()),
    ];
    let rows = rows.into_iter();
    rows.map(|(limit, held_by)| LimitReport { limit, value: seen.limits.value_of(limit), held_by }).collect()
}

/// The running kernel's release.
pub(crate) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn find(layer: Layer, seen: &Seen<'_>, status: &Status) -> Finding {
    match layer {
        Layer::UserNamespace => namespaces(seen, &["user"]),
        Layer::PidNamespace => namespaces(seen, &["pid"]),
        Layer::NetworkNamespace => namespaces(seen, &["net"]),
        Layer::OtherNamespaces => namespaces(seen, &["ipc", "uts", "cgroup"]),
        Layer::EmptyRoot => empty_root(seen),
        Layer::MemoryCgroup => match &seen.cgroup.memory {
            Ok(evidence) => Finding::stands(evidence),
            Err(why) => Finding::lacks(false, "none", format!("{why}; the rlimits hold what it allocates")),
        },
        Layer::Rlimits => rlimits(seen),
        Layer::Ids => ids(seen, status),
        Layer::Capabilities => capabilities(seen, status),
        Layer::NoNewPrivs => {
            let value = status.get("NoNewPrivs");
            let evidence = format!("NoNewPrivs: {value}");
            Finding::when(value == "1" && seen.report.no_new_privs, evidence, || {
                why(seen, &[Step::NoNewPrivs])
            })
        }
        Layer::MemoryDenyWriteExecute => match seen.report.mdwe {
            Some(true) => Finding::stands("PR_GET_MDWE: 1"),
            Some(false) => Finding::lacks(true, "PR_GET_MDWE: 0", why(seen, &[Step::NoNewPrivs])),
            None => Finding::lacks(
                false,
                "PR_GET_MDWE: EINVAL",
                "this kernel is older than 6.3; the filter holds the same",
            ),
        },
        Layer::Landlock => landlock(seen),
        Layer::LandlockScopes => {
            let abi = seen.report.landlock_abi;
            match (landlock(seen).enforced && !seen.plan.sabotage.takes(layer), abi) {
                (true, 6..) => Finding::stands(format!("Landlock ABI {abi}: signals, abstract sockets")),
                (false, _) => Finding::lacks(
                    false,
                    format!("Landlock ABI {abi}"),
                    "without Landlock; the filter holds the same",
                ),
                _ => Finding::lacks(
                    false,
                    format!("Landlock ABI {abi}"),
                    "this kernel is older than 6.12; the filter holds the same",
                ),
            }
        }
        Layer::Seccomp => seccomp(seen, status),
        Layer::NoExecFiles => match &seen.zygote.trees {
            Some(_) if !seen.plan.sabotage.takes(layer) => {
                Finding::stands("files are opened through a detached noexec tree")
            }
            _ => Finding::lacks(false, "files are opened in the host's own tree", why(seen, &[Step::Spawn])),
        },
    }
}

/// Why a step did not work: the first failure that it noted.
fn why(seen: &Seen<'_>, steps: &[Step]) -> String {
    let all = seen.report.failures.iter().chain(&seen.zygote.failures);
    let first = all.clone().find(|failure| steps.contains(&failure.step));
    match first {
        Some(Failure { step, call, errno }) => {
            format!("step {step}: {}: {}", call.name(), Errno::from_raw(*errno))
        }
        None => match (steps.contains(&Step::Spawn), seen.zygote.launch.errno) {
            (true, Some(errno)) => format!("no namespaces for this user: {}", Errno::from_raw(errno)),
            _ => "the kernel does not show it".to_owned(),
        },
    }
}

fn namespaces(seen: &Seen<'_>, kinds: &[&str]) -> Finding {
    let mut evidence = Vec::new();
    for kind in kinds {
        let (own, theirs) = (procfs::namespace(None, kind), procfs::namespace(Some(seen.pid), kind));
        match (own, theirs) {
            (Some(own), Some(theirs)) if own != theirs => evidence.push(theirs),
            (_, theirs) => {
                let shown = theirs.unwrap_or_else(|| format!("{kind}: unreadable"));
                let mut reason = why(seen, &[Step::Spawn]);
                if *kind == "user" && seen.zygote.host_is_root && seen.zygote.launch.namespaces {
                    reason = format!("{reason} (the other namespaces do not need it for root)");
                }
                return Finding::lacks(seen.zygote.launch.namespaces && *kind != "user", shown, reason);
            }
        }
    }
    Finding::stands(evidence.join(" "))
}

fn empty_root(seen: &Seen<'_>) -> Finding {
    if seen.plan.root == RootPlan::None {
        let reason = why(seen, &[Step::EmptyRoot, Step::Spawn]);
        return Finding::lacks(seen.zygote.launch.namespaces, "the host's tree", reason);
    }
    let Some(mounts) = procfs::mounts(seen.pid) else {
        return Finding::lacks(true, "mountinfo: unreadable", "it cannot be seen from outside");
    };
    // Only what lies on top at `/` can be reached; on an initramfs the old root stays below, covered.
    let on_top = mounts.last().map(String::as_str).unwrap_or_default();
    let mut fields = on_top.split_whitespace().skip(4);
    let (at, options) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let bare =
        ["ro", "nosuid", "nodev", "noexec"].iter().all(|want| options.split(',').any(|has| has == *want));
    let empty = on_top.contains(" - tmpfs ") && at == "/" && bare;
    // The probe opened `/` before Landlock: an errno there would be a root that cannot even be seen.
    Finding::when(empty, format!("{} mount(s): tmpfs {options}", mounts.len()), || {
        why(seen, &[Step::EmptyRoot])
    })
}

/// What `/proc/PID/limits` calls a resource.
pub(crate) fn kernel_label(resource: Resource) -> &'static str {
    match resource {
        Resource::AddressSpace => "Max address space",
        Resource::Data => "Max data size",
        Resource::OpenFiles => "Max open files",
        Resource::Processes => "Max processes",
        Resource::CoreDump => "Max core file size",
        Resource::FileSize => "Max file size",
        Resource::LockedMemory => "Max locked memory",
        Resource::MessageQueues => "Max msgqueue size",
        Resource::PendingSignals => "Max pending signals",
        Resource::RealTimePriority => "Max realtime priority",
        Resource::Nice => "Max nice priority",
    }
}

fn rlimits(seen: &Seen<'_>) -> Finding {
    let mut evidence = Vec::new();
    let limits = procfs::Limits::read(seen.pid);
    for limit in &seen.plan.rlimits {
        let name = kernel_label(limit.resource);
        let Some(planned) = limit.soft else { continue };
        match limits.get(name) {
            Some((Some(stands), _)) if stands <= planned => {
                if matches!(limit.resource, Resource::Data | Resource::OpenFiles | Resource::Processes) {
                    evidence.push(format!("{}: {stands}", name.trim_start_matches("Max ")));
                }
            }
            other => {
                return Finding::lacks(
                    true,
                    format!("{name}: {other:?}, planned {planned}"),
                    why(seen, &[Step::Rlimits]),
                );
            }
        }
    }
    let counts_alone = seen.plan.rlimits.iter().any(|limit| limit.resource == Resource::Processes);
    if !counts_alone {
        let group = seen.cgroup.tasks.as_ref().ok().filter(|_| !seen.plan.sabotage.takes(Layer::Rlimits));
        let Some(tasks) = group else {
            let why = "threads are not limited: they would count with all of this user's processes";
            return Finding::lacks(false, evidence.join(", "), why);
        };
        evidence.push(format!("{tasks} in its place"));
    }
    Finding::stands(evidence.join(", "))
}

fn ids(seen: &Seen<'_>, status: &Status) -> Finding {
    let uids: Vec<u32> = status.get("Uid").split_whitespace().filter_map(|uid| uid.parse().ok()).collect();
    let evidence = format!("Uid: {}", status.get("Uid").replace('\t', " "));
    let host = rustix::process::geteuid().as_raw();
    let foreign = uids.len() == 4 && uids.iter().all(|uid| *uid != 0 && *uid != host);
    let same_user = uids.len() == 4 && uids.iter().all(|uid| *uid != 0 && *uid == host);
    match (seen.zygote.host_is_root, foreign, same_user) {
        (true, true, _) => Finding::stands(format!("{evidence}, its own")),
        (false, _, true) => Finding::stands(format!("{evidence}, the host's user, who is not root")),
        _ => Finding::lacks(true, evidence, why(seen, &[Step::Privileges])),
    }
}

fn capabilities(seen: &Seen<'_>, status: &Status) -> Finding {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let empty = |set: &str| !status.get(set).is_empty() && status.get(set).bytes().all(|digit| digit == b'0');
    let full: Vec<&str> = sets.into_iter().filter(|set| !empty(set)).collect();
    let locked = seen.report.securebits & securebits().bits() == securebits().bits();
    match (full.as_slice(), locked) {
        ([], true) => Finding::stands("all five sets empty, securebits locked"),
        // Without CAP_SETPCAP neither can be changed; with `no_new_privs` the bounding set bounds nothing any more.
        ([], false) | (["CapBnd"], _) if !seen.zygote.launch.namespaces && !seen.zygote.host_is_root => {
            let evidence = "Inh, Prm, Eff, Amb empty";
            Finding::stands(format!(
                "{evidence}; the bounding set stays, and gives nothing under no_new_privs"
            ))
        }
        _ => Finding::lacks(
            true,
            format!("not empty: {full:?}, securebits {:#x}", seen.report.securebits),
            why(seen, &[Step::Privileges]),
        ),
    }
}

fn landlock(seen: &Seen<'_>) -> Finding {
    let (abi, (before, after)) = (seen.report.landlock_abi, seen.report.landlock_probe);
    let evidence = format!("ABI {abi}; open(\"/\") before: {before}, after: {after} (EACCES)");
    match (abi, before, after) {
        (0, ..) if seen.report.failures.iter().any(|failure| failure.step == Step::Landlock) => {
            Finding::lacks(false, evidence, why(seen, &[Step::Landlock]))
        }
        (0, ..) => Finding::lacks(
            false,
            evidence,
            "this kernel has no Landlock, or was booted without it (/sys/kernel/security/lsm)",
        ),
        (_, 0, libc::EACCES) => Finding::stands(evidence),
        _ => Finding::lacks(true, evidence, why(seen, &[Step::Landlock])),
    }
}

fn seccomp(seen: &Seen<'_>, status: &Status) -> Finding {
    let (mode, filters) = (status.get("Seccomp"), status.get("Seccomp_filters"));
    let wait = if seen.report.killable_wait {
        ""
    } else {
        "; before Linux 5.19 a signal can make a brokered call happen twice"
    };
    let evidence = format!(
        "Seccomp: {mode}, {filters} filters, listener {}{wait}",
        match (seen.broker, seen.plan.hands_over) {
            (Err(_), _) => "not had",
            (Ok(()), false) => "taken",
            (Ok(()), true) => "handed over",
        }
    );
    // There may be more than ours, of a container's. One thread, so that none was left out.
    let stacked = filters.parse::<u32>().is_ok_and(|filters| filters >= LEAST_PROGRAMS);
    let whole = !seen.report.failures.iter().any(|failure| failure.step == Step::Seccomp)
        && !seen.plan.sabotage.takes(Layer::Seccomp);
    let stands = mode == "2" && stacked && whole && seen.broker.is_ok() && status.get("Threads") == "1";
    Finding::when(stands, evidence, || match seen.broker {
        Err(Some(reason)) => format!("the broker cannot be had: {reason}"),
        _ => why(seen, &[Step::Seccomp]),
    })
}
