//! What the private tables and checks need to know from the runtime behind them.
//!
//! The runtime implements [`Hooks`] and installs it once, before or after anything here is called:
//! until then every question is answered with the default, "not initialised".

use std::{ffi::c_void, sync::OnceLock};

use super::{
    result::CUDA_ERROR_NOT_INITIALIZED,
    types::{CUcontext, CUdevice, CUfunction, CUmodule, CUresult, CUstream},
};

/// A device as the start-up check describes it: what `cuDeviceGetUuid_v2` and the PCI attributes
/// (50, 33, 34) say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIdentity {
    pub uuid: [u8; 16],
    pub pci_domain: i32,
    pub pci_bus: i32,
    pub pci_device: i32,
}

/// The runtime's side. Every method may be called from any thread, also before `cuInit`, and must be
/// cheap: the CUDA runtime comes by here often.
pub trait Hooks: Sync {
    /// The calling thread's context; NULL when it has none.
    ///
    /// # Errors
    /// `CUDA_ERROR_NOT_INITIALIZED` before `cuInit`.
    fn current_context(&self) -> Result<CUcontext, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// The handle of a device's primary context, *without* activating it: a later
    /// `cuDevicePrimaryCtxRetain` must return the same one.
    ///
    /// # Errors
    /// As `cuDevicePrimaryCtxRetain`.
    fn primary_context_of(&self, _device: CUdevice) -> Result<CUcontext, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// Loads the module behind a fat binary *wrapper* into the current context.
    ///
    /// # Safety
    /// `wrapper` points to a wrapper and its container, as the compiler embeds them.
    ///
    /// # Errors
    /// As `cuModuleLoadFatBinary`.
    unsafe fn load_fatbin_wrapper(&self, _wrapper: *const c_void) -> Result<CUmodule, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// Loads the module in a fat binary *container* into the current context.
    ///
    /// # Safety
    /// `container` points to a whole container.
    ///
    /// # Errors
    /// As `cuModuleLoadFatBinary`.
    unsafe fn load_fatbin_container(&self, _container: *const c_void) -> Result<CUmodule, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// The devices in the program's order, for the start-up check.
    ///
    /// # Errors
    /// `CUDA_ERROR_NOT_INITIALIZED` before `cuInit`.
    fn devices(&self) -> Result<Vec<DeviceIdentity>, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// The device of a context, which is never NULL here.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_CONTEXT`.
    fn context_device(&self, _context: CUcontext) -> Result<CUdevice, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// As `cuCtxGetId`, of a context that is never NULL here.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_CONTEXT`.
    fn context_id(&self, _context: CUcontext) -> Result<u64, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// An opaque, non-NULL name for a stream. The default streams come as `CU_STREAM_LEGACY` and
    /// `CU_STREAM_PER_THREAD`, never as NULL.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_HANDLE`.
    fn stream_private(&self, _context: CUcontext, _stream: CUstream) -> Result<*mut c_void, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// As `cuStreamGetId`, by the name that [`Hooks::stream_private`] gave.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_HANDLE`.
    fn stream_id(&self, _context: CUcontext, _private: *mut c_void) -> Result<u64, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }

    /// The functions of a module.
    ///
    /// # Errors
    /// As `cuModuleEnumerateFunctions`.
    fn module_functions(&self, _module: CUmodule) -> Result<Vec<CUfunction>, CUresult> {
        Err(CUDA_ERROR_NOT_INITIALIZED)
    }
}

struct Nothing;

impl Hooks for Nothing {}

static INSTALLED: OnceLock<&'static dyn Hooks> = OnceLock::new();

/// Connects the runtime. The first call counts; `false` says that another had been installed before.
pub fn install(hooks: &'static dyn Hooks) -> bool {
    INSTALLED.set(hooks).is_ok()
}

/// The runtime, or one that answers "not initialised".
pub(super) fn hooks() -> &'static dyn Hooks {
    INSTALLED.get().copied().unwrap_or(&Nothing)
}
