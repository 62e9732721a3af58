//! What everybody who deals with a plugin needs of it: its id, its policy, its state, and who listens.
//!
//! Runs in the host, on any thread. Owns the state: every move of it is made here, by the table in `host::lifecycle`; and
//! what of its events is told one by one; and whether and when a plugin that has ended comes back.
//! Knows no helper but by its number, so that a helper may hold it, for however long.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::decider::{self, Decider, DeciderCell};
use super::end::cause::Cause;
use super::end::report::EndReport;
use super::entry::Entry;
use super::events::{EventHub, EventKind, SandboxEvent};
use super::figures::{Counters, PluginFigures};
use super::folding::Folding;
use super::library::LibraryDigest;
use super::lifecycle::{self, Operation, Outcome, PluginState};
use super::links::Links;
use super::lock::lock;
use super::mediated;
use super::policy::PolicyCell;
use super::services::messages::Exchange;
use super::supervise::quarantine::{CrashRecord, QuarantineRecord, StoreCell};
use super::supervise::restarts;
use crate::error::PluginSandboxError;
use crate::shared::policy::{Grade, PluginId, PluginPermission, ResourceLimits, RestartWhen};
use crate::shared::wire::zygote::HelperId;

/// A plugin, whether it has a helper or not.
pub(crate) struct Subject {
    id: PluginId,
    policy: PolicyCell,
    links: Links,
    standing: Mutex<Standing>,
    /// Told of each move.
    moved: Condvar,
    /// Whoever loads it again.
    entry: OnceLock<Weak<Entry>>,
    store: Arc<StoreCell>,
    hub: EventHub,
    managers: Option<Arc<EventHub>>,
    decider: Arc<DeciderCell>,
    open_questions: decider::Open,
    exchange: Arc<Exchange>,
    folding: Mutex<Folding>,
    /// Whether `folding` owes something.
    owes: AtomicBool,
    counters: Counters,
}

struct Standing {
    state: PluginState,
    /// The helper of the last load.
    helper: Option<HelperId>,
    /// How the last one ended that did.
    ended: Option<Arc<EndReport>>,
    /// Whether it comes back when it ends by itself: from a load that worked until somebody wants it gone.
    kept_up: bool,
    /// Since when it is loaded.
    loaded: Option<Instant>,
    /// How many restarts in a row there were.
    attempts: u32,
    restart: Option<Restart>,
    /// What is, or was last, loaded, if its crashes count.
    library: Option<(LibraryDigest, PathBuf)>,
    /// Crashes that are not written down yet.
    crashes: Vec<Crash>,
}

/// A restart that is to come.
#[derive(Debug, Clone)]
struct Restart {
    attempt: u32,
    delay: Duration,
    due: Instant,
    why: String,
    /// Whether it was told of.
    told: bool,
}

/// A crash that counts.
pub(crate) struct Crash {
    pub(crate) digest: LibraryDigest,
    pub(crate) path: PathBuf,
    pub(crate) record: CrashRecord,
}

/// What there is to do about a restart.
pub(crate) enum Due {
    /// Nothing: none is wanted, or any more.
    Never,
    /// To look again then.
    At(Instant),
    /// To load it.
    Now { attempt: u32 },
}

impl Subject {
    pub(crate) fn new(
        id: PluginId,
        policy: PolicyCell,
        managers: Option<Arc<EventHub>>,
        decider: Arc<DeciderCell>,
        exchange: Arc<Exchange>,
        store: Arc<StoreCell>,
    ) -> Self {
        let standing = Mutex::new(Standing {
            state: PluginState::Registered,
            helper: None,
            ended: None,
            kept_up: false,
            loaded: None,
            attempts: 0,
            restart: None,
            library: None,
            crashes: Vec::new(),
        });
        let (hub, folding, owes) = (EventHub::default(), Mutex::default(), AtomicBool::new(false));
        Self {
            id,
            policy,
            links: Links::default(),
            standing,
            moved: Condvar::new(),
            entry: OnceLock::new(),
            store,
            hub,
            managers,
            decider,
            open_questions: decider::Open::default(),
            exchange,
            folding,
            owes,
            counters: Counters::default(),
        }
    }

    pub(crate) fn id(&self) -> &PluginId {
        &self.id
    }

    pub(crate) fn policy(&self) -> &PolicyCell {
        &self.policy
    }

