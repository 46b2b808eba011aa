//! The interpreter proper: one thread runs until it blocks, exits, faults or
//! has had its turn.

use super::builtin::builtin;
use super::call::{enter, function_at, give_back};
use super::memory::{self, GlobalMemory, RANK_SHIFT, Spaces, Span};
use super::special::special;
use super::thread::{BarWait, Frame, State, Thread, WarpWait, absolute};
use super::unit::BlockInfo;
use super::{Fault, Launch, mbarrier};
use crate::alu;
use crate::decode::{LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW};
use crate::inst::{Addr, Base, Callee, Combine, MbarrierOp, NO_SLOT, Op, Slot};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

/// Instructions a thread may run before others get their turn. Threads that
/// spin on memory rely on this.
const TURN: u32 = 1 << 14;

/// What all threads of a launch share.
pub(super) struct Context<'a> {
    pub(super) launch: &'a Launch<'a>,
    /// Register frames by function, symbols patched in.
    pub(super) templates: Vec<Vec<u64>>,
    pub(super) started: Instant,
    pub(super) shared_bytes: usize,
}

/// Runs `t` and leaves the reason it stopped in its state.
pub(super) fn turn(
    cx: &Context<'_>,
    global: &mut GlobalMemory<'_>,
    block: &BlockInfo,
    params: Span,
    t: &mut Thread,
) -> Result<(), Fault> {
    let mut left = TURN;
    loop {
        match run_frame(cx, global, block, params, t, &mut left)? {
            Next::Frame => {}
            Next::Stop => return Ok(()),
        }
    }
}

enum Next {
    /// The top frame changed: a call or a return.
    Frame,
    Stop,
}

/// The code of a function ends with `ret`, so this cannot happen; a fault is
/// better than a panic if it does.
pub(super) fn missing() -> Fault {
    Fault::IllegalInstruction("a thread ran out of its code".to_owned())
}

#[inline]
fn generic(regs: &[u64], frame: &Frame, a: &Addr) -> u64 {
    let reg = |s: Slot| regs[s as usize];
    match a.base {
        Base::Generic => reg(a.reg).wrapping_add_signed(a.off),
        Base::Shared => SHARED_BASE + u64::from((reg(a.reg) as u32).wrapping_add(a.off as u32)),
        Base::Local => LOCAL_BASE + u64::from((reg(a.reg) as u32).wrapping_add(a.off as u32)),
        Base::Frame => LOCAL_BASE.wrapping_add_signed((frame.local as i64).wrapping_add(a.off)),
        Base::KernelParam => PARAM_BASE.wrapping_add_signed(a.off),
        Base::Param => {
            let v = reg(a.reg).wrapping_add_signed(a.off);
            if v >= PARAM_BASE { v } else { LOCAL_BASE + (v & 0xffff_ffff) }
        }
    }
}

