//! Frames and records: the layout of the command connection, both ways.
//!
//! This file knows headers and limits and nothing of order, retention or replay: those are `session`. What a
//! record means is `ops`. All numbers are little-endian; nothing here may panic or allocate, whatever the bytes.
//!
//! ```text
//! frame  = FrameHeader (32 bytes) + payload
//! batch  = frame of kind Batch; payload = records, back to back
//! record = RecordHeader (8 bytes) + fixed part + tail, zero padded to a multiple of 8
//! ```

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::ProtocolError;

#[cfg(not(target_endian = "little"))]
compile_error!("the wire format is little-endian and is read in place");

/// What every frame starts with ("WF" in memory).
pub const FRAME_MAGIC: u16 = 0x4657;
/// Size of a [`FrameHeader`].
pub const FRAME_HEADER_BYTES: usize = 32;
/// Size of a [`RecordHeader`].
pub const RECORD_HEADER_BYTES: usize = 8;
/// The most that may follow a frame header.
pub const MAX_FRAME_PAYLOAD: usize = 16 << 20;
/// The most that a record's tail may have.
pub const MAX_TAIL_BYTES: usize = 8 << 20;
/// The most that a record's fixed part may have.
pub const MAX_FIXED_BYTES: usize = 64 << 10;
/// The most that a record may have, header and padding included.
pub const MAX_RECORD_BYTES: usize = RECORD_HEADER_BYTES + MAX_FIXED_BYTES + MAX_TAIL_BYTES;
/// The most text that a Close frame may carry.
pub const MAX_CLOSE_TEXT: usize = 4096;

/// [`FrameHeader::flags`]: the sender's window fills up; acknowledge without waiting for a reason to write.
pub const FLAG_ACK_NOW: u8 = 1;
const KNOWN_FLAGS: u8 = FLAG_ACK_NOW;

/// The header of a frame, as it lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FrameHeader {
    /// [`FRAME_MAGIC`].
    pub magic: u16,
    /// A [`FrameKind`].
    pub kind: u8,
    /// [`FLAG_ACK_NOW`] or 0.
    pub flags: u8,
    /// Batch: how many records follow. 0 otherwise.
    pub records: u32,
    /// Bytes of payload after this header.
    pub bytes: u32,
    /// 0.
    pub reserved: u32,
    /// Batch: its number, from 1. Ping and Pong: a number that the Pong gives back. 0 otherwise.
    pub seq: u64,
    /// The highest batch that the sender of this frame has fully applied.
    pub ack: u64,
}

/// The header of a record, as it lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RecordHeader {
    /// Which operation or event: a number of the op table.
    pub op: u16,
    /// Meaning given by the op.
    pub flags: u16,
    /// The whole record, this header and the padding included; a multiple of 8.
    pub bytes: u32,
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Records.
    Batch = 0,
    /// Nothing but its `ack` field.
    Ack = 1,
    /// The last frame: a reason code and text.
    Close = 2,
    /// Asks for a Pong with the same `seq`.
    Ping = 3,
    /// Answers a Ping.
    Pong = 4,
}

/// Why a session was closed; the first four bytes of a Close frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The program is done.
    Done,
    /// The other end broke the protocol; the text says how.
    Protocol,
    /// The server is being stopped.
    ShuttingDown,
    /// The worker process of the session died.
    WorkerDied,
    /// An operator or a policy ended the session.
    Evicted,
    /// The sender failed in a way that is no one else's fault.
    Internal,
    /// A reason that this version does not know.
    Other(u32),
}

