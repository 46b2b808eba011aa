//! Running a kernel.
//!
//! A launch is a queue of *units*: clusters, which are single blocks unless
//! the launch asks otherwise. A few host threads take units from the queue
//! (`launch`); each runs the threads of its unit cooperatively (`unit`), one
//! device thread at a time until it blocks, exits or has had its turn
//! (`step`). Nothing waits in the operating system, so a kernel that
//! deadlocks or never ends can always be cancelled.
//!
//! `memory` is the only place that forms host pointers.

mod builtin;
mod call;
mod launch;
mod mbarrier;
mod memory;
mod printf;
mod special;
mod step;
mod thread;
mod unit;
mod warp;

use crate::{Kernel, Module};
use std::sync::atomic::AtomicBool;

pub use launch::run;

/// Why a kernel stopped early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("access to illegal address {addr:#x}")]
    IllegalAddress { addr: u64 },
    #[error("misaligned access to {addr:#x}")]
    Misaligned { addr: u64 },
    #[error("trap")]
    Trap,
    /// The message of a failed device `assert`, as CUDA words it.
    #[error("{0}")]
    Assert(String),
    /// What the instruction was, or what about the launch cannot run.
    #[error("illegal instruction: {0}")]
    IllegalInstruction(String),
    /// [`Launch::cancel`] was set.
    #[error("cancelled")]
    Cancelled,
}

/// A mapped range of device memory.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Its first device address.
    pub base: u64,
    pub len: u64,
    /// Host address of the first byte.
    pub ptr: *mut u8,
    pub writable: bool,
}

/// Device memory, as the launch sees it.
///
/// The pointers given out must stay valid for reads (and writes, where asked)
/// until [`run`] returns. They must have the alignment of the device address
/// they stand for, up to 16 bytes.
pub trait Memory: Sync {
    /// Host pointer backing `len` bytes at `addr`, or the fault.
    fn resolve(&self, addr: u64, len: usize, write: bool) -> Result<*mut u8, Fault>;

    /// The whole allocation around `addr`, which saves asking again for each
    /// access. An implementation that must see every access returns `None`.
    fn region(&self, addr: u64) -> Option<Region> {
        let _ = addr;
        None
    }
}

/// Everything about one kernel launch.
pub struct Launch<'a> {
    pub module: &'a Module,
    pub kernel: &'a Kernel,
    /// Device addresses, parallel to [`Module::globals`].
    pub global_addrs: &'a [u64],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks per cluster; all ones without clusters.
    pub cluster: [u32; 3],
    pub params: &'a [u8],
    pub dynamic_shared: u32,
    pub cancel: &'a AtomicBool,
    /// Takes what the kernel prints. May be called from several threads.
    pub stdout: &'a (dyn Fn(&str) + Sync),
}
