//! The functions of the driver interface, by subject.

pub mod version;
