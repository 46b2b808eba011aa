//! Fusewire's stand-in for NVIDIA's driver library: `libcuda.so.1` for programs on machines without a GPU.
//!
//! * [`abi`] — the binary interface: symbols, look-up, private tables, error names.
//! * [`api`] — the driver's functions, by what they are about.
//! * `runtime` — the session with the server, and what the client knows without asking.
//!
//! To add a driver function: give it an operation in the wire crate's op table (or a place among the local
//! ones), write it in the file of [`api`] that it belongs to, and answer the operation in the worker.

// The interface's own names, in the interface's own spelling.
#![allow(non_snake_case, reason = "driver functions keep their names")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the driver's manual says what each function's pointers must be"
)]

pub mod abi;
pub mod api;
pub(crate) mod hooks;
pub(crate) mod runtime;
