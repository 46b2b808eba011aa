//! Structures of `cuda.h` whose fields come from the client or the driver as numbers. `cudarc` declares the same
//! with Rust enums inside, which must never hold a number that has not been checked.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `CUmemLocation`; `kind` 1 is a device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Location {
    pub kind: u32,
    pub id: i32,
}

/// `CUmemAllocationProp`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AllocationProp {
    /// 1: pinned.
    pub kind: u32,
    /// 0: none. Handles are never exported.
    pub handle_types: u32,
    pub location: Location,
    pub metadata: *mut c_void,
    pub compression: u8,
    pub rdma: u8,
    pub usage: u16,
    pub reserved: [u8; 4],
}

impl AllocationProp {
    /// Ordinary memory of a device.
    #[must_use]
    pub fn on_device(device: i32) -> Self {
        Self {
            kind: 1,
            handle_types: 0,
            location: Location { kind: 1, id: device },
            metadata: std::ptr::null_mut(),
            compression: 0,
            rdma: 0,
            usage: 0,
            reserved: [0; 4],
        }
    }
}

/// `CUmemAccessDesc`; `flags` 0 none, 1 read, 3 read and write.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AccessDesc {
    pub location: Location,
    pub flags: u32,
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub stream: *mut c_void,
    pub attributes: *const Attribute,
    pub attribute_count: u32,
}

/// `CUlaunchAttribute`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Attribute {
    pub id: u32,
    pub reserved: u32,
    pub value: [u8; 64],
}

/// `CUDA_MEMCPY3D`. Memory types: 1 host, 2 device, 3 array, 4 unified.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Memcpy3d {
    pub source: Side,
    pub destination: Side,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// One side of a [`Memcpy3d`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Side {
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub level: usize,
    pub kind: u32,
    pub host: *mut c_void,
    pub device: u64,
    pub array: *mut c_void,
    pub reserved: *mut c_void,
    pub pitch: usize,
    pub height: usize,
}

impl Side {
    /// Packed or pitched host memory.
    #[must_use]
    pub fn host(address: *mut c_void, pitch: usize, height: usize) -> Self {
        Self { kind: 1, host: address, pitch, height, ..Self::nothing() }
    }

    /// Memory of a device, or host memory that it can reach.
    #[must_use]
    pub fn unified(address: u64, pitch: usize, height: usize) -> Self {
        Self { kind: 4, device: address, pitch, height, ..Self::nothing() }
    }

    #[must_use]
    pub fn array(array: *mut c_void) -> Self {
        Self { kind: 3, array, ..Self::nothing() }
    }

    #[must_use]
    pub fn at(self, x: usize, y: usize, z: usize) -> Self {
        Self { x, y, z, ..self }
    }

    fn nothing() -> Self {
        let null = std::ptr::null_mut();
        Self {
            x: 0,
            y: 0,
            z: 0,
            level: 0,
            kind: 0,
            host: null,
            device: 0,
            array: null,
            reserved: null,
            pitch: 0,
            height: 0,
        }
    }
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelNode {
    pub function: *mut c_void,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub parameters: *mut *mut c_void,
    pub extra: *mut *mut c_void,
    pub kernel: *mut c_void,
    pub context: *mut c_void,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemsetNode {
    pub destination: u64,
    pub pitch: usize,
    pub value: u32,
    pub element: u32,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HostNode {
    pub function: HostFunction,
    pub data: *mut c_void,
}

/// `CUhostFn`.
pub type HostFunction = unsafe extern "C" fn(*mut c_void);

/// `CUDA_MEMCPY_NODE_PARAMS`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemcpyNode {
    pub flags: i32,
    pub reserved: i32,
    pub context: *mut c_void,
    pub copy: Memcpy3d,
}

/// `CUDA_MEMSET_NODE_PARAMS_v2`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemsetNodeV2 {
    pub memset: MemsetNode,
    pub context: *mut c_void,
}

/// `CUgraphNodeParams`: a `CUgraphNodeType`, and room for the parameters of each.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NodeParams {
    kind: u32,
    reserved: [u32; 3],
    /// What lies between the fields of the parameters may be anything.
    room: [MaybeUninit<u64>; 29],
    end: u64,
}

