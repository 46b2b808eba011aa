//! Where shared addresses lie.
//!
//! Device pointers and mirrored host memory keep one value in the client, in the worker and on the GPU. Both
//! ends reserve these windows when a session opens; the client hands addresses out inside them. They lie where
//! neither the kernel's mmap nor NVIDIA's driver puts anything by itself.

/// Where device addresses begin. A session's `Welcome` says where its window really is.
pub const DEVICE_BASE: u64 = 0x1000_0000_0000;
/// Bytes of the device window, where there is room for as many. Programs reserve addresses for more memory than there
/// is, again and again: PyTorch's expandable segments do so for each stream and size.
pub const DEVICE_BYTES: u64 = 16 << 40;
/// Bytes that it has at least.
pub const DEVICE_BYTES_LEAST: u64 = 1 << 40;
/// Where mirrored host memory begins.
///
/// A client finds such addresses among the words of a kernel's parameters. Two 32-bit numbers side by side must not
/// look like one: 15,261 is no size that anybody likes, and small numbers beside it fall below the window.
pub const HOST_BASE: u64 = 0x3b9d_1000_0000;
/// Bytes of the host window.
pub const HOST_BYTES: u64 = 1 << 40;
