//! The driver's functions, by what they are about.
//!
//! Each is written once, for the legacy default stream; `abi` makes the per-thread variants. The pattern: a
//! counter for the statistics, then the body with errors as `Result`.

pub mod arguments;
pub mod array;
pub mod batch_copy;
pub mod capture;
pub mod context;
pub mod copy;
pub mod copy_rect;
pub mod device;
pub mod device_memory;
pub mod event;
pub mod function;
pub mod graph;
pub mod graph_edges;
pub mod graph_node;
pub mod host_function;
pub mod host_memory;
pub mod init;
pub mod launch;
pub mod library;
pub mod linker;
pub mod memset;
pub mod module;
pub mod occupancy;
pub mod peer;
pub mod pointer;
pub mod pool;
pub mod profiler;
pub mod stream;
pub mod stream_value;
pub mod tensor_map;
pub mod texture;
pub mod user_object;
pub mod virtual_memory;
