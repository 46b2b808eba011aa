//! Fusewire's server: daemon and workers

pub mod control;
pub mod placement;
