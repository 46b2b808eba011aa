//! The interpreter proper: one thread runs until it blocks, exits, faults or
//! has had its turn.

use super::memory::{self, GlobalMemory, RANK_SHIFT, Spaces, Span};
use super::thread::{BarWait, Frame, State, Thread, WarpWait, absolute};
use super::unit::BlockInfo;
use super::{Fault, Launch, printf};
use crate::alu;
use crate::decode::{PARAM_BASE, Place, SHARED_BASE, WINDOW};
use crate::inst::{
    Actual, Addr, Base, Builtin, Call, Callee, Carry, CarryOp, Combine, Mbarrier, MbarrierOp, NO_SLOT, Op,
    Slot, Sreg,
};
use crate::module::FUNCTION_BASE;
use crate::types::Ty;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Instructions a thread may run before others get their turn. Threads that
/// spin on memory rely on this.
const TURN: u32 = 1 << 14;
/// CUDA's limit of local memory per thread, which calls share.
const MAX_LOCAL: usize = 512 << 10;
const MAX_DEPTH: usize = 4096;

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

fn missing() -> Fault {
    Fault::IllegalInstruction("a thread ran out of its code".to_owned())
}

#[inline]
fn generic(regs: &[u64], frame: &Frame, a: &Addr) -> u64 {
    let reg = |s: Slot| regs[s as usize];
    match a.base {
        Base::Generic => reg(a.reg).wrapping_add_signed(a.off),
        Base::Shared => SHARED_BASE + u64::from((reg(a.reg) as u32).wrapping_add(a.off as u32)),
        Base::Local => crate::decode::LOCAL_BASE + u64::from((reg(a.reg) as u32).wrapping_add(a.off as u32)),
        Base::Frame => crate::decode::LOCAL_BASE.wrapping_add_signed(frame.local as i64 + a.off),
        Base::KernelParam => PARAM_BASE.wrapping_add_signed(a.off),
        Base::Param => {
            let v = reg(a.reg).wrapping_add_signed(a.off);
            if v >= PARAM_BASE { v } else { crate::decode::LOCAL_BASE + (v & 0xffff_ffff) }
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
    let depth = t.frames.len();
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
                let (v, carry) = carry(*what, r!(*a), r!(*b), r!(*c), t.carry);
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
                if depth == 1 {
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
                t.state = State::Active { d: frame.regs + *d as usize, function: frame.function, pc, depth };
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
                let v = mbarrier(m, cell, a);
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

fn carry(w: Carry, a: u64, b: u64, c: u64, flag: bool) -> (u64, bool) {
    let bits = if w.wide { 64 } else { 32 };
    let mask = u128::from(u64::MAX >> (64 - bits));
    let cut = |v: u64| u128::from(v) & mask;
    let carry_in = u128::from(w.carry_in && flag);
    let product = || {
        if w.signed {
            let s = |v: u64| {
                if w.wide { i128::from(v as i64) } else { i128::from(v as i32) }
            };
            (s(a) * s(b)) as u128
        } else {
            cut(a) * cut(b)
        }
    };
    let sum = match w.op {
        CarryOp::Add => cut(a) + cut(b) + carry_in,
        // Borrow is kept as the flag itself: set when one was needed.
        CarryOp::Sub => {
            let d = cut(a).wrapping_sub(cut(b)).wrapping_sub(carry_in);
            return ((d & mask) as u64, d >> 127 == 1);
        }
        CarryOp::MadLo => (product() & mask) + cut(c) + carry_in,
        CarryOp::MadHi => ((product() >> bits) & mask) + cut(c) + carry_in,
    };
    ((sum & mask) as u64, sum > mask)
}

fn special(what: Sreg, cx: &Context<'_>, b: &BlockInfo, tid: [u32; 3], linear: u32) -> u64 {
    let l = cx.launch;
    let lane = linear % 32;
    let threads: u32 = l.block.iter().product();
    let nanos = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let clock = || cx.started.elapsed().as_nanos() as u64;
    let v = match what {
        Sreg::Tid(i) => tid[usize::from(i)],
        Sreg::Ntid(i) => l.block[usize::from(i)],
        Sreg::Ctaid(i) => b.ctaid[usize::from(i)],
        Sreg::Nctaid(i) => l.grid[usize::from(i)],
        Sreg::LaneId => lane,
        Sreg::WarpId => linear / 32,
        Sreg::NwarpId => threads.div_ceil(32),
        Sreg::SmId => b.linear as u32 % 16,
        Sreg::NsmId => 16,
        Sreg::GridId | Sreg::Zero => 0,
        Sreg::LanemaskEq => 1 << lane,
        Sreg::LanemaskLe => u32::MAX >> (31 - lane),
        Sreg::LanemaskLt => (1 << lane) - 1,
        Sreg::LanemaskGe => u32::MAX << lane,
        Sreg::LanemaskGt => (u32::MAX << lane) << 1,
        Sreg::Clock => clock() as u32,
        Sreg::ClockHi => (clock() >> 32) as u32,
        Sreg::Clock64 => return clock(),
        Sreg::GlobalTimer => return nanos(),
        Sreg::GlobalTimerLo => nanos() as u32,
        Sreg::GlobalTimerHi => (nanos() >> 32) as u32,
        Sreg::DynamicSmemSize => l.dynamic_shared,
        Sreg::TotalSmemSize => cx.shared_bytes as u32,
        Sreg::ClusterId(i) => b.ctaid[usize::from(i)] / l.cluster[usize::from(i)].max(1),
        Sreg::NclusterId(i) => l.grid[usize::from(i)] / l.cluster[usize::from(i)].max(1),
        Sreg::ClusterCtaid(i) => b.ctaid[usize::from(i)] % l.cluster[usize::from(i)].max(1),
        Sreg::ClusterNctaid(i) => l.cluster[usize::from(i)].max(1),
        Sreg::ClusterCtarank => b.rank as u32,
        Sreg::ClusterNctarank => b.shared.len() as u32,
        Sreg::IsExplicitCluster => u32::from(b.shared.len() > 1),
    };
    v.into()
}

fn function_at(v: u64) -> Result<usize, Fault> {
    let i = v.wrapping_sub(FUNCTION_BASE);
    if i == 0 || !i.is_multiple_of(16) || i >= WINDOW {
        return Err(Fault::IllegalAddress { addr: v });
    }
    Ok((i / 16 - 1) as usize)
}

/// Bytes of a thread's own local memory.
fn read_local(local: &[u64], off: usize, len: usize) -> u64 {
    let mut v = [0u8; 8];
    for (i, b) in v.iter_mut().enumerate().take(len) {
        let at = off + i;
        let word = local.get(at / 8).copied().unwrap_or(0);
        *b = word.to_le_bytes()[at % 8];
    }
    u64::from_le_bytes(v)
}

fn write_local(local: &mut [u64], off: usize, len: usize, v: u64) {
    for i in 0..len.min(8) {
        let at = off + i;
        if let Some(w) = local.get_mut(at / 8) {
            let shift = 8 * (at % 8);
            *w = (*w & !(0xff << shift)) | ((v >> (8 * i)) & 0xff) << shift;
        }
    }
}

/// Moves one argument or result from `from` (in a frame) to `to`.
fn transfer(t: &mut Thread, from: (Place, &Frame), to: (Place, &Frame)) {
    match (from.0, to.0) {
        (Place::Frame { off, size }, Place::Frame { off: o, size: s }) => {
            let (mut done, n) = (0, size.min(s));
            while done < n {
                let k = (n - done).min(8);
                let v = read_local(&t.local, from.1.local + off + done, k);
                write_local(&mut t.local, to.1.local + o + done, k, v);
                done += k;
            }
        }
        (Place::Frame { off, size }, Place::Slot(s)) => {
            let v = read_local(&t.local, from.1.local + off, size.min(8));
            t.set(absolute(to.1.regs, s), v);
        }
        (Place::Slot(s), Place::Frame { off, size }) => {
            let v = absolute(from.1.regs, s).and_then(|i| t.regs.get(i).copied()).unwrap_or(0);
            write_local(&mut t.local, to.1.local + off, size, v);
        }
        (Place::Slot(s), Place::Slot(o)) => {
            let v = absolute(from.1.regs, s).and_then(|i| t.regs.get(i).copied()).unwrap_or(0);
            t.set(absolute(to.1.regs, o), v);
        }
    }
}

fn place(a: Actual) -> Place {
    match a {
        Actual::Frame { off, size } => Place::Frame { off, size },
        Actual::Slot(s) => Place::Slot(s),
    }
}

/// Pushes the frame of a call and hands over its arguments.
fn enter(cx: &Context<'_>, t: &mut Thread, call: &Call, target: usize) -> Result<(), Fault> {
    let f = cx
        .launch
        .module
        .functions
        .get(target)
        .filter(|f| f.defined)
        .ok_or_else(|| Fault::IllegalInstruction("call through a bad pointer".to_owned()))?;
    let template = cx
        .templates
        .get(target)
        .filter(|t| !t.is_empty() || f.template.is_empty())
        .ok_or_else(|| Fault::IllegalInstruction(format!("unforeseen call of {}", f.name)))?;
    let caller = t.frames.last().copied().ok_or_else(missing)?;
    let frame = Frame { function: target, pc: 0, regs: t.regs.len(), local: t.local.len() * 8 };
    if t.frames.len() >= MAX_DEPTH || frame.local + f.frame_bytes > MAX_LOCAL {
        return Err(Fault::IllegalInstruction(format!("call stack overflow in {}", f.name)));
    }
    t.regs.extend_from_slice(template);
    t.local.resize(t.local.len() + f.frame_bytes.div_ceil(8), 0);
    for (a, p) in call.args.iter().zip(&f.params) {
        transfer(t, (place(*a), &caller), (*p, &frame));
    }
    t.frames.push(frame);
    Ok(())
}

/// Pops a frame and hands its results to the call that made it.
fn give_back(cx: &Context<'_>, t: &mut Thread) -> Result<(), Fault> {
    let callee = t.frames.pop().ok_or_else(missing)?;
    let caller = t.frames.last().copied().ok_or_else(missing)?;
    let functions = &cx.launch.module.functions;
    let inst = functions.get(caller.function).and_then(|f| f.insts.get(caller.pc.wrapping_sub(1)));
    if let (Some(f), Some(Op::Call(call))) = (functions.get(callee.function), inst.map(|i| &i.op)) {
        for (p, a) in f.rets.iter().zip(&call.rets) {
            transfer(t, (*p, &callee), (place(*a), &caller));
        }
    }
    t.regs.truncate(callee.regs);
    t.local.truncate(callee.local / 8);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "a builtin sees what its caller sees")]
fn builtin(
    b: Builtin,
    cx: &Context<'_>,
    global: &mut GlobalMemory<'_>,
    s: &Spaces<'_>,
    block: &BlockInfo,
    tid: [u32; 3],
    regs: &mut [u64],
    frame: &Frame,
    call: &Call,
) -> Result<(), Fault> {
    let argument = |i: usize| -> Result<u64, Fault> {
        match call.args.get(i) {
            Some(Actual::Frame { off, size }) => {
                let ty = match size {
                    4 => Ty::U32,
                    8 => Ty::U64,
                    _ => return Err(missing()),
                };
                let p = memory::local(s, (frame.local + off) as u32, *size)?;
                // SAFETY: `p` was resolved for an aligned value of this type.
                Ok(unsafe { memory::load(p, ty) })
            }
            Some(Actual::Slot(r)) => Ok(regs[*r as usize]),
            None => Err(missing()),
        }
    };
    match b {
        Builtin::Printf => {
            let (format, args) = (argument(0)?, argument(1)?);
            let format = global.string(s, format, 1 << 16)?;
            let (text, count) = printf::format(global, s, &format, args)?;
            (cx.launch.stdout)(&text);
            match call.rets.first() {
                Some(Actual::Frame { off, .. }) => {
                    let p = memory::local(s, (frame.local + off) as u32, 4)?;
                    // SAFETY: resolved for four aligned writable bytes.
                    unsafe { memory::store(p, Ty::U32, count) };
                }
                Some(Actual::Slot(r)) => regs[*r as usize] = count,
                None => {}
            }
            Ok(())
        }
        Builtin::AssertFail => {
            let (expr, file, line) = (argument(0)?, argument(1)?, argument(2)?);
            let function = argument(3)?;
            let mut text = |addr| -> Result<String, Fault> {
                let bytes = global.string(s, addr, 4096)?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            };
            let (expr, file, function) = (text(expr)?, text(file)?, text(function)?);
            let [bx, by, bz] = block.ctaid;
            let [x, y, z] = tid;
            Err(Fault::Assert(format!(
                "{file}:{line}: {function}: block: [{bx},{by},{bz}], thread: [{x},{y},{z}] Assertion `{expr}` failed."
            )))
        }
        Builtin::Malloc | Builtin::Free => {
            Err(Fault::IllegalInstruction("device-side malloc and free are not supported".to_owned()))
        }
    }
}

// An mbarrier object: bit 63 the phase, then 21 bits of transaction count
// (two's complement), 20 bits pending arrivals, 20 bits expected arrivals.
const COUNT: u64 = 0xf_ffff;
const PENDING: u32 = 20;
const TX: u32 = 40;
const TX_MASK: u64 = 0x1f_ffff;
const PHASE: u64 = 1 << 63;

fn mbarrier(m: &Mbarrier, cell: &AtomicU64, a: Option<u64>) -> u64 {
    let mut old = cell.load(Ordering::Acquire);
    loop {
        let new = match m.op {
            MbarrierOp::Init => {
                let n = a.unwrap_or(0) & COUNT;
                n | n << PENDING
            }
            MbarrierOp::Inval => 0,
            MbarrierOp::Arrive { drop, expect_tx } => {
                let count = if expect_tx { 1 } else { a.unwrap_or(1) & COUNT };
                let tx = if expect_tx { a.unwrap_or(0) } else { 0 };
                let v = add_tx(old, tx);
                let v = if drop { (v & !COUNT) | ((v & COUNT).wrapping_sub(count) & COUNT) } else { v };
                let pending = (v >> PENDING & COUNT).wrapping_sub(count) & COUNT;
                settle((v & !(COUNT << PENDING)) | pending << PENDING)
            }
            MbarrierOp::ExpectTx => add_tx(old, a.unwrap_or(0)),
            MbarrierOp::CompleteTx => settle(add_tx(old, a.unwrap_or(0).wrapping_neg())),
            MbarrierOp::TestWait { parity, .. } => {
                let a = a.unwrap_or(0);
                let waited = if parity { a & 1 == 1 } else { a & PHASE != 0 };
                return u64::from((old & PHASE != 0) != waited);
            }
        };
        match cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return old,
            Err(v) => old = v,
        }
    }
}

fn add_tx(v: u64, tx: u64) -> u64 {
    let sum = (v >> TX & TX_MASK).wrapping_add(tx) & TX_MASK;
    (v & !(TX_MASK << TX)) | sum << TX
}

/// Starts the next phase once nothing is pending.
fn settle(v: u64) -> u64 {
    if v >> PENDING & COUNT != 0 || v >> TX & TX_MASK != 0 {
        return v;
    }
    let expected = v & COUNT;
    ((v & PHASE) ^ PHASE) | expected << PENDING | expected
}
