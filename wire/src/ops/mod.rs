//! The operations of the protocol: one table, from which the client's encoders and the server's
//! dispatch both come.
//!
//! * [`table`] — every driver function, declared once: its kind, record, tail, handles, caching.
//! * [`events`] — what the server says back, outside of and as answers to operations.
//! * [`snapshot`] — what a client learns about the devices when the session opens.
//! * [`known`] — what a load's answer says of the image's kernels.
//! * [`window`] — the address windows that both ends reserve.
//! * `declare` — the macros that turn the declarations into code.
//!
//! To add a driver function: declare its operation in `table.rs` (or add its name to a `local`
//! line there), write the C function in the shim, and the arm the compiler then asks for in the
//! worker.

mod declare;
pub mod events;
pub mod known;
pub mod snapshot;
pub mod table;
pub mod window;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a driver function costs the program that calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answered in the client from state it holds.
    Local,
    /// Encoded and published; success is returned at once, and an error comes back on a later call.
    Async,
    /// The caller waits for the server's answer.
    Sync,
}

/// Kinds of object that operations name by handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    Context,
    Stream,
    Event,
    Blob,
    Module,
    Library,
    Function,
    Graph,
    GraphExec,
    GraphNode,
    Array,
    Allocation,
    Texture,
    Surface,
}

/// What an operation does with a handle it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client minted the handle for this operation to fill.
    New,
    /// The handle must be alive.
    Use,
    /// The handle must be alive and is not any more afterwards.
    End,
    /// Zero, or as `Use`.
    Opt,
}

/// How long a client may keep the answer of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Never.
    No,
    /// For the life of the handle it was asked of.
    Forever,
    /// Until the function that sets it is called on the same handle.
    UntilSet,
}

/// One line of the op table.
#[derive(Debug)]
pub struct OpInfo {
    pub code: u16,
    pub name: &'static str,
    pub kind: Kind,
    /// The driver functions this operation carries, by exported name.
    pub functions: &'static [&'static str],
    /// Handle fields: name, object, role.
    pub handles: &'static [(&'static str, Object, Role)],
    pub cache: Cache,
    /// Bytes of the fixed part, record header not included.
    pub fixed_bytes: usize,
}

/// A fixed-layout record that names an operation.
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    const CODE: u16;
    const KIND: Kind;
    const NAME: &'static str;
}

/// An operation that is published without waiting. It cannot have an output.
pub trait AsyncRecord: Record {}

/// An operation whose caller waits for `Reply`.
pub trait SyncRecord: Record {
    type Reply: FromBytes + IntoBytes + Immutable + KnownLayout + Copy;
}

/// The answer of a synchronous operation that returns nothing but a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Nothing {}

/// Grid, block or cluster dimensions, as CUDA counts them: x, y, z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dim3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

/// What a kernel node launches, beside its function and its parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NodeLaunch {
    pub grid: Dim3,
    pub block: Dim3,
    pub shared_bytes: u32,
    pub parameter_bytes: u32,
}

/// What a copy node copies: a box of `width` bytes by `height` rows by `depth` slices. Pitches are in bytes, heights in
/// rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NodeCopy {
    pub destination: u64,
    pub destination_pitch: u64,
    pub destination_height: u64,
    pub source: u64,
    pub source_pitch: u64,
    pub source_height: u64,
    pub width: u64,
    pub height: u64,
    pub depth: u64,
}

/// What a memset node fills: `height` rows of `width` elements of `element` bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NodeFill {
    pub destination: u64,
    pub pitch: u64,
    pub width: u64,
    pub height: u64,
    pub value: u32,
    pub element: u32,
}

/// A status as the driver gives it: `CUresult`, 0 is success.
pub type Status = u32;

/// `CUDA_ERROR_NOT_SUPPORTED`.
pub const NOT_SUPPORTED: Status = 801;

/// What a handler says of a synchronous operation.
#[derive(Debug)]
pub enum Answer<R> {
    /// The answer, and the variable part that follows it.
    Now(R, Vec<u8>),
    /// The handler will send the reply itself, under this operation's number.
    Later,
}

impl<R> Answer<R> {
    /// An answer with no variable part.
    pub fn of(reply: R) -> Self {
        Self::Now(reply, Vec::new())
    }
}

/// An operation as it arrived: which one, and where it stands in the session's order.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The operation's number: its place in the session's command lane, counted from 1.
    pub number: u64,
    pub flags: u16,
}

/// Why a record could not be handed to the handler. The peer misbehaved.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DispatchError {
    #[error("operation {number} has the unknown code {code:#06x}")]
    UnknownOp { number: u64, code: u16 },
    #[error("operation {number} ({name}) is {have} bytes long; its fixed part alone is {need}")]
    Truncated { number: u64, name: &'static str, have: usize, need: usize },
}

/// Receives the answers that the dispatcher forms for synchronous operations.
pub trait Replies {
    fn reply(&mut self, number: u64, status: Status, fixed: &[u8], tail: &[u8]);
    /// An asynchronous operation was refused.
    fn failed(&mut self, number: u64, status: Status);
}

/// Looks a line of the table up by its code.
pub fn info(code: u16) -> Option<&'static OpInfo> {
    table::OPS.binary_search_by_key(&code, |op| op.code).ok().and_then(|i| table::OPS.get(i))
}
