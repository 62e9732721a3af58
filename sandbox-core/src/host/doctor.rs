//! What this kernel and this user can enforce: found out by doing it, with a helper that is confined and loads nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::broker::Served;
use super::end::cause::Cause;
use super::entry::Entry;
use super::lifecycle::Operation;
use super::load::confine;
use super::mediated::View;
use super::policy::PluginPolicy;
use super::report::EnforcementReport;
use super::runtime::Runtime;
use super::verify::kernel_release;
use super::zygote::Zygote;
use crate::error::PluginSandboxError;
use crate::shared::policy::{Demand, Layer, LayerPolicy, PluginId, ResourceLimits, Sabotage};

/// What can be had here.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The running kernel's release.
    pub kernel: String,
    /// Who the host is: `root`, or a user id.
    pub user: String,
    /// Every layer, as it stands for a helper made just now, held against the strict policy.
    pub report: EnforcementReport,
    /// What bears on it.
    pub facts: Vec<Fact>,
}

/// Something about this machine.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Fact {
    /// What.
    pub name: &'static str,
    /// How it is here.
    pub value: String,
    /// What follows from it, if something does.
    pub note: Option<String>,
}

/// Confines a helper as far as can be had here, and tells how far that is.
///
/// # Errors
/// [`Zygote`](PluginSandboxError::Zygote), [`Confine`](PluginSandboxError::Confine) or
/// [`Ended`](PluginSandboxError::Ended) if not even a helper can be had.
pub fn doctor() -> Result<Diagnosis, PluginSandboxError> {
    let everything = Layer::ALL.into_iter().fold(LayerPolicy::strict(), LayerPolicy::best_effort);
    // A machine that is slow is not one without layers.
    let limits = ResourceLimits::default().load_timeout(Duration::from_secs(60));
    let policy = PluginPolicy::new().layers(everything).limits(limits);
    let entry = Entry::hold(
        PluginId::new("doctor")?,
        policy,
        None,
        None,
        Arc::default(),
        Arc::default(),
        Arc::default(),
    )?;
    entry.subject().begin(Operation::Load)?;
    let runtime = Runtime::shared(None, &Sabotage::default())?;
    let zygote = runtime.zygote()?;
    let confined = confine(&entry, &runtime, &zygote, Served::default(), Instant::now())?;
    confined.instance.kill(Some(Cause::Unloaded));
    confined.instance.wait_end();
    let mut report = (*confined.report).clone();
    let strict = LayerPolicy::strict();
    report.layers.iter_mut().for_each(|layer| layer.demand = strict.demand(layer.layer));
    let user = rustix::process::geteuid();
    let user = if user.is_root() { "root".to_owned() } else { format!("user {}", user.as_raw()) };
    Ok(Diagnosis { kernel: kernel_release(), user, report, facts: facts(&zygote) })
}

impl Diagnosis {
    /// Whether the strict policy can be had.
    pub fn is_sound(&self) -> bool {
        !self.report.layers.iter().any(|layer| !layer.enforced && layer.demand == Demand::Required)
    }
}

fn facts(zygote: &Zygote) -> Vec<Fact> {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let mut facts = Vec::new();
    let mut add = |name, value: Option<String>, note: &dyn Fn(&str) -> Option<&'static str>| {
        let value = value.unwrap_or_else(|| "not there".to_owned());
        let note = note(&value).map(str::to_owned);
        facts.push(Fact { name, value, note });
    };
    add("user.max_user_namespaces", read("/proc/sys/user/max_user_namespaces"), &|value| {
        (value == "0")
            .then_some("user namespaces are off: an ordinary user has no namespaces and no empty root")
    });
    add("kernel.unprivileged_userns_clone", read("/proc/sys/kernel/unprivileged_userns_clone"), &|value| {
        (value == "0").then_some("user namespaces are root's alone")
    });
    add(
        "kernel.apparmor_restrict_unprivileged_userns",
        read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        &|value| {
            (value == "1").then_some("a user namespace gives an ordinary user no capabilities: as without")
        },
    );
    add("kernel.yama.ptrace_scope", read("/proc/sys/kernel/yama/ptrace_scope"), &|value| match value {
        "2" => Some("only an administrator may take a helper's listener"),
        "3" => Some("nobody may take a helper's listener: it is handed over"),
        _ => None,
    });
    let way = zygote.hands_over().map_or_else(
        || "the host takes a helper's listener and memory".to_owned(),
        |why| format!("a helper hands its listener and memory over: {why}"),
    );
    add("broker", Some(way), &|_| {
        let note = "no grant of `network` or `process` opens anything, and no call is served that names a file by a descriptor: \
                    the host may have no plugin's descriptors";
        zygote.hands_over().map(|_| note)
    });
    add("kernel.seccomp.actions_avail", read("/proc/sys/kernel/seccomp/actions_avail"), &|value| {
        (!value.contains("user_notif")).then_some("no user notifications: no broker, and no load")
    });
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok();
    let unified =
        cgroups.and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned)));
    add("cgroup v2", unified, &|_| None);
    #[cfg(feature = "test-support")]
    add("test-support", Some("yes".to_owned()), &|_| {
        Some("this program was built for tests: its code can leave out layers")
    });
    let mediated = View::new(zygote).map_or_else(|why| format!("no: {why}"), |_| "yes".to_owned());
    add("mediated files", Some(mediated), &|value| {
        (value != "yes").then_some("a file cannot be taken back from a plugin that goes on")
    });
    facts
}
