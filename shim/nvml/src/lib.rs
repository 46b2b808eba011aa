//! The stand-in for `libnvidia-ml.so.1`: answers what programs ask NVML from what the server says.
//!
//! ```text
//! api/      the exported functions, by subject; build.rs adds a stub for every other one
//! server    the inventory: asked for at most every 200 ms, shared by all threads
//! session   nvmlInit … nvmlShutdown
//! device    handles
//! ```
//!
//! It never loads a driver, keeps no connection and no thread, and needs nothing but glibc. A figure that
//! the server does not know is NVML_ERROR_NOT_SUPPORTED, never a guess. Of other programs on the GPU it says
//! nothing: no process is ever listed.

#![allow(non_snake_case, reason = "exported symbols have the interface's names")]

pub mod api;
mod device;
mod out;
mod report;
mod server;
mod session;
pub mod status;
pub mod stubs;
pub mod types;