    /// The second names that it has given to files.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn limits(&self) -> ResourceLimits {
        self.policy.limits()
    }

    pub(crate) fn hub(&self) -> &EventHub {
        &self.hub
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is known of it without its helper.
    pub(crate) fn figures(&self) -> PluginFigures {
        let (state, ended) = {
            let standing = self.standing();
            (standing.state, standing.ended.as_ref().map(|end| end.cause.to_string()))
        };
        PluginFigures {
            plugin: self.id.to_string(),
            state: state.to_string(),
            last_end: ended,
            permissions: self.policy.read(|grants| grants.list().iter().map(ToString::to_string).collect()),
            limits: self.limits(),
            events_lost: self.hub.lost(),
            ..self.counters.read()
        }
    }

    /// Where its manager's plugins send each other messages.
    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Whether the permission of this name is held, at any scope.
    pub(crate) fn holds_named(&self, name: &str) -> bool {
        self.policy.read(|grants| grants.holds_named(name))
    }

    /// Whoever is asked about what nobody has decided about.
    pub(crate) fn decider(&self) -> Option<Decider> {
        self.decider.get()
    }

    pub(crate) fn has_decider(&self) -> bool {
        self.decider.is_some()
    }

    /// How many questions about it nobody has answered yet.
    pub(crate) fn open_questions(&self) -> &decider::Open {
        &self.open_questions
    }

    pub(crate) fn set_decider(&self, decider: Option<Decider>) {
        self.decider.set(decider);
    }

    /// Whether anybody listens.
    pub(crate) fn is_heard(&self) -> bool {
        let managers = self.managers.as_deref().is_some_and(EventHub::is_heard);
        managers || self.hub.is_heard() || tracing::enabled!(tracing::Level::DEBUG)
    }

    /// Tells whoever listens. The event is made only if somebody does, and told as a count if it is one of very many.
    pub(crate) fn publish(&self, kind: impl FnOnce() -> EventKind) {
        if !self.is_heard() {
            return;
        }
        let (kind, time) = (kind(), SystemTime::now());
        let (owed, told) = {
            let mut folding = lock(&self.folding);
            let taken = folding.take(&kind, Instant::now(), time);
            self.owes.store(folding.owes(), Ordering::Release);
            taken
        };
        // With no lock held: whoever listens to `tracing` runs here.
        owed.into_iter().chain(told.then_some(kind)).for_each(|kind| self.tell(time, kind));
    }

    /// The same of something that was decided by `permission`: what was refused is counted, whether anybody listens or not.
    pub(crate) fn publish_decision(
        &self,
        permission: Option<&str>,
        granted: bool,
        kind: impl FnOnce() -> EventKind,
    ) {
        if !granted {
            self.counters.denied(permission);
        }
        self.publish(kind);
    }

    fn tell(&self, time: SystemTime, kind: EventKind) {
        let event = SandboxEvent { time, plugin: self.id.clone(), kind };
        tracing::debug!(plugin = %self.id, event = ?event.kind);
        self.hub.publish(&event);
        if let Some(hub) = &self.managers {
            hub.publish(&event);
        }
    }

    /// Whether events were counted and not told.
    pub(crate) fn owes(&self) -> bool {
        self.owes.load(Ordering::Acquire)
    }

    /// Tells the counts that have waited long enough, or all of them.
    pub(crate) fn tell_owed(&self, all: bool) {
        let owed = {
            let mut folding = lock(&self.folding);
            let now = Instant::now();
            let owed = if all { folding.settle(now) } else { folding.settle_if_over(now) };
            self.owes.store(folding.owes(), Ordering::Release);
            owed
        };
        owed.into_iter().for_each(|kind| self.tell(SystemTime::now(), kind));
    }

    pub(crate) fn grant(&self, permission: PluginPermission) {
        self.policy.grant(permission.clone());
        self.publish(|| EventKind::PermissionGranted { permission });
    }

    pub(crate) fn grant_as(
        &self,
        permission: PluginPermission,
        grade: Grade,
    ) -> Result<(), PluginSandboxError> {
        grade.check(&permission)?;
        mediated::can_be_had(grade)?;
        self.policy.grant_as(permission.clone(), grade);
        self.publish(|| EventKind::PermissionGranted { permission });
        Ok(())
    }

    pub(crate) fn revoke(&self, permission: &PluginPermission) -> bool {
        let held = self.policy.revoke(permission);
        self.publish(|| EventKind::PermissionRevoked { permission: permission.clone(), held });
        held
    }

    // ---- the state

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> PluginState {
        self.standing().state
    }

    /// How the last helper ended that did.
    pub(crate) fn last_end(&self) -> Option<Arc<EndReport>> {
        self.standing().ended.clone()
    }

    /// From now on the end of this helper is the plugin's. False if the plugin was unloaded while it was being loaded.
    pub(crate) fn set_helper(&self, helper: HelperId) -> bool {
        let mut standing = self.standing();
        standing.helper = Some(helper);
        standing.state == PluginState::Loading
    }

    /// Moves to the state in which `operation` is under way. Returns the one before.
    pub(crate) fn begin(&self, operation: Operation) -> Result<PluginState, PluginSandboxError> {
        let mut standing = self.standing();
        let state = standing.state;
        match lifecycle::begin(state, operation) {
            Some(next) => {
                if matches!(operation, Operation::Load | Operation::Unload) {
                    (standing.kept_up, standing.attempts, standing.restart) = (false, 0, None);
                }
                self.move_to(&mut standing, next);
                Ok(state)
            }
            None => Err(PluginSandboxError::WrongState {
                plugin: self.id.clone(),
                operation,
                state,
                allowed: lifecycle::allowed_from(operation),
                // An unload that the host has made itself explains nothing to it.
                ended: standing.ended.as_ref().map(|end| end.cause.clone()).filter(|cause| match state {
                    PluginState::Crashed | PluginState::Restarting | PluginState::Quarantined => true,
                    PluginState::Unloaded => *cause != Cause::Unloaded,
                    _ => false,
                }),
                restarts_in: standing
                    .restart
                    .as_ref()
                    .map(|restart| restart.due.saturating_duration_since(Instant::now())),
            }),
        }
    }

    fn move_to(&self, standing: &mut Standing, to: PluginState) {
        let from = std::mem::replace(&mut standing.state, to);
        if from != to {
            self.publish(|| EventKind::StateChanged { from, to });
            self.moved.notify_all();
        }
    }

    /// Moves on after `operation`, unless an end or an unload has moved on already.
    pub(crate) fn finish(&self, operation: Operation, under_way: PluginState, outcome: Outcome) {
        let mut standing = self.standing();
        if standing.state == under_way {
            self.move_to(&mut standing, lifecycle::finish(operation, outcome));
        }
    }

    /// Goes to `to` if it is in `from`; whether it was.
    pub(crate) fn settle(&self, from: PluginState, to: PluginState) -> bool {
        let mut standing = self.standing();
        let settles = standing.state == from;
        if settles {
            self.move_to(&mut standing, to);
        }
        settles
    }

    /// Waits until it is in `wanted`, for so long. Whether it is.
    pub(crate) fn wait_for(&self, wanted: PluginState, timeout: Duration) -> bool {
        let standing = self.standing();
        let (standing, _) = self
            .moved
            .wait_timeout_while(standing, timeout, |standing| standing.state != wanted)
            .unwrap_or_else(PoisonError::into_inner);
        standing.state == wanted
    }

    // ---- what becomes of it when it ends

    /// Who loads it again.
    pub(crate) fn set_entry(&self, entry: Weak<Entry>) {
        let _ = self.entry.set(entry);
    }

    /// Where crashes are counted.
    pub(crate) fn store(&self) -> &StoreCell {
        &self.store
    }

    /// Whether it may be restarted at all.
    pub(crate) fn restarts(&self) -> bool {
        self.policy.restart.when != RestartWhen::Never
    }

    /// Whether its crashes count: of one that is not restarted only where the embedder asks for it.
    pub(crate) fn is_counted(&self) -> bool {
        self.restarts() || self.store.is_named()
    }

    /// What is being loaded; its crashes count from now on.
    pub(crate) fn set_library(&self, library: Option<(LibraryDigest, PathBuf)>) {
        self.standing().library = library;
    }

    /// A load has come to its end: from now on it is kept up. False if it has ended, or was unloaded, meanwhile.
    pub(crate) fn loaded(&self) -> bool {
        let mut standing = self.standing();
        let settles = standing.state == PluginState::Loading;
        if settles {
            standing.kept_up = self.restarts();
            standing.loaded = Some(Instant::now());
            self.move_to(&mut standing, PluginState::Loaded);
        }
        settles
    }

    /// From now on it does not come back by itself. It is left in the state that it is in.
    pub(crate) fn give_up(&self) {
        let mut standing = self.standing();
        (standing.kept_up, standing.restart) = (false, None);
    }

    /// A helper has ended, at whatever moment.
    pub(crate) fn helper_ended(&self, helper: HelperId, report: &Arc<EndReport>) {
        let cause = &report.cause;
        let mut standing = self.standing();
        if standing.helper != Some(helper) {
            return;
        }
        standing.ended = Some(Arc::clone(report));
        if cause.is_crash()
            && self.policy.restart.crashes.is_some()
            && let Some((digest, path)) = standing.library.clone()
        {
            let (plugin, cause) = (self.id.to_string(), cause.to_string());
            let record = CrashRecord { time: SystemTime::now(), plugin, cause };
            standing.crashes.push(Crash { digest, path, record });
        }
        if standing.state != PluginState::Unloaded {
            let to = if cause.was_asked_for() { PluginState::Unloaded } else { PluginState::Crashed };
            if to == PluginState::Crashed {
                self.counters.crashed();
            }
            self.move_to(&mut standing, to);
        }
        self.publish(|| EventKind::Ended { cause: cause.clone(), report: Arc::clone(report) });
        let was_kept_up = standing.kept_up;
        if standing.state == PluginState::Crashed && was_kept_up {
            standing.kept_up = self.comes_back_after(cause);
            if standing.kept_up {
                self.plan_restart(&mut standing, cause.to_string());
            }
        }
        let looked_after = was_kept_up || !standing.crashes.is_empty();
        drop(standing);
        if let Some(entry) = self.entry.get().filter(|_| looked_after) {
            restarts::look_at(entry, Instant::now());
        }
    }

    fn comes_back_after(&self, cause: &Cause) -> bool {
        // Nobody but a person should start again what a person has ended.
        let wanted_gone = cause.was_asked_for() || matches!(cause, Cause::ByOperator { .. });
        match self.policy.restart.when {
            RestartWhen::Never => false,
            RestartWhen::OnCrash => !wanted_gone && *cause != Cause::Exited { code: 0 },
            RestartWhen::Always => !wanted_gone,
        }
    }

    fn plan_restart(&self, standing: &mut Standing, why: String) {
        let policy = &self.policy.restart;
        if standing.loaded.take().is_some_and(|loaded| loaded.elapsed() > policy.window) {
            standing.attempts = 0;
        }
        let attempt = standing.attempts.saturating_add(1);
        standing.attempts = attempt;
        let delay = policy.backoff.delay(attempt, fastrand::f64());
        standing.restart = Some(Restart { attempt, delay, due: Instant::now() + delay, why, told: false });
        self.move_to(standing, PluginState::Restarting);
    }

    /// Whether it comes back when it ends by itself.
    pub(crate) fn is_kept_up(&self) -> bool {
        self.standing().kept_up
    }

    /// What there is to do about a restart at this moment; one that is due is begun, if it is to be. The first time this is
    /// asked, the restart is told of.
    pub(crate) fn restart_due(&self, begin: bool) -> Due {
        let mut standing = self.standing();
        let Some(restart) = standing.restart.as_mut() else { return Due::Never };
        if !std::mem::replace(&mut restart.told, true) {
            let Restart { attempt, delay, why, .. } = restart.clone();
            self.publish(|| EventKind::RestartScheduled { attempt, delay, why });
        }
        let (attempt, due) = (restart.attempt, restart.due);
        if due > Instant::now() {
            return Due::At(due);
        }
        if begin {
            standing.restart = None;
            self.move_to(&mut standing, PluginState::Loading);
        }
        Due::Now { attempt }
    }

    /// A restart has not worked: another one is to come, unless one is already, or nobody wants it back any more.
    pub(crate) fn restart_failed(&self, why: String) {
        let mut standing = self.standing();
        let is_down =
            matches!(standing.state, PluginState::Loading | PluginState::Unloaded | PluginState::Crashed);
        if standing.kept_up && is_down && standing.restart.is_none() {
            self.plan_restart(&mut standing, why);
        }
    }

    /// A crash that is to be written down.
    pub(crate) fn next_crash(&self) -> Option<Crash> {
        let mut standing = self.standing();
        (!standing.crashes.is_empty()).then(|| standing.crashes.remove(0))
    }

    /// Its library has crashed too often.
    pub(crate) fn quarantine(&self, record: &QuarantineRecord) {
        let mut standing = self.standing();
        (standing.kept_up, standing.restart) = (false, None);
        if matches!(standing.state, PluginState::Crashed | PluginState::Restarting) {
            self.move_to(&mut standing, PluginState::Quarantined);
        }
        drop(standing);
        self.publish(|| EventKind::Quarantined {
            digest: record.digest,
            path: record.path.clone(),
            crashes: u32::try_from(record.crashes.len()).unwrap_or(u32::MAX),
            why: record.crashes.last().map(|crash| crash.cause.clone()).unwrap_or_default(),
        });
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.owes() {
            self.tell_owed(true);
        }
    }
}
