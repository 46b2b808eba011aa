//! Functions that the device runtime provides: `printf`, `assert`, `malloc`.

use super::memory::{self, GlobalMemory, Spaces};
use super::step::{Context, missing};
use super::thread::Frame;
use super::unit::BlockInfo;
use super::{Fault, printf};
use crate::inst::{Actual, Builtin, Call};
use crate::types::Ty;

#[expect(clippy::too_many_arguments, reason = "a builtin sees what its caller sees")]
pub(super) fn builtin(
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
