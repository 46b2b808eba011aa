//! Fusewire's server: daemon and workers

pub mod control;
pub mod daemon;
pub mod driver;
pub mod nvml;
pub mod placement;
pub mod worker;
