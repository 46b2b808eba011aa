//! Fusewire's server: daemon and workers
