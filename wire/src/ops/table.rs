//! The op table.
//!
//! One declaration an operation:
//!
//! ```text
//! /// What it does; what the tail holds.
//! KIND CODE Record method ["driver functions it carries"; cache HOW] { fields } -> Reply { fields };
//! ```
//!
//! `KIND` is `async` or `sync`. A field is `name: type`, or `name: ROLE Object` for a handle
//! (`new`, `using`, `end`, `opt`), which is a `u64` on the wire. Layouts are C's; a hole in one
//! does not compile. Addresses are the program's own, which are the server's too.
//!
//! Streams: every stream a record names is a handle of its own, the legacy default stream of each
//! context and the per-thread default stream of each thread included.

use super::{Dim3, NodeCopy, NodeFill, NodeLaunch};

/// Bytes of a copy up to which its payload travels in the command lane itself.
pub const INLINE_BYTES: usize = 16 * 1024;

/// Device-to-host payloads up to this many bytes come back in the command lane.
pub const INLINE_REPLY_BYTES: usize = 64 * 1024;
/// Mirrored memory up to this many bytes is read by the worker itself, however many `Data` that takes: what comes later
/// was read later, whatever stream it was asked for on.
pub const MIRROR_READ_BYTES: u64 = 1 << 20;

/// Bytes of one [`BlobPart`] at most, and of what one [`BlobEncoded`] comes to.
pub const BLOB_PART_BYTES: usize = 1024 * 1024;

/// The status of a load whose image was named by its hash and is not there.
pub const IMAGE_MISSING: super::Status = 0x4657_0001;

/// New node handles in a reply are `first_node`, `first_node + NODE_HANDLE_STEP`, and so on.
pub const NODE_HANDLE_STEP: u64 = 16;

