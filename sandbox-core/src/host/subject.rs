//! What everybody who deals with a plugin needs of it: its id, its policy, its state, and who listens.
//!
//! Runs in the host, on any thread. Owns the state: every move of it is made here, by the table in `host::lifecycle`; and
//! what of its events is told one by one.
//! Knows no helper but by its number, so that a helper may hold it, for however long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::cause::Cause;
use super::decider::{self, Decider, DeciderCell};
use super::events::{EventHub, EventKind, SandboxEvent};
use super::folding::Folding;
use super::lifecycle::{self, Operation, Outcome, PluginState};
use super::links::Links;
use super::lock::lock;
use super::mediated;
use super::messages::Exchange;
use super::policy::PolicyCell;
use crate::error::PluginSandboxError;
use crate::shared::policy::{Grade, PluginId, PluginPermission, ResourceLimits};
use crate::shared::wire::zygote::HelperId;

/// A plugin, whether it has a helper or not.
pub(crate) struct Subject {
    id: PluginId,
    policy: PolicyCell,
    links: Links,
    standing: Mutex<Standing>,
    hub: EventHub,
    managers: Option<Arc<EventHub>>,
    decider: Arc<DeciderCell>,
    open_questions: decider::Open,
    exchange: Arc<Exchange>,
    folding: Mutex<Folding>,
    /// Whether `folding` owes something.
    owes: AtomicBool,
}

struct Standing {
    state: PluginState,
    /// The helper of the last load.
    helper: Option<HelperId>,
    /// Why the last one ended that did.
    ended: Option<Cause>,
}

impl Subject {
    pub(crate) fn new(
        id: PluginId,
        policy: PolicyCell,
        managers: Option<Arc<EventHub>>,
        decider: Arc<DeciderCell>,
        exchange: Arc<Exchange>,
    ) -> Self {
        let standing = Mutex::new(Standing { state: PluginState::Registered, helper: None, ended: None });
        let (hub, folding, owes) = (EventHub::default(), Mutex::default(), AtomicBool::new(false));
        Self {
            id,
            policy,
            links: Links::default(),
            standing,
            hub,
            managers,
            decider,
            open_questions: decider::Open::default(),
            exchange,
            folding,
            owes,
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
                self.move_to(&mut standing, next);
                Ok(state)
            }
            None => Err(PluginSandboxError::WrongState {
                plugin: self.id.clone(),
                operation,
                state,
                allowed: lifecycle::allowed_from(operation),
                ended: standing.ended.clone().filter(|_| state == PluginState::Crashed),
            }),
        }
    }

    fn move_to(&self, standing: &mut Standing, to: PluginState) {
        let from = std::mem::replace(&mut standing.state, to);
        if from != to {
            self.publish(|| EventKind::StateChanged { from, to });
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

    /// A helper has ended, at whatever moment.
    pub(crate) fn helper_ended(&self, helper: HelperId, cause: &Cause) {
        let mut standing = self.standing();
        if standing.helper != Some(helper) {
            return;
        }
        standing.ended = Some(cause.clone());
        if standing.state != PluginState::Unloaded {
            let to = if cause.was_asked_for() { PluginState::Unloaded } else { PluginState::Crashed };
            self.move_to(&mut standing, to);
        }
        drop(standing);
        self.publish(|| EventKind::Ended { cause: cause.clone() });
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.owes() {
            self.tell_owed(true);
        }
    }
}
