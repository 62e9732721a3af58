//! Carries out rows: each attempt in a sandbox of its own and in its control, and then looks at what it left.
//!
//! Runs in a host. Owns the judgement: a row is held if every attempt came to exactly what it must, and nothing else was
//! touched; it is shown if the control did what the attempt must not. Never judges a row by its control alone.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandbox_core::{
    Cause, EventKind, Layer, PluginPermission, PluginPolicy, PluginSandbox, PluginSandboxError, PluginState,
    ResourceLimits, STANDARD_PERMISSIONS, SandboxEvent,
};

use crate::control::{self, Outcome, Starter};
use crate::libraries::file_name;
use crate::place::{Place, Servers};
use crate::row::{Grants, Library, NOTHING};
use crate::{Answer, Control, Expected, Row, Step};

/// How long something must run on to show that nobody ends it.
const LONG_ENOUGH: Duration = Duration::from_millis(300);

/// Where the probes are, how controls are started, and what else goes into every policy.
pub struct Rig {
    /// The folder with the libraries of [`PACKAGES`](crate::libraries::PACKAGES).
    pub probes: PathBuf,
    /// How a child is started that can play controls.
    pub starter: Box<Starter>,
    /// A last word on every policy, such as which layers are not insisted on.
    pub policy: Box<dyn Fn(PluginPolicy) -> PluginPolicy + Send + Sync>,
    /// How long anything may take that nothing is to end.
    pub patience: Duration,
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig").field("probes", &self.probes).finish_non_exhaustive()
    }
}

/// What an attempt came to in the sandbox.
#[derive(Debug, Clone, PartialEq)]
pub enum Inside {
    /// It was answered.
    Answered(Answer),
    /// The plugin failed, in these words.
    Failed(String),
    /// None of it was loaded, for this reason.
    NotLoaded(String),
    /// The helper ended.
    Ended(Cause),
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "{answer:?}"),
            Self::Failed(text) => write!(f, "failed: {text}"),
            Self::NotLoaded(why) => write!(f, "not loaded: {why}"),
            Self::Ended(cause) => write!(f, "ended: {cause}"),
        }
    }
}

/// What is to be said of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It held, and would not have without the sandbox.
    Held,
    /// It did not, for these reasons.
    NotHeld(Vec<String>),
    /// It held, but that says little here: the control did not do what the attempt must not.
    NotShown(Unshown),
}

/// Why a control shows nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unshown {
    /// An ordinary user may not do it anywhere.
    NeedsRoot,
    /// This kernel does not have what is asked for.
    NoSuchCall,
    /// A system-call filter that stands around the host, as a container's, refuses it everywhere, and before ours.
    Filtered,
    /// The control came to something else than it should.
    Otherwise(String),
}

impl fmt::Display for Unshown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedsRoot => f.write_str("only root may do this outside"),
            Self::NoSuchCall => f.write_str("this kernel does not have this"),
            Self::Filtered => f.write_str("a filter around this host refuses it outside too"),
            Self::Otherwise(text) => f.write_str(text),
        }
    }
}

/// A row with what came of it.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// What had to come of it, with the layers that stand here.
    pub expected: Expected,
    /// What happened in the sandbox, under each set of grants.
    pub inside: Vec<(Grants, String)>,
    /// What the control did.
    pub control: String,
    /// How long all of it took.
    pub took: Duration,
}

/// Why no row can be tried.
#[derive(Debug)]
pub enum NoStage {
    /// No plugin can be had.
    Sandbox(PluginSandboxError),
    /// Something of the machine's is missing.
    Io(io::Error),
}

impl From<io::Error> for NoStage {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<PluginSandboxError> for NoStage {
    fn from(error: PluginSandboxError) -> Self {
        Self::Sandbox(error)
    }
}

impl fmt::Display for NoStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// What rows are tried on: servers that nobody may reach, and a sibling that must not notice.
pub struct Stage<'a> {
    rig: &'a Rig,
    servers: Servers,
    sibling: Arc<PluginSandbox>,
    sibling_pid: u32,
    /// Its id as plugins see it, who share a namespace.
    sibling_id: String,
    /// The layers that do not stand here.
    missing: Vec<Layer>,
    /// Whether a system-call filter stands around this host.
    is_filtered: bool,
    stop: Arc<AtomicBool>,
    asker: Option<JoinHandle<Result<(), String>>>,
}

