//! From a path to a plugin that waits to be activated: check the file, get a helper, see it confined, let it load.
//!
//! Runs in the host, on the thread that asked. Owns that nothing is loaded before every required layer stands.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use plugin_abi::metadata::AbiFingerprint;
use plugin_abi::{ErrorKind, PluginMetadata};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::broker::{Brokered, Folders, Handles, Network, Scratch, Served, UnderWay};
use super::end::cause::{Cause, Evidence, derive};
use super::entry::{Entry, Loaded};
use super::events::escape;
use super::hand_over::{self, Receiver, Taken};
use super::instance::{Expect, Instance, Parts, Reply};
use super::library::{Limits, SealedLibrary, SystemFolders, closure, extra_modules};
use super::lifecycle::{Operation, PluginState};
use super::procfs::{self, HostPid};
use super::protected;
use super::report::EnforcementReport;
use super::runtime::Runtime;
use super::verify::{self, Seen};
use super::zygote::{Spawned, Trees, Zygote};
use crate::error::PluginSandboxError;
use crate::shared::plan::namespaces::{RootPlan, UserPlan};
use crate::shared::plan::{HelperPlan, caps, namespaces, rlimits};
use crate::shared::policy::{Layer, PluginId, ResourceLimits};
use crate::shared::wire::WIRE_VERSION;
use crate::shared::wire::control::{FaultKind, LoadFault, ToHelper, shorten};
use crate::shared::wire::report::{HelperReport, Step};

/// A file that was checked and can be loaded.
pub(crate) struct Checked {
    pub(crate) metadata: PluginMetadata,
    served: Served,
    order: Vec<String>,
    /// The modules that were allowed then.
    allowed: BTreeSet<String>,
}

/// Loads the plugin at `path` into a new helper.
pub(crate) fn load(entry: &Arc<Entry>, path: &Path) -> Result<Loaded, PluginSandboxError> {
    let checked = check(entry, path)?;
    let began = Instant::now();
    let limits = entry.subject().limits();
    let runtime = Runtime::shared(entry.program(), &entry.subject().policy().layers.sabotage)?;
    let zygote = runtime.zygote()?;
    let order = checked.order;
    let confined = confine(entry, &runtime, &zygote, checked.served, began)?;
    let Confined { instance, report } = confined;
    let order = ToHelper::Load { files: order };
    runtime.core.broker.serve(&instance)?;
    match instance.transact_since(Some(&order), Expect::Loaded, Operation::Load, limits.load_timeout, began) {
        Ok(Reply::Loaded(Ok(()))) => {
            // A helper starts with room for its own descriptors, and with the limits of the load's beginning.
            if rlimits::is_wider_at_start(&limits) || entry.subject().limits() != limits {
                entry.settle_limits(&instance)?;
            }
            entry.settle_modules(&instance, &checked.allowed)?;
            Ok(Loaded { instance, runtime, report, metadata: Arc::new(checked.metadata) })
        }
        Ok(Reply::Loaded(Err(fault))) => {
            end(&instance);
            Err(refused(entry.subject().id(), path, fault))
        }
        Ok(_) => {
            end(&instance);
            Err(ended(
                entry.subject().id(),
                Cause::Protocol { field: "kind", what: "another reply".to_owned() },
            ))
        }
        Err(cause) => Err(ended(entry.subject().id(), cause)),
    }
}

fn ended(plugin: &PluginId, cause: Cause) -> PluginSandboxError {
    PluginSandboxError::Ended { plugin: plugin.clone(), operation: Operation::Load, cause }
}

fn end(instance: &Instance) {
    instance.kill(Some(Cause::Unloaded));
    instance.wait_end();
}

/// The system's library folders, looked up once.
pub(crate) fn system_folders() -> &'static SystemFolders {
    static FOLDERS: OnceLock<SystemFolders> = OnceLock::new();
    FOLDERS.get_or_init(SystemFolders::of_this_system)
}

