//! The driver: NVIDIA's `libcuda.so.1`, or any library with its interface, loaded at run time.
//!
//! * [`api`] — the functions as pointers, one declaration each;
//! * [`load`] — finding the library and saying in one line why it will not do;
//! * [`layouts`] — structures that carry numbers from outside, as plain integers;
//! * [`policy`] — which device attributes a client is told, and which are promises that cannot be kept;
//! * [`snapshot`], [`inventory`] — what clients and the daemon learn about the devices.
//!
//! Types are those of `cudarc::driver::sys`. Its own loader is not used: it panics when a symbol is missing, and
//! its results are Rust enums, which a code that a newer driver invented would make undefined. Here a result is
//! a `u32` and stays one.

pub mod api;
pub mod inventory;
pub mod layouts;
pub mod load;
pub mod policy;
pub mod snapshot;

pub use api::Driver;
pub use load::LoadError;

/// What a driver function answers: `CUresult` as a number.
pub type Status = u32;

pub const SUCCESS: Status = 0;
pub const INVALID_VALUE: Status = 1;
pub const OUT_OF_MEMORY: Status = 2;
pub const INVALID_DEVICE: Status = 101;
pub const INVALID_IMAGE: Status = 200;
pub const INVALID_CONTEXT: Status = 201;
pub const INVALID_HANDLE: Status = 400;
pub const NOT_FOUND: Status = 500;
pub const NOT_READY: Status = 600;
pub const CONTEXT_IS_DESTROYED: Status = 709;
pub const NOT_SUPPORTED: Status = 801;
pub const CAPTURE_UNSUPPORTED: Status = 900;
pub const CAPTURED_EVENT: Status = 907;
pub const GRAPH_EXEC_UPDATE_FAILURE: Status = 910;
pub const UNKNOWN: Status = 999;

/// A driver's answer as a `Result`.
///
/// # Errors
/// Any status but success.
#[inline]
pub fn check(status: Status) -> Result<(), Status> {
    if status == SUCCESS { Ok(()) } else { Err(status) }
}

/// Whether an error means that the context it came from is lost for good (cuda.h: "the process must be
/// terminated and relaunched").
#[must_use]
pub fn is_sticky(status: Status) -> bool {
    matches!(status, 214 | 220 | 221 | 223 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721)
}
