//! Messages between the plugins of one manager: who may send to whom, what waits for whom, and for how long.
//!
//! Runs in the host, where services run; the reactor ends the waits. Owns the queues and their bounds. Never waits itself: a
//! plugin that waits for a message holds no thread of the host's, and one that sends to a full queue is told so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use plugin_abi::messages::{self, MAX_MESSAGE_BYTES, RECEIVE, SEND, SendStatus};

use crate::host::broker::UnderWay;
use crate::host::events::EventKind;
use crate::host::instance::{Instance, MOST_LARGEST_MESSAGES};
use crate::host::lock::lock;
use crate::host::subject::Subject;
use crate::shared::policy::{PluginId, PluginPermission, Scope, Verdict};
use crate::shared::wire::control::{Bytes, ServiceCallId, ToHelper, WireServiceError};

/// The permission that opens both directions.
const PERMISSION: &str = "plugin";

/// How long a message that was judged by the old grants may take to be where it goes: nothing in between waits.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(6);

/// How many bytes the messages that wait for one plugin may have, however many they are.
const MOST_BYTES: usize = 16 * MAX_MESSAGE_BYTES;

/// Which part of a queue one sender may fill: no plugin alone keeps the others' messages from one that does not read.
const PART_OF_ONE: usize = 4;

/// How many threads of one plugin may wait for messages at once. What they are sent all at once fits into what may lie unread
/// on the way to a plugin, so that nobody's messages end one that reads.
const MOST_WAITS: usize = MOST_LARGEST_MESSAGES;

type Reply = Result<Bytes, WireServiceError>;

struct Bound {
    messages: usize,
    bytes: usize,
}

impl Bound {
    /// Whether so many messages, of so many bytes, and one more of `len` are more than may be.
    fn is_passed_by(&self, messages: usize, bytes: usize, len: usize) -> bool {
        messages >= self.messages || bytes.saturating_add(len) > self.bytes
    }
}

/// The plugins of one manager that can be sent to: those that are loaded.
#[derive(Default)]
pub(crate) struct Exchange {
    loaded: RwLock<HashMap<PluginId, Weak<Instance>>>,
    passing: UnderWay,
}

impl Exchange {
    /// From now on what is sent to this plugin goes to this helper, until that ends.
    pub(crate) fn enter(&self, instance: &Arc<Instance>) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.insert(instance.subject.id().clone(), Arc::downgrade(instance));
        drop(loaded);
        if lock(&instance.mailbox).closed {
            self.leave(instance);
        }
    }

    fn leave(&self, instance: &Instance) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let this = |entered: &Weak<Instance>| std::ptr::eq(entered.as_ptr(), instance);
        if loaded.get(instance.subject.id()).is_some_and(this) {
            loaded.remove(instance.subject.id());
        }
    }

    /// Returns when no message is on its way, or waits anywhere, that only `revoked` had let pass: granting it again brings
    /// none of them back.
    pub(crate) fn settle(&self, revoked: &PluginPermission) {
        if revoked.name() != PERMISSION {
            return;
        }
        if !self.passing.settled(SETTLE_TIMEOUT) {
            tracing::warn!("a message is still on its way");
        }
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let loaded: Vec<_> = loaded.values().filter_map(Weak::upgrade).collect();
        for instance in loaded {
            instance.drop_undeliverable();
        }
    }

    fn find(&self, plugin: &PluginId) -> Option<Arc<Instance>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(plugin)?.upgrade()
    }
}

/// What waits for one helper, or the threads of it that wait for something: never both.
#[derive(Default)]
pub(in crate::host) struct Mailbox {
    closed: bool,
    messages: VecDeque<Message>,
    waits: Vec<Wait>,
}

struct Message {
    from: Arc<Subject>,
    bytes: Vec<u8>,
}

/// A thread of the plugin's that waits for a message.
struct Wait {
    id: ServiceCallId,
    until: Instant,
}

