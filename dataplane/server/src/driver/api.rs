//! The driver's functions as pointers, each declared once.
//!
//! A function in `required` makes a library a driver; one in `optional` that is missing answers
//! `CUDA_ERROR_NOT_SUPPORTED`. Every result is the number that the driver gave. Nothing is checked here: what a
//! client sent has been checked before it comes to one of these.

use std::ffi::{CStr, c_char, c_void};

use cudarc::driver::sys::{
    CUarray, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode,
    CUkernel, CUlibrary, CUlinkState, CUmemGenericAllocationHandle, CUmodule, CUstream, CUuuid,
};
use libloading::Library;

use super::layouts::{
    AccessDesc, AllocationProp, Array3d, EdgeData, ExecUpdate, HostFunction, HostNode, KernelNode,
    LaunchConfig, Memcpy3d, MemsetNode, NodeParams, Resource, StreamAttribute, TensorMap, Texture, View,
};
use super::load::LoadError;
use super::{NOT_SUPPORTED, Status};

macro_rules! driver {
    (
        required { $( fn $name:ident ( $($arg:ident : $ty:ty),* $(,)? ); )* }
        optional { $( fn $oname:ident ( $($oarg:ident : $oty:ty),* $(,)? ); )* }
    ) => {
        /// A loaded driver. It is never unloaded: its threads and atexit handlers do not allow for that.
        #[allow(non_snake_case, reason = "the functions keep the names that cuda.h gives them")]
        pub struct Driver {
            $( $name: unsafe extern "C" fn($($ty),*) -> Status, )*
            $( $oname: Option<unsafe extern "C" fn($($oty),*) -> Status>, )*
        }

        #[allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments,
                reason = "the contract of each is the driver manual's")]
        impl Driver {
            /// Finds every function in `library`, which must outlive the process.
            pub(super) fn from_library(library: &'static Library, file: &str) -> Result<Self, LoadError> {
                Ok(Self {
                    $( $name: {
                        let symbol = concat!(stringify!($name), "\0");
                        // SAFETY: the type is the function's in cuda.h. That the library keeps to that interface
                        // is what its user says by naming it.
                        match unsafe { library.get(symbol.as_bytes()) } {
                            Ok(found) => *found,
                            Err(_) => return Err(LoadError::NotADriver {
                                file: file.to_owned(), symbol: stringify!($name),
                            }),
                        }
                    }, )*
                    $( $oname: {
                        let symbol = concat!(stringify!($oname), "\0");
                        // SAFETY: as above.
                        unsafe { library.get(symbol.as_bytes()) }.ok().map(|found| *found)
                    }, )*
                })
            }

            $( #[inline] pub unsafe fn $name(&self $(, $arg: $ty)*) -> Status {
                // SAFETY: the caller keeps to the driver's manual.
                unsafe { (self.$name)($($arg),*) }
            } )*
            $( #[inline] pub unsafe fn $oname(&self $(, $oarg: $oty)*) -> Status {
                match self.$oname {
                    // SAFETY: the caller keeps to the driver's manual.
                    Some(function) => unsafe { function($($oarg),*) },
                    None => NOT_SUPPORTED,
                }
            } )*
        }
    };
}