/// What a plugin's file says of itself, read without running any of it.
pub(crate) fn metadata(library: &SealedLibrary) -> Result<PluginMetadata, PluginSandboxError> {
    let path = || library.path.clone();
    let section =
        library.facts.metadata.as_deref().ok_or_else(|| PluginSandboxError::NotAPlugin { path: path() })?;
    plugin_abi::metadata::decode(section)
        .map_err(|source| PluginSandboxError::Metadata { path: path(), source })
}

fn check(entry: &Entry, path: &Path) -> Result<Checked, PluginSandboxError> {
    let library = SealedLibrary::open(path)?;
    let metadata = metadata(&library)?;
    if let Some(difference) = AbiFingerprint::current().difference(&metadata.abi) {
        return Err(PluginSandboxError::Abi { path: library.path, difference });
    }
    protected::protect_loaded(&library.path);
    judge_past(entry, &library)?;
    let names = entry.subject().policy().modules();
    let allowed = |soname: &str| names.contains(soname);
    let system = system_folders();
    let needed = closure(&library, &allowed, system, Limits::default())?;
    for module in &needed {
        let (soname, chain) = (&module.soname, &module.needed_by);
        if module.sealed {
            protected::protect_loaded(&module.path);
        }
        tracing::debug!(plugin = %entry.subject().id(), soname, ?chain, sealed = module.sealed, base = module.base, "a module");
    }
    // Dependencies first and by their full paths, so that the loader need not search: it then matches by soname.
    let mut order: Vec<String> =
        needed.iter().filter_map(|module| module.path.to_str().map(str::to_owned)).collect();
    let wanted = names.iter().map(String::as_str);
    let modules = extra_modules(&library, needed, wanted, &allowed, system, Limits::default())?;
    let place = format!("/plugin/{}.so", entry.subject().id());
    order.push(place.clone());
    let served = Served::new(library, &place, modules, &allowed);
    Ok(Checked { metadata, served, order, allowed: names })
}

/// Refuses a library that has crashed too often, where that counts.
fn judge_past(entry: &Entry, library: &SealedLibrary) -> Result<(), PluginSandboxError> {
    let subject = entry.subject();
    if !subject.is_counted() {
        subject.set_library(None);
        return Ok(());
    }
    // The last crash may be so fresh that nobody has come to it yet.
    entry.write_down_crashes();
    let digest = library.digest()?;
    subject.set_library(Some((digest, library.path.clone())));
    match subject.store().get().find(&digest)? {
        None => Ok(()),
        Some(record) => Err(PluginSandboxError::Quarantined {
            plugin: subject.id().clone(),
            path: library.path.clone(),
            digest,
            since: record.since.unwrap_or(std::time::UNIX_EPOCH),
            crashes: record.crashes.len(),
            last: record.crashes.last().map(|crash| crash.cause.clone()).unwrap_or_default(),
        }),
    }
}

/// A helper that has been confined, and waits.
pub(crate) struct Confined {
    pub(crate) instance: Arc<Instance>,
    pub(crate) report: Arc<EnforcementReport>,
}

