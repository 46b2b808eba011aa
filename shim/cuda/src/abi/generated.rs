//! What the build script wrote: [`SYMBOLS`], [`IMPLEMENTED`], the stubs, and the look-up table.
//!
//! To change any of it change `abi/functions.txt`, `abi/aliases.txt` or `build/`.

#![allow(non_snake_case, reason = "exported symbols have the interface's names")]
#![allow(clashing_extern_declarations, reason = "addresses only: nothing is called through these")]

use super::unsupported::not_supported;

/// One answer that `cuGetProcAddress` can give.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name that is asked for: no version suffix.
    pub base: &'static str,
    /// The first CUDA version of this form of the function, 12020 for 12.2.
    pub version: i32,
    /// Whether NULL means the calling thread's default stream.
    pub per_thread: bool,
    pub address: unsafe extern "C" fn(),
}

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