impl fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("sibling_pid", &self.sibling_pid).finish_non_exhaustive()
    }
}

impl<'a> Stage<'a> {
    /// Sets up.
    ///
    /// # Errors
    /// [`NoStage`], if there is no sandbox here at all.
    pub fn new(rig: &'a Rig) -> Result<Self, NoStage> {
        let servers = Servers::new()?;
        let limits = patient(rig.patience);
        let sibling = PluginSandbox::new("sibling", (rig.policy)(PluginPolicy::new().limits(limits)))?;
        sibling.load_plugin(rig.probes.join(file_name("probe")))?;
        sibling.activate_plugin(())?;
        let facts = sibling.call("facts", b"")?;
        let facts = String::from_utf8_lossy(&facts).into_owned();
        let sibling_id =
            facts.lines().find_map(|line| line.strip_prefix("pid=")).unwrap_or_default().to_owned();
        let sibling_pid = sibling.process_id().unwrap_or(0);
        let report = sibling.enforcement_report();
        let missing = report.iter().flat_map(|report| report.missing()).map(|layer| layer.layer).collect();
        let (sibling, stop) = (Arc::new(sibling), Arc::new(AtomicBool::new(false)));
        let asker = {
            let (sibling, stop) = (Arc::clone(&sibling), Arc::clone(&stop));
            std::thread::Builder::new().name("containment-ask".to_owned()).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    answers(&sibling)?;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Ok(())
            })?
        };
        Ok(Self {
            rig,
            servers,
            sibling,
            sibling_pid,
            sibling_id,
            missing,
            is_filtered: is_filtered()?,
            stop,
            asker: Some(asker),
        })
    }

    fn place(&self, sibling: &str) -> io::Result<Place> {
        let mut words = self.servers.words()?;
        words.push(("{host}", std::process::id().to_string()));
        words.push(("{sibling}", sibling.to_owned()));
        words.push(("{probes}", self.rig.probes.to_string_lossy().into_owned()));
        Place::new(words)
    }

    /// Tries a row under every set of grants that it names, and its control.
    pub fn judge(&self, row: &Row) -> Judged {
        let began = Instant::now();
        let mut wrong = Vec::new();
        let mut inside = Vec::new();
        for grants in row.under.iter().copied() {
            let (came_to, faults) = self.try_inside(row, grants);
            wrong.extend(faults.into_iter().map(|fault| format!("{}: {fault}", shown(grants))));
            inside.push((grants, came_to));
        }
        let outside = self.try_control(row);
        let control = outside.as_ref().map_or_else(ToString::to_string, |(text, _)| text.clone());
        let last = inside.last().map(|(_, inside)| inside);
        let told_the_same = last.is_some_and(|inside| inside.to_string() == control);
        let expected = row.expected_without(&self.missing);
        if matches!(expected, Expected::GotOther | Expected::GotNot(_)) && told_the_same {
            wrong.push(format!("told the same as outside: {control}"));
        }
        let mut unshown = match outside {
            Err(error) => Some(Unshown::Otherwise(format!("the control could not be tried: {error}"))),
            Ok((_, unshown)) => unshown.or_else(|| {
                let compared = *expected != Expected::Harmless
                    && !matches!(row.control, Control::Granted(..) | Control::Proper(_) | Control::Intact);
                (told_the_same && compared).then(|| {
                    if is_root() {
                        Unshown::Otherwise("it comes to the same outside".to_owned())
                    } else {
                        Unshown::NeedsRoot
                    }
                })
            }),
        };
        // No more is wrong than that it was refused in another way, and outside in the same.
        let is_refusal = |inside: &Inside| matches!(inside, Inside::Answered(Answer::Errno(_)));
        let refused_alike =
            inside.iter().all(|(_, inside)| is_refusal(inside) && inside.to_string() == control);
        let mismatches = inside.iter().filter(|(_, inside)| !meets(row, expected, inside)).count();
        if self.is_filtered && refused_alike && wrong.len() == mismatches {
            wrong.clear();
            unshown = Some(Unshown::Filtered);
        }
        let lost = row.lost_with(&self.missing);
        if !wrong.is_empty() && !lost.is_empty() {
            let lost: Vec<_> = lost.into_iter().map(Layer::name).collect();
            wrong.push(format!("what would hold it does not stand here: {}", lost.join(", ")));
        }
        let verdict = match unshown {
            _ if !wrong.is_empty() => Verdict::NotHeld(wrong),
            Some(why) => Verdict::NotShown(why),
            None => Verdict::Held,
        };
        let inside = inside.into_iter().map(|(grants, inside)| (grants, inside.to_string())).collect();
        Judged { verdict, expected: expected.clone(), inside, control, took: began.elapsed() }
    }

    /// Tries a row once in a sandbox, under these grants. What it came to, and whatever is wrong with that or was left.
    pub fn try_inside(&self, row: &Row, grants: Grants) -> (Inside, Vec<String>) {
        self.servers.visitors();
        let set_up = (|| {
            let place = self.place(&self.sibling_id)?;
            let plugin = self.sandbox(row, grants, &place)?;
            Ok::<_, NoStage>((place, plugin))
        })();
        let (place, plugin) = match set_up {
            Ok(set_up) => set_up,
            Err(error) => {
                return (
                    Inside::NotLoaded(error.to_string()),
                    vec![format!("nothing to try it on: {error}")],
                );
            }
        };
        let events = plugin.events();
        let (inside, helper) = self.carry_out(row, &row.steps, &plugin, &place);
        let mut wrong = Vec::new();
        let expected = row.expected_without(&self.missing);
        if !meets(row, expected, &inside) {
            wrong.push(format!("expected {expected}, came to {inside}"));
        }
        wrong.extend(self.aftermath(row, &inside, &plugin, &events, &place));
        drop(plugin);
        if helper.is_some_and(|helper| !ends(&helper, self.rig.patience)) {
            wrong.push("its process is still there".to_owned());
        }
        (inside, wrong)
    }

    fn sandbox(&self, row: &Row, grants: Grants, place: &Place) -> Result<PluginSandbox, NoStage> {
        let permissions = grants
            .iter()
            .map(|text| permission(&String::from_utf8_lossy(&place.filled(text.as_bytes()))))
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::other)?;
        let limits = (row.limits)(patient(self.rig.patience));
        let policy = PluginPolicy::new().permissions(permissions).limits(limits);
        Ok(PluginSandbox::new("attempt", (self.rig.policy)(policy))?)
    }

    fn carry_out(
        &self,
        row: &Row,
        steps: &[Step],
        plugin: &PluginSandbox,
        place: &Place,
    ) -> (Inside, Option<OwnedFd>) {
        let library = match self.library(row, place) {
            Ok(library) => library,
            Err(why) => return (Inside::NotLoaded(format!("the library could not be made: {why}")), None),
        };
        if let Err(error) = plugin.load_plugin(library) {
            return (of_error(&error), None);
        }
        let helper = plugin.process_id().and_then(hold);
        if let Err(error) = plugin.activate_plugin((row.app)()) {
            return (of_error(&error), helper);
        }
        let mut came_to = Inside::Answered(Answer::Got(Vec::new()));
        let steps = Row::filled(steps, place);
        for (at, step) in steps.iter().enumerate() {
            let done = match step {
                Step::Call { method, payload } => plugin.call(method, payload),
                Step::Deactivate => plugin.deactivate_plugin().map(|()| Vec::new()),
                Step::Unload => plugin.unload_plugin().map(|()| Vec::new()),
            };
            came_to = match done {
                Ok(reply) => Inside::Answered(Answer::of_any(&reply)),
                Err(error) => of_error(&error),
            };
            let goes_on = matches!(came_to, Inside::Answered(Answer::Got(_)));
            if !goes_on && at + 1 < steps.len() {
                return (Inside::Failed(format!("before it, {step:?} came to {came_to}")), helper);
            }
        }
        (came_to, helper)
    }

    fn library(&self, row: &Row, place: &Place) -> Result<PathBuf, String> {
        match row.library {
            Library::Of(package) => Ok(self.rig.probes.join(file_name(package))),
            Library::Made(make) => {
                let path = place.at("library.so");
                std::fs::write(&path, make(&self.rig.probes)?).map_err(|error| error.to_string())?;
                Ok(path)
            }
        }
    }

    /// What an attempt has left: the host is here to look, so it lives.
    fn aftermath(
        &self,
        row: &Row,
        inside: &Inside,
        plugin: &PluginSandbox,
        events: &Receiver<SandboxEvent>,
        place: &Place,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let over = row.steps.iter().any(|step| matches!(step, Step::Deactivate | Step::Unload));
        match inside {
            Inside::Ended(cause) => {
                if plugin.process_id().is_some() {
                    wrong.push(format!("it ended, and is {}", plugin.state()));
                }
                let told = wait_for(events, self.rig.patience, |kind| match kind {
                    EventKind::Ended { cause, .. } => Some(cause.clone()),
                    _ => None,
                });
                match told {
                    Some(told) if told == *cause => {}
                    Some(told) => wrong.push(format!("the event told another cause: {told}")),
                    None => wrong.push("no event told of its end".to_owned()),
                }
            }
            Inside::NotLoaded(_) if plugin.process_id().is_some() => {
                wrong.push("there is a helper, and nothing was loaded".to_owned());
            }
            Inside::Answered(_) | Inside::Failed(_) if !over => {
                if plugin.state() != PluginState::Active {
                    wrong.push(format!("the plugin is {}", plugin.state()));
                } else if matches!(row.library, Library::Of("probe")) {
                    wrong.extend(answers(plugin).err().map(|error| format!("and then {error}")));
                }
            }
            _ => {}
        }
        // What was not refused is not told of as a refusal.
        if let Some(permission) = row.told.filter(|_| meets(row, row.expected_without(&self.missing), inside))
        {
            let told = wait_for(events, self.rig.patience, |kind| match kind {
                EventKind::Access { permission: of, granted: false, .. } => (*of == permission).then_some(()),
                _ => None,
            });
            if told.is_none() {
                wrong.push(format!("no event told of a refusal of {permission}"));
            }
        }
        wrong.extend(place.changed());
        let visitors = self.servers.visitors();
        if visitors > 0 {
            wrong.push(format!("{visitors} came to the host's sockets"));
        }
        if let Err(error) = answers(&self.sibling) {
            wrong.push(format!("the sibling: {error}"));
        }
        if self.sibling.process_id() != Some(self.sibling_pid) {
            wrong.push("the sibling is another process than before".to_owned());
        }
        wrong
    }

    /// What the control did, and why that shows nothing, if it does not.
    fn try_control(&self, row: &Row) -> Result<(String, Option<Unshown>), NoStage> {
        match &row.control {
            Control::Granted(grants, expected) => {
                let place = self.place(&self.sibling_id)?;
                let plugin = self.sandbox(row, grants, &place)?;
                let (inside, _) = self.carry_out(row, &row.steps, &plugin, &place);
                self.servers.visitors();
                let shown = meets(row, expected, &inside);
                let text = format!("granted, {inside}");
                Ok((
                    text,
                    (!shown).then(|| Unshown::Otherwise(format!("granted, it should have {expected}"))),
                ))
            }
            Control::Proper(steps) => {
                let place = self.place(&self.sibling_id)?;
                let plugin = self.sandbox(row, NOTHING, &place)?;
                let (inside, _) = self.carry_out(row, steps, &plugin, &place);
                let shown = matches!(inside, Inside::Answered(Answer::Got(_)));
                let text = format!("done properly, {inside}");
                Ok((text, (!shown).then(|| Unshown::Otherwise("done properly, it should work".to_owned()))))
            }
            Control::Intact => {
                let plugin = self.sandbox(row, NOTHING, &self.place(&self.sibling_id)?)?;
                plugin.load_plugin(self.rig.probes.join(file_name("probe-life")))?;
                Ok(("as it was built, loaded".to_owned(), None))
            }
            Control::Like(steps, control) => self.try_outside(row, steps, control),
            control => self.try_outside(row, &row.steps, control),
        }
    }

    fn try_outside(
        &self,
        row: &Row,
        steps: &[Step],
        control: &Control,
    ) -> Result<(String, Option<Unshown>), NoStage> {
        let place = self.place(&self.sibling_pid.to_string())?;
        let library = self.library(row, &place).map_err(io::Error::other)?;
        let steps = Row::filled(steps, &place);
        let patience = if matches!(control, Control::RunsOn) { LONG_ENOUGH } else { self.rig.patience };
        let outside = control::attempt(&*self.rig.starter, &library, &steps, patience)?;
        self.servers.visitors();
        Ok((outside.to_string(), unshown(control, &outside)))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(asker) = self.asker.take() {
            asker.thread().unpark();
            // That it did not answer was found by whichever row was tried then.
            let _ = asker.join();
        }
    }
}