/// Steps 1 to 9: a helper, confined and checked. Fails closed if a required layer does not stand.
pub(crate) fn confine(
    entry: &Arc<Entry>,
    runtime: &Arc<Runtime>,
    zygote: &Arc<Zygote>,
    served: Served,
    began: Instant,
) -> Result<Confined, PluginSandboxError> {
    let limits = entry.subject().limits();
    let (Reported { instance, plan, report }, taken) = reported(entry, runtime, zygote, &limits, began)?;
    let scratch = match limits.max_scratch_mb {
        0 => None,
        mb => match Scratch::new(zygote, mb) {
            Ok(scratch) => Some(scratch),
            Err(errno) => {
                end(&instance);
                let plugin = entry.subject().id().clone();
                let why = format!("the zygote can make no file system: {errno}");
                return Err(PluginSandboxError::LimitNotHeld { plugin, limit: "max_scratch_mb", why });
            }
        },
    };
    let broker = set_broker(&instance, (taken, plan.hands_over), (served, scratch), zygote)?;
    if plan.hands_over
        && let Err(error) = instance.cgroup.bound_without_courier(&limits)
    {
        end(&instance);
        let (plugin, why) = (entry.subject().id().clone(), format!("its cgroup: {error}"));
        return Err(PluginSandboxError::LimitNotHeld { plugin, limit: "max_threads", why });
    }
    let cgroup = instance.cgroup.standing(instance.pid.0);
    let seen = Seen {
        plugin: entry.subject().id(),
        layers: &entry.subject().policy().layers,
        limits: &limits,
        plan: &plan,
        zygote,
        report: &report,
        pid: instance.pid,
        cgroup: &cgroup,
        counts_alone: instance.counts_alone,
        broker: &broker,
    };
    let report = Arc::new(verify::verify(&seen));
    entry.set_report(&report);
    // Of another process than the helper there is nothing to be had where the helper itself had to hand over.
    let may_look = procfs::shows_children() && !plan.hands_over;
    instance.family.may_start(report.stands(Layer::EmptyRoot) && may_look);
    if let Some(layer) = report.first_lacking() {
        let was_unloaded = entry.subject().state() != PluginState::Loading || instance.is_gone();
        if !was_unloaded {
            end(&instance);
        }
        if was_unloaded {
            // Nothing is to be seen of a helper that was ended meanwhile: that is no layer's fault.
            return Err(ended(entry.subject().id(), instance.wait_end()));
        }
        let why = layer.why_not.clone().unwrap_or_default();
        return Err(PluginSandboxError::LayerMissing {
            plugin: entry.subject().id().clone(),
            layer: layer.layer,
            why,
        });
    }
    if limits.max_cpu_percent.is_some()
        && let Err(why) = cgroup.cpu
    {
        end(&instance);
        let plugin = entry.subject().id().clone();
        return Err(PluginSandboxError::LimitNotHeld { plugin, limit: "max_cpu_percent", why });
    }
    Ok(Confined { instance, report })
}

/// A helper that has put up its layers and says how they stand.
struct Reported {
    instance: Arc<Instance>,
    plan: HelperPlan,
    report: Box<HelperReport>,
}

/// What the broker needs of a helper. If it was not to be had, why; without a word where the helper has no listener, and has
/// noted why itself.
type BrokerNeeds = Result<Taken, Option<String>>;

/// A helper that has reported, and its listener and memory. The first that the host may not take these of is ended: the next,
/// and all that follow, hand them over.
fn reported(
    entry: &Arc<Entry>,
    runtime: &Arc<Runtime>,
    zygote: &Arc<Zygote>,
    limits: &ResourceLimits,
    began: Instant,
) -> Result<(Reported, BrokerNeeds), PluginSandboxError> {
    let next = || -> Result<(Reported, Option<Receiver>), PluginSandboxError> {
        let (instance, plan, socket) = spawn(entry, runtime, zygote, limits, began)?;
        Ok((report_of(entry, instance, plan, limits.load_timeout, began)?, socket))
    };
    let (helper, socket) = next()?;
    if socket.is_some() || helper.report.listener < 0 {
        return Ok(handed_over(helper, socket, zygote));
    }
    match hand_over::take(&helper.instance, helper.report.listener) {
        Ok(taken) => return Ok((helper, Ok(taken))),
        Err(not_taken) if !not_taken.is_for_good => return Ok((helper, Err(Some(not_taken.why)))),
        Err(not_taken) => zygote.must_hand_over(not_taken.why),
    }
    let second = next();
    // When the other is the plugin's, so that the end of this one is nobody's.
    end(&helper.instance);
    let (helper, socket) = second?;
    Ok(handed_over(helper, socket, zygote))
}

