//! The decoded instruction: what the decoder makes and the interpreter runs.
//!
//! Every operand is a slot of the thread's register frame. Immediates and
//! symbol addresses have slots too, filled when the frame is made, so the
//! interpreter never asks what kind an operand is. Registers hold garbage
//! above their width: each operation reads only the bits it is typed for.

use crate::types::Ty;

pub(crate) type Slot = u32;
/// "No such operand" and the sink `_`.
pub(crate) const NO_SLOT: Slot = u32::MAX;

pub(crate) type F1 = fn(u64) -> u64;
pub(crate) type F2 = fn(u64, u64) -> u64;
pub(crate) type F3 = fn(u64, u64, u64) -> u64;
pub(crate) type F4 = fn(u64, u64, u64, u64) -> u64;

#[derive(Clone, Debug)]
pub(crate) struct Inst {
    /// Predicate slot, or [`NO_SLOT`].
    pub(crate) guard: Slot,
    /// Run when the predicate is false.
    pub(crate) negated: bool,
    pub(crate) op: Op,
}

/// How an address is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// A register holding a generic (or global, or const) address.
    Generic,
    /// A register holding an offset into shared memory.
    Shared,
    /// A register holding an offset into the thread's local memory.
    Local,
    /// The current call frame's part of local memory.
    Frame,
    /// The kernel's parameter buffer.
    KernelParam,
    /// A register holding the address of a parameter.
    Param,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub(crate) base: Base,
    pub(crate) reg: Slot,
    pub(crate) off: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    None,
    And,
    Or,
    Xor,
}

/// Carry-chain arithmetic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carry {
    pub(crate) op: CarryOp,
    pub(crate) wide: bool,
    pub(crate) signed: bool,
    pub(crate) carry_in: bool,
    pub(crate) carry_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

#[derive(Clone, Debug)]
pub(crate) struct Atom {
    pub(crate) op: AtomOp,
    pub(crate) ty: Ty,
    pub(crate) addr: Addr,
    /// Destinations; empty for `red`.
    pub(crate) dst: Vec<Slot>,
    /// Operands, one a vector element.
    pub(crate) src: Vec<Slot>,
    /// The new value of a compare-and-swap.
    pub(crate) swap: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WarpKind {
    ShflIdx,
    ShflUp,
    ShflDown,
    ShflBfly,
    VoteAll,
    VoteAny,
    VoteUni,
    VoteBallot,
    MatchAny(u32),
    MatchAll(u32),
    ReduxAdd,
    ReduxMin,
    ReduxMax,
    ReduxUmin,
    ReduxUmax,
    ReduxAnd,
    ReduxOr,
    ReduxXor,
    Sync,
    ElectSync,
}

#[derive(Clone, Debug)]
pub(crate) struct WarpOp {
    pub(crate) kind: WarpKind,
    pub(crate) d: Slot,
    pub(crate) p: Slot,
    pub(crate) a: Slot,
    pub(crate) b: Slot,
    pub(crate) c: Slot,
    pub(crate) mask: Slot,
    /// The source predicate is negated.
    pub(crate) not_a: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    RedPopc,
    RedAnd,
    RedOr,
}

#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) kind: BarKind,
    pub(crate) id: Slot,
    pub(crate) count: Slot,
    pub(crate) d: Slot,
    pub(crate) p: Slot,
    pub(crate) not_p: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    Printf,
    AssertFail,
    Malloc,
    Free,
}

#[derive(Clone, Debug)]
pub(crate) enum Callee {
    Function(usize),
    Builtin(Builtin),
    Indirect(Slot),
    Unknown(String),
}

/// An argument or result at the caller's side of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Actual {
    /// A `.param` variable of the caller's frame.
    Frame { off: usize, size: usize },
    /// A register or constant.
    Slot(Slot),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) callee: Callee,
    pub(crate) args: Vec<Actual>,
    pub(crate) rets: Vec<Actual>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sreg {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    DynamicSmemSize,
    TotalSmemSize,
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierOp {
    Init,
    Inval,
    Arrive { drop: bool, expect_tx: bool },
    ExpectTx,
    CompleteTx,
    TestWait { parity: bool, blocking: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Mbarrier {
    pub(crate) op: MbarrierOp,
    pub(crate) d: Slot,
    pub(crate) addr: Addr,
    pub(crate) a: Slot,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Nop,
    Mov {
        d: Slot,
        a: Slot,
    },
    Un {
        f: F1,
        d: Slot,
        a: Slot,
    },
    Bin {
        f: F2,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Tri {
        f: F3,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Quad {
        f: F4,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        e: Slot,
    },
    /// Floating arithmetic that is not on the fast path: other rounding
    /// modes, half types, approximations.
    Float {
        what: crate::alu::FloatDesc,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Cvt {
        what: crate::alu::CvtDesc,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Setp {
        f: F2,
        d: Slot,
        q: Slot,
        a: Slot,
        b: Slot,
        combine: Combine,
        c: Slot,
    },
    /// Both halves of a packed comparison.
    SetpX2 {
        what: crate::alu::CmpDesc,
        d: Slot,
        q: Slot,
        a: Slot,
        b: Slot,
        combine: Combine,
        c: Slot,
    },
    Selp {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Slot,
    },
    Carry {
        what: Carry,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// Several parts into one register: low part first.
    Pack {
        d: Slot,
        bits: u32,
        parts: Box<[Slot]>,
    },
    Unpack {
        a: Slot,
        bits: u32,
        parts: Box<[Slot]>,
    },
    Sreg {
        d: Slot,
        what: Sreg,
    },
    /// The local-space address of something in the call frame.
    FrameAddr {
        d: Slot,
        off: u32,
    },
    Ld {
        d: Slot,
        ty: Ty,
        addr: Addr,
    },
    LdVec {
        d: Box<[Slot]>,
        ty: Ty,
        addr: Addr,
    },
    St {
        a: Slot,
        ty: Ty,
        addr: Addr,
    },
    StVec {
        a: Box<[Slot]>,
        ty: Ty,
        addr: Addr,
    },
    Atom(Box<Atom>),
    Isspacep {
        d: Slot,
        a: Slot,
        base: u64,
    },
    Mapa {
        d: Slot,
        a: Slot,
        rank: Slot,
        generic: bool,
    },
    GetCtaRank {
        d: Slot,
        a: Slot,
    },
    CopyAsync {
        dst: Addr,
        src: Addr,
        bytes: Slot,
        have: Slot,
        zero_if: Slot,
    },
    Bra {
        target: usize,
    },
    BrxIdx {
        index: Slot,
        targets: Box<[usize]>,
    },
    Call(Box<Call>),
    Ret,
    Exit,
    Trap,
    Bar(Box<Bar>),
    ClusterArrive,
    ClusterWait,
    Warp(Box<WarpOp>),
    ActiveMask {
        d: Slot,
    },
    Fence,
    Yield,
    Mbarrier(Box<Mbarrier>),
    /// Faults when reached; says what it was.
    Illegal(Box<str>),
}
