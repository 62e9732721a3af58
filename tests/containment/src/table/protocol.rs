//! Bytes that the host reads: frames of every kind, put wrong in every way.
//!
//! Runs in a host. Without the sandbox there is nobody who reads them: the control is the same way of writing, with a frame
//! that is as it should be.

use std::time::Duration;

use sandbox_core::{App, ResourceLimits};

use crate::Control::Proper;
use crate::Expected::{ChannelClosed, Deadline, Protocol};
use crate::row::{NOTHING, call};
use crate::{Control, Expected, HeldBy, Row};

fn frame(body: &[u8]) -> Vec<u8> {
    // No frame of this table's is long.
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&len.to_le_bytes(), body].concat()
}

fn hurried(limits: ResourceLimits) -> ResourceLimits {
    limits.call_timeout(Duration::from_millis(300))
}

fn service() -> App {
    App::new().service("service", |_| Ok(b"reply".to_vec()))
}

/// The same way of writing to the channel, by which a service is called and answers.
fn by_hand() -> Control {
    Proper(vec![call("call_unread", "1 0\nservice")])
}

fn sends(name: &'static str, bytes: impl AsRef<[u8]>, expected: Expected) -> Row {
    Row::new(name, "write_channel", bytes, expected, by_hand())
        .held_by(&[HeldBy::Host])
        .under(&[NOTHING])
        .app(service)
}

/// So much of a frame, and no more.
fn begins(name: &'static str, bytes: impl AsRef<[u8]>) -> Row {
    sends(name, bytes, Deadline).limits(hurried)
}

fn framed(name: &'static str, body: &[u8]) -> Row {
    sends(name, frame(body), Protocol(""))
}

fn random() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..4096)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// A proper answer, so often, to the call of this number, of which the first has 1.
fn answers(name: &'static str, number: u8, times: usize) -> Row {
    let body = [&[4, number, 0, 3][..], b"ok "].concat();
    sends(name, frame(&body).repeat(times), Protocol("a reply that nobody waits for"))
}

pub(super) fn rows() -> Vec<Row> {
    // What a helper can say, by number: 0 a report, 1 loaded, 2 activated, 3 deactivated, 4 returned, 5 a service's call,
    // 6 the answer to a ping.
    const OVERLONG: [u8; 11] = [0xff; 11];
    vec![
        sends("sends random bytes", random(), Protocol("")),
        sends("sends the largest length there is", u32::MAX.to_le_bytes(), Protocol("")),
        begins("sends a length and nothing more", 1000_u32.to_le_bytes()),
        begins("sends half a length", [1, 0]),
        begins("sends a frame but for its last byte", &frame(&[5, 1, 0, 1, b'x', 0])[..9]),
        framed("sends an empty frame", &[]),
        framed("sends a frame of rubbish", &[0xff; 16]),
        framed("sends random bytes in a frame", &random()),
        framed("sends a frame of a kind that there is not", &[7, 0, 0]),
        framed("sends a kind that takes more bytes than a number", &OVERLONG),
        framed("sends a report cut short", &[0]),
        framed("sends that it is loaded, cut short", &[1]),
        framed("sends that it is active, cut short", &[2]),
        framed("sends that it is not active, cut short", &[3]),
        framed("sends an answer cut short", &[4]),
        framed("sends a service's call cut short", &[5]),
        framed("reports a second time", &[0; 64]),
        framed("says again that it is loaded", &[1, 0]),
        framed("says again that it is active", &[2, 0]),
        framed("says that it is not active, unasked", &[3, 0]),
        framed("says that it was not loaded after all", &[1, 1, 1]),
        framed("answers what nobody asked", &[4, 0xff, 0x7f, 0, 0]),
        framed(
            "answers with the largest number there is",
            &[4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0],
        ),
        answers("answers what is yet to be asked", 2, 1),
        answers("answers once more what it has answered", 1, 1).after("echo", "once"),
        // The first is the call's, as any answer is that the plugin gives. Whatever is called next ends for the second.
        answers("answers twice what it is asked", 1, 2).then(call("echo", "more")),
        framed("answers a ping that nobody sent", &[6, 1]),
        framed("answers a ping, cut short", &[6]),
        framed("answers a ping, with more behind it", &[6, 1, 1]),
        framed("answers neither well nor badly", &[4, 1, 7]),
        framed("answers with bytes that it does not send", &[4, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        framed("fails in a way that there is not", &[4, 1, 1, 99, 0]),
        framed("fails with a text that it does not send", &[4, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        framed("fails with a text that is none", &[4, 1, 1, 0, 2, 0xc3, 0x28]),
        framed("calls a service with an endless name", &[5, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        framed("calls a service with a name that is no text", &[5, 1, 0, 2, 0xc3, 0x28, 0]),
        framed("calls a service with a truth that is neither", &[5, 1, 7, 1, b'x', 0]),
        framed("calls a service with bytes that it does not send", &[5, 1, 0, 1, b'x', 0xff, 0xff, 0x7f]),
        framed("says more than the frame is about", &[5, 1, 0, 1, b'x', 0, 9, 9, 9]),
        sends(
            "sends two frames, of which one is proper",
            [frame(&[5, 1, 0, 1, b'x', 0]), frame(&[9])].concat(),
            Protocol(""),
        ),
        Row::new("closes its channel", "close_channel", "", ChannelClosed, by_hand())
            .app(service)
            .held_by(&[HeldBy::Host]),
    ]
}
