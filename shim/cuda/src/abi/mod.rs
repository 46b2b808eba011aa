//! The binary interface: what a program finds when it loads this library as `libcuda.so.1`.
//!
//! * [`types`], [`result`]: the interface's types and codes.
//! * [`generated`]: an exported symbol for every function of the interface. The build script (`build.rs`)
//!   reads `abi/functions.txt` and the sources of `src/api` and `src/abi`, and writes what is missing:
//!   not-supported stubs, per-thread variants, old names of unchanged functions, the look-up table.
//! * [`proc_address`]: `cuGetProcAddress`, by which the libraries find nearly everything.
//! * [`export_table`]: `cuGetExportTable`, the private tables that NVIDIA's libraries ask for.
//! * [`integrity`]: what the CUDA runtime checks about those tables at start-up.
//! * [`errors`]: `cuGetErrorName`, `cuGetErrorString`.
//! * [`per_thread`]: the two meanings of the NULL stream.
//! * [`hooks`]: what all this needs to know from the runtime behind it.
//!
//! Nothing here talks to a server. What a function *does* is `src/api`.

pub mod errors;
pub mod export_table;
pub mod generated;
pub mod hooks;
pub mod integrity;
pub mod per_thread;
pub mod proc_address;
pub mod result;
pub mod types;
mod unsupported;
mod version;

pub use generated::{IMPLEMENTED, SYMBOLS};
pub use unsupported::{not_supported, report};
pub use version::{HIGHEST_VERSION, driver_version, set_server_driver_version};

/// Brings in what the build script made for the functions of one source file: their `_ptsz` and `_ptds`
/// variants and their old names. Every file of `src/api` that defines such a function ends with
/// `crate::abi::variants!("copy.rs");` — the path is relative to `src/api`; the build script refuses a
/// file that lacks the line.
macro_rules! variants {
    ($file:literal) => {
        include!(concat!(env!("OUT_DIR"), "/api/", $file));
    };
}
pub(crate) use variants;
