//! The C side of the interface: pointer arguments and the structures of cuda.h, field for field.
//!
//! `Out` and `In` are what a driver function receives as `T *` and `const T *`. Every dereference of a
//! caller's pointer is in this file; null is refused, anything else is trusted as cuda.h demands.

use std::ffi::{CStr, c_char, c_void};

use crate::errors::{Code, Res};

/// A `T *` into which the driver writes.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// The pointer to a value of the caller's.
    pub fn new(place: &mut T) -> Self {
        Out(place)
    }

    /// The pointer a caller passes who does not want the value.
    pub fn null() -> Self {
        Out(std::ptr::null_mut())
    }

    /// A pointer to the first of several values.
    pub fn many(places: &mut [T]) -> Self {
        Out(places.as_mut_ptr())
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn set(self, value: T) -> Res {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and the caller of the driver function vouches for the rest.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    pub(crate) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `set`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Writes the first `room` of `values`.
    pub(crate) fn set_all(self, values: impl IntoIterator<Item = T>, room: usize) -> Res {
        if self.0.is_null() {
            return if room == 0 { Ok(()) } else { Err(Code::INVALID_VALUE) };
        }
        for (index, value) in values.into_iter().take(room).enumerate() {
            // SAFETY: the caller says there is room for `room` values.
            unsafe { self.0.add(index).write_unaligned(value) };
        }
        Ok(())
    }
}

impl<T: Copy> Out<T> {
    /// The value that is there: some functions read their output argument first.
    pub(crate) fn get(self) -> Res<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and the caller of the driver function vouches for the rest.
        Ok(unsafe { self.0.read_unaligned() })
    }
}

/// A `const T *` from which the driver reads.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> In<T> {
    /// The pointer to a value of the caller's.
    pub fn new(place: &T) -> Self {
        In(place)
    }

    /// The pointer a caller passes who has nothing to say.
    pub fn null() -> Self {
        In(std::ptr::null())
    }

    /// A pointer to the first of several values.
    pub fn many(places: &[T]) -> Self {
        In(places.as_ptr())
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }
}

impl<T: Copy> In<T> {
    pub(crate) fn get(self) -> Res<T> {
        self.at(0)
    }

    pub(crate) fn at(self, index: usize) -> Res<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, and the caller of the driver function vouches that the element is there.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    pub(crate) fn list(self, count: usize) -> Res<Vec<T>> {
        (0..count).map(|index| self.at(index)).collect()
    }
}

/// The text behind a `const char *`.
pub(crate) fn text(pointer: In<c_char>) -> Res<String> {
    if pointer.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller vouches that the text ends in NUL.
    let text = unsafe { CStr::from_ptr(pointer.0) };
    text.to_str().map(str::to_owned).map_err(|_| Code::INVALID_VALUE)
}

/// Writes text and its NUL into `room` bytes, cut short if it must be.
pub(crate) fn put_text(out: Out<c_char>, room: i32, text: &str) -> Res {
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Code::INVALID_VALUE)?;
    let cut = text.len().min(room - 1);
    let bytes = text.as_bytes()[..cut].iter().copied().chain(std::iter::once(0));
    out.set_all(bytes.map(|byte| byte.cast_signed()), room)
}

/// A function of the program's that a stream calls: `cuLaunchHostFunc`.
pub type HostFn = Option<unsafe extern "C" fn(*mut c_void)>;

/// A function of the program's that a stream calls: `cuStreamAddCallback`.
pub type StreamCallback = Option<unsafe extern "C" fn(u64, u32, *mut c_void)>;

macro_rules! structs {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[doc = concat!("`", stringify!($name), "` of cuda.h.")]
        #[repr(C)]
        #[derive(Clone, Copy)]
        #[allow(missing_docs, non_snake_case, non_camel_case_types)]
        pub struct $name { $(pub $field: $ty),* }

        impl Default for $name {
            fn default() -> Self {
                // SAFETY: all fields are integers, pointers, optional functions or arrays of these,
                // for which zero is a value.
                unsafe { std::mem::zeroed() }
            }
        }
    )*};
}