impl CloseReason {
    /// The code on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::Protocol => 1,
            Self::ShuttingDown => 2,
            Self::WorkerDied => 3,
            Self::Evicted => 4,
            Self::Internal => 5,
            Self::Other(code) => code,
        }
    }

    /// The reason that a code stands for.
    pub fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Done,
            1 => Self::Protocol,
            2 => Self::ShuttingDown,
            3 => Self::WorkerDied,
            4 => Self::Evicted,
            5 => Self::Internal,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Protocol => f.write_str("protocol error"),
            Self::ShuttingDown => f.write_str("server stopping"),
            Self::WorkerDied => f.write_str("worker died"),
            Self::Evicted => f.write_str("evicted"),
            Self::Internal => f.write_str("internal error"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

/// A frame header that has been found sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// What the frame is for.
    pub kind: FrameKind,
    /// The sender wants to be acknowledged at once.
    pub ack_now: bool,
    /// Batch: number of records.
    pub records: u32,
    /// Bytes of payload, within the limit of its kind.
    pub bytes: usize,
    /// See [`FrameHeader::seq`].
    pub seq: u64,
    /// See [`FrameHeader::ack`].
    pub ack: u64,
}

impl Frame {
    /// Reads and judges the header at the start of `bytes`; `None` while fewer than 32 bytes are there.
    ///
    /// # Errors
    /// A header that no sound peer sends. A wrong magic is noticed from the second byte on.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ProtocolError> {
        if let Ok((magic, _)) = u16::read_from_prefix(bytes)
            && magic != FRAME_MAGIC
        {
            return Err(ProtocolError::BadFrameMagic { expected: FRAME_MAGIC, found: magic });
        }
        let Ok((header, _)) = FrameHeader::read_from_prefix(bytes) else { return Ok(None) };
        header.judge().map(Some)
    }
}

impl FrameHeader {
    /// A header without payload.
    pub fn bare(kind: FrameKind, seq: u64, ack: u64) -> Self {
        Self { magic: FRAME_MAGIC, kind: kind as u8, flags: 0, records: 0, bytes: 0, reserved: 0, seq, ack }
    }

    /// Where `ack` lies, for refreshing it in a sealed batch.
    pub(crate) const ACK_OFFSET: usize = 24;

    fn judge(self) -> Result<Frame, ProtocolError> {
        let kind = match self.kind {
            0 => FrameKind::Batch,
            1 => FrameKind::Ack,
            2 => FrameKind::Close,
            3 => FrameKind::Ping,
            4 => FrameKind::Pong,
            kind => return Err(ProtocolError::UnknownFrameKind { kind }),
        };
        if self.flags & !KNOWN_FLAGS != 0 {
            let bits = u64::from(self.flags & !KNOWN_FLAGS);
            return Err(ProtocolError::UndefinedBits { what: "a frame's flags", bits });
        }
        if self.reserved != 0 {
            let bits = u64::from(self.reserved);
            return Err(ProtocolError::UndefinedBits { what: "a frame's reserved field", bits });
        }
        let (what, least, most) = match kind {
            FrameKind::Batch => ("a batch", RECORD_HEADER_BYTES, MAX_FRAME_PAYLOAD),
            FrameKind::Close => ("a Close frame", 4, 4 + MAX_CLOSE_TEXT),
            FrameKind::Ack | FrameKind::Ping | FrameKind::Pong => ("a frame without payload", 0, 0),
        };
        // Lossless: the crate is for 64-bit hosts, and a u32 fits in usize there.
        let bytes = self.bytes as usize;
        if bytes > most {
            return Err(ProtocolError::TooLong { what, bytes: self.bytes.into(), limit: most as u64 });
        }
        if bytes < least {
            return Err(ProtocolError::TooShort { what, bytes: self.bytes.into(), least: least as u64 });
        }
        if kind == FrameKind::Batch {
            if !bytes.is_multiple_of(8) {
                return Err(ProtocolError::Misaligned { what, bytes: self.bytes.into() });
            }
            let least =
                (u64::from(self.records) * RECORD_HEADER_BYTES as u64).max(RECORD_HEADER_BYTES as u64);
            if u64::from(self.bytes) < least {
                return Err(ProtocolError::TooShort { what, bytes: self.bytes.into(), least });
            }
            if self.records == 0 {
                return Err(ProtocolError::BatchLeftover { seq: self.seq, records: 0, left: bytes });
            }
        } else if self.records != 0 {
            let bits = u64::from(self.records);
            return Err(ProtocolError::UndefinedBits {
                what: "the record count of a frame without records",
                bits,
            });
        }
        Ok(Frame {
            kind,
            ack_now: self.flags & FLAG_ACK_NOW != 0,
            records: self.records,
            bytes,
            seq: self.seq,
            ack: self.ack,
        })
    }
}

