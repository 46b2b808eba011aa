//! The driver version that programs are told.
//!
//! Never newer than the server's driver, and never newer than what this library knows: libraries resolve
//! the whole surface of the version they see and fail over what is missing.

use std::sync::atomic::{AtomicI32, Ordering};

/// The interface that `abi/functions.txt` describes.
pub const HIGHEST_VERSION: i32 = 13_000;

/// Zero until the server has said what its driver is.
static SERVER: AtomicI32 = AtomicI32::new(0);

/// Takes the version that the server's driver reports (13000 for CUDA 13.0).
pub fn set_server_driver_version(version: i32) {
    SERVER.store(version, Ordering::Release);
}

/// What `cuDriverGetVersion` answers.
pub fn driver_version() -> i32 {
    match SERVER.load(Ordering::Acquire) {
        server if server > 0 => server.min(HIGHEST_VERSION),
        _ => HIGHEST_VERSION,
    }
}