crate::ops! {
    local {
        "cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuGetProcAddress",
        "cuGetProcAddress_v2", "cuGetExportTable",
        "cuDeviceGet", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetUuid", "cuDeviceGetUuid_v2",
        "cuDeviceGetLuid", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute", "cuDeviceComputeCapability",
        "cuDeviceGetProperties", "cuDeviceGetPCIBusId", "cuDeviceGetByPCIBusId", "cuDeviceCanAccessPeer",
        "cuDeviceGetP2PAttribute", "cuDeviceGetTexture1DLinearMaxWidth", "cuDeviceGetDefaultMemPool",
        "cuDeviceGetMemPool", "cuDeviceSetMemPool", "cuDeviceGetExecAffinitySupport",
        "cuDevicePrimaryCtxGetState", "cuDevicePrimaryCtxSetFlags_v2",
        "cuCtxGetCurrent", "cuCtxSetCurrent", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuCtxGetDevice",
        "cuCtxGetDevice_v2", "cuCtxGetFlags", "cuCtxGetId", "cuCtxGetApiVersion", "cuCtxGetStreamPriorityRange",
        "cuCtxGetCacheConfig", "cuCtxAttach", "cuCtxDetach",
        "cuKernelGetFunction", "cuKernelGetParamInfo", "cuFuncGetParamInfo", "cuFuncGetName", "cuKernelGetName",
        "cuKernelGetLibrary", "cuFuncGetModule", "cuFuncLoad", "cuFuncIsLoaded", "cuModuleGetLoadingMode",
        "cuPointerGetAttribute", "cuPointerGetAttributes", "cuPointerSetAttribute", "cuMemGetAddressRange_v2",
        "cuMemAddressReserve", "cuMemAddressFree", "cuMemGetAllocationGranularity",
        "cuMemGetAllocationPropertiesFromHandle", "cuMemGetAccess", "cuMemRetainAllocationHandle",
        "cuMemHostAlloc", "cuMemAllocHost_v2", "cuMemFreeHost", "cuMemHostRegister_v2", "cuMemHostUnregister",
        "cuMemHostGetDevicePointer_v2", "cuMemHostGetFlags",
        "cuMemPoolCreate", "cuMemPoolDestroy", "cuMemPoolGetAttribute", "cuMemPoolSetAttribute",
        "cuMemPoolTrimTo", "cuMemPoolGetAccess", "cuMemPoolSetAccess",
        "cuStreamGetCtx", "cuStreamGetCtx_v2", "cuStreamGetFlags", "cuStreamGetPriority", "cuStreamGetId",
        "cuStreamGetDevice", "cuStreamIsCapturing", "cuThreadExchangeStreamCaptureMode", "cuStreamGetAttribute",
        "cuEventQuery", "cuEventSynchronize", "cuLinkCreate_v2", "cuLinkAddData_v2", "cuLinkAddFile_v2",
        "cuLinkDestroy",
        "cuDeviceGetGraphMemAttribute", "cuDeviceGraphMemTrim", "cuDeviceGetNvSciSyncAttributes",
        "cuCtxSetFlags", "cuCtxGetExecAffinity", "cuCtxGetSharedMemConfig", "cuCtxSetSharedMemConfig",
        "cuFuncSetSharedMemConfig", "cuLibraryGetManaged", "cuModuleGetSurfRef", "cuModuleGetTexRef",
        "cuMemExportToShareableHandle", "cuArrayGetDescriptor_v2", "cuArray3DGetDescriptor_v2",
        "cuTexObjectGetResourceDesc", "cuTexObjectGetResourceViewDesc", "cuTexObjectGetTextureDesc",
        "cuSurfObjectGetResourceDesc", "cuTensorMapReplaceAddress",
        "cuGraphExecGetFlags", "cuGraphEventRecordNodeGetEvent", "cuGraphEventWaitNodeGetEvent",
        "cuGraphHostNodeGetParams", "cuGraphMemcpyNodeGetParams", "cuGraphMemsetNodeGetParams",
        "cuGraphNodeGetEnabled", "cuUserObjectCreate", "cuUserObjectRetain", "cuUserObjectRelease",
        "cuGraphRetainUserObject", "cuGraphReleaseUserObject",
    }

    // Contexts.

    /// Makes the primary context of a device active and names it.
    sync 0x0101 PrimaryRetain primary_retain ["cuDevicePrimaryCtxRetain"]
        { context: new Context, device: i32, flags: u32 };
    /// Gives the primary context up; its handle stays for a later retain.
    async 0x0102 PrimaryRelease primary_release ["cuDevicePrimaryCtxRelease_v2"]
        { context: using Context };
    /// Destroys all that the primary context holds.
    sync 0x0103 PrimaryReset primary_reset ["cuDevicePrimaryCtxReset_v2"]
        { context: using Context };
    sync 0x0104 CtxCreate ctx_create ["cuCtxCreate_v2", "cuCtxCreate_v3", "cuCtxCreate_v4"]
        { context: new Context, device: i32, flags: u32 };
    async 0x0105 CtxDestroy ctx_destroy ["cuCtxDestroy_v2"]
        { context: end Context };
    /// Answered when all work of the context is finished and the driver was asked for faults.
    sync 0x0106 CtxSynchronize ctx_synchronize ["cuCtxSynchronize", "cuCtxSynchronize_v2"]
        { context: using Context };
    sync 0x0107 CtxSetLimit ctx_set_limit ["cuCtxSetLimit"]
        { context: using Context, value: u64, limit: u32, reserved: u32 };
    sync 0x0108 CtxGetLimit ctx_get_limit ["cuCtxGetLimit"; cache UntilSet]
        { context: using Context, limit: u32, reserved: u32 } -> LimitReply { value: u64 };
    async 0x0109 CtxSetCacheConfig ctx_set_cache_config ["cuCtxSetCacheConfig"]
        { context: using Context, config: u32, reserved: u32 };
    async 0x010a CtxResetPersistingL2 ctx_reset_persisting_l2 ["cuCtxResetPersistingL2Cache"]
        { context: using Context };
    sync 0x010b CtxEnablePeer ctx_enable_peer ["cuCtxEnablePeerAccess"]
        { context: using Context, peer: using Context, flags: u32, reserved: u32 };
    sync 0x010c CtxDisablePeer ctx_disable_peer ["cuCtxDisablePeerAccess"]
        { context: using Context, peer: using Context };
    async 0x010d Profiler profiler ["cuProfilerStart", "cuProfilerStop"]
        { context: using Context, start: u32, reserved: u32 };

    // Device memory. The client chooses addresses inside the session's window.

    /// Backs `bytes` at `address` with memory of the context's device, readable and writable there
    /// (and on every peer of it). Whole multiples of the device's granularity.
    sync 0x0201 BlockMap block_map ["cuMemAlloc_v2", "cuMemAllocPitch_v2", "cuMemAllocAsync", "cuMemAllocFromPoolAsync"]
        { context: using Context, address: u64, bytes: u64 };
    /// Takes the memory back once all work of the context that was issued before is finished.
    /// `Done` says when the address may be used again.
    async 0x0202 BlockUnmap block_unmap ["cuMemFree_v2", "cuMemFreeAsync"]
        { context: using Context, address: u64, bytes: u64 };
    /// `Done` when all work of the context issued before is finished: memory freed before may be
    /// used again. With `through`, an operation's number, when the copies up to that operation are: what came
    /// later holds nobody up.
    async 0x0203 Fence fence ["cuMemFree_v2", "cuStreamCreate"]
        { context: using Context, through: u64 };
    sync 0x0204 MemInfo mem_info ["cuMemGetInfo_v2"]
        { context: using Context } -> MemInfoReply { free: u64, total: u64 };
    sync 0x0205 VmmCreate vmm_create ["cuMemCreate"]
        { allocation: new Allocation, bytes: u64, device: i32, compression: u32 };
    async 0x0206 VmmRelease vmm_release ["cuMemRelease"]
        { allocation: end Allocation };
    sync 0x0207 VmmMap vmm_map ["cuMemMap"]
        { allocation: using Allocation, address: u64, bytes: u64, offset: u64 };
    sync 0x0208 VmmUnmap vmm_unmap ["cuMemUnmap"]
        { address: u64, bytes: u64 };
    sync 0x0209 VmmSetAccess vmm_set_access ["cuMemSetAccess"]
        { address: u64, bytes: u64, device: i32, flags: u32 };
    /// Backs the program's pinned host memory at the same address on the server and registers it
    /// with the driver, so that a kernel can be given that address.
    sync 0x020a HostMirror host_mirror ["cuMemHostAlloc", "cuMemHostGetDevicePointer_v2"]
        { context: using Context, address: u64, bytes: u64 };
    async 0x020b HostUnmirror host_unmirror ["cuMemFreeHost"]
        { context: using Context, address: u64, bytes: u64 };
    /// Maps a part of the host window from the memory that both ends share (SHARED_PINNED), at the address and
    /// offset that it has in the window, and registers it with the driver: from here on it is memory that copies
    /// and kernels are given as it is, in every context, until [`HostUnshare`]. Whole pages.
    sync 0x020c HostShare host_share ["cuMemHostAlloc", "cuMemAllocHost_v2"]
        { address: u64, bytes: u64 };
    /// Takes it back once all work of all contexts that was issued before is finished. `Done` says when. With no
    /// `bytes` nothing is taken back, but said all the same.
    async 0x020d HostUnshare host_unshare ["cuMemFreeHost"]
        { address: u64, bytes: u64 };
    /// The program has written to mirrored memory: `bytes` bytes, which follow. They are there at once, as what a
    /// processor writes is, and in the order of no stream: all that comes later sees them.
    async 0x020e HostWrite host_write
        ["cuLaunchKernel", "cuLaunchKernelEx", "cuGraphLaunch", "cuStreamWaitValue32_v2", "cuStreamWriteValue32_v2"]
        { address: u64, bytes: u64 };

    // Copies.

    /// Host to device; the payload comes as bulk chunks from number `first_chunk` on, each
    /// `slot_bytes` long but the last.
    async 0x0301 CopyIn copy_in ["cuMemcpyHtoD_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpy", "cuMemcpyAsync", "cuMemcpyBatchAsync", "cuMemcpyBatchAsync_v2"]
        { stream: using Stream, destination: u64, bytes: u64, first_chunk: u64 };
    /// Host to device; the payload is the tail.
    async 0x0302 CopyInInline copy_in_inline ["cuMemcpyHtoD_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpy", "cuMemcpyAsync", "cuMemcpyBatchAsync", "cuMemcpyBatchAsync_v2"]
        { stream: using Stream, destination: u64, bytes: u64 };
    /// Device to host. The payload comes as `Data` (up to [`INLINE_REPLY_BYTES`]) or as bulk
    /// chunks, named by this operation's number; then `Done`.
    async 0x0303 CopyOut copy_out ["cuMemcpyDtoH_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpy", "cuMemcpyAsync", "cuMemcpyBatchAsync", "cuMemcpyBatchAsync_v2"]
        { stream: using Stream, source: u64, bytes: u64 };
    async 0x0304 CopyWithin copy_within ["cuMemcpyDtoD_v2", "cuMemcpyDtoDAsync_v2", "cuMemcpyPeer", "cuMemcpyPeerAsync", "cuMemcpy", "cuMemcpyAsync", "cuMemcpyBatchAsync", "cuMemcpyBatchAsync_v2"]
        { stream: using Stream, destination: u64, source: u64, bytes: u64 };
    /// A pitched, three-dimensional or array copy. A host side is packed, without gaps, into bulk
    /// chunks (`direction` 0 in: from `first_chunk`; 1 out: named by this number), one `CopyRect`
    /// holding at most as much as one chunk; `direction` 2 is within the device. Arrays by handle,
    /// else addresses.
    async 0x0305 CopyRect copy_rect ["cuMemcpy2D_v2", "cuMemcpy2DUnaligned_v2", "cuMemcpy2DAsync_v2", "cuMemcpy3D_v2", "cuMemcpy3DAsync_v2", "cuMemcpy3DPeer", "cuMemcpy3DPeerAsync", "cuMemcpy3DBatchAsync", "cuMemcpy3DBatchAsync_v2", "cuMemcpyAtoH_v2", "cuMemcpyAtoHAsync_v2", "cuMemcpyHtoA_v2", "cuMemcpyHtoAAsync_v2", "cuMemcpyAtoD_v2", "cuMemcpyDtoA_v2", "cuMemcpyAtoA_v2"]
        {
            stream: using Stream,
            destination: u64, destination_array: opt Array,
            destination_pitch: u64, destination_height: u64,
            destination_x: u64, destination_y: u64, destination_z: u64,
            source: u64, source_array: opt Array,
            source_pitch: u64, source_height: u64,
            source_x: u64, source_y: u64, source_z: u64,
            width: u64, height: u64, depth: u64,
            first_chunk: u64, direction: u32, reserved: u32
        };
    /// Sets `height` rows of `width` elements of 1, 2 or 4 bytes.
    async 0x0306 Memset memset ["cuMemsetD8_v2", "cuMemsetD16_v2", "cuMemsetD32_v2", "cuMemsetD8Async", "cuMemsetD16Async", "cuMemsetD32Async", "cuMemsetD2D8_v2", "cuMemsetD2D16_v2", "cuMemsetD2D32_v2", "cuMemsetD2D8Async", "cuMemsetD2D16Async", "cuMemsetD2D32Async"]
        { stream: using Stream, destination: u64, pitch: u64, width: u64, height: u64, value: u32, element: u32 };

    // Streams and events.

    async 0x0401 StreamCreate stream_create ["cuStreamCreate", "cuStreamCreateWithPriority"]
        { stream: new Stream, context: using Context, flags: u32, priority: i32 };
    /// Names a default stream of a context: the legacy one (`per_thread` 0), or a blocking stream
    /// that stands for one client thread's (1).
    async 0x0402 StreamDefault stream_default []
        { stream: new Stream, context: using Context, per_thread: u32, reserved: u32 };
    async 0x0403 StreamDestroy stream_destroy ["cuStreamDestroy_v2"]
        { stream: end Stream };
    /// Answered when the stream is finished.
    sync 0x0404 StreamSynchronize stream_synchronize ["cuStreamSynchronize"]
        { stream: using Stream };
    /// Answered at once. With `watch`, a stream that is not ready is watched: `Done` says when all that was on it
    /// is finished, or that its context met a fault.
    sync 0x0405 StreamQuery stream_query ["cuStreamQuery"]
        { stream: using Stream, watch: u32, reserved: u32 };
    async 0x0406 StreamWaitEvent stream_wait_event ["cuStreamWaitEvent"]
        { stream: using Stream, event: using Event, flags: u32, reserved: u32 };
    /// `bytes` 4 or 8.
    async 0x0407 StreamWaitValue stream_wait_value ["cuStreamWaitValue32_v2", "cuStreamWaitValue64_v2", "cuStreamBatchMemOp_v2"]
        { stream: using Stream, address: u64, value: u64, flags: u32, bytes: u32 };
    async 0x0408 StreamWriteValue stream_write_value ["cuStreamWriteValue32_v2", "cuStreamWriteValue64_v2", "cuStreamBatchMemOp_v2"]
        { stream: using Stream, address: u64, value: u64, flags: u32, bytes: u32 };
    /// The tail is the `CUstreamAttrValue`.
    async 0x0409 StreamSetAttribute stream_set_attribute ["cuStreamSetAttribute", "cuStreamCopyAttributes"]
        { stream: using Stream, attribute: u32, reserved: u32 };
    /// When the stream gets there it writes a word at `address`, in host memory that both ends share, from which the
    /// client learns that it is finished: `value` in the upper half, and in the lower the number of the last event that
    /// goes before, of which the client takes notice first. If that cannot be, `value` is written to the lower half of the
    /// next word at once, to the upper whether it never will be, and the client asks by `StreamSynchronize`.
    async 0x040a StreamMark stream_mark ["cuStreamSynchronize"]
        { stream: using Stream, address: u64, value: u32, reserved: u32 };
    async 0x0411 EventCreate event_create ["cuEventCreate"]
        { event: new Event, context: using Context, flags: u32, reserved: u32 };
    async 0x0412 EventDestroy event_destroy ["cuEventDestroy_v2"]
        { event: end Event };
    /// `Done` when the stream has reached it, unless the stream is being captured or the record is `silent`.
    async 0x0413 EventRecord event_record ["cuEventRecord", "cuEventRecordWithFlags"]
        { event: using Event, stream: using Stream, flags: u32, silent: u32 };
    sync 0x0414 EventElapsed event_elapsed ["cuEventElapsedTime", "cuEventElapsedTime_v2"]
        { start: using Event, end: using Event } -> ElapsedReply { milliseconds: f32, reserved: u32 };
    /// The stream stops until `HostFuncDone` names this number; `HostCall` asks for it. While the
    /// stream is captured, each replay asks and waits again.
    async 0x0415 HostFunc host_func ["cuLaunchHostFunc", "cuStreamAddCallback"]
        { stream: using Stream };
    async 0x0416 HostFuncDone host_func_done []
        { function: u64 };
    /// Answered at once. With `watch`, of an event that is not reached `Done` says when it is, or that its context met a
    /// fault.
    sync 0x0417 EventQuery event_query ["cuEventQuery", "cuEventSynchronize", "cuEventElapsedTime", "cuEventElapsedTime_v2"]
        { event: using Event, watch: u32, reserved: u32 };

    // Images, modules, libraries, functions.

    /// Appends the tail to a blob: images travel in parts. The first part makes the blob.
    async 0x0501 BlobPart blob_part []
        { blob: u64, total: u64 };
    /// Loads a blob. `options` × `JitOption` in the tail. The reply's tail: bytes of the
    /// information log (u32), of the error log (u32), both, padded to 8, then the kernels that
    /// are known already (`known`). [`IMAGE_MISSING`]: the blob is only a name and the server
    /// has no such image; its parts may follow, and the load again.
    sync 0x0502 ModuleLoad module_load ["cuModuleLoad", "cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleLoadFatBinary"]
        { module: new Module, context: using Context, blob: end Blob, options: u32, reserved: u32 };
    async 0x0503 ModuleUnload module_unload ["cuModuleUnload"]
        { module: end Module };
    /// The name is the tail. The reply's tail: `FunctionInfo::parameters` × `ParameterInfo`.
    sync 0x0504 ModuleGetFunction module_get_function ["cuModuleGetFunction"; cache Forever]
        { module: using Module, function: new Function } -> FunctionInfo {
            parameters: u32, parameter_bytes: u32, max_threads: i32, shared_bytes: i32, const_bytes: i32,
            local_bytes: i32, registers: i32, ptx_version: i32, binary_version: i32, cache_mode_ca: i32,
            max_dynamic_shared: i32, carveout: i32, cluster_required: i32, cluster_x: i32, cluster_y: i32,
            cluster_z: i32, non_portable_cluster: i32, cluster_scheduling: i32
        };
    /// The name is the tail.
    sync 0x0505 ModuleGetGlobal module_get_global ["cuModuleGetGlobal_v2"; cache Forever]
        { module: using Module } -> GlobalReply { address: u64, bytes: u64 };
    /// The reply's tail: the functions' names, each followed by NUL.
    sync 0x0506 ModuleNames module_names ["cuModuleGetFunctionCount", "cuModuleEnumerateFunctions"; cache Forever]
        { module: using Module } -> NamesReply { count: u32, reserved: u32 };
    /// As `ModuleLoad`, with `library` × `JitOption` after `options` of them.
    sync 0x0507 LibraryLoad library_load ["cuLibraryLoadData", "cuLibraryLoadFromFile"]
        { library: new Library, context: using Context, blob: end Blob, options: u32, library_options: u32 };
    async 0x0508 LibraryUnload library_unload ["cuLibraryUnload"]
        { library: end Library };
    /// The name is the tail. The reply's tail as `ModuleGetFunction`'s.
    sync 0x0509 LibraryGetKernel library_get_kernel ["cuLibraryGetKernel"; cache Forever]
        { library: using Library, function: new Function, context: using Context } -> KernelInfo {
            parameters: u32, parameter_bytes: u32, max_threads: i32, shared_bytes: i32, const_bytes: i32,
            local_bytes: i32, registers: i32, ptx_version: i32, binary_version: i32, cache_mode_ca: i32,
            max_dynamic_shared: i32, carveout: i32, cluster_required: i32, cluster_x: i32, cluster_y: i32,
            cluster_z: i32, non_portable_cluster: i32, cluster_scheduling: i32
        };
    /// The name is the tail.
    sync 0x050a LibraryGetGlobal library_get_global ["cuLibraryGetGlobal"; cache Forever]
        { library: using Library, context: using Context } -> LibraryGlobalReply { address: u64, bytes: u64 };
    sync 0x050b LibraryGetModule library_get_module ["cuLibraryGetModule"; cache Forever]
        { library: using Library, context: using Context, module: new Module };
    /// The reply's tail: the kernels' names, each followed by NUL.
    sync 0x050c LibraryNames library_names ["cuLibraryGetKernelCount", "cuLibraryEnumerateKernels"; cache Forever]
        { library: using Library } -> LibraryNamesReply { count: u32, reserved: u32 };
    /// The blob is the image of `bytes` bytes with this BLAKE3 hash, if the server has it.
    async 0x050d BlobNamed blob_named []
        { blob: u64, bytes: u64, digest_0: u64, digest_1: u64, digest_2: u64, digest_3: u64 };
    /// Names a function that a load's answer described: of a module, or of a library. Its name is the tail.
    async 0x050e FunctionBind function_bind ["cuModuleGetFunction", "cuLibraryGetKernel"]
        { function: new Function, module: opt Module, library: opt Library, context: using Context };
    /// As `BlobPart`, of a part that was compressed: to the first `encoded_bytes` bytes of the tail (`encoded`).
    async 0x050f BlobEncoded blob_encoded []
        { blob: u64, total: u64, encoded_bytes: u32, bytes: u32 };
    /// `device` is taken for kernels of a library and ignored for functions of a module.
    sync 0x0511 FuncGetAttribute func_get_attribute ["cuFuncGetAttribute", "cuKernelGetAttribute"; cache UntilSet]
        { function: using Function, context: using Context, attribute: i32, device: i32 } -> AttributeReply { value: i32, reserved: u32 };
    async 0x0512 FuncSetAttribute func_set_attribute ["cuFuncSetAttribute", "cuKernelSetAttribute"]
        { function: using Function, context: using Context, attribute: i32, value: i32, device: i32, reserved: u32 };
    async 0x0513 FuncSetCacheConfig func_set_cache_config ["cuFuncSetCacheConfig", "cuKernelSetCacheConfig"]
        { function: using Function, context: using Context, config: u32, device: i32 };
    sync 0x0514 Occupancy occupancy ["cuOccupancyMaxActiveBlocksPerMultiprocessor", "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"; cache UntilSet]
        { function: using Function, context: using Context, shared_bytes: u64, block: i32, flags: u32 } -> OccupancyReply { blocks: i32, reserved: u32 };
    /// `callback` shared-memory sizes are computed in the client: the tail is the table of
    /// dynamic shared bytes (u64) for block sizes warp, 2 warps, …; empty when it is constant.
    sync 0x0515 OccupancyBlockSize occupancy_block_size ["cuOccupancyMaxPotentialBlockSize", "cuOccupancyMaxPotentialBlockSizeWithFlags"; cache UntilSet]
        { function: using Function, context: using Context, shared_bytes: u64, limit: i32, flags: u32 } -> BlockSizeReply { grid: i32, block: i32 };
    sync 0x0516 OccupancySharedMem occupancy_shared_mem ["cuOccupancyAvailableDynamicSMemPerBlock"; cache UntilSet]
        { function: using Function, context: using Context, blocks: i32, block: i32 } -> SharedMemReply { bytes: u64 };
    /// The tail: `attributes` × `LaunchAttribute`. `kind` 0: active clusters, 1: potential size.
    sync 0x0517 OccupancyClusters occupancy_clusters ["cuOccupancyMaxActiveClusters", "cuOccupancyMaxPotentialClusterSize"; cache UntilSet]
        { function: using Function, context: using Context, grid: Dim3, block: Dim3, shared_bytes: u32, attributes: u32, kind: u32, reserved: u32 } -> ClustersReply { value: i32, reserved: u32 };
    /// Links the blobs named in the tail (`LinkInput` × `inputs`, each followed by its name,
    /// padded to 8), after `options` × `JitOption`. The reply's tail: bytes of the information log
    /// (u32) and error log (u32), both, then the image.
    sync 0x0518 Link link ["cuLinkComplete"]
        { context: using Context, options: u32, inputs: u32 };

    // Launches.

    /// The tail is the parameter buffer, laid out as `FunctionInfo` said.
    async 0x0601 Launch launch ["cuLaunchKernel"]
        { function: using Function, stream: using Stream, grid: Dim3, block: Dim3, shared_bytes: u32, parameter_bytes: u32 };
    /// The tail: `attributes` × `LaunchAttribute`, then the parameter buffer.
    async 0x0602 LaunchEx launch_ex ["cuLaunchKernelEx", "cuLaunchCooperativeKernel"]
        { function: using Function, stream: using Stream, grid: Dim3, block: Dim3, shared_bytes: u32, parameter_bytes: u32, attributes: u32, reserved: u32 };

    // Stream capture and graphs.

    async 0x0701 CaptureBegin capture_begin ["cuStreamBeginCapture_v2"]
        { stream: using Stream, mode: u32, reserved: u32 };
    /// Captures into an existing graph; the tail: `dependencies` × node handle, then as many × edge data.
    ///
    /// Edge data are the 8 bytes of a `CUgraphEdgeData`, here and in all that follows: all zero is an ordinary edge.
    sync 0x0702 CaptureBeginTo capture_begin_to ["cuStreamBeginCaptureToGraph"]
        { stream: using Stream, graph: using Graph, mode: u32, dependencies: u32 };
    sync 0x0703 CaptureEnd capture_end ["cuStreamEndCapture"]
        { stream: using Stream, graph: new Graph };
    /// `graph` names the graph being captured into from now on. The reply's tail: node handles,
    /// new ones taken from `first_node` on; then the data of the edges from each.
    sync 0x0704 CaptureInfo capture_info ["cuStreamGetCaptureInfo_v2", "cuStreamGetCaptureInfo_v3"]
        { stream: using Stream, graph: u64, first_node: u64 } -> CaptureInfoReply { status: u32, dependencies: u32, id: u64, graph: u64 };
    /// The tail: `dependencies` × node handle, then as many × edge data.
    sync 0x0705 CaptureUpdate capture_update ["cuStreamUpdateCaptureDependencies_v2"]
        { stream: using Stream, dependencies: u32, flags: u32 };
    async 0x0711 GraphCreate graph_create ["cuGraphCreate"]
        { graph: new Graph };
    async 0x0712 GraphDestroy graph_destroy ["cuGraphDestroy"]
        { graph: end Graph };
    sync 0x0713 GraphClone graph_clone ["cuGraphClone"]
        { graph: using Graph, clone: new Graph };
    sync 0x0714 GraphInstantiate graph_instantiate ["cuGraphInstantiate", "cuGraphInstantiate_v2", "cuGraphInstantiateWithFlags", "cuGraphInstantiateWithParams"]
        { graph: using Graph, exec: new GraphExec, context: using Context, flags: u64 };
    async 0x0715 GraphLaunch graph_launch ["cuGraphLaunch"]
        { exec: using GraphExec, stream: using Stream };
    async 0x0716 GraphUpload graph_upload ["cuGraphUpload"]
        { exec: using GraphExec, stream: using Stream };
    async 0x0717 GraphExecDestroy graph_exec_destroy ["cuGraphExecDestroy"]
        { exec: end GraphExec };
    /// A `result` other than 0 says why the driver refused the update (`CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE`), with
    /// the nodes that are the cause, 0 where there is none or it has no name.
    sync 0x0718 GraphExecUpdate graph_exec_update ["cuGraphExecUpdate_v2"]
        { exec: using GraphExec, graph: using Graph } -> ExecUpdateReply { result: u32, reserved: u32, node: u64, from: u64 };
    /// `roots` 1: root nodes alone. The reply's tail: node handles, new ones from `first_node` on
    /// in the order met.
    sync 0x0719 GraphNodes graph_nodes ["cuGraphGetNodes", "cuGraphGetRootNodes"]
        { graph: using Graph, first_node: u64, roots: u32, reserved: u32 } -> GraphNodesReply { count: u32, made: u32 };
    /// The reply's tail: `count` × a pair of node handles, then `count` × edge data.
    sync 0x071a GraphEdges graph_edges ["cuGraphGetEdges_v2"]
        { graph: using Graph, first_node: u64 } -> GraphEdgesReply { count: u32, made: u32 };
    sync 0x071b NodeType node_type ["cuGraphNodeGetType"; cache Forever]
        { node: using GraphNode } -> NodeTypeReply { kind: u32, reserved: u32 };
    /// `forward` 1: dependents, 0: dependencies. The reply's tail: `count` × node handle, then `count` × edge data.
    sync 0x071c NodeNeighbours node_neighbours ["cuGraphNodeGetDependencies_v2", "cuGraphNodeGetDependentNodes_v2"]
        { node: using GraphNode, first_node: u64, forward: u32, reserved: u32 } -> NeighboursReply { count: u32, made: u32 };
    /// The tail: `dependencies` × node handle, as many × edge data, then the parameter buffer.
    sync 0x071d AddKernelNode add_kernel_node ["cuGraphAddKernelNode_v2", "cuGraphAddNode_v2"]
        { graph: using Graph, node: new GraphNode, function: using Function, context: using Context, launch: NodeLaunch, dependencies: u32, reserved: u32 };
    /// Device memory on both sides, or mirrored host memory. The tail, here and for the other nodes:
    /// `dependencies` × node handle, then as many × edge data.
    sync 0x071e AddMemcpyNode add_memcpy_node ["cuGraphAddMemcpyNode", "cuGraphAddNode_v2"]
        { graph: using Graph, node: new GraphNode, context: using Context, copy: NodeCopy, dependencies: u32, reserved: u32 };
    sync 0x071f AddMemsetNode add_memset_node ["cuGraphAddMemsetNode", "cuGraphAddNode_v2"]
        { graph: using Graph, node: new GraphNode, context: using Context, fill: NodeFill, dependencies: u32, reserved: u32 };
    /// `kind`: 0 empty, 1 host function (asked for under `function`), 2 child graph (`object`),
    /// 3 event record, 4 event wait (`object`).
    sync 0x0720 AddNode add_node ["cuGraphAddEmptyNode", "cuGraphAddHostNode", "cuGraphAddChildGraphNode", "cuGraphAddEventRecordNode", "cuGraphAddEventWaitNode", "cuGraphAddNode_v2"]
        { graph: using Graph, node: new GraphNode, object: u64, function: u64, kind: u32, dependencies: u32 };
    /// The tail: `count` × from-handle, `count` × to-handle, then `count` × edge data.
    sync 0x0721 AddDependencies add_dependencies ["cuGraphAddDependencies_v2", "cuGraphRemoveDependencies_v2"]
        { graph: using Graph, count: u32, remove: u32 };
    sync 0x0722 NodeDestroy node_destroy ["cuGraphDestroyNode"]
        { node: end GraphNode };
    /// `exec` 0: the node itself, else its instance in that graph. The tail: the parameter buffer.
    sync 0x0723 NodeSetKernel node_set_kernel ["cuGraphKernelNodeSetParams_v2", "cuGraphExecKernelNodeSetParams_v2"]
        { node: using GraphNode, exec: opt GraphExec, function: using Function, context: using Context, launch: NodeLaunch };
    /// The reply's tail: the parameter buffer.
    sync 0x0724 NodeGetKernel node_get_kernel ["cuGraphKernelNodeGetParams_v2"]
        { node: using GraphNode } -> KernelNodeReply { function: u64, grid: Dim3, block: Dim3, shared_bytes: u32, parameter_bytes: u32 };
    sync 0x0725 NodeSetEnabled node_set_enabled ["cuGraphNodeSetEnabled"]
        { node: using GraphNode, exec: using GraphExec, enabled: u32, reserved: u32 };
    /// The reply's tail: the text of the DOT file.
    sync 0x0726 GraphDot graph_dot ["cuGraphDebugDotPrint"]
        { graph: using Graph, flags: u32, reserved: u32 };
    /// As `AddMemcpyNode`, for a node that there is; `exec` as `NodeSetKernel`'s.
    sync 0x0727 NodeSetMemcpy node_set_memcpy ["cuGraphMemcpyNodeSetParams", "cuGraphExecMemcpyNodeSetParams", "cuGraphNodeSetParams", "cuGraphExecNodeSetParams"]
        { node: using GraphNode, exec: opt GraphExec, context: using Context, copy: NodeCopy };
    /// As `AddMemsetNode`, for a node that there is; `exec` as `NodeSetKernel`'s.
    sync 0x0728 NodeSetMemset node_set_memset ["cuGraphMemsetNodeSetParams", "cuGraphExecMemsetNodeSetParams", "cuGraphNodeSetParams", "cuGraphExecNodeSetParams"]
        { node: using GraphNode, exec: opt GraphExec, context: using Context, fill: NodeFill };
    /// `kind`, `object` and `function` as `AddNode`'s, but 0; `exec` as `NodeSetKernel`'s. A child graph has no
    /// parameters outside of an executable graph.
    sync 0x0729 NodeSetObject node_set_object ["cuGraphHostNodeSetParams", "cuGraphExecHostNodeSetParams", "cuGraphExecChildGraphNodeSetParams", "cuGraphEventRecordNodeSetEvent", "cuGraphEventWaitNodeSetEvent", "cuGraphExecEventRecordNodeSetEvent", "cuGraphExecEventWaitNodeSetEvent", "cuGraphNodeSetParams", "cuGraphExecNodeSetParams"]
        { node: using GraphNode, exec: opt GraphExec, object: u64, function: u64, kind: u32, reserved: u32 };
    /// The tail: the 64 bytes of the `CUkernelNodeAttrValue`.
    sync 0x072a NodeSetAttribute node_set_attribute ["cuGraphKernelNodeSetAttribute"]
        { node: using GraphNode, attribute: u32, reserved: u32 };
    /// The reply's tail: the 64 bytes of the `CUkernelNodeAttrValue`.
    sync 0x072b NodeGetAttribute node_get_attribute ["cuGraphKernelNodeGetAttribute"]
        { node: using GraphNode, attribute: u32, reserved: u32 };
    sync 0x072c NodeCopyAttributes node_copy_attributes ["cuGraphKernelNodeCopyAttributes"]
        { destination: using GraphNode, source: using GraphNode };
    /// Names the graph inside a node: `graph`, unless it has a name already.
    sync 0x072d ChildGraph child_graph ["cuGraphChildGraphNodeGetGraph"]
        { node: using GraphNode, graph: u64 } -> ChildGraphReply { graph: u64 };
    /// The reply: the node of the clone, named `first_node` if it has no name yet.
    sync 0x072e NodeInClone node_in_clone ["cuGraphNodeFindInClone"]
        { node: using GraphNode, clone: using Graph, first_node: u64 } -> NodeInCloneReply { node: u64 };

    // Arrays, textures, tensor maps.

    sync 0x0801 ArrayCreate array_create ["cuArrayCreate_v2", "cuArray3DCreate_v2"]
        { array: new Array, context: using Context, width: u64, height: u64, depth: u64, format: u32, channels: u32, flags: u32, reserved: u32 };
    async 0x0802 ArrayDestroy array_destroy ["cuArrayDestroy"]
        { array: end Array };
    /// The tail: `CUDA_RESOURCE_DESC` (an array's handle in place of the driver's), then
    /// `CUDA_TEXTURE_DESC`, then `CUDA_RESOURCE_VIEW_DESC` or nothing. The reply is the driver's
    /// own object, which kernels are given by value.
    sync 0x0803 TextureCreate texture_create ["cuTexObjectCreate"]
        { context: using Context, array: opt Array, view: u32, reserved: u32 } -> ObjectReply { object: u64 };
    async 0x0804 TextureDestroy texture_destroy ["cuTexObjectDestroy"]
        { context: using Context, object: u64 };
    /// The tail: `CUDA_RESOURCE_DESC`.
    sync 0x0805 SurfaceCreate surface_create ["cuSurfObjectCreate"]
        { context: using Context, array: using Array } -> SurfaceReply { object: u64 };
    async 0x0806 SurfaceDestroy surface_destroy ["cuSurfObjectDestroy"]
        { context: using Context, object: u64 };
    /// Encodes a tensor map. `kind` 0 tiled, 1 im2col. The tail: arguments in the manual's order,
    /// each in 8 bytes, arrays in full. The reply's tail: the 128 bytes of the map.
    sync 0x0807 TensorMap tensor_map ["cuTensorMapEncodeTiled", "cuTensorMapEncodeIm2col"]
        { address: u64, kind: u32, data_type: u32, rank: u32, interleave: u32, swizzle: u32, promotion: u32, fill: u32, reserved: u32 };
}

