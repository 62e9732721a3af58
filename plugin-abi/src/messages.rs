//! Messages between the plugins of one host, which pass through it: what a vendor calls, and the bytes that it becomes.
//!
//! Runs in the helper, compiled into the plugin; the host reads and writes the same bytes. Owns that encoding and its bounds.
//! Never says who sent a message: the host does, which knows.
//!
//! A host offers two services of its own, whatever else it offers. A plugin in another language calls them by these bytes:
//!
//! | service | payload | reply |
//! | --- | --- | --- |
//! | `plugin.send` | an addressed message, to whom | one byte: 0 taken, 1 the queue is full, 2 nobody takes it |
//! | `plugin.receive` | how long to wait: milliseconds, a little-endian `u32` | an addressed message, from whom; empty: none came |
//!
//! An addressed message is one byte with the length of a plugin's id, the id, and the message: all that is left.

use std::time::Duration;

use crate::{Host, ServiceError};

/// The service that takes a message.
pub const SEND: &str = "plugin.send";

/// The service that gives the next one.
pub const RECEIVE: &str = "plugin.receive";

/// The longest message. A limit of the host's on what a plugin sends or is sent may be lower.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// The longest wait for a message: a longer one ends after this.
pub const MAX_RECEIVE_WAIT: Duration = Duration::from_secs(60);

/// The longest id of a plugin.
const MAX_ID_BYTES: usize = 64;

/// What became of a message, as the host says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendStatus {
    /// It waits for the other plugin, or is on its way to it.
    Taken,
    /// The other plugin has too many unread.
    QueueFull,
    /// No plugin of this name takes messages from this one.
    NoRecipient,
}

impl SendStatus {
    /// The reply of [`SEND`] that says so.
    pub const fn encode(self) -> u8 {
        match self {
            Self::Taken => 0,
            Self::QueueFull => 1,
            Self::NoRecipient => 2,
        }
    }

    /// What a reply of [`SEND`] says; `None` if it is none.
    pub const fn decode(reply: &[u8]) -> Option<Self> {
        match reply {
            [0] => Some(Self::Taken),
            [1] => Some(Self::QueueFull),
            [2] => Some(Self::NoRecipient),
            _ => None,
        }
    }
}

/// A message with the id of a plugin before it. `None` if that cannot be an id.
pub fn address(plugin: &str, message: &[u8]) -> Option<Vec<u8>> {
    let len =
        u8::try_from(plugin.len()).ok().filter(|len| (1..=MAX_ID_BYTES).contains(&usize::from(*len)))?;
    Some([&[len], plugin.as_bytes(), message].concat())
}

/// The id and the message that `bytes` are made of; `None` if they are not.
pub fn split_address(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (id, message) = rest.split_at_checked(usize::from(*len))?;
    let id = str::from_utf8(id).ok().filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()))?;
    Some((id, message))
}

/// A wait as the payload of [`RECEIVE`].
pub fn encode_wait(wait: Duration) -> [u8; 4] {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).to_le_bytes()
}

/// The wait that a payload of [`RECEIVE`] asks for, at most [`MAX_RECEIVE_WAIT`]; `None` if it asks for none.
pub fn decode_wait(payload: &[u8]) -> Option<Duration> {
    let millis = u32::from_le_bytes(payload.try_into().ok()?);
    Some(Duration::from_millis(millis.into()).min(MAX_RECEIVE_WAIT))
}

