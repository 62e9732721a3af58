//! Asks a plugin whether it answers. Runs in the host, on the thread that asked, which waits for nobody else's operation.

use std::time::{Duration, Instant};

use super::held::Entry;
use super::turn::Operator;
use crate::error::PluginSandboxError;
use crate::host::instance::Expect;
use crate::host::lifecycle::Operation;
use crate::host::lock::lock;
use crate::host::supervise::health::{Answer, Health, ProcessHealth};
use crate::shared::wire::control::ToHelper;

impl Entry {
    /// Asks the helper for an answer, if nothing is under way in it.
    pub(crate) fn check_health(&self, timeout: Duration) -> Result<Health, PluginSandboxError> {
        if self.is_operated_here() {
            let operation = Operation::Check;
            return Err(PluginSandboxError::Reentrant { plugin: self.subject.id().clone(), operation });
        }
        let answer = match self.free_turn(Operation::Check) {
            Some(_turn) => {
                self.subject.begin(Operation::Check)?;
                let instance = self.living(Operation::Check)?;
                let id = instance.next_call();
                let asked = Instant::now();
                let order = ToHelper::Ping { id };
                match instance.transact(Some(&order), Expect::Pong(id), Operation::Check, timeout) {
                    Ok(_) => Answer::Answered { after: asked.elapsed() },
                    Err(cause) => return Err(self.ended(Operation::Check, cause)),
                }
            }
            None => match *lock(&self.operator) {
                Some(Operator { operation, since, .. }) => Answer::Busy { operation, since: since.elapsed() },
                // It ends at this moment.
                None => Answer::Busy { operation: Operation::Call, since: Duration::ZERO },
            },
        };
        let instance = self.instance().filter(|instance| instance.end().is_none());
        let process = instance.and_then(|instance| ProcessHealth::of(&instance));
        Ok(Health { state: self.subject.state(), answer, process })
    }
}
