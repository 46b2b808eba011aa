//! Functions of cuda.h that this library does not carry: they exist, and say so.
//!
//! Arguments are not looked at, which the C calling convention allows.

use crate::errors::Code;

macro_rules! unsupported {
    ($($name:ident),* $(,)?) => {$(
        #[doc = concat!("`", stringify!($name), "`: CUDA_ERROR_NOT_SUPPORTED.")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> u32 {
            Code::NOT_SUPPORTED.0
        }
    )*};
}

unsupported! {
    cuArrayGetMemoryRequirements, cuArrayGetPlane, cuArrayGetSparseProperties, cuCoredumpGetAttribute,
    cuCoredumpGetAttributeGlobal, cuCoredumpSetAttribute, cuCoredumpSetAttributeGlobal, cuCtxFromGreenCtx,
    cuCtxGetDevResource, cuCtxGetExecAffinity, cuDestroyExternalMemory, cuDestroyExternalSemaphore,
    cuDevResourceGenerateDesc, cuDevSmResourceSplitByCount, cuDeviceGetDevResource,
    cuDeviceGetHostAtomicCapabilities, cuDeviceGetNvSciSyncAttributes, cuDeviceGetP2PAtomicCapabilities,
    cuDeviceGetProperties, cuDeviceRegisterAsyncNotification, cuDeviceUnregisterAsyncNotification,
    cuExternalMemoryGetMappedBuffer, cuExternalMemoryGetMappedMipmappedArray, cuFlushGPUDirectRDMAWrites,
    cuGraphAddExternalSemaphoresSignalNode, cuGraphAddExternalSemaphoresWaitNode, cuGraphAddMemAllocNode,
    cuGraphAddMemFreeNode, cuGraphBatchMemOpNodeGetParams, cuGraphBatchMemOpNodeSetParams,
    cuGraphConditionalHandleCreate, cuGraphExecBatchMemOpNodeSetParams,
    cuGraphExecExternalSemaphoresSignalNodeSetParams, cuGraphExecExternalSemaphoresWaitNodeSetParams,
    cuGraphExternalSemaphoresSignalNodeGetParams, cuGraphExternalSemaphoresSignalNodeSetParams,
    cuGraphExternalSemaphoresWaitNodeGetParams, cuGraphExternalSemaphoresWaitNodeSetParams,
    cuGraphMemAllocNodeGetParams, cuGraphMemFreeNodeGetParams, cuGraphicsMapResources,
    cuGraphicsResourceGetMappedMipmappedArray, cuGraphicsResourceGetMappedPointer_v2,
    cuGraphicsResourceSetMapFlags_v2, cuGraphicsSubResourceGetMappedArray, cuGraphicsUnmapResources,
    cuGraphicsUnregisterResource, cuGreenCtxCreate, cuGreenCtxDestroy, cuGreenCtxGetDevResource,
    cuGreenCtxGetId, cuGreenCtxRecordEvent, cuGreenCtxStreamCreate, cuGreenCtxWaitEvent,
    cuImportExternalMemory, cuImportExternalSemaphore, cuIpcCloseMemHandle, cuIpcGetEventHandle,
    cuIpcGetMemHandle, cuIpcOpenEventHandle, cuIpcOpenMemHandle_v2, cuLaunchCooperativeKernelMultiDevice,
    cuLibraryGetUnifiedFunction, cuLogsCurrent, cuLogsDumpToFile, cuLogsDumpToMemory,
    cuLogsRegisterCallback, cuLogsUnregisterCallback, cuMemAdvise_v2, cuMemBatchDecompressAsync,
    cuMemDiscardAndPrefetchBatchAsync, cuMemDiscardBatchAsync, cuMemGetHandleForAddressRange,
    cuMemMapArrayAsync, cuMemPoolExportPointer, cuMemPoolExportToShareableHandle,
    cuMemPoolImportFromShareableHandle, cuMemPoolImportPointer, cuMemPrefetchAsync_v2,
    cuMemPrefetchBatchAsync, cuMemRangeGetAttribute, cuMemRangeGetAttributes, cuMemcpy3DBatchAsync_v2,
    cuMemcpyBatchAsync_v2, cuMipmappedArrayCreate, cuMipmappedArrayDestroy, cuMipmappedArrayGetLevel,
    cuMipmappedArrayGetMemoryRequirements, cuMipmappedArrayGetSparseProperties, cuMulticastAddDevice,
    cuMulticastBindAddr, cuMulticastBindMem, cuMulticastCreate, cuMulticastGetGranularity,
    cuMulticastUnbind, cuSignalExternalSemaphoresAsync, cuStreamGetGreenCtx, cuSurfObjectCreate,
    cuSurfObjectDestroy, cuSurfObjectGetResourceDesc, cuSurfRefGetArray, cuSurfRefSetArray,
    cuTensorMapEncodeIm2colWide, cuTexObjectCreate, cuTexObjectDestroy, cuTexObjectGetResourceDesc,
    cuTexObjectGetResourceViewDesc, cuTexObjectGetTextureDesc, cuTexRefCreate, cuTexRefDestroy,
    cuTexRefGetAddressMode, cuTexRefGetAddress_v2, cuTexRefGetArray, cuTexRefGetBorderColor,
    cuTexRefGetFilterMode, cuTexRefGetFlags, cuTexRefGetFormat, cuTexRefGetMaxAnisotropy,
    cuTexRefGetMipmapFilterMode, cuTexRefGetMipmapLevelBias, cuTexRefGetMipmapLevelClamp,
    cuTexRefGetMipmappedArray, cuTexRefSetAddress2D_v2, cuTexRefSetAddress2D_v3, cuTexRefSetAddressMode,
    cuTexRefSetAddress_v2, cuTexRefSetArray, cuTexRefSetBorderColor, cuTexRefSetFilterMode,
    cuTexRefSetFlags, cuTexRefSetFormat, cuTexRefSetMaxAnisotropy, cuTexRefSetMipmapFilterMode,
    cuTexRefSetMipmapLevelBias, cuTexRefSetMipmapLevelClamp, cuTexRefSetMipmappedArray,
    cuWaitExternalSemaphoresAsync,
}
