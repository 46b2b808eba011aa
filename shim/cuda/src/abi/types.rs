//! The C types of the driver interface that more than one module speaks.
//!
//! Handles are plain aliases of a pointer: the interface passes them by value and the program may
//! cast between some of them (a `CUkernel` is accepted as a `CUfunction`), so the compiler must not
//! tell them apart. The build script reads this file to learn the size of each alias.

#![allow(non_camel_case_types, reason = "these are the interface's own names")]

use std::ffi::c_void;

pub type CUresult = u32;
pub type CUdevice = i32;
pub type CUdeviceptr = u64;
pub type CUtexObject = u64;
pub type CUsurfObject = u64;

pub type CUcontext = *mut c_void;
pub type CUmodule = *mut c_void;
pub type CUfunction = *mut c_void;
pub type CUlibrary = *mut c_void;
pub type CUkernel = *mut c_void;
pub type CUarray = *mut c_void;
pub type CUmipmappedArray = *mut c_void;
pub type CUtexref = *mut c_void;
pub type CUsurfref = *mut c_void;
pub type CUevent = *mut c_void;
pub type CUstream = *mut c_void;
pub type CUgraphicsResource = *mut c_void;
pub type CUexternalMemory = *mut c_void;
pub type CUexternalSemaphore = *mut c_void;
pub type CUgraph = *mut c_void;
pub type CUgraphNode = *mut c_void;
pub type CUgraphExec = *mut c_void;
pub type CUgraphDeviceNode = *mut c_void;
pub type CUgraphConditionalHandle = u64;
pub type CUmemoryPool = *mut c_void;
pub type CUmemGenericAllocationHandle = u64;
pub type CUuserObject = *mut c_void;
pub type CUgreenCtx = *mut c_void;
pub type CUlinkState = *mut c_void;
pub type CUdevResourceDesc = *mut c_void;
pub type CUasyncCallbackHandle = *mut c_void;
pub type CUlogsCallbackHandle = *mut c_void;

/// `CUuuid`: sixteen bytes in memory order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CUuuid {
    pub bytes: [u8; 16],
}

/// `CUmemLocation`: passed by value where memory is advised or prefetched.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CUmemLocation {
    pub kind: i32,
    pub id: i32,
}

/// `CUipcMemHandle`: opaque, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUipcMemHandle {
    pub reserved: [u8; 64],
}

/// `CUipcEventHandle`: opaque, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUipcEventHandle {
    pub reserved: [u8; 64],
}

/// `CUhostFn`.
pub type CUhostFn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// `CUstreamCallback`.
pub type CUstreamCallback =
    Option<unsafe extern "C" fn(stream: CUstream, status: CUresult, user_data: *mut c_void)>;