impl Mailbox {
    /// Takes a message in, if no more than `most` wait: the wait that it ends, if one does.
    fn put(&mut self, message: Message, most: usize) -> Result<Option<(Wait, Message)>, SendStatus> {
        let all = Bound { messages: most, bytes: MOST_BYTES };
        let of_sender = Bound { messages: most.div_ceil(PART_OF_ONE), bytes: MOST_BYTES / PART_OF_ONE };
        if self.closed {
            return Err(SendStatus::NoRecipient);
        }
        if !self.waits.is_empty() {
            return Ok(Some((self.waits.remove(0), message)));
        }
        let count = |same: &dyn Fn(&Message) -> bool| {
            let counted = self.messages.iter().filter(|message| same(message));
            counted.fold((0, 0_usize), |(n, bytes), m| (n + 1, bytes.saturating_add(m.bytes.len())))
        };
        let (of_all, of_one) = (count(&|_| true), count(&|other| Arc::ptr_eq(&other.from, &message.from)));
        let len = message.bytes.len();
        if all.is_passed_by(of_all.0, of_all.1, len) || of_sender.is_passed_by(of_one.0, of_one.1, len) {
            return Err(SendStatus::QueueFull);
        }
        self.messages.push_back(message);
        Ok(None)
    }
}

/// What a plugin's grants say of another: in words, whether it is yes or no.
fn judge(subject: &Subject, other: &PluginId) -> Result<String, String> {
    let Ok(scope) = Scope::name(other.as_str()) else { return Err("not granted".to_owned()) };
    subject.policy().read(|grants| match grants.judge(PERMISSION, &scope) {
        Verdict::Granted(grant) => Ok(format!("granted: {grant}")),
        Verdict::Denied(denial) => Err(format!("denied: {denial}")),
        Verdict::NotGranted => Err("not granted".to_owned()),
    })
}

fn tell(subject: &Subject, action: &'static str, other: &str, granted: bool, rule: String) {
    subject.publish_decision(Some(PERMISSION), granted, || EventKind::Access {
        permission: PERMISSION,
        action,
        object: other.to_owned(),
        resolved: None,
        granted,
        rule,
    });
}

fn denied(service: &str, permission: impl Into<String>) -> WireServiceError {
    WireServiceError::PermissionDenied { permission: permission.into(), service: service.to_owned() }
}

fn failed(message: impl Into<String>) -> WireServiceError {
    WireServiceError::Failed { message: message.into() }
}

impl Instance {
    /// Sends a message to another plugin: the service [`SEND`].
    pub(in crate::host) fn send_message(&self, payload: &[u8]) -> Reply {
        let addressed = messages::split_address(payload);
        let addressed = addressed.and_then(|(to, bytes)| Some((PluginId::new(to).ok()?, bytes)));
        let Some((to, bytes)) = addressed else { return Err(failed("no plugin's id and message")) };
        let _passing = self.subject.exchange().passing.begin();
        // First of all, so that a plugin which may not send there does not learn whether there is one.
        let own_rule = match judge(&self.subject, &to) {
            Ok(rule) => rule,
            Err(rule) => {
                tell(&self.subject, "send", to.as_str(), false, rule);
                return Err(denied(SEND, format!("{PERMISSION}:{to}")));
            }
        };
        let (status, rule) = match self.deliver(&to, bytes) {
            Ok(()) => (SendStatus::Taken, own_rule),
            Err(Undelivered::TooLarge { max }) => {
                tell(&self.subject, "send", to.as_str(), false, "too large".to_owned());
                let len = bytes.len();
                return Err(failed(format!("a message of {len} bytes, where at most {max} are allowed")));
            }
            Err(Undelivered::Refused(status, rule)) => (status, rule),
        };
        tell(&self.subject, "send", to.as_str(), status == SendStatus::Taken, rule);
        Ok(Bytes(vec![status.encode()]))
    }