impl NodeParams {
    /// `params` are what the driver takes for this kind. What they point to, they go on pointing to.
    #[must_use]
    pub fn of<T: Copy>(kind: u32, params: T) -> Self {
        const { assert!(size_of::<T>() <= 29 * 8 && align_of::<T>() <= 8) };
        let mut all = Self { kind, reserved: [0; 3], room: [MaybeUninit::zeroed(); 29], end: 0 };
        // SAFETY: there is room, aligned as the widest member of the driver's union.
        unsafe { all.room.as_mut_ptr().cast::<T>().write(params) };
        all
    }
}

/// `CUgraphEdgeData`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct EdgeData {
    pub from_port: u8,
    pub to_port: u8,
    pub kind: u8,
    pub reserved: [u8; 5],
}

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExecUpdate {
    pub result: u32,
    pub node: *mut c_void,
    pub from: *mut c_void,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Array3d {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    pub format: u32,
    pub channels: u32,
    pub flags: u32,
}

/// `CUDA_RESOURCE_DESC` as bytes: the resource's type, then the union, then flags.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Resource {
    /// 0 array, 1 mipmapped array, 2 linear, 3 pitched.
    pub kind: u32,
    pub padding: u32,
    /// Array: the handle. Linear: address, format and channels, bytes. Pitched: address, format and channels,
    /// width, height, pitch.
    pub words: [u64; 16],
    pub flags: u32,
    pub end: u32,
}

/// `CUDA_TEXTURE_DESC`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Texture {
    pub address_modes: [u32; 3],
    pub filter_mode: u32,
    pub flags: u32,
    pub anisotropy: u32,
    pub mipmap_filter_mode: u32,
    pub levels: [f32; 3],
    pub border: [f32; 4],
    pub reserved: [u32; 12],
}

/// `CUDA_RESOURCE_VIEW_DESC`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct View {
    pub format: u32,
    pub padding: u32,
    pub width: u64,
    pub height: u64,
    pub depth: u64,
    pub range: [u32; 4],
    pub reserved: [u32; 16],
}

/// `CUstreamAttrValue`: 64 bytes, aligned as its widest member.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct StreamAttribute(pub [u8; 64]);

/// `CUtensorMap`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u8; 128]);

/// Cross-checks against `cudarc`'s declarations, which are generated from `cuda.h`.
const _: () = {
    use cudarc::driver::sys;
    assert!(size_of::<AllocationProp>() == size_of::<sys::CUmemAllocationProp>());
    assert!(size_of::<AccessDesc>() == size_of::<sys::CUmemAccessDesc>());
    assert!(size_of::<LaunchConfig>() == size_of::<sys::CUlaunchConfig>());
    assert!(size_of::<Attribute>() == size_of::<sys::CUlaunchAttribute>());
    assert!(size_of::<Memcpy3d>() == size_of::<sys::CUDA_MEMCPY3D>());
    assert!(size_of::<KernelNode>() == size_of::<sys::CUDA_KERNEL_NODE_PARAMS>());
    assert!(size_of::<MemsetNode>() == size_of::<sys::CUDA_MEMSET_NODE_PARAMS>());
    assert!(size_of::<MemcpyNode>() == size_of::<sys::CUDA_MEMCPY_NODE_PARAMS>());
    assert!(size_of::<MemsetNodeV2>() == size_of::<sys::CUDA_MEMSET_NODE_PARAMS_v2>());
    assert!(size_of::<KernelNode>() == size_of::<sys::CUDA_KERNEL_NODE_PARAMS_v3>());
    assert!(size_of::<NodeParams>() == size_of::<sys::CUgraphNodeParams>());
    assert!(size_of::<EdgeData>() == size_of::<sys::CUgraphEdgeData>());
    assert!(size_of::<ExecUpdate>() == size_of::<sys::CUgraphExecUpdateResultInfo>());
    assert!(size_of::<Array3d>() == size_of::<sys::CUDA_ARRAY3D_DESCRIPTOR>());
    assert!(size_of::<Resource>() == size_of::<sys::CUDA_RESOURCE_DESC>());
    assert!(size_of::<Texture>() == size_of::<sys::CUDA_TEXTURE_DESC>());
    assert!(size_of::<View>() == size_of::<sys::CUDA_RESOURCE_VIEW_DESC>());
    assert!(size_of::<StreamAttribute>() == size_of::<sys::CUstreamAttrValue>());
    assert!(size_of::<TensorMap>() == size_of::<sys::CUtensorMap>());
};
