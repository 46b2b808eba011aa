//! The stand-in for libcuda.so.1
