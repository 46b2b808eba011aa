//! The stand-in for libcuda.so.1

pub mod abi;
pub mod api;