/// One JIT option: `CUjit_option` and its value. Options that carry buffers are the client's own
/// business: logs always come back.
#[derive(
    Clone, Copy, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct JitOption {
    pub option: u32,
    pub reserved: u32,
    pub value: u64,
}

/// Where a kernel parameter stands in the parameter buffer.
#[derive(
    Clone, Copy, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct ParameterInfo {
    pub offset: u32,
    pub bytes: u32,
}

/// `CUlaunchAttribute`: the value is the driver's own union. An event in it is a handle of ours.
#[derive(
    Clone, Copy, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct LaunchAttribute {
    pub id: u32,
    pub reserved: u32,
    pub value: [u8; 64],
}

/// One input of a link: `CUjitInputType`, the blob, bytes of the name that follows.
#[derive(
    Clone, Copy, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct LinkInput {
    pub blob: u64,
    pub kind: u32,
    pub name_bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Kind;

    #[test]
    fn codes_ascend_and_no_function_is_both_local_and_remote_alone() {
        assert!(
            OPS.windows(2).all(|w| w[0].code < w[1].code),
            "codes must ascend: look-ups are binary searches"
        );
        for op in OPS {
            assert_eq!(crate::ops::info(op.code).map(|o| o.name), Some(op.name));
            assert!(
                op.fixed_bytes % 8 == 0,
                "{} is {} bytes: tails must start aligned",
                op.name,
                op.fixed_bytes
            );
        }
    }

    #[test]
    fn a_launch_and_its_header_fit_a_cache_line() {
        assert!(8 + size_of::<Launch>() <= 64);
        assert_eq!(crate::ops::info(0x0601).map(|o| o.kind), Some(Kind::Async));
    }
}