fn unshown(control: &Control, outside: &Outcome) -> Option<Unshown> {
    let shown = match control {
        Control::Works | Control::WorksForRoot => outside.reached(),
        Control::Got(text) => *outside == Outcome::Answered(Answer::Got(text.as_bytes().to_vec())),
        Control::Reaches(errnos) => {
            matches!(outside, Outcome::Answered(Answer::Errno(errno)) if errnos.contains(errno))
        }
        Control::Signal(signal) => *outside == Outcome::Signal(*signal),
        Control::Exits(code) => *outside == Outcome::Exited(*code),
        Control::RunsOn => *outside == Outcome::RunsOn,
        Control::Granted(..) | Control::Proper(_) | Control::Intact | Control::Like(..) => false,
    };
    if shown {
        return None;
    }
    Some(match (control, outside) {
        (Control::WorksForRoot, _) if !is_root() => Unshown::NeedsRoot,
        (
            _,
            Outcome::Answered(Answer::Errno(
                libc::ENOSYS
                | libc::EAFNOSUPPORT
                | libc::EPROTONOSUPPORT
                | libc::ESOCKTNOSUPPORT
                | libc::EOPNOTSUPP
                | libc::ENOPKG,
            )),
        ) => Unshown::NoSuchCall,
        _ => Unshown::Otherwise(format!("outside it came to: {outside}")),
    })
}