driver! {
    required {
        fn cuInit(flags: u32);
        fn cuDriverGetVersion(version: *mut i32);
        fn cuDeviceGetCount(count: *mut i32);
        fn cuDeviceGet(device: *mut CUdevice, ordinal: i32);
        fn cuDeviceGetName(name: *mut c_char, bytes: i32, device: CUdevice);
        fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: CUdevice);
        fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
        fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
        fn cuDevicePrimaryCtxRelease_v2(device: CUdevice);
        fn cuCtxSetCurrent(context: CUcontext);
        fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
        fn cuMemAddressReserve(address: *mut CUdeviceptr, bytes: usize, alignment: usize, hint: CUdeviceptr, flags: u64);
        fn cuMemCreate(handle: *mut CUmemGenericAllocationHandle, bytes: usize, prop: *const AllocationProp, flags: u64);
        fn cuMemRelease(handle: CUmemGenericAllocationHandle);
        fn cuMemMap(address: CUdeviceptr, bytes: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64);
        fn cuMemUnmap(address: CUdeviceptr, bytes: usize);
        fn cuMemSetAccess(address: CUdeviceptr, bytes: usize, access: *const AccessDesc, count: usize);
        fn cuMemGetAllocationGranularity(bytes: *mut usize, prop: *const AllocationProp, option: u32);
        fn cuMemHostRegister_v2(start: *mut c_void, bytes: usize, flags: u32);
        fn cuMemHostUnregister(start: *mut c_void);
        fn cuMemcpyHtoDAsync_v2(destination: CUdeviceptr, source: *const c_void, bytes: usize, stream: CUstream);
        fn cuMemcpyDtoHAsync_v2(destination: *mut c_void, source: CUdeviceptr, bytes: usize, stream: CUstream);
        fn cuMemcpyAsync(destination: CUdeviceptr, source: CUdeviceptr, bytes: usize, stream: CUstream);
        fn cuMemsetD8Async(destination: CUdeviceptr, value: u8, count: usize, stream: CUstream);
        fn cuStreamCreateWithPriority(stream: *mut CUstream, flags: u32, priority: i32);
        fn cuStreamDestroy_v2(stream: CUstream);
        fn cuStreamQuery(stream: CUstream);
        fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: u32);
        fn cuStreamWaitValue32_v2(stream: CUstream, address: CUdeviceptr, value: u32, flags: u32);
        fn cuStreamWriteValue32_v2(stream: CUstream, address: CUdeviceptr, value: u32, flags: u32);
        fn cuEventCreate(event: *mut CUevent, flags: u32);
        fn cuEventDestroy_v2(event: CUevent);
        fn cuEventRecord(event: CUevent, stream: CUstream);
        fn cuModuleLoadDataEx(module: *mut CUmodule, image: *const c_void, count: u32, options: *mut u32, values: *mut *mut c_void);
        fn cuModuleUnload(module: CUmodule);
        fn cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
        fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: CUfunction);
        fn cuLaunchKernel(function: CUfunction, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: CUstream, parameters: *mut *mut c_void, extra: *mut *mut c_void);
    }
    optional {
        fn cuGetErrorName(code: u32, text: *mut *const c_char);
        fn cuGetErrorString(code: u32, text: *mut *const c_char);
        fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice);
        fn cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice);
        fn cuDeviceGetLuid(luid: *mut c_char, mask: *mut u32, device: CUdevice);
        fn cuDeviceGetPCIBusId(text: *mut c_char, bytes: i32, device: CUdevice);
        fn cuDeviceCanAccessPeer(can: *mut i32, device: CUdevice, peer: CUdevice);
        fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: u32);
        fn cuDevicePrimaryCtxReset_v2(device: CUdevice);
        fn cuCtxCreate_v2(context: *mut CUcontext, flags: u32, device: CUdevice);
        fn cuCtxDestroy_v2(context: CUcontext);
        fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32);
        fn cuCtxPushCurrent_v2(context: CUcontext);
        fn cuCtxPopCurrent_v2(context: *mut CUcontext);
        fn cuCtxSetLimit(limit: u32, value: usize);
        fn cuCtxGetLimit(value: *mut usize, limit: u32);
        fn cuCtxSetCacheConfig(config: u32);
        fn cuCtxResetPersistingL2Cache();
        fn cuCtxSynchronize();
        fn cuCtxEnablePeerAccess(peer: CUcontext, flags: u32);
        fn cuCtxDisablePeerAccess(peer: CUcontext);
        fn cuProfilerStart();
        fn cuProfilerStop();
        fn cuThreadExchangeStreamCaptureMode(mode: *mut u32);

        fn cuMemsetD16Async(destination: CUdeviceptr, value: u16, count: usize, stream: CUstream);
        fn cuMemsetD32Async(destination: CUdeviceptr, value: u32, count: usize, stream: CUstream);
        fn cuMemsetD2D8Async(destination: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize, stream: CUstream);
        fn cuMemsetD2D16Async(destination: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize, stream: CUstream);
        fn cuMemsetD2D32Async(destination: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize, stream: CUstream);
        fn cuMemcpy3DAsync_v2(copy: *const Memcpy3d, stream: CUstream);

        fn cuStreamIsCapturing(stream: CUstream, status: *mut u32);
        fn cuStreamWaitValue64_v2(stream: CUstream, address: CUdeviceptr, value: u64, flags: u32);
        fn cuStreamWriteValue64_v2(stream: CUstream, address: CUdeviceptr, value: u64, flags: u32);
        fn cuStreamSetAttribute(stream: CUstream, attribute: u32, value: *const StreamAttribute);
        fn cuEventRecordWithFlags(event: CUevent, stream: CUstream, flags: u32);
        fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
        fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: CUevent, end: CUevent);
        fn cuEventSynchronize(event: CUevent);
        fn cuEventQuery(event: CUevent);
        fn cuLaunchHostFunc(stream: CUstream, function: HostFunction, data: *mut c_void);

        fn cuModuleGetGlobal_v2(address: *mut CUdeviceptr, bytes: *mut usize, module: CUmodule, name: *const c_char);
        fn cuModuleGetFunctionCount(count: *mut u32, module: CUmodule);
        fn cuModuleEnumerateFunctions(functions: *mut CUfunction, count: u32, module: CUmodule);
        fn cuFuncGetName(name: *mut *const c_char, function: CUfunction);
        fn cuFuncGetParamInfo(function: CUfunction, index: usize, offset: *mut usize, bytes: *mut usize);
        fn cuFuncSetAttribute(function: CUfunction, attribute: i32, value: i32);
        fn cuFuncSetCacheConfig(function: CUfunction, config: u32);
        fn cuLibraryLoadData(library: *mut CUlibrary, image: *const c_void, options: *mut u32, values: *mut *mut c_void, count: u32, library_options: *mut u32, library_values: *mut *mut c_void, library_count: u32);
        fn cuLibraryUnload(library: CUlibrary);
        fn cuLibraryGetKernel(kernel: *mut CUkernel, library: CUlibrary, name: *const c_char);
        fn cuLibraryGetGlobal(address: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name: *const c_char);
        fn cuLibraryGetModule(module: *mut CUmodule, library: CUlibrary);
        fn cuLibraryGetKernelCount(count: *mut u32, library: CUlibrary);
        fn cuLibraryEnumerateKernels(kernels: *mut CUkernel, count: u32, library: CUlibrary);
        fn cuKernelGetName(name: *mut *const c_char, kernel: CUkernel);
        fn cuKernelGetParamInfo(kernel: CUkernel, index: usize, offset: *mut usize, bytes: *mut usize);
        fn cuKernelGetAttribute(value: *mut i32, attribute: i32, kernel: CUkernel, device: CUdevice);
        fn cuKernelSetAttribute(attribute: i32, value: i32, kernel: CUkernel, device: CUdevice);
        fn cuKernelSetCacheConfig(kernel: CUkernel, config: u32, device: CUdevice);
        fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: *mut i32, function: CUfunction, block: i32, shared: usize, flags: u32);
        fn cuOccupancyMaxPotentialBlockSizeWithFlags(grid: *mut i32, block: *mut i32, function: CUfunction, callback: *const c_void, shared: usize, limit: i32, flags: u32);
        fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: *mut usize, function: CUfunction, blocks: i32, block: i32);
        fn cuOccupancyMaxActiveClusters(value: *mut i32, function: CUfunction, config: *const LaunchConfig);
        fn cuOccupancyMaxPotentialClusterSize(value: *mut i32, function: CUfunction, config: *const LaunchConfig);
        fn cuLinkCreate_v2(count: u32, options: *mut u32, values: *mut *mut c_void, state: *mut CUlinkState);
        fn cuLinkAddData_v2(state: CUlinkState, kind: u32, data: *mut c_void, bytes: usize, name: *const c_char, count: u32, options: *mut u32, values: *mut *mut c_void);
        fn cuLinkComplete(state: CUlinkState, image: *mut *mut c_void, bytes: *mut usize);
        fn cuLinkDestroy(state: CUlinkState);
        fn cuLaunchKernelEx(config: *const LaunchConfig, function: CUfunction, parameters: *mut *mut c_void, extra: *mut *mut c_void);

        fn cuStreamBeginCapture_v2(stream: CUstream, mode: u32);
        fn cuStreamBeginCaptureToGraph(stream: CUstream, graph: CUgraph, dependencies: *const CUgraphNode, edges: *const EdgeData, count: usize, mode: u32);
        fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
        fn cuStreamGetCaptureInfo_v2(stream: CUstream, status: *mut u32, id: *mut u64, graph: *mut CUgraph, dependencies: *mut *const CUgraphNode, count: *mut usize);
        fn cuStreamGetCaptureInfo_v3(stream: CUstream, status: *mut u32, id: *mut u64, graph: *mut CUgraph, dependencies: *mut *const CUgraphNode, edges: *mut *const EdgeData, count: *mut usize);
        fn cuStreamUpdateCaptureDependencies_v2(stream: CUstream, dependencies: *mut CUgraphNode, edges: *const EdgeData, count: usize, flags: u32);
        fn cuGraphCreate(graph: *mut CUgraph, flags: u32);
        fn cuGraphDestroy(graph: CUgraph);
        fn cuGraphClone(clone: *mut CUgraph, graph: CUgraph);
        fn cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
        fn cuGraphLaunch(exec: CUgraphExec, stream: CUstream);
        fn cuGraphUpload(exec: CUgraphExec, stream: CUstream);
        fn cuGraphExecDestroy(exec: CUgraphExec);
        fn cuGraphExecUpdate_v2(exec: CUgraphExec, graph: CUgraph, result: *mut ExecUpdate);
        fn cuGraphGetNodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize);
        fn cuGraphGetRootNodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize);
        fn cuGraphGetEdges_v2(graph: CUgraph, from: *mut CUgraphNode, to: *mut CUgraphNode, edges: *mut EdgeData, count: *mut usize);
        fn cuGraphNodeGetType(node: CUgraphNode, kind: *mut u32);
        fn cuGraphNodeGetDependencies_v2(node: CUgraphNode, nodes: *mut CUgraphNode, edges: *mut EdgeData, count: *mut usize);
        fn cuGraphNodeGetDependentNodes_v2(node: CUgraphNode, nodes: *mut CUgraphNode, edges: *mut EdgeData, count: *mut usize);
        fn cuGraphAddKernelNode_v2(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, params: *const KernelNode);
        fn cuGraphAddMemcpyNode(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, copy: *const Memcpy3d, context: CUcontext);
        fn cuGraphAddMemsetNode(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, params: *const MemsetNode, context: CUcontext);
        fn cuGraphAddEmptyNode(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize);
        fn cuGraphAddHostNode(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, params: *const HostNode);
        fn cuGraphAddChildGraphNode(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, child: CUgraph);
        fn cuGraphAddEventRecordNode(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, event: CUevent);
        fn cuGraphAddEventWaitNode(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, event: CUevent);
        fn cuGraphAddNode_v2(node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, edges: *const EdgeData, count: usize, params: *mut NodeParams);
        fn cuGraphAddDependencies_v2(graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, edges: *const EdgeData, count: usize);
        fn cuGraphRemoveDependencies_v2(graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, edges: *const EdgeData, count: usize);
        fn cuGraphDestroyNode(node: CUgraphNode);
        fn cuGraphKernelNodeSetParams_v2(node: CUgraphNode, params: *const KernelNode);
        fn cuGraphExecKernelNodeSetParams_v2(exec: CUgraphExec, node: CUgraphNode, params: *const KernelNode);
        fn cuGraphKernelNodeGetParams_v2(node: CUgraphNode, params: *mut KernelNode);
        fn cuGraphNodeSetEnabled(exec: CUgraphExec, node: CUgraphNode, enabled: u32);
        fn cuGraphDebugDotPrint(graph: CUgraph, path: *const c_char, flags: u32);
        fn cuGraphMemcpyNodeSetParams(node: CUgraphNode, copy: *const Memcpy3d);
        fn cuGraphExecMemcpyNodeSetParams(exec: CUgraphExec, node: CUgraphNode, copy: *const Memcpy3d, context: CUcontext);
        fn cuGraphMemsetNodeSetParams(node: CUgraphNode, params: *const MemsetNode);
        fn cuGraphExecMemsetNodeSetParams(exec: CUgraphExec, node: CUgraphNode, params: *const MemsetNode, context: CUcontext);
        fn cuGraphHostNodeSetParams(node: CUgraphNode, params: *const HostNode);
        fn cuGraphExecHostNodeSetParams(exec: CUgraphExec, node: CUgraphNode, params: *const HostNode);
        fn cuGraphExecChildGraphNodeSetParams(exec: CUgraphExec, node: CUgraphNode, child: CUgraph);
        fn cuGraphEventRecordNodeSetEvent(node: CUgraphNode, event: CUevent);
        fn cuGraphEventWaitNodeSetEvent(node: CUgraphNode, event: CUevent);
        fn cuGraphExecEventRecordNodeSetEvent(exec: CUgraphExec, node: CUgraphNode, event: CUevent);
        fn cuGraphExecEventWaitNodeSetEvent(exec: CUgraphExec, node: CUgraphNode, event: CUevent);
        fn cuGraphKernelNodeSetAttribute(node: CUgraphNode, attribute: u32, value: *const StreamAttribute);
        fn cuGraphKernelNodeGetAttribute(node: CUgraphNode, attribute: u32, value: *mut StreamAttribute);
        fn cuGraphKernelNodeCopyAttributes(destination: CUgraphNode, source: CUgraphNode);
        fn cuGraphChildGraphNodeGetGraph(node: CUgraphNode, graph: *mut CUgraph);
        fn cuGraphNodeFindInClone(node: *mut CUgraphNode, original: CUgraphNode, clone: CUgraph);

        fn cuArray3DCreate_v2(array: *mut CUarray, descriptor: *const Array3d);
        fn cuArrayDestroy(array: CUarray);
        fn cuTexObjectCreate(object: *mut u64, resource: *const Resource, texture: *const Texture, view: *const View);
        fn cuTexObjectDestroy(object: u64);
        fn cuSurfObjectCreate(object: *mut u64, resource: *const Resource);
        fn cuSurfObjectDestroy(object: u64);
        fn cuTensorMapEncodeTiled(map: *mut TensorMap, data_type: u32, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64, boxes: *const u32, element_strides: *const u32, interleave: u32, swizzle: u32, promotion: u32, fill: u32);
        fn cuTensorMapEncodeIm2col(map: *mut TensorMap, data_type: u32, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64, lower: *const i32, upper: *const i32, channels: u32, pixels: u32, element_strides: *const u32, interleave: u32, swizzle: u32, promotion: u32, fill: u32);
    }
}

impl Driver {
    /// The name and description of an error, if the driver knows it.
    #[must_use]
    pub fn error_text(&self, code: Status) -> Option<(String, String)> {
        let (mut name, mut text) = (std::ptr::null(), std::ptr::null());
        // SAFETY: both are written with pointers to static, NUL-terminated text, or left null.
        let known = unsafe {
            self.cuGetErrorName(code, &raw mut name) == 0 && self.cuGetErrorString(code, &raw mut text) == 0
        };
        if !known || name.is_null() || text.is_null() {
            return None;
        }
        // SAFETY: see above.
        let (name, text) = unsafe { (CStr::from_ptr(name), CStr::from_ptr(text)) };
        Some((name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned()))
    }

    /// An error as a person reads it.
    #[must_use]
    pub fn describe(&self, code: Status) -> String {
        match self.error_text(code) {
            Some((name, text)) => format!("{name} ({code}): {text}"),
            None => format!("error {code}"),
        }
    }
}
