//! Arithmetic on register values, without any machine state.
//!
//! Registers are 64-bit words that may hold garbage above the width of their
//! type; every function here reads only the bits it is typed for. Nothing in
//! this folder knows about threads or memory.

mod cmp;
mod cvt;
mod float;
mod int;
mod round;

pub(crate) use cmp::{CmpDesc, CmpOp, compare_x2, comparison};
pub(crate) use cvt::{CvtDesc, CvtRound, convert, fast_convert};
pub(crate) use float::{
    FloatDesc, FloatOp, Fmt, atomic_float, fast_binary, fast_ternary, fast_unary, float_op,
};
pub(crate) use int::{binary, carry, prmt, quad, ternary, unary};
pub(crate) use round::Round;
