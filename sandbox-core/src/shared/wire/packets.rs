//! Packets with descriptors over the socket between host, launcher and zygote. Runs on both ends.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::shared::errno::from_rustix;
use crate::shared::wire::zygote::MAX_PACKET_BYTES;

/// The most descriptors that come with one packet.
const MAX_DESCRIPTORS: usize = 7;

/// Sends one message, with descriptors.
pub(crate) fn send<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_with(socket, message, descriptors, SendFlags::NOSIGNAL)
}

/// Sends one message unless it would have to wait: EAGAIN.
pub(crate) fn send_if_room<M: Serialize>(socket: BorrowedFd<'_>, message: &M) -> Result<(), Errno> {
    send_with(socket, message, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut buffer = [0; MAX_PACKET_BYTES];
    let packet = postcard::to_slice(message, &mut buffer).map_err(|_| Errno::EMSGSIZE)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::EMSGSIZE);
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(from_rustix(errno)),
        }
    }
}

/// Receives one message and its descriptors: all of them or, where this process has no room for them, none. `None` at the end.
pub(crate) fn receive<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<Option<(M, Vec<OwnedFd>)>, Errno> {
    let mut buffer = [0; MAX_PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let (got, cut) = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break (got.bytes, got.flags.contains(ReturnFlags::CTRUNC)),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(from_rustix(errno)),
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if cut {
        descriptors.clear();
    }
    if got == 0 {
        return Ok(None);
    }
    let packet = buffer.get(..got).unwrap_or_default();
    let message = postcard::from_bytes(packet).map_err(|_| Errno::EBADMSG)?;
    Ok(Some((message, descriptors)))
}
