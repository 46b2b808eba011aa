//! Live figures of the GPUs, from the machine's own `libnvidia-ml.so.1`.
//!
//! Nothing here is needed for serving: a machine without the library, or a driver that is not NVIDIA's,
//! has no such figures, and clients are told so. Nothing is loaded before somebody asks, and what was opened
//! is closed again when nobody has asked for a while.
//!
//! * [`reader`] — a thread that reads on demand, since a call into the library may block;
//! * [`probes`] — which function gives which figure;
//! * [`library`] — loading it and calling it.

mod library;
mod probes;
mod reader;

pub use library::{DEFAULT_LIBRARY, NvmlError};
pub use reader::{Latest, Reader};
