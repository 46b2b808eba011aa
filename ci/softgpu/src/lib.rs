//! A software GPU behind the CUDA driver interface, for tests
