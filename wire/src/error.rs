//! What can go wrong in the protocol, and who is to blame.
//!
//! Every variant names the culprit's act, carries the numbers involved, and reads as one clear line. Nothing
//! here is about CUDA: a driver's refusal travels as an ordinary record. See `frame` and `hello` for the
//! layouts that these errors judge, and `session` for the states in which they arise.

use crate::frame::CloseReason;
use crate::hello::RefusedReason;

/// Who has to change for the error not to happen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Culprit {
    /// The other end broke the protocol: a defect there, or something that is not Fusewire at all.
    Peer,
    /// Both ends are right by their own lights and do not fit together: another version, another policy.
    Incompatible,
    /// The code that uses this crate broke its contract.
    Caller,
    /// The connection or the other machine is gone or silent.
    Link,
    /// The other end ended the session on purpose and said why.
    Closed,
}

/// A reason for which a session ends, a connection is refused, or a call is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    // --- the peer misbehaved -------------------------------------------------------------------------
    /// The stream does not start with a frame where one is due.
    #[error("the peer sent {found:#06x} where a frame starts with {expected:#06x}; is it a Fusewire peer?")]
    BadFrameMagic {
        /// What frames start with.
        expected: u16,
        /// What was there.
        found: u16,
    },
    /// A frame kind that this version does not have.
    #[error("the peer sent a frame of unknown kind {kind}")]
    UnknownFrameKind {
        /// The kind byte.
        kind: u8,
    },
    /// Flag bits or reserved fields that no agreed feature defines.
    #[error("the peer set undefined bits {bits:#x} in {what}")]
    UndefinedBits {
        /// Which field.
        what: &'static str,
        /// The bits that are not defined.
        bits: u64,
    },
    /// A length beyond what the protocol allows.
    #[error("the peer announced {what} of {bytes} bytes; the limit is {limit}")]
    TooLong {
        /// What the length is of.
        what: &'static str,
        /// The announced length.
        bytes: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// A length that cannot hold what it must.
    #[error("the peer announced {what} of {bytes} bytes; at least {least} are needed")]
    TooShort {
        /// What the length is of.
        what: &'static str,
        /// The announced length.
        bytes: u64,
        /// The least that is needed.
        least: u64,
    },
    /// A length that is not a multiple of eight.
    #[error("the peer announced {what} of {bytes} bytes, which is not a multiple of 8")]
    Misaligned {
        /// What the length is of.
        what: &'static str,
        /// The announced length.
        bytes: u64,
    },
    /// A record that runs past the end of its batch.
    #[error("record {index} of batch {seq} announces {bytes} bytes, but {left} are left in the batch")]
    RecordOverrun {
        /// The batch.
        seq: u64,
        /// Which record of the batch, from 0.
        index: u32,
        /// The record's announced length.
        bytes: u32,
        /// What was left of the batch.
        left: usize,
    },
    /// A batch whose records do not fill it exactly.
    #[error("batch {seq} announces {records} records, and {left} bytes are left over after them")]
    BatchLeftover {
        /// The batch.
        seq: u64,
        /// How many records the header announced.
        records: u32,
        /// The bytes that belong to none.
        left: usize,
    },
    /// A batch number that is not the next one.
    #[error("the peer sent batch {found} where {expected} is due: batches were lost")]
    SequenceGap {
        /// The batch that is due.
        expected: u64,
        /// The batch that came.
        found: u64,
    },
    /// An acknowledgement of what was never sent.
    #[error("the peer acknowledged batch {acked}; only {sent} were sent")]
    AckAhead {
        /// What it acknowledged.
        acked: u64,
        /// The last batch that was handed to the link.
        sent: u64,
    },
    /// A resuming peer that has forgotten what it had acknowledged.
    #[error("the peer resumes after batch {resume}, but had acknowledged {acked}: it lost its state")]
    ResumeBehind {
        /// Where it wants to resume.
        resume: u64,
        /// What it had acknowledged before.
        acked: u64,
    },
    /// Held-back events grew beyond what any honest peer has outstanding.
    #[error("the peer sent {bytes} bytes behind a barrier that it does not fulfil; the limit is {limit}")]
    HeldTooMuch {
        /// The bytes held.
        bytes: usize,
        /// The most that is held.
        limit: usize,
    },
    /// A bulk chunk that had come before.
    #[error("the peer sent chunk {chunk} a second time")]
    ChunkTwice {
        /// The chunk.
        chunk: u64,
    },
    /// A resuming peer that says it holds what it cannot hold.
    #[error("the peer resumes at chunk {held}; between {least} and {most} is possible")]
    BadResume {
        /// Chunks below this it holds, as it says.
        held: u64,
        /// Chunks below this are in use, or were.
        least: u64,
        /// Chunks below this were sent.
        most: u64,
    },
    /// A chunk for which there was no credit.
    #[error("the peer sent chunk {chunk}, but had credit only below {credit}")]
    CreditExceeded {
        /// The chunk.
        chunk: u64,
        /// The credit at that time.
        credit: u64,
    },
    /// A credit that no retired slot can have given.
    #[error("the peer gave credit for chunks below {credit}; between {least} and {most} is possible")]
    BadCredit {
        /// What it gave.
        credit: u64,
        /// The credit already given.
        least: u64,
        /// The most that retired slots can give.
        most: u64,
    },
    /// A bulk chunk header that makes no sense.
    #[error("bulk lane carried a chunk whose {what} is {found:#x}")]
    BadChunk {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A compressed payload that no encoder made.
    #[error("a compressed chunk that cannot be decoded: {what}")]
    BadPalette {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The same, of another codec or of none.
    #[error("a compressed payload that cannot be decoded: {what}")]
    BadEncoded {
        /// What is wrong with it.
        what: &'static str,
    },
    /// An opening message that makes no sense.
    #[error("the peer's opening message is malformed: {what}")]
    BadHello {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A record whose contents its op does not allow.
    #[error("record {number} (op {op}) is malformed: {what}")]
    BadRecord {
        /// The record's number in its direction.
        number: u64,
        /// Its op.
        op: u16,
        /// What is wrong with it.
        what: &'static str,
    },

    // --- the peer is incompatible --------------------------------------------------------------------
    /// The two ends speak different versions.
    #[error(
        "this end speaks Fusewire protocol {ours}, the other end {theirs}; install the same release on both"
    )]
    VersionMismatch {
        /// This end's version.
        ours: u32,
        /// The other end's version.
        theirs: u32,
    },
    /// A feature without which this end cannot work.
    #[error("the other end lacks features {missing:#x}, which this end requires")]
    MissingFeatures {
        /// The feature bits.
        missing: u64,
    },
    /// The server refused the session.
    #[error("the server refused the session ({reason}): {text}")]
    Refused {
        /// Why, for programs.
        reason: RefusedReason,
        /// Why, for people.
        text: String,
    },

    // --- the link ------------------------------------------------------------------------------------
    /// Nothing came for too long.
    #[error("nothing was heard from the other end for {millis} ms ({during})")]
    PeerSilent {
        /// How long, in milliseconds.
        millis: u64,
        /// What this end was waiting for.
        during: &'static str,
    },
    /// The other end ended the session.
    #[error("the other end closed the session ({reason}): {text}")]
    Closed {
        /// Why, for programs.
        reason: CloseReason,
        /// Why, for people.
        text: String,
    },

    // --- the caller misused this crate ---------------------------------------------------------------
    /// A record that no batch can hold.
    #[error("a record of {bytes} bytes was pushed; the limit is {limit}")]
    RecordTooLarge {
        /// Its size.
        bytes: usize,
        /// The most that a record may have.
        limit: usize,
    },
    /// The window of unacknowledged bytes is full: wait for an acknowledgement, then push again.
    #[error("{retained} bytes await acknowledgement; {wanted} more do not fit the window of {window}")]
    WindowFull {
        /// Bytes sealed or open.
        retained: usize,
        /// The record's size.
        wanted: usize,
        /// The window.
        window: usize,
    },
    /// A slot, lane or state that the caller got wrong.
    #[error("misuse: {what}")]
    Misuse {
        /// The rule that was broken.
        what: &'static str,
    },
}

impl ProtocolError {
    /// Who has to change for this not to happen again.
    pub fn culprit(&self) -> Culprit {
        match self {
            Self::VersionMismatch { .. } | Self::MissingFeatures { .. } | Self::Refused { .. } => {
                Culprit::Incompatible
            }
            Self::PeerSilent { .. } => Culprit::Link,
            Self::Closed { .. } => Culprit::Closed,
            Self::RecordTooLarge { .. } | Self::WindowFull { .. } | Self::Misuse { .. } => Culprit::Caller,
            _ => Culprit::Peer,
        }
    }

    /// Whether the caller may simply try again once the peer has acknowledged something.
    pub fn must_wait(&self) -> bool {
        matches!(self, Self::WindowFull { .. })
    }
}