/// SECCOMP_MODE_FILTER: proc_pid_status(5).
fn is_filtered() -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(status.lines().any(|line| line.split_ascii_whitespace().eq(["Seccomp:", "2"])))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn shown(grants: Grants) -> String {
    if grants.is_empty() { "nothing granted".to_owned() } else { format!("granted {}", grants.join(" ")) }
}

/// No limit that a slow machine alone reaches: rows about time set their own.
fn patient(patience: Duration) -> ResourceLimits {
    ResourceLimits::default()
        .load_timeout(patience)
        .activate_timeout(patience)
        .deactivate_timeout(patience)
        .call_timeout(patience)
        .max_cpu_time_sec(None)
}

/// A permission as it is written on the command line.
fn permission(text: &str) -> Result<PluginPermission, String> {
    let (name, scope) = text.split_once(':').map_or((text, None), |(name, scope)| (name, Some(scope)));
    let known = STANDARD_PERMISSIONS.into_iter().find(|known| known.name() == name);
    let known = known.ok_or_else(|| format!("no permission is called {name}"))?;
    match scope {
        None => Ok(known),
        Some(path) if Path::new(path).is_absolute() => {
            known.scoped_to_path(path).map_err(|error| error.to_string())
        }
        Some(scope) => known.scoped(scope).map_err(|error| error.to_string()),
    }
}