/// What came over the socket, if there is one.
fn handed_over(helper: Reported, socket: Option<Receiver>, zygote: &Zygote) -> (Reported, BrokerNeeds) {
    let Some(socket) = socket.filter(|_| helper.report.listener >= 0) else { return (helper, Err(None)) };
    let came = socket.receive(helper.instance.pid, &helper.report.failures);
    let came = came.map_err(|why| {
        let refused = zygote.hands_over().unwrap_or_default();
        Some(format!("{refused}; and it was not handed over: {why}"))
    });
    (helper, came)
}

fn report_of(
    entry: &Arc<Entry>,
    instance: Arc<Instance>,
    plan: HelperPlan,
    timeout: Duration,
    began: Instant,
) -> Result<Reported, PluginSandboxError> {
    let order = ToHelper::Confine(Box::new(plan.clone()));
    let answer = instance.transact_since(Some(&order), Expect::Report, Operation::Load, timeout, began);
    let report = match answer {
        Ok(Reply::Report(report)) => report,
        Ok(_) => {
            return Err(ended(
                entry.subject().id(),
                Cause::Protocol { field: "kind", what: "another reply".to_owned() },
            ));
        }
        Err(cause) => return Err(ended(entry.subject().id(), cause)),
    };
    if report.wire_version != WIRE_VERSION {
        end(&instance);
        let what =
            format!("the helper program speaks version {}, this host {WIRE_VERSION}", report.wire_version);
        return Err(ended(entry.subject().id(), Cause::Protocol { field: "report: wire version", what }));
    }
    Ok(Reported { instance, plan, report })
}

fn spawn(
    entry: &Arc<Entry>,
    runtime: &Arc<Runtime>,
    zygote: &Arc<Zygote>,
    limits: &ResourceLimits,
    began: Instant,
) -> Result<(Arc<Instance>, HelperPlan, Option<Receiver>), PluginSandboxError> {
    let id = runtime.next_helper();
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(PluginSandboxError::io("making a helper's pipes"));
    let ((their_input, input), (output, their_output), (printed, their_printed)) =
        (pipe()?, pipe()?, pipe()?);
    for ours in [&input, &output, &printed] {
        rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)
            .map_err(PluginSandboxError::io("making a pipe non-blocking"))?;
    }
    let sabotage = entry.subject().policy().layers.sabotage.clone();
    let mut cgroup = runtime.core.groups.make(limits, &sabotage);
    let doors =
        cgroup.doors().map_err(|source| PluginSandboxError::Io { what: "opening a cgroup", source })?;
    let (receiver, socket) = match zygote.hands_over() {
        Some(_) => Receiver::new().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
        None => (None, None),
    };
    let ends = ([their_input, their_output, their_printed], socket);
    let spawned = zygote.spawn(id, ends, doors, sabotage.ends_before(1), began + limits.load_timeout);
    let Spawned { pidfd, not_in_cgroup } = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            // Before the group: if there is a helper all the same, that is how it learns that it is nobody's.
            drop((input, output, printed));
            return Err(error);
        }
    };
    if let Some(errno) = not_in_cgroup {
        cgroup.was_not_entered(&format!("clone3 into it: {errno}"));
    }
    let Some(pid) = HostPid::of(&pidfd) else {
        // It has ended, and the zygote has reaped it, already.
        let end = zygote.early_end(id, began + limits.load_timeout);
        let lost = || if zygote.is_lost() { Some(Cause::ZygoteLost) } else { None };
        let cause = end.map(|end| derive(end.status, end.max_rss_kib, &Evidence::default())).or_else(lost);
        return Err(match cause {
            Some(cause) => ended(entry.subject().id(), cause),
            None => PluginSandboxError::Confine {
                plugin: entry.subject().id().clone(),
                step: Step::Spawn,
                call: "reading the pidfd's pid",
                errno: Errno::ESRCH,
            },
        });
    };
    let (user, mut root) = namespaces::plan(&zygote.launch, zygote.shared_root, zygote.host_is_root);
    if sabotage.takes(Layer::EmptyRoot) {
        root = RootPlan::None;
    }
    let counts_alone = zygote.host_is_root || user == UserPlan::Own;
    cgroup.bound(limits, counts_alone, receiver.is_some());
    // Spread by process, so that two hosts of one machine seldom share one.
    let number = id.0.wrapping_add(std::process::id().wrapping_mul(97));
    let plan = HelperPlan {
        wire_version: WIRE_VERSION,
        user,
        root,
        ids: caps::ids(number, zygote.launch.ids, zygote.launch.user_namespace)
            .filter(|_| !sabotage.takes(Layer::Ids)),
        rlimits: if sabotage.takes(Layer::Rlimits) {
            Vec::new()
        } else {
            rlimits::plan_at_start(limits, counts_alone)
        },
        max_message_bytes: limits.max_message_bytes,
        hands_over: receiver.is_some(),
        sabotage,
    };
    let instance = Arc::new(Instance::new(Parts {
        id,
        pid,
        cgroup,
        counts_alone,
        pidfd,
        input,
        subject: Arc::clone(entry.subject()),
        core: Arc::downgrade(&runtime.core),
        max_message_bytes: limits.max_message_bytes,
        memory_limit_mb: limits.max_memory_mb,
        cpu_limit_sec: limits.max_cpu_time_sec,
    }));
    instance.set_output_limits(limits);
    zygote.enter(id, &instance);
    entry.set_instance(&instance)?;
    runtime.core.reactor.watch(&instance, output, printed)?;
    Ok((instance, plan, receiver))
}