    fn deliver(&self, to: &PluginId, bytes: &[u8]) -> Result<(), Undelivered> {
        let nobody = |rule: String| Undelivered::Refused(SendStatus::NoRecipient, rule);
        let recipient = self.subject.exchange().find(to);
        let recipient = recipient.ok_or_else(|| nobody("it is not loaded".to_owned()))?;
        let rule = match judge(&recipient.subject, self.subject.id()) {
            Ok(rule) => rule,
            Err(rule) => {
                let seen_from_here = format!("of the other plugin: {rule}");
                tell(&recipient.subject, "receive", self.subject.id().as_str(), false, rule);
                return Err(nobody(seen_from_here));
            }
        };
        let id_bytes = self.subject.id().as_str().len().saturating_add(1);
        let for_it = usize::try_from(recipient.max_message_bytes).unwrap_or(usize::MAX);
        let max = MAX_MESSAGE_BYTES.min(for_it.saturating_sub(id_bytes));
        if bytes.len() > max {
            return Err(Undelivered::TooLarge { max });
        }
        let message = Message { from: Arc::clone(&self.subject), bytes: bytes.to_vec() };
        let most = usize::try_from(recipient.subject.limits().max_queued_messages).unwrap_or(usize::MAX);
        let put = lock(&recipient.mailbox).put(message, most);
        match put {
            Ok(None) => Ok(()),
            Ok(Some((wait, message))) => {
                tell(&recipient.subject, "receive", self.subject.id().as_str(), true, rule);
                let reply = message.addressed();
                recipient.send(&ToHelper::ServiceReply { id: wait.id, reply });
                Ok(())
            }
            Err(status @ SendStatus::QueueFull) => {
                Err(Undelivered::Refused(status, "its queue is full".to_owned()))
            }
            Err(_) => Err(nobody("it has ended".to_owned())),
        }
    }

    /// Gives this plugin its next message: the service [`RECEIVE`]. `None` if that answers the call `id`, or will: whoever
    /// sends one, or the reactor when the time is up.
    pub(in crate::host) fn receive_message(&self, id: ServiceCallId, payload: &[u8]) -> Option<Reply> {
        let Some(wait) = messages::decode_wait(payload) else {
            return Some(Err(failed("no number of milliseconds")));
        };
        if !self.subject.holds_named(PERMISSION) {
            tell(&self.subject, "receive", "", false, "not granted".to_owned());
            return Some(Err(denied(RECEIVE, PERMISSION)));
        }
        loop {
            let _passing = self.subject.exchange().passing.begin();
            let mut mailbox = lock(&self.mailbox);
            let Some(message) = mailbox.messages.pop_front() else {
                if wait == Duration::ZERO {
                    return Some(Ok(Bytes(Vec::new())));
                }
                if mailbox.waits.len() >= MOST_WAITS {
                    return Some(Err(failed(format!("{MOST_WAITS} threads wait for messages already"))));
                }
                let until = Instant::now() + wait;
                mailbox.waits.push(Wait { id, until });
                drop(mailbox);
                if let Some(core) = self.core.upgrade() {
                    core.reactor.wait_until(self.id, until);
                }
                return None;
            };
            drop(mailbox);
            // Judged anew: one that is being revoked at this moment is not delivered.
            let (from, verdict) = (message.from.id(), self.judge_waiting(&message));
            let granted = verdict.is_ok();
            tell(&self.subject, "receive", from.as_str(), granted, verdict.unwrap_or_else(|rule| rule));
            if granted {
                self.send(&ToHelper::ServiceReply { id, reply: message.addressed() });
                return None;
            }
        }
    }

    /// What the grants as they are now say of a message that waits for this plugin: those of both sides.
    fn judge_waiting(&self, message: &Message) -> Result<String, String> {
        judge(&message.from, self.subject.id()).map_err(|rule| format!("of the other plugin: {rule}"))?;
        judge(&self.subject, message.from.id())
    }

    /// Drops what waits here and may not be delivered any more.
    fn drop_undeliverable(&self) {
        let mut dropped = Vec::new();
        lock(&self.mailbox).messages.retain(|message| match self.judge_waiting(message) {
            Ok(_) => true,
            Err(rule) => {
                dropped.push((Arc::clone(&message.from), rule));
                false
            }
        });
        for (from, rule) in dropped {
            tell(&self.subject, "receive", from.id().as_str(), false, rule);
        }
    }

    /// Answers the waits whose time is up. When the next one's is.
    pub(in crate::host) fn end_waits(&self, now: Instant) -> Option<Instant> {
        let mut mailbox = lock(&self.mailbox);
        let over: Vec<Wait> = mailbox.waits.extract_if(.., |wait| wait.until <= now).collect();
        let next = mailbox.waits.iter().map(|wait| wait.until).min();
        drop(mailbox);
        for wait in over {
            self.send(&ToHelper::ServiceReply { id: wait.id, reply: Ok(Bytes(Vec::new())) });
        }
        next
    }