/// One record of a batch, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The record's number in its direction, from 1: the name of the operation.
    pub number: u64,
    /// Which operation or event.
    pub op: u16,
    /// Meaning given by the op.
    pub flags: u16,
    /// Fixed part, tail, and up to seven zero bytes of padding.
    pub body: &'a [u8],
}

/// Splits the record at `offset` off a batch's payload: its header, its body, and where the next one starts.
///
/// # Errors
/// A record that is shorter than its header, not a multiple of 8, beyond the limit, or beyond its batch.
#[inline]
pub fn record_at(
    payload: &[u8],
    offset: usize,
    seq: u64,
    index: u32,
) -> Result<(RecordHeader, &[u8], usize), ProtocolError> {
    let rest = payload.get(offset..).unwrap_or_default();
    let Ok((header, _)) = RecordHeader::read_from_prefix(rest) else {
        let least = RECORD_HEADER_BYTES as u64;
        return Err(ProtocolError::TooShort { what: "the rest of a batch", bytes: rest.len() as u64, least });
    };
    let bytes = header.bytes as usize;
    if bytes < RECORD_HEADER_BYTES {
        let least = RECORD_HEADER_BYTES as u64;
        return Err(ProtocolError::TooShort { what: "a record", bytes: header.bytes.into(), least });
    }
    if !bytes.is_multiple_of(8) {
        return Err(ProtocolError::Misaligned { what: "a record", bytes: header.bytes.into() });
    }
    if bytes > MAX_RECORD_BYTES {
        let limit = MAX_RECORD_BYTES as u64;
        return Err(ProtocolError::TooLong { what: "a record", bytes: header.bytes.into(), limit });
    }
    let Some(body) = rest.get(RECORD_HEADER_BYTES..bytes) else {
        return Err(ProtocolError::RecordOverrun { seq, index, bytes: header.bytes, left: rest.len() });
    };
    Ok((header, body, offset + bytes))
}

/// A whole Close frame. Text beyond [`MAX_CLOSE_TEXT`] is cut at a character's border.
pub fn close_frame(reason: CloseReason, text: &str, ack: u64) -> Vec<u8> {
    let most = (0..=text.len().min(MAX_CLOSE_TEXT)).rev().find(|end| text.is_char_boundary(*end));
    let text = most.and_then(|end| text.get(..end)).unwrap_or_default();
    let mut header = FrameHeader::bare(FrameKind::Close, 0, ack);
    // At most 4 + MAX_CLOSE_TEXT.
    header.bytes = u32::try_from(4 + text.len()).unwrap_or(4);
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + 4 + text.len());
    frame.extend_from_slice(header.as_bytes());
    frame.extend_from_slice(&reason.code().to_le_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The reason and text in a Close frame's payload. Text that is not UTF-8 is shown as well as it can be.
pub(crate) fn read_close(payload: &[u8]) -> (CloseReason, String) {
    match u32::read_from_prefix(payload) {
        Ok((code, text)) => (CloseReason::from_code(code), String::from_utf8_lossy(text).into_owned()),
        Err(_) => (CloseReason::Internal, String::new()),
    }
}

const _: () = {
    assert!(size_of::<FrameHeader>() == FRAME_HEADER_BYTES);
    assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES);
    assert!(std::mem::offset_of!(FrameHeader, ack) == FrameHeader::ACK_OFFSET);
    assert!(MAX_RECORD_BYTES <= MAX_FRAME_PAYLOAD);
    assert!(MAX_RECORD_BYTES.is_multiple_of(8));
    assert!(size_of::<usize>() >= 8);
};
