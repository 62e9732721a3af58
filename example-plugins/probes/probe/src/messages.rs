//! Messages to and from other plugins.

use std::io;
use std::time::Duration;

use plugin_abi::{Host, Message, SendError, ServiceError};

use crate::{Attempt, number, split_line, split_space, text};

fn say(answer: Result<(), SendError>) -> String {
    match answer {
        Ok(()) => "taken".to_owned(),
        Err(SendError::QueueFull { .. }) => "full".to_owned(),
        Err(SendError::NoRecipient { .. }) => "nobody".to_owned(),
        Err(SendError::Service(ServiceError::PermissionDenied { permission, service })) => {
            format!("denied {permission} {service}")
        }
        Err(other) => format!("failed {other}"),
    }
}

fn show(answer: Result<Option<Message>, ServiceError>) -> Vec<u8> {
    match answer {
        Ok(None) => b"none".to_vec(),
        Ok(Some(Message { from, bytes, .. })) => [from.as_bytes(), b": ", &bytes].concat(),
        Err(error) => error.to_string().into_bytes(),
    }
}

/// A plugin's id, a newline, a message.
pub(crate) fn send(host: &Host, payload: &[u8]) -> Attempt {
    let (to, message) = split_line(payload);
    Ok(say(host.send_message(text(to)?, message)).into_bytes())
}

/// `COUNT BYTES`, a newline and a plugin's id: sends so many of so many bytes. Answers how many were taken, and what the last
/// one came to.
pub(crate) fn send_many(host: &Host, payload: &[u8]) -> Attempt {
    let (head, to) = split_line(payload);
    let ((count, bytes), to) = (split_space(head)?, text(to)?);
    let message = vec![b'm'; bytes];
    let (mut taken, mut last) = (0, String::new());
    for _ in 0..count {
        last = say(host.send_message(to, &message));
        taken += usize::from(last == "taken");
    }
    Ok(format!("{taken} {last}").into_bytes())
}

/// Waits for a message for so many milliseconds.
pub(crate) fn receive(host: &Host, payload: &[u8]) -> Attempt {
    Ok(show(host.receive_message(Duration::from_millis(number(payload)? as u64))))
}

/// The same, on another thread.
pub(crate) fn receive_from_thread(host: &Host, payload: &[u8]) -> Attempt {
    let (host, payload) = (host.clone(), payload.to_vec());
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(move || receive(&host, &payload))?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Takes every message that is there. Answers how many there were.
pub(crate) fn receive_all(host: &Host) -> Attempt {
    let mut count = 0;
    while let Ok(Some(_)) = host.receive_message(Duration::ZERO) {
        count += 1;
    }
    Ok(count.to_string().into_bytes())
}