#[inline]
fn pointer(
    global: &mut GlobalMemory<'_>,
    s: &Spaces<'_>,
    regs: &[u64],
    frame: &Frame,
    a: &Addr,
    len: usize,
    write: bool,
) -> Result<*mut u8, Fault> {
    match a.base {
        Base::Generic => global.generic(s, regs[a.reg as usize].wrapping_add_signed(a.off), len, write),
        Base::Shared => memory::shared(s, (regs[a.reg as usize] as u32).wrapping_add(a.off as u32), len),
        Base::Local => memory::local(s, (regs[a.reg as usize] as u32).wrapping_add(a.off as u32), len),
        Base::Frame => memory::local(s, (frame.local as i64).wrapping_add(a.off) as u32, len),
        Base::KernelParam if !write => memory::param(s, a.off as u64, len),
        _ => global.generic(s, generic(regs, frame, a), len, write),
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each kind of instruction")]
fn run_frame(
    cx: &Context<'_>,
    global: &mut GlobalMemory<'_>,
    block: &BlockInfo,
    params: Span,
    t: &mut Thread,
    left: &mut u32,
) -> Result<Next, Fault> {
    let Some(frame) = t.frames.last().copied() else {
        t.state = State::Done;
        return Ok(Next::Stop);
    };
    let functions = &cx.launch.module.functions;
    let function = functions.get(frame.function).ok_or_else(missing)?;
    let insts = function.insts.as_slice();
    let mut pc = frame.pc;
    let spaces = Spaces { shared: &block.shared, rank: block.rank, local: Span::of(&mut t.local), params };
    let regs = t.regs.get_mut(frame.regs..).ok_or_else(missing)?;

    macro_rules! r {
        ($s:expr) => {
            regs[$s as usize]
        };
    }
    /// Leaves the interpreter with the thread at `$pc`.
    macro_rules! leave {
        ($pc:expr, $next:expr) => {{
            if let Some(f) = t.frames.last_mut() {
                f.pc = $pc;
            }
            return Ok($next);
        }};
    }

    loop {
        if *left == 0 {
            leave!(pc, Next::Stop);
        }
        *left -= 1;
        let inst = insts.get(pc).ok_or_else(missing)?;
        pc += 1;
        if inst.guard != NO_SLOT && (r!(inst.guard) & 1 == 1) == inst.negated {
            continue;
        }
        match &inst.op {
            Op::Nop => {}
            Op::Mov { d, a } => r!(*d) = r!(*a),
            Op::Un { f, d, a } => r!(*d) = f(r!(*a)),
            Op::Bin { f, d, a, b } => r!(*d) = f(r!(*a), r!(*b)),
            Op::Tri { f, d, a, b, c } => r!(*d) = f(r!(*a), r!(*b), r!(*c)),
            Op::Quad { f, d, a, b, c, e } => r!(*d) = f(r!(*a), r!(*b), r!(*c), r!(*e)),
            Op::Float { what, d, a, b, c } => {
                r!(*d) = alu::float_op(*what, r!(*a), r!(*b), r!(*c));
            }
            Op::Cvt { what, d, a, b } => r!(*d) = alu::convert(*what, r!(*a), r!(*b)),
            Op::Setp { f, d, q, a, b, combine, c } => {
                let v = f(r!(*a), r!(*b)) == 1;
                let c = if *c == NO_SLOT { false } else { r!(*c) & 1 == 1 };
                r!(*d) = u64::from(combined(*combine, v, c));
                if *q != NO_SLOT {
                    r!(*q) = u64::from(combined(*combine, !v, c));
                }
            }
            Op::SetpX2 { what, d, q, a, b, combine, c } => {
                let (lo, hi) = alu::compare_x2(*what, r!(*a), r!(*b));
                let c = if *c == NO_SLOT { false } else { r!(*c) & 1 == 1 };
                r!(*d) = u64::from(combined(*combine, lo, c));
                if *q != NO_SLOT {
                    r!(*q) = u64::from(combined(*combine, hi, c));
                }
            }
            Op::Selp { d, a, b, p } => {
                r!(*d) = if r!(*p) & 1 == 1 { r!(*a) } else { r!(*b) };
            }
            Op::Carry { what, d, a, b, c } => {
                let (v, carry) = alu::carry(*what, r!(*a), r!(*b), r!(*c), t.carry);
                r!(*d) = v;
                if what.carry_out {
                    t.carry = carry;
                }
            }
            Op::Pack { d, bits, parts } => {
                let mask = u64::MAX >> (64 - (*bits).clamp(1, 64));
                let mut v = 0;
                for (i, p) in parts.iter().enumerate() {
                    v |= (r!(*p) & mask).checked_shl(*bits * i as u32).unwrap_or(0);
                }
                r!(*d) = v;
            }
            Op::Unpack { a, bits, parts } => {
                let mask = u64::MAX >> (64 - (*bits).clamp(1, 64));
                let v = r!(*a);
                for (i, p) in parts.iter().enumerate() {
                    r!(*p) = v.checked_shr(*bits * i as u32).unwrap_or(0) & mask;
                }
            }
            Op::Sreg { d, what } => r!(*d) = special(*what, cx, block, t.tid, t.linear),
            Op::FrameAddr { d, off } => r!(*d) = frame.local as u64 + u64::from(*off),
            Op::Ld { d, ty, addr } => {
                let p = pointer(global, &spaces, regs, &frame, addr, ty.bytes(), false)?;
                // SAFETY: `pointer` resolved an aligned range of this size.
                r!(*d) = unsafe { memory::load(p, *ty) };
            }
            Op::LdVec { d, ty, addr } => {
                let (n, each) = (d.len().next_power_of_two(), ty.bytes());
                let p = pointer(global, &spaces, regs, &frame, addr, n * each, false)?;
                for (i, d) in d.iter().enumerate() {
                    // SAFETY: element `i` lies in the range just resolved.
                    r!(*d) = unsafe { memory::load(p.add(i * each), *ty) };
                }
            }
            Op::St { a, ty, addr } => {
                let p = pointer(global, &spaces, regs, &frame, addr, ty.bytes(), true)?;
                // SAFETY: `pointer` resolved an aligned writable range.
                unsafe { memory::store(p, *ty, r!(*a)) };
            }
            Op::StVec { a, ty, addr } => {
                let (n, each) = (a.len().next_power_of_two(), ty.bytes());
                let p = pointer(global, &spaces, regs, &frame, addr, n * each, true)?;
                for (i, a) in a.iter().enumerate() {
                    // SAFETY: element `i` lies in the range just resolved.
                    unsafe { memory::store(p.add(i * each), *ty, r!(*a)) };
                }
            }
            Op::Atom(x) => {
                let (n, each) = (x.src.len().next_power_of_two(), x.ty.bytes());
                let p = pointer(global, &spaces, regs, &frame, &x.addr, n * each, true)?;
                let swap = if x.swap == NO_SLOT { 0 } else { r!(x.swap) };
                for (i, s) in x.src.iter().enumerate() {
                    // SAFETY: element `i` lies in the range just resolved.
                    let old = unsafe { memory::atomic(p.add(i * each), x, r!(*s), swap) };
                    if let Some(d) = x.dst.get(i) {
                        r!(*d) = old;
                    }
                }
            }
            Op::Isspacep { d, a, base } => {
                let v = r!(*a);
                r!(*d) = u64::from(if *base == 0 { v < SHARED_BASE } else { v & !(WINDOW - 1) == *base });
            }
            Op::Mapa { d, a, rank, generic } => {
                let off = r!(*a) as u32 & ((1 << RANK_SHIFT) - 1);
                let rank = (r!(*rank) as u32).wrapping_add(1) & 0xff;
                let base = if *generic { SHARED_BASE } else { 0 };
                r!(*d) = base + u64::from(rank << RANK_SHIFT | off);
            }
            Op::GetCtaRank { d, a } => {
                r!(*d) = match r!(*a) as u32 >> RANK_SHIFT {
                    0 => block.rank as u64,
                    n => u64::from(n - 1),
                };
            }
            Op::CopyAsync { dst, src, bytes, have, zero_if } => {
                let (to, from) = (generic(regs, &frame, dst), generic(regs, &frame, src));
                let bytes = r!(*bytes) as u32 as usize;
                let ignore = *zero_if != NO_SLOT && r!(*zero_if) & 1 == 1;
                let have = if ignore { 0 } else { r!(*have) as u32 as usize };
                global.copy(&spaces, to, from, bytes, have)?;
            }
            Op::Bra { target } => pc = *target,
            Op::BrxIdx { index, targets } => {
                pc = *targets
                    .get(r!(*index) as u32 as usize)
                    .ok_or_else(|| Fault::IllegalInstruction("brx.idx out of range".to_owned()))?;
            }
            Op::Call(call) => {
                let target = match &call.callee {
                    Callee::Function(i) => *i,
                    Callee::Indirect(s) => function_at(r!(*s))?,
                    Callee::Builtin(b) => {
                        builtin(*b, cx, global, &spaces, block, t.tid, regs, &frame, call)?;
                        continue;
                    }
                    Callee::Unknown(name) => {
                        return Err(Fault::IllegalInstruction(format!(
                            "call of {name}, which is defined nowhere"
                        )));
                    }
                };
                if let Some(f) = t.frames.last_mut() {
                    f.pc = pc;
                }
                enter(cx, t, call, target)?;
                return Ok(Next::Frame);
            }
            Op::Ret => {
                if t.frames.len() == 1 {
                    t.state = State::Done;
                    return Ok(Next::Stop);
                }
                give_back(cx, t)?;
                return Ok(Next::Frame);
            }
            Op::Exit => {
                t.state = State::Done;
                return Ok(Next::Stop);
            }
            Op::Trap => return Err(Fault::Trap),
            Op::Bar(b) => {
                let id = r!(b.id) as u32 as usize;
                if id >= 16 {
                    return Err(Fault::IllegalInstruction(format!("barrier {id}")));
                }
                let pred = b.p != NO_SLOT && (r!(b.p) & 1 == 1) != b.not_p;
                let count = if b.count == NO_SLOT { 0 } else { r!(b.count) as u32 };
                t.state = State::Bar(BarWait { kind: b.kind, id, count, pred, d: absolute(frame.regs, b.d) });
                leave!(pc, Next::Stop);
            }
            Op::ClusterArrive => {
                t.state = State::ClusterArrive;
                leave!(pc, Next::Stop);
            }
            Op::ClusterWait => {
                t.state = State::ClusterWait;
                leave!(pc, Next::Stop);
            }
            Op::Warp(w) => {
                let mask = r!(w.mask) as u32;
                let lane = t.linear % 32;
                if mask >> lane & 1 == 0 {
                    return Err(Fault::IllegalInstruction(format!(
                        "lane {lane} is not in its own member mask {mask:#x}"
                    )));
                }
                let mut a = r!(w.a);
                if w.not_a {
                    a = (a & 1) ^ 1;
                }
                t.state = State::Warp(WarpWait {
                    kind: w.kind,
                    mask,
                    a,
                    b: r!(w.b) as u32,
                    c: r!(w.c) as u32,
                    d: absolute(frame.regs, w.d),
                    p: absolute(frame.regs, w.p),
                });
                leave!(pc, Next::Stop);
            }
            Op::ActiveMask { d } => {
                t.state = State::Active { d: frame.regs + *d as usize };
                leave!(pc, Next::Stop);
            }
            Op::Fence => fence(Ordering::SeqCst),
            Op::Yield => {
                *left = 0;
            }
            Op::Mbarrier(m) => {
                let at = generic(regs, &frame, &m.addr);
                let p = global.generic(&spaces, at, 8, true)?;
                let a = if m.a == NO_SLOT { None } else { Some(r!(m.a)) };
                // SAFETY: `p` was resolved for eight aligned writable bytes.
                let cell = unsafe { AtomicU64::from_ptr(p.cast()) };
                let v = mbarrier::apply(m, cell, a);
                if m.d != NO_SLOT {
                    r!(m.d) = v;
                }
                if v == 0 && matches!(m.op, MbarrierOp::TestWait { .. }) {
                    // Whoever completes the phase needs a turn.
                    *left = 0;
                }
            }
            Op::Illegal(what) => return Err(Fault::IllegalInstruction(what.to_string())),
        }
    }
}

fn combined(how: Combine, v: bool, c: bool) -> bool {
    match how {
        Combine::None => v,
        Combine::And => v & c,
        Combine::Or => v | c,
        Combine::Xor => v ^ c,
    }
}