/// A message from another plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The id of the plugin that sent it, as the host knows it: no plugin can send under another's.
    pub from: String,
    /// What it sent. As little to be trusted as that plugin is.
    pub bytes: Vec<u8>,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other plugin has too many unread: try again later.
    #[error("plugin {to} has too many messages that it has not read")]
    QueueFull {
        /// For whom it was.
        to: String,
    },
    /// There is no such plugin, it is not loaded, or it does not take messages from this one.
    #[error("no plugin {to} takes messages from this one")]
    NoRecipient {
        /// For whom it was.
        to: String,
    },
    /// The host did not take it: most likely this plugin may not send there.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl Host {
    /// Sends `message` to the plugin `to`. Never waits for it.
    ///
    /// This plugin needs the permission `plugin` for `to`, the other one for this one. A message waits until the other
    /// plugin receives it, for as long as it stays loaded and both hold these permissions.
    ///
    /// ```
    /// use std::time::Duration;
    /// use plugin_abi::{Host, PluginError};
    /// fn ask(host: &Host) -> Result<Vec<u8>, PluginError> {
    ///     host.send_message("spelling", b"teh")?;
    ///     match host.receive_message(Duration::from_secs(2))? {
    ///         Some(answer) if answer.from == "spelling" => Ok(answer.bytes),
    ///         _ => Err("no answer".into()),
    ///     }
    /// }
    /// # let host = Host::new(|service: &str, _: &[u8]| match service {
    /// #     "plugin.send" => Ok(vec![0]),
    /// #     _ => Ok(plugin_abi::messages::address("spelling", b"the").unwrap()),
    /// # });
    /// # assert_eq!(ask(&host).unwrap(), b"the");
    /// ```
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_message(&self, to: &str, message: &[u8]) -> Result<(), SendError> {
        let payload = address(to, message).ok_or_else(|| SendError::NoRecipient { to: to.to_owned() })?;
        match SendStatus::decode(&self.call(SEND, &payload)?) {
            Some(SendStatus::Taken) => Ok(()),
            Some(SendStatus::QueueFull) => Err(SendError::QueueFull { to: to.to_owned() }),
            Some(SendStatus::NoRecipient) => Err(SendError::NoRecipient { to: to.to_owned() }),
            None => Err(ServiceError::failed("a reply that is none").into()),
        }
    }

    /// The next message for this plugin, from whichever it is; `None` if none comes within `timeout`, or within
    /// [`MAX_RECEIVE_WAIT`].
    ///
    /// May be called from any thread, by at most four at once. In a call of the host's, the time counts as the plugin's own:
    /// a wait that outlasts that call's deadline ends the plugin. To wait at leisure, wait on a thread of the plugin's.
    ///
    /// # Errors
    /// [`ServiceError::PermissionDenied`] without the permission `plugin`.
    pub fn receive_message(&self, timeout: Duration) -> Result<Option<Message>, ServiceError> {
        let reply = self.call(RECEIVE, &encode_wait(timeout))?;
        if reply.is_empty() {
            return Ok(None);
        }
        let (from, bytes) =
            split_address(&reply).ok_or_else(|| ServiceError::failed("a message that is none"))?;
        Ok(Some(Message { from: from.to_owned(), bytes: bytes.to_vec() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_apart_as_it_was_put_together() {
        for (id, message) in [("a", &b""[..]), ("image-thumbnail", b"\0\xff"), (&"x".repeat(64), b"m")] {
            let bytes = address(id, message).expect("an id");
            assert_eq!(split_address(&bytes), Some((id, message)));
        }
        for no_id in ["", &"x".repeat(65), &"x".repeat(300)] {
            assert_eq!(address(no_id, b"m"), None);
        }
    }

    #[test]
    fn forged_addresses_are_none() {
        let long = [&[65][..], &[b'x'; 65]].concat();
        for forged in [&b""[..], b"\0", b"\0abc", b"\x05abcd", b"\xffabc", b"\x02\xff\xfe", &long] {
            assert_eq!(split_address(forged), None, "{forged:?}");
        }
    }

    #[test]
    fn a_wait_is_bounded_and_nothing_else_is_one() {
        for (wait, heard) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::from_millis(1500), Duration::from_millis(1500)),
            (Duration::MAX, MAX_RECEIVE_WAIT),
        ] {
            assert_eq!(decode_wait(&encode_wait(wait)), Some(heard));
        }
        for none in [&b""[..], b"123", b"12345"] {
            assert_eq!(decode_wait(none), None);
        }
    }

    #[test]
    fn what_the_host_says_is_what_the_vendor_gets() {
        let answering = |reply: &'static [u8]| Host::new(move |_: &str, _: &[u8]| Ok(reply.to_vec()));
        let to = || "other".to_owned();
        assert_eq!(answering(b"\0").send_message("other", b"m"), Ok(()));
        assert_eq!(answering(b"\x01").send_message("other", b"m"), Err(SendError::QueueFull { to: to() }));
        assert_eq!(answering(b"\x02").send_message("other", b"m"), Err(SendError::NoRecipient { to: to() }));
        for nonsense in [&b""[..], b"\x03", b"\0\0"] {
            let error = answering(nonsense).send_message("other", b"m");
            assert!(matches!(error, Err(SendError::Service(_))), "{error:?}");
        }
        let no_wait = Duration::ZERO;
        assert_eq!(answering(b"").receive_message(no_wait), Ok(None));
        let message = Message { from: "me".to_owned(), bytes: b"hi".to_vec() };
        assert_eq!(answering(b"\x02mehi").receive_message(no_wait), Ok(Some(message)));
        answering(b"\x09me").receive_message(no_wait).expect_err("no message");
    }
}
