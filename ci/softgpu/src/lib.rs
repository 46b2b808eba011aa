//! A software GPU: the CUDA driver's C interface without a GPU behind it.
//!
//! A program loads this library where it would load `libcuda.so.1`. Memory is memory of the process,
//! bounds are checked, streams run on threads of their own, and kernels are PTX, interpreted by
//! `softgpu-ptx`. It is a test instrument: small, plain and strict, and it can be told to fail (see
//! `faults.rs` and the README).
//!
//! Where to begin: `entry.rs` for how a call comes in, `stream.rs` for how work is ordered, `work.rs`
//! for what work there is, `space.rs` for what an address means.

// Functions and structures are named as in cuda.h, and kernels have many parameters.
#![allow(non_snake_case, non_camel_case_types, clippy::too_many_arguments)]
// 64-bit systems only: a size is an address is 64 bits.
#![cfg(target_pointer_width = "64")]

pub mod abi;
pub mod array;
mod attributes;
pub mod capture;
pub mod context;
pub mod copy;
mod cubin;
pub mod device;
mod entry;
pub mod errors;
pub mod event;
mod faults;
pub mod function;
pub mod graph;
pub mod graph_exec;
mod handles;
mod image;
mod jit;
pub mod launch;
pub mod library;
pub mod linker;
pub mod memops;
pub mod memory;
pub mod module;
pub mod pool;
pub mod proc_address;
mod program;
mod space;
pub mod stream;
mod sync;
pub mod tensor_map;
pub mod unsupported;
pub mod user_object;
pub mod vmm;
mod work;