fn of_error(error: &PluginSandboxError) -> Inside {
    match error {
        // Found out in the middle of what was asked for, or before it was.
        PluginSandboxError::Ended { cause, .. }
        | PluginSandboxError::WrongState { ended: Some(cause), .. } => Inside::Ended(cause.clone()),
        PluginSandboxError::PluginFailed { message, .. } => Inside::Failed(message.clone()),
        other => Inside::NotLoaded(other.to_string()),
    }
}

#[allow(clippy::unneeded_struct_pattern, reason = "what a cause tells beside its kind is not judged here")]
fn meets(row: &Row, expected: &Expected, inside: &Inside) -> bool {
    match (expected, inside) {
        (Expected::Errno(errno), Inside::Answered(answer)) => *answer == Answer::Errno(*errno),
        (Expected::Got(text), Inside::Answered(answer)) => *answer == Answer::Got(text.as_bytes().to_vec()),
        (Expected::GotEnding(text), Inside::Answered(Answer::Got(got))) => got.ends_with(text.as_bytes()),
        (Expected::GotNot(text), Inside::Answered(Answer::Got(got))) => got != text.as_bytes(),
        (Expected::GotOther | Expected::Harmless, Inside::Answered(answer)) => answer.got_it(),
        (Expected::Failed(text), Inside::Answered(Answer::Failed(why)) | Inside::Failed(why)) => {
            why.contains(text)
        }
        (Expected::NotLoaded(text), Inside::NotLoaded(why)) => why.contains(text),
        // An unload that went well: how the plugin's own destructor did may be told, or not.
        (Expected::Gone, Inside::Answered(Answer::Got(_))) => matches!(row.steps.last(), Some(Step::Unload)),
        (Expected::Gone, Inside::Ended(_)) => true,
        (expected, Inside::Ended(cause)) => match (expected, cause) {
            // The very call that was tried, where the kernel tells which it was.
            (Expected::Forbidden, Cause::ForbiddenCall { number, .. }) => match row.steps.last() {
                Some(Step::Call { method, payload }) if method == "syscall" => {
                    let tried = String::from_utf8_lossy(payload);
                    let tried = tried.split(' ').next().and_then(|number| number.parse().ok());
                    number.is_none() || *number == tried
                }
                _ => true,
            },
            (Expected::Deadline, Cause::Deadline { .. })
            | (Expected::ChannelClosed, Cause::ChannelClosed { .. })
            | (Expected::OutOfMemory, Cause::Memory { .. })
            | (Expected::CpuTime, Cause::CpuTime { .. }) => true,
            (Expected::Signal(expected), Cause::Signal { signal, .. }) => expected == signal,
            (Expected::Exited(expected), Cause::Exited { code, .. }) => expected == code,
            (Expected::Protocol(text), Cause::Protocol { what, .. }) => what.contains(text),
            _ => false,
        },
        _ => false,
    }
}

/// Whether a plugin does what it is for.
fn answers(plugin: &PluginSandbox) -> Result<(), String> {
    match plugin.call("echo", b"still here") {
        Ok(reply) if reply == b"ok still here" => Ok(()),
        Ok(reply) => Err(format!("it answered {:?}", String::from_utf8_lossy(&reply))),
        Err(error) => Err(error.to_string()),
    }
}

fn wait_for<T>(
    events: &Receiver<SandboxEvent>,
    patience: Duration,
    mut wanted: impl FnMut(&EventKind) -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let event = events.recv_deadline(deadline).ok()?;
        if let Some(found) = wanted(&event.kind) {
            return Some(found);
        }
    }
}

fn hold(pid: u32) -> Option<OwnedFd> {
    pidfd_open(i32::try_from(pid).ok().and_then(Pid::from_raw)?, PidfdFlags::empty()).ok()
}

fn ends(helper: &OwnedFd, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).ok();
    poll(&mut [PollFd::new(helper, PollFlags::IN)], patience.as_ref()).is_ok_and(|ready| ready > 0)
}
