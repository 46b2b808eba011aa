//! Fusewire's server: a daemon that admits sessions, and a worker process for each.
//!
//! * [`daemon`] — listens, greets, admits, starts workers and hands them their sockets. Never loads the driver.
//! * [`control`] — what daemon and workers say to each other.
//! * [`worker`] — one session: its operations, done on the driver by a shard that never waits for the GPU.
//! * [`driver`] — the driver library, loaded at run time; what of it is advertised.
//! * [`nvml`] — live figures of the GPUs.
//! * [`placement`] — which cores serve which GPU.

pub mod control;
pub mod daemon;
pub mod driver;
pub mod nvml;
pub mod placement;
pub mod worker;
