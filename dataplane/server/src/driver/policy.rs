//! Which device attributes a client is told.
//!
//! An attribute is a promise: a library that reads it takes the path that the attribute opens. What describes
//! the card itself goes through as the driver gives it; what depends on the program sharing a machine with the
//! card does not hold across a link and is answered 0, so that libraries choose a path that works.

/// Attributes (`CUdevice_attribute`) that are answered 0, and what each would promise.
const WITHHELD: &[(i32, &str)] = &[
    (83, "managed memory"),
    (86, "atomics of the host reach device memory"),
    (88, "kernels read pageable host memory"),
    (89, "host and device use managed memory at once"),
    (98, "remote writes can be flushed"),
    (100, "kernels use the host's page tables"),
    (101, "the host reads managed memory in place"),
    (103, "memory exported as a file descriptor"),
    (104, "memory exported as a Win32 handle"),
    (105, "memory exported as a Win32 KMT handle"),
    (110, "GPUDirect RDMA with mapped memory"),
    (112, "sparse arrays"),
    (113, "read-only registration of host memory"),
    (114, "timeline semaphores"),
    (116, "GPUDirect RDMA"),
    (117, "GPUDirect RDMA flushes"),
    (118, "GPUDirect RDMA write order"),
    (119, "handle types of memory pools"),
    (121, "arrays mapped later"),
    (124, "dma-buf"),
    (125, "events shared between processes"),
    (128, "memory exported over a fabric"),
    (129, "unified function pointers"),
    (132, "multicast objects"),
    (135, "sharing with Direct3D 12"),
    (136, "memory decompression"),
    (137, "memory decompression"),
    (138, "sharing with Vulkan"),
    (141, "mapped memory on host NUMA nodes"),
    (142, "memory pools on host NUMA nodes"),
    (143, "memory of host NUMA nodes shared between machines"),
    (144, "memory pools of the host"),
    (145, "mapped memory of the host"),
    (146, "dma-buf of host memory"),
    (147, "some atomics of the host reach device memory"),
];

/// The value of an attribute as a client is told it.
#[must_use]
pub fn advertised(attribute: i32, value: i32) -> i32 {
    if WITHHELD.iter().any(|&(id, _)| id == attribute) { 0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_is_described_and_the_machine_is_not() {
        assert_eq!(advertised(16, 132), 132, "multiprocessors are the card's");
        assert_eq!(advertised(88, 1), 0, "pageable access needs one machine");
        assert_eq!(advertised(91, 1), 1, "registered host memory keeps its address");
        assert_eq!(advertised(115, 1), 1, "memory pools are carried");
        assert!(WITHHELD.is_sorted());
    }
}
