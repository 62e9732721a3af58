//! A frame: the length of what follows as a little-endian `u32`, then that many bytes of postcard.
//!
//! Runs on both ends of a pipe. Owns the bound on a frame, which is checked before anything is allocated.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a message may take beside its payload: names, error texts, the envelope.
pub(crate) const ENVELOPE_BYTES: usize = 64 << 10;

/// Bytes that cannot be a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {len} bytes, where at most {max} are allowed")]
    TooLong { len: usize, max: usize },
    #[error("a frame of {len} bytes that is no message")]
    Malformed { len: usize, field: &'static str },
}

impl FrameError {
    /// The part of the frame that is wrong.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "length",
            Self::Malformed { field, .. } => field,
        }
    }
}

/// One message as the bytes of a frame.
pub(crate) fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    // Measured first: growing by doubling would copy a large message several times over.
    let malformed = |_| FrameError::Malformed { len: 0, field: "body" };
    let mut frame = Vec::with_capacity(
        postcard::experimental::serialized_size(message).map_err(malformed)?.saturating_add(4),
    );
    frame.extend([0; 4]);
    let frame = postcard::to_extend(message, frame).map_err(malformed)?;
    let len = frame.len().saturating_sub(4);
    let head = u32::try_from(len).map_err(|_| FrameError::TooLong { len, max: u32::MAX as usize })?;
    let mut frame = frame;
    if let Some(place) = frame.first_chunk_mut::<4>() {
        *place = head.to_le_bytes();
    }
    Ok(frame)
}

/// One message out of a frame's body; nothing may be left over.
pub(crate) fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    match postcard::take_from_bytes::<M>(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(FrameError::Malformed { len: body.len(), field: "length" }),
        Err(error) => Err(FrameError::Malformed { len: body.len(), field: field_of(&error) }),
    }
}

/// The part of a body that postcard stopped at.
fn field_of(error: &postcard::Error) -> &'static str {
    use postcard::Error as E;
    match error {
        E::DeserializeUnexpectedEnd => "length",
        E::SerdeDeCustom => "kind", // the one custom error of derived decoders: no such variant
        E::DeserializeBadUtf8 | E::DeserializeBadChar => "text",
        E::DeserializeBadVarint => "number",
        E::DeserializeBadBool | E::DeserializeBadOption => "flag",
        _ => "body",
    }
}

/// Reads one frame's body from a stream that blocks. `None` at the end of the stream.
pub(crate) fn read_blocking(stream: &mut impl Read, max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    match stream.read(&mut head)? {
        0 => return Ok(None),
        4 => {}
        n => stream.read_exact(head.get_mut(n..).unwrap_or_default())?,
    }
    let len = u32::from_le_bytes(head) as usize;
    if len > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, FrameError::TooLong { len, max }));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

/// Puts frames together from whatever pieces a pipe gives.
#[derive(Debug)]
pub(crate) struct Assembler {
    head: Vec<u8>,
    body: Vec<u8>,
    want: Option<usize>,
    max: usize,
}

impl Assembler {
    /// Refuses any frame of more than `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { head: Vec::with_capacity(4), body: Vec::new(), want: None, max }
    }

    /// Takes a piece, and hands each frame's body that it completes to `sink`, until `sink` says false.
    pub(crate) fn push(
        &mut self,
        mut piece: &[u8],
        mut sink: impl FnMut(Vec<u8>) -> bool,
    ) -> Result<(), FrameError> {
        loop {
            let want = match self.want {
                Some(want) => want,
                None => {
                    let (head, rest) = piece.split_at((4 - self.head.len()).min(piece.len()));
                    self.head.extend_from_slice(head);
                    piece = rest;
                    let Some(head) = self.head.first_chunk::<4>() else { return Ok(()) };
                    let len = u32::from_le_bytes(*head) as usize;
                    if len > self.max {
                        return Err(FrameError::TooLong { len, max: self.max });
                    }
                    self.want = Some(len);
                    len
                }
            };
            // The body grows with what has really come, never at once to what a length merely claims.
            let (body, rest) = piece.split_at((want - self.body.len()).min(piece.len()));
            self.body.extend_from_slice(body);
            piece = rest;
            if self.body.len() < want {
                return Ok(());
            }
            self.want = None;
            self.head.clear();
            if !sink(std::mem::take(&mut self.body)) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&[u8]], max: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut assembler = Assembler::new(max);
        let mut out = Vec::new();
        for piece in pieces {
            assembler.push(piece, |body| {
                out.push(body);
                true
            })?;
        }
        Ok(out)
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let mut stream = encode(&"hello").unwrap();
        stream.extend(encode(&"").unwrap());
        stream.extend(encode(&"world").unwrap());
        for cut in 1..stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(cut).collect();
            let bodies = frames(&pieces, 100).unwrap();
            let texts: Vec<String> = bodies.iter().map(|body| decode(body).unwrap()).collect();
            assert_eq!(texts, ["hello", "", "world"], "cut into {cut}");
        }
    }

    #[test]
    fn an_impossible_length_is_refused_before_its_bytes_come() {
        for len in [101u32, 1 << 31, u32::MAX] {
            let refused = frames(&[&len.to_le_bytes()], 100).unwrap_err();
            assert_eq!(refused, FrameError::TooLong { len: len as usize, max: 100 });
        }
        assert!(frames(&[&100u32.to_le_bytes()], 100).unwrap().is_empty());
    }

    #[test]
    fn bytes_left_over_make_a_frame_malformed() {
        let mut body = postcard::to_allocvec(&7u8).unwrap();
        assert_eq!(decode::<u8>(&body), Ok(7));
        body.push(0);
        assert_eq!(decode::<u8>(&body), Err(FrameError::Malformed { len: 2, field: "length" }));
        assert_eq!(decode::<u8>(&[]), Err(FrameError::Malformed { len: 0, field: "length" }));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut assembler = Assembler::new(1 << 28);
        assembler.push(&(1u32 << 28).to_le_bytes(), |_| true).unwrap();
        assert!(assembler.body.capacity() < 1 << 20);
    }
}