/// Where the broker looks for files: the tree itself where the zygote could make no copies of it.
fn trees(zygote: &Zygote) -> Result<Arc<Trees>, PluginSandboxError> {
    if let Some(trees) = &zygote.trees {
        return Ok(Arc::clone(trees));
    }
    let root = || {
        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(PluginSandboxError::io("opening /"))
    };
    Ok(Arc::new(Trees { read: root()?, write: root()?, execute: None, source: None }))
}

/// From now on the broker has what it needs to serve the helper; or why it has not.
fn set_broker(
    instance: &Instance,
    (needs, was_handed_over): (BrokerNeeds, bool),
    (served, scratch): (Served, Option<Scratch>),
    zygote: &Arc<Zygote>,
) -> Result<Result<(), Option<String>>, PluginSandboxError> {
    let (listener, memory) = match needs {
        Ok(taken) => taken,
        Err(why) => {
            if let Some(why) = &why {
                tracing::warn!(plugin = %instance.subject.id(), why, "the broker cannot be had");
            }
            return Ok(Err(why));
        }
    };
    instance.set_brokered(Brokered {
        listener,
        memory,
        was_handed_over,
        served,
        handles: Handles::default(),
        under_way: UnderWay::default(),
        network: Network::default(),
        trees: trees(zygote)?,
        scratch,
        folders: Folders::default(),
        zygote: Arc::clone(zygote),
    });
    Ok(Ok(()))
}

fn refused(plugin: &PluginId, path: &Path, fault: LoadFault) -> PluginSandboxError {
    let plugin = plugin.clone();
    match fault {
        LoadFault::Layout { summary, full } => {
            tracing::warn!(%plugin, path = %path.display(), layout = %shorten(full).escape_debug(), "another layout");
            let lines: Vec<String> = summary.lines().take(3).map(|line| escape(line.as_bytes())).collect();
            PluginSandboxError::Abi { path: path.to_owned(), difference: lines.join("\n") }
        }
        LoadFault::NoEntry => PluginSandboxError::NotAPlugin { path: path.to_owned() },
        LoadFault::Dlopen { file, message } => {
            let message = format!("{}: {}", escape(file.as_bytes()), escape(message.as_bytes()));
            PluginSandboxError::LoadFailed { plugin, message }
        }
        LoadFault::Constructor(fault) => {
            let kind =
                if fault.kind == FaultKind::Panicked { ErrorKind::Panicked } else { ErrorKind::Failed };
            let message = escape(fault.message.as_bytes());
            PluginSandboxError::PluginFailed { plugin, operation: Operation::Load, kind, message }
        }
    }
}
