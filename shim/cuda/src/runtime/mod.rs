//! What stands behind the API functions: the session, and all that the client knows without asking.
//!
//! * [`session`], [`pump`], [`helm`], [`pending`], [`waiter`], [`marks`], [`transfer`], [`host_functions`], [`ending`] —
//!   talking to the server.
//! * [`handles`], [`objects`] — what the program holds.
//! * [`current`] — the calling thread's context and streams.
//! * [`memory`], [`memory_state`], [`kept`], [`mirror`] — addresses, allocation, host memory that kernels use.
//! * [`copies`], [`copy_out`], [`overlap`], [`concurrency`] — how a copy travels, and when it counts as work.
//! * [`images`], [`packing`] — how code gets there.
//! * [`connect`] — how all this comes to be, at `cuInit`.
//! * [`stats`], [`log`], [`process`] — counting, printing; fork and exit.

pub(crate) mod capture;
mod concurrency;
pub(crate) mod connect;
pub(crate) mod copies;
pub(crate) mod copy_out;
pub(crate) mod current;
pub(crate) mod ending;
pub(crate) mod graphs;
pub(crate) mod handles;
pub(crate) mod helm;
pub(crate) mod host_functions;
pub(crate) mod images;
pub(crate) mod kept;
pub(crate) mod log;
mod marks;
pub(crate) mod memory;
pub(crate) mod memory_state;
pub(crate) mod mirror;
pub(crate) mod objects;
pub(crate) mod overlap;
pub(crate) mod packing;
pub(crate) mod parameters;
pub(crate) mod pending;
pub(crate) mod process;
pub(crate) mod pump;
pub(crate) mod rect;
pub(crate) mod session;
pub(crate) mod shared;
pub(crate) mod staging;
pub(crate) mod stats;
pub(crate) mod transfer;
pub(crate) mod user_objects;
pub(crate) mod waiter;

use std::sync::{Arc, OnceLock};

use fusewire_wire::ops::snapshot::Device;

use crate::abi::result::{CUDA_ERROR_DEINITIALIZED, CUDA_ERROR_NOT_INITIALIZED};
use crate::abi::types::CUresult;

use objects::{Context, Pool};
use session::Session;

/// Everything that `cuInit` makes.
pub(crate) struct Runtime {
    pub(crate) session: Arc<Session>,
    pub(crate) devices: Vec<VisibleDevice>,
    pub(crate) memory: memory_state::Memory,
    pub(crate) mirrors: mirror::Mirrors,
    pub(crate) captures: capture::Captures,
}

/// A device as the program counts it.
pub(crate) struct VisibleDevice {
    /// As the server counts it.
    pub(crate) remote: i32,
    pub(crate) snapshot: Device,
    pub(crate) primary: Arc<Context>,
    pub(crate) default_pool: Arc<Pool>,
    pub(crate) pool: std::sync::Mutex<Arc<Pool>>,
    pub(crate) limits: crate::api::launch::Limits,
}

static RUNTIME: OnceLock<Result<Runtime, CUresult>> = OnceLock::new();

/// The runtime, once `cuInit` has succeeded in this process.
///
/// # Errors
/// `CUDA_ERROR_NOT_INITIALIZED` before that, and in a child forked after it.
#[inline]
pub(crate) fn get() -> Result<&'static Runtime, CUresult> {
    if process::is_forked() {
        return Err(CUDA_ERROR_NOT_INITIALIZED);
    }
    match RUNTIME.get() {
        Some(Ok(runtime)) => Ok(runtime),
        _ => Err(CUDA_ERROR_NOT_INITIALIZED),
    }
}

/// The runtime, for a call of the program's.
///
/// # Errors
/// As [`get`]; and `CUDA_ERROR_DEINITIALIZED` where a signal handler has taken this thread out of the middle of a wait,
/// in which it did the I/O thread's work ([`helm`]). What such a handler does with CUDA it does by ending the process:
/// its exit handlers free what there is, and must not wait for what only the wait would bring.
#[inline]
pub(crate) fn enter() -> Result<&'static Runtime, CUresult> {
    let runtime = get()?;
    if runtime.session.helm.is_mine() { Err(CUDA_ERROR_DEINITIALIZED) } else { Ok(runtime) }
}

/// `cuInit`.
///
/// # Errors
/// `CUDA_ERROR_NO_DEVICE` when there is no server; it has been said why.
pub(crate) fn init() -> Result<&'static Runtime, CUresult> {
    if process::is_forked() {
        return Err(CUDA_ERROR_NOT_INITIALIZED);
    }
    match RUNTIME.get_or_init(connect::connect) {
        Ok(runtime) => Ok(runtime),
        Err(code) => Err(*code),
    }
}

/// Runs an API function that needs the runtime.
#[inline]
pub(crate) fn call(
    counter: &'static stats::Counter,
    body: impl FnOnce(&'static Runtime) -> Result<(), CUresult>,
) -> CUresult {
    plain(counter, || body(enter()?))
}

/// Runs an API function that does not.
#[inline]
pub(crate) fn plain(
    counter: &'static stats::Counter,
    body: impl FnOnce() -> Result<(), CUresult>,
) -> CUresult {
    let counted = counter.begin();
    let code = match body() {
        Ok(()) => 0,
        Err(code) => code,
    };
    drop(counted);
    if log::traces() {
        eprintln!("fusewire: [{:?}] {} = {code}", std::thread::current().id(), counter.name());
    }
    code
}

impl Runtime {
    /// The device with this ordinal.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_DEVICE`.
    pub(crate) fn device(&self, ordinal: i32) -> Result<&VisibleDevice, CUresult> {
        usize::try_from(ordinal)
            .ok()
            .and_then(|n| self.devices.get(n))
            .ok_or(crate::abi::result::CUDA_ERROR_INVALID_DEVICE)
    }
}
