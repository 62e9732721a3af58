//! The services that a plugin calls: who runs them, how many may wait, and what is answered.
//!
//! Runs in the host: on the thread that called the plugin, for what the plugin calls meanwhile on its own; else on a worker.
//! Owns the bounds on what a plugin asks for without waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use plugin_abi::files;
use plugin_abi::messages::{RECEIVE, SEND};

use crate::host::app::ServiceRequest;
use crate::host::decider::{self, AccessRequest, Ruling};
use crate::host::end::cause::Violation;
use crate::host::end::report::Refusal;
use crate::host::events::{EventKind, escape};
use crate::host::instance::{Incoming, Instance, MOST_LARGEST_MESSAGES};
use crate::host::lock::lock;
use crate::host::runtime::Core;
use crate::shared::policy::PluginPermission;
use crate::shared::wire::control::{Bytes, ServiceCallId, ToHelper, WireServiceError};

/// A service that the plugin calls.
#[derive(Debug)]
pub(crate) struct ServiceCall {
    pub(in crate::host) id: ServiceCallId,
    pub(in crate::host) service: String,
    pub(in crate::host) payload: Vec<u8>,
}

/// Services called outside any operation and not run yet.
#[derive(Default)]
pub(in crate::host) struct Backlog {
    calls: VecDeque<ServiceCall>,
    payload_bytes: usize,
    /// Whether a worker has one of them, or is asked to take the next.
    at_work: bool,
}

impl Instance {
    /// The plugin calls a service: the caller of the operation under way runs it, or a worker.
    pub(in crate::host) fn called(
        self: &Arc<Self>,
        call: ServiceCall,
        during_operation: bool,
    ) -> Result<(), Violation> {
        if call.service.len() > 255 {
            return Err(Violation::of("service", "a service's name of more than 255 bytes"));
        }
        if during_operation {
            let waiting = lock(&self.waiting);
            let Some(waiting) = waiting.as_ref() else {
                return Err(Violation::of("during operation", "a service called during no operation"));
            };
            if self.in_service.swap(true, Ordering::AcqRel) {
                return Err(Violation::of("during operation", "two services called at once on one thread"));
            }
            let passed = waiting.caller.try_send(Incoming::Service(call));
            return passed.map_err(|_| Violation::of("during operation", "too many services called"));
        }
        let core = self.core.upgrade().ok_or_else(|| Violation::of("service", "the host is going"))?;
        let most_bytes = usize::try_from(self.max_message_bytes)
            .unwrap_or(usize::MAX)
            .saturating_mul(MOST_LARGEST_MESSAGES);
        let most = usize::try_from(self.subject.limits().max_pending_services).unwrap_or(usize::MAX);
        let mut backlog = lock(&self.backlog);
        if backlog.calls.len() >= most || backlog.payload_bytes > most_bytes {
            return Err(Violation::of("service calls", "too many services called and not waited for"));
        }
        backlog.payload_bytes = backlog.payload_bytes.saturating_add(call.payload.len());
        backlog.calls.push_back(call);
        if !std::mem::replace(&mut backlog.at_work, true) {
            drop(backlog);
            self.work_off(&core);
        }
        Ok(())
    }

    /// Has a worker run one call of the backlog and then queue again, behind other plugins': a plugin that calls slow
    /// services never has more than one worker.
    fn work_off(self: &Arc<Self>, core: &Core) {
        let instance = Arc::clone(self);
        core.services.run(move || {
            let next = {
                let mut backlog = lock(&instance.backlog);
                let next = backlog.calls.pop_front();
                let bytes = next.as_ref().map_or(0, |call| call.payload.len());
                backlog.payload_bytes = backlog.payload_bytes.saturating_sub(bytes);
                next
            };
            if let Some(call) = next {
                instance.answer(call);
            }
            let mut backlog = lock(&instance.backlog);
            if instance.end().is_some() {
                *backlog = Backlog::default(); // nobody is there to be answered
            }
            backlog.at_work = !backlog.calls.is_empty();
            let goes_on = backlog.at_work;
            drop(backlog);
            if goes_on && let Some(core) = instance.core.upgrade() {
                instance.work_off(&core);
            }
        });
    }

    /// Runs a service for the operation under way.
    pub(in crate::host) fn serve(&self, call: ServiceCall) {
        self.in_service.store(false, Ordering::Release);
        self.answer(call);
    }

    fn answer(&self, call: ServiceCall) {
        let ServiceCall { id, service, payload } = call;
        self.subject.counters().service_called();
        self.subject.counters().received(payload.len());
        let reply = match service.as_str() {
            SEND => Some(self.send_message(&payload)),
            RECEIVE => self.receive_message(id, &payload),
            files::READ | files::WRITE | files::LEN => Some(self.serve_file(&service, &payload)),
            _ => Some(self.run_service(&service, &payload)),
        };
        if let Some(reply) = reply {
            self.subject.counters().sent(reply.as_ref().map_or(0, |Bytes(bytes)| bytes.len()));
            self.send(&ToHelper::ServiceReply { id, reply });
        }
    }

    /// Whether somebody who is asked lets this call through. The plugin waits; services' time is not the plugin's.
    fn is_allowed_when_asked(&self, permission: &str, service: &str) -> bool {
        if !self.subject.has_decider() {
            return false;
        }
        let Ok(permission) = PluginPermission::of_text(permission) else { return false };
        let wish = AccessRequest {
            plugin: self.subject.id().clone(),
            permission,
            action: "call",
            object: escape(service.as_bytes()),
            resolved: None,
        };
        decider::rule(self, &wish) != Ruling::Deny
    }

    /// Runs a service of the embedder's, if the plugin may call it.
    fn run_service(&self, service: &str, payload: &[u8]) -> Result<Bytes, WireServiceError> {
        let app = lock(&self.app).clone();
        let gate = app.judge(service, |permission| {
            self.subject.holds_named(permission) || self.is_allowed_when_asked(permission, service)
        });
        let shown = escape(service.as_bytes());
        let reply = if gate.open {
            app.run(&ServiceRequest { plugin: self.subject.id(), service, payload })
        } else {
            let permission = gate.permission.clone().unwrap_or_default();
            Err(WireServiceError::PermissionDenied { permission, service: shown.clone() })
        };
        if !gate.open {
            let permission = gate.permission.clone().unwrap_or_default();
            self.was_refused(Refusal {
                opened_by: Some(permission.clone()),
                permission,
                action: "service".to_owned(),
                object: shown.clone(),
                rule: "not granted".to_owned(),
            });
        }
        let permission = gate.permission.as_deref();
        self.subject.publish_decision(permission, gate.open, || EventKind::ServiceCall {
            service: shown,
            permission: gate.permission.clone(),
            granted: gate.open,
        });
        match reply {
            Ok(Bytes(bytes)) if bytes.len() as u64 > self.max_message_bytes => {
                let message = format!(
                    "a reply of {} bytes, where at most {} are allowed",
                    bytes.len(),
                    self.max_message_bytes
                );
                Err(WireServiceError::Failed { message })
            }
            other => other,
        }
    }
}
