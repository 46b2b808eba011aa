//! Calls and returns: frames, and arguments moved between them.
//!
//! A frame has a part of the thread's registers and a part of its local
//! memory; `.param` variables of caller and callee lie in the latter.

use super::Fault;
use super::step::{Context, missing};
use super::thread::{Frame, Thread, absolute};
use crate::decode::{Place, WINDOW};
use crate::inst::{Actual, Call, Op};
use crate::module::FUNCTION_BASE;

/// CUDA's limit of local memory per thread, which calls share.
const MAX_LOCAL: usize = 512 << 10;
const MAX_DEPTH: usize = 4096;
const MAX_REGS: usize = 1 << 20;

/// The function a pointer points to.
pub(super) fn function_at(v: u64) -> Result<usize, Fault> {
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
pub(super) fn enter(cx: &Context<'_>, t: &mut Thread, call: &Call, target: usize) -> Result<(), Fault> {
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
    if t.frames.len() >= MAX_DEPTH || frame.local + f.frame_bytes > MAX_LOCAL || frame.regs > MAX_REGS {
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
pub(super) fn give_back(cx: &Context<'_>, t: &mut Thread) -> Result<(), Fault> {
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