structs! {
    CUuuid { bytes: [u8; 16] }
    CUDA_MEMCPY2D {
        srcXInBytes: usize, srcY: usize, srcMemoryType: u32, srcHost: u64, srcDevice: u64, srcArray: u64,
        srcPitch: usize, dstXInBytes: usize, dstY: usize, dstMemoryType: u32, dstHost: u64, dstDevice: u64,
        dstArray: u64, dstPitch: usize, WidthInBytes: usize, Height: usize,
    }
    /// Also `CUDA_MEMCPY3D_PEER`, which has contexts in the reserved places.
    CUDA_MEMCPY3D {
        srcXInBytes: usize, srcY: usize, srcZ: usize, srcLOD: usize, srcMemoryType: u32, srcHost: u64,
        srcDevice: u64, srcArray: u64, reserved0: u64, srcPitch: usize, srcHeight: usize, dstXInBytes: usize,
        dstY: usize, dstZ: usize, dstLOD: usize, dstMemoryType: u32, dstHost: u64, dstDevice: u64,
        dstArray: u64, reserved1: u64, dstPitch: usize, dstHeight: usize, WidthInBytes: usize, Height: usize,
        Depth: usize,
    }
    CUDA_MEMCPY_NODE_PARAMS { flags: i32, reserved: i32, copyCtx: u64, copyParams: CUDA_MEMCPY3D }
    CUDA_ARRAY_DESCRIPTOR { Width: usize, Height: usize, Format: u32, NumChannels: u32 }
    CUDA_ARRAY3D_DESCRIPTOR {
        Width: usize, Height: usize, Depth: usize, Format: u32, NumChannels: u32, Flags: u32,
    }
    CUmemLocation { kind: u32, id: i32 }
    CUmemAllocationProp {
        kind: u32, requestedHandleTypes: u32, location: CUmemLocation, win32HandleMetaData: u64,
        compressionType: u8, gpuDirectRDMACapable: u8, usage: u16, reserved: [u8; 4],
    }
    CUmemAccessDesc { location: CUmemLocation, flags: u32 }
    CUmemPoolProps {
        allocType: u32, handleTypes: u32, location: CUmemLocation, win32SecurityAttributes: u64,
        maxSize: usize, usage: u16, reserved: [u8; 54],
    }
    CUDA_KERNEL_NODE_PARAMS_v2 {
        func: u64, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32,
        blockDimZ: u32, sharedMemBytes: u32, kernelParams: *const *const c_void, extra: *const *const c_void,
        kern: u64, ctx: u64,
    }
    CUDA_MEMSET_NODE_PARAMS { dst: u64, pitch: usize, value: u32, elementSize: u32, width: usize, height: usize }
    CUDA_HOST_NODE_PARAMS { function: HostFn, userData: *mut c_void }
    CUDA_BATCH_MEM_OP_NODE_PARAMS { ctx: u64, count: u32, paramArray: *const CUstreamBatchMemOpParams, flags: u32 }
    CUlaunchAttribute { id: u32, pad: u32, value: [u64; 8] }
    CUlaunchConfig {
        gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32,
        sharedMemBytes: u32, hStream: u64, attrs: *const CUlaunchAttribute, numAttrs: u32,
    }
    #[derive(Debug, PartialEq, Eq)]
    CUgraphEdgeData { from_port: u8, to_port: u8, kind: u8, reserved: [u8; 5] }
    CUDA_GRAPH_INSTANTIATE_PARAMS { flags: u64, hUploadStream: u64, hErrNode_out: u64, result_out: u32 }
    CUgraphExecUpdateResultInfo { result: u32, errorNode: u64, errorFromNode: u64 }
    /// A union in cuda.h; wait and write share this layout, the others use only `operation`.
    CUstreamBatchMemOpParams { operation: u32, address: u64, value: u64, flags: u32, alias: u64, pad: u64 }
}

impl CUgraphEdgeData {
    /// The edge of a kernel that need not wait for the end of the kernel before it.
    pub(crate) const PROGRAMMATIC: Self = Self { from_port: 1, to_port: 0, kind: 1, reserved: [0; 5] };
    /// As above, once all of the earlier kernel's blocks have begun.
    pub(crate) const LAUNCH_ORDER: Self = Self { from_port: 2, ..Self::PROGRAMMATIC };

    /// An ordinary dependency.
    pub(crate) fn is_ordinary(self) -> bool {
        self == Self::default()
    }
}

impl<T> In<T> {
    pub(crate) fn from_raw(pointer: *const T) -> Self {
        In(pointer)
    }
}

impl<T> Out<T> {
    pub(crate) fn from_raw(pointer: *mut T) -> Self {
        Out(pointer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_cuda_h() {
        assert_eq!(size_of::<CUDA_MEMCPY2D>(), 128);
        assert_eq!(size_of::<CUDA_MEMCPY3D>(), 200);
        assert_eq!(size_of::<CUDA_MEMCPY_NODE_PARAMS>(), 216);
        assert_eq!(size_of::<CUDA_ARRAY_DESCRIPTOR>(), 24);
        assert_eq!(size_of::<CUDA_ARRAY3D_DESCRIPTOR>(), 40);
        assert_eq!(size_of::<CUmemAllocationProp>(), 32);
        assert_eq!(size_of::<CUmemAccessDesc>(), 12);
        assert_eq!(size_of::<CUmemPoolProps>(), 88);
        assert_eq!(size_of::<CUDA_KERNEL_NODE_PARAMS_v2>(), 72);
        assert_eq!(size_of::<CUDA_MEMSET_NODE_PARAMS>(), 40);
        assert_eq!(size_of::<CUDA_HOST_NODE_PARAMS>(), 16);
        assert_eq!(size_of::<CUDA_BATCH_MEM_OP_NODE_PARAMS>(), 32);
        assert_eq!(size_of::<CUlaunchAttribute>(), 72);
        assert_eq!(size_of::<CUlaunchConfig>(), 56);
        assert_eq!(size_of::<CUgraphEdgeData>(), 8);
        assert_eq!(size_of::<CUDA_GRAPH_INSTANTIATE_PARAMS>(), 32);
        assert_eq!(size_of::<CUgraphExecUpdateResultInfo>(), 24);
        assert_eq!(size_of::<CUstreamBatchMemOpParams>(), 48);
    }
}