    /// The helper has ended: nothing waits for it any more.
    pub(in crate::host) fn close_mailbox(&self) {
        let closed = Mailbox { closed: true, ..Mailbox::default() };
        let left = std::mem::replace(&mut *lock(&self.mailbox), closed);
        drop(left);
        self.subject.exchange().leave(self);
    }
}

impl Message {
    fn addressed(&self) -> Reply {
        messages::address(self.from.id().as_str(), &self.bytes).map(Bytes).ok_or_else(|| failed("no sender"))
    }
}

/// Why a message that may be sent was not taken.
enum Undelivered {
    TooLarge { max: usize },
    Refused(SendStatus, String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::broker::HeldFiles;
    use crate::host::entry::Entry;
    use crate::host::policy::{PluginPolicy, PolicyCell};
    use crate::shared::policy::{PERMISSION_PLUGIN, PERMISSION_UI};

    /// As many as the default has.
    const MOST: usize = 256;

    fn sender(id: &str) -> Arc<Subject> {
        let policy = PolicyCell::new(PluginPolicy::new());
        Arc::new(Subject::new(
            PluginId::new(id).unwrap(),
            policy,
            None,
            Arc::default(),
            Arc::default(),
            Arc::default(),
        ))
    }

    fn put(mailbox: &mut Mailbox, from: &Arc<Subject>, len: usize) -> Result<(), SendStatus> {
        mailbox.put(Message { from: Arc::clone(from), bytes: vec![0; len] }, MOST).map(drop)
    }

    #[test]
    fn a_queue_is_bounded_in_messages_and_in_bytes_for_each_sender_and_for_all() {
        for (len, of_one, of_all) in [(0, 64, 256), (MAX_MESSAGE_BYTES, 4, 16)] {
            let mut mailbox = Mailbox::default();
            let mut taken = 0;
            for sender in ["a", "b", "c", "d", "e"].map(sender) {
                let of_this = (0..=of_one).filter(|_| put(&mut mailbox, &sender, len).is_ok()).count();
                assert_eq!(of_this, of_one.min(of_all - taken));
                taken += of_this;
                assert_eq!(put(&mut mailbox, &sender, len), Err(SendStatus::QueueFull));
            }
            assert_eq!(taken, of_all);
        }
    }

    #[test]
    fn a_revoke_of_the_permission_waits_for_what_is_on_its_way_and_another_does_not() {
        let exchange = Arc::new(Exchange::default());
        let policy = PluginPolicy::new().permissions([PERMISSION_PLUGIN, PERMISSION_UI]);
        let id = PluginId::new("a").unwrap();
        let entry =
            Entry::hold(id, policy, None, None, Arc::default(), Arc::clone(&exchange), Arc::default())
                .unwrap();
        let passing = exchange.passing.begin();
        entry.revoke(&PERMISSION_UI, HeldFiles::End);
        std::thread::scope(|scope| {
            let revoke = scope.spawn(|| entry.revoke(&PERMISSION_PLUGIN, HeldFiles::End));
            while entry.subject().holds_named(PERMISSION) {
                std::thread::yield_now();
            }
            (0..1000).for_each(|_| std::thread::yield_now());
            assert!(!revoke.is_finished());
            drop(passing);
            assert!(revoke.join().unwrap());
        });
    }

    #[test]
    fn a_message_goes_to_the_wait_that_is_oldest_and_else_into_the_queue() {
        let mut mailbox = Mailbox::default();
        let until = Instant::now();
        mailbox.waits.extend([1, 2].map(|id| Wait { id: ServiceCallId(id), until }));
        let from = sender("a");
        for expected in [Some(1), Some(2), None] {
            let message = Message { from: Arc::clone(&from), bytes: Vec::new() };
            let ended = mailbox.put(message, MOST).expect("taken").map(|(wait, _)| wait.id.0);
            assert_eq!(ended, expected);
        }
        mailbox.closed = true;
        assert_eq!(put(&mut mailbox, &from, 0), Err(SendStatus::NoRecipient));
    }
}
