//! The CUDA driver, by name and at run time, as far as the probes call it.
//!
//! Names and signatures are those of NVIDIA's driver API (`cuda.h`). Every function of [`Api`] is called with
//! arguments that its safe wrappers own or have checked.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

use crate::error::{Context, Error, Result};

pub(crate) type Pointer = *mut c_void;
type DevicePointer = u64;

/// CUDA_ERROR_NOT_READY
const NOT_READY: c_int = 600;
/// CU_STREAM_NON_BLOCKING
const NON_BLOCKING: c_uint = 1;

macro_rules! api {
    ($($name:ident: fn($($argument:ty),*);)*) => {
        /// Entry points of the library.
        #[allow(non_snake_case)]
        #[derive(Debug)]
        struct Api { $($name: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl Api {
            fn load(library: &Library) -> std::result::Result<Api, libloading::Error> {
                Ok(Api {
                    // SAFETY: the driver API gives these names these types, and the library stays loaded for
                    // as long as the pointers are used (`Driver` holds both).
                    $($name: unsafe { *library.get(concat!(stringify!($name), "\0").as_bytes())? },)*
                })
            }
        }
    };
}

api! {
    cuInit: fn(c_uint);
    cuDriverGetVersion: fn(*mut c_int);
    cuDeviceGet: fn(*mut c_int, c_int);
    cuDeviceGetName: fn(*mut c_char, c_int, c_int);
    cuDeviceGetAttribute: fn(*mut c_int, c_int, c_int);
    cuDevicePrimaryCtxRetain: fn(*mut Pointer, c_int);
    cuCtxSetCurrent: fn(Pointer);
    cuCtxGetCurrent: fn(*mut Pointer);
    cuModuleLoadData: fn(*mut Pointer, *const c_void);
    cuModuleGetFunction: fn(*mut Pointer, Pointer, *const c_char);
    cuLaunchKernel: fn(Pointer, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Pointer, *mut Pointer, *mut Pointer);
    cuStreamCreate: fn(*mut Pointer, c_uint);
    cuStreamSynchronize: fn(Pointer);
    cuEventCreate: fn(*mut Pointer, c_uint);
    cuEventRecord: fn(Pointer, Pointer);
    cuEventQuery: fn(Pointer);
    cuEventSynchronize: fn(Pointer);
    cuMemAlloc_v2: fn(*mut DevicePointer, usize);
    cuMemFree_v2: fn(DevicePointer);
    cuMemHostAlloc: fn(*mut Pointer, usize, c_uint);
    cuMemFreeHost: fn(Pointer);
    cuMemcpyHtoDAsync_v2: fn(DevicePointer, *const c_void, usize, Pointer);
    cuMemcpyDtoHAsync_v2: fn(Pointer, DevicePointer, usize, Pointer);
    cuMemcpyDtoH_v2: fn(Pointer, DevicePointer, usize);
}

/// The loaded driver with the first device's primary context current in the thread that opened it.
#[derive(Debug)]
pub(crate) struct Driver {
    api: Api,
    device: c_int,
    context: Handle,
    _library: Library,
}

/// A driver object. Never freed: it lives as long as the process, which is the probe's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle(Pointer);

// SAFETY: the driver's handles may be used by any thread of the process.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

fn must(name: &str, code: c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::Failed(format!("{name} answers {code}"))) }
}

impl Driver {
    pub(crate) fn open(name: &str) -> Result<Driver> {
        // SAFETY: its initialisers are those of a CUDA driver, or of what stands in for one.
        let library = unsafe { Library::new(name) }.failed(|| format!("{name} cannot be loaded"))?;
        let api = Api::load(&library).failed(|| format!("{name} is not a CUDA driver"))?;
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: the pointers are to locals that live through the calls.
        unsafe {
            must("cuInit", (api.cuInit)(0))?;
            must("cuDeviceGet", (api.cuDeviceGet)(&mut device, 0))?;
            must("cuDevicePrimaryCtxRetain", (api.cuDevicePrimaryCtxRetain)(&mut context, device))?;
            must("cuCtxSetCurrent", (api.cuCtxSetCurrent)(context))?;
        }
        Ok(Driver { api, device, context: Handle(context), _library: library })
    }

    /// Makes the context current in another thread.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: the context was retained and is never released.
        must("cuCtxSetCurrent", unsafe { (self.api.cuCtxSetCurrent)(self.context.0) })
    }

    pub(crate) fn name(&self) -> Result<String> {
        let mut name = [0_u8; 256];
        // SAFETY: the length is the buffer's.
        let code =
            unsafe { (self.api.cuDeviceGetName)(name.as_mut_ptr().cast(), name.len() as c_int, self.device) };
        must("cuDeviceGetName", code)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }

    pub(crate) fn version(&self) -> Result<i32> {
        let mut version = 0;
        // SAFETY: the pointer is to a local.
        must("cuDriverGetVersion", unsafe { (self.api.cuDriverGetVersion)(&mut version) })?;
        Ok(version)
    }

    /// The function `name` of a PTX text.
    pub(crate) fn kernel(&self, ptx: &str, name: &str) -> Result<Handle> {
        let text = |text: &str| CString::new(text).failed(|| "a text with a zero in it".into());
        let (ptx, name) = (text(ptx)?, text(name)?);
        let (mut module, mut kernel) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: both texts end with a zero, and the pointers are to locals.
        unsafe {
            must("cuModuleLoadData", (self.api.cuModuleLoadData)(&mut module, ptx.as_ptr().cast()))?;
            must("cuModuleGetFunction", (self.api.cuModuleGetFunction)(&mut kernel, module, name.as_ptr()))?;
        }
        Ok(Handle(kernel))
    }

    pub(crate) fn stream(&self) -> Result<Handle> {
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer is to a local.
        must("cuStreamCreate", unsafe { (self.api.cuStreamCreate)(&mut stream, NON_BLOCKING) })?;
        Ok(Handle(stream))
    }

    pub(crate) fn event(&self) -> Result<Handle> {
        let mut event = ptr::null_mut();
        // SAFETY: the pointer is to a local.
        must("cuEventCreate", unsafe { (self.api.cuEventCreate)(&mut event, 0) })?;
        Ok(Handle(event))
    }

    /// Launches a kernel without parameters: one block of 32 threads.
    #[inline]
    pub(crate) fn launch(&self, kernel: Handle, stream: Handle) -> Result<()> {
        let none: *mut Pointer = ptr::null_mut();
        // SAFETY: the kernel takes no parameters, so none are read; the handles are this driver's.
        let code = unsafe { (self.api.cuLaunchKernel)(kernel.0, 1, 1, 1, 32, 1, 1, 0, stream.0, none, none) };
        must("cuLaunchKernel", code)
    }

    #[inline]
    pub(crate) fn synchronize(&self, stream: Handle) -> Result<()> {
        // SAFETY: the stream is this driver's.
        must("cuStreamSynchronize", unsafe { (self.api.cuStreamSynchronize)(stream.0) })
    }

    pub(crate) fn record(&self, event: Handle, stream: Handle) -> Result<()> {
        // SAFETY: the handles are this driver's.
        must("cuEventRecord", unsafe { (self.api.cuEventRecord)(event.0, stream.0) })
    }

    pub(crate) fn wait_event(&self, event: Handle) -> Result<()> {
        // SAFETY: the event is this driver's.
        must("cuEventSynchronize", unsafe { (self.api.cuEventSynchronize)(event.0) })
    }

    /// Whether what was recorded is finished.
    #[inline]
    pub(crate) fn query(&self, event: Handle) -> Result<bool> {
        // SAFETY: the event is this driver's.
        match unsafe { (self.api.cuEventQuery)(event.0) } {
            NOT_READY => Ok(false),
            code => must("cuEventQuery", code).map(|()| true),
        }
    }

    /// A call that asks nobody: the current context.
    #[inline]
    pub(crate) fn current(&self) -> Result<()> {
        let mut context = ptr::null_mut();
        // SAFETY: the pointer is to a local.
        must("cuCtxGetCurrent", unsafe { (self.api.cuCtxGetCurrent)(&mut context) })
    }

    #[inline]
    pub(crate) fn attribute(&self, attribute: c_int) -> Result<i32> {
        let mut value = 0;
        // SAFETY: the pointer is to a local.
        must("cuDeviceGetAttribute", unsafe {
            (self.api.cuDeviceGetAttribute)(&mut value, attribute, self.device)
        })?;
        Ok(value)
    }

    pub(crate) fn device_memory(&self, bytes: usize) -> Result<DeviceMemory<'_>> {
        let mut address = 0;
        // SAFETY: the pointer is to a local.
        must("cuMemAlloc", unsafe { (self.api.cuMemAlloc_v2)(&mut address, bytes) })?;
        Ok(DeviceMemory { driver: self, address, bytes })
    }

    pub(crate) fn pinned_memory(&self, bytes: usize) -> Result<PinnedMemory<'_>> {
        let mut start = ptr::null_mut();
        // SAFETY: the pointer is to a local.
        must("cuMemHostAlloc", unsafe { (self.api.cuMemHostAlloc)(&mut start, bytes, 0) })?;
        Ok(PinnedMemory { driver: self, start: start.cast(), bytes })
    }

    /// Copies 4 bytes to the host and gives them.
    #[inline]
    pub(crate) fn read_word(&self, from: &DeviceMemory<'_>) -> Result<u32> {
        let mut word = 0_u32;
        // SAFETY: the destination is a local of 4 bytes, and memory is never made smaller than that.
        must("cuMemcpyDtoH", unsafe { (self.api.cuMemcpyDtoH_v2)((&raw mut word).cast(), from.address, 4) })?;
        Ok(word)
    }

    /// Starts a copy to the device.
    ///
    /// # Safety
    ///
    /// `from` must be readable for `bytes`, and stay so and unchanged until the stream was synchronised.
    pub(crate) unsafe fn to_device(
        &self,
        to: &DeviceMemory<'_>,
        offset: usize,
        from: *const u8,
        bytes: usize,
        stream: Handle,
    ) -> Result<()> {
        let to = to.at(offset, bytes)?;
        // SAFETY: the range was checked; the source is the caller's promise.
        must("cuMemcpyHtoDAsync", unsafe {
            (self.api.cuMemcpyHtoDAsync_v2)(to, from.cast(), bytes, stream.0)
        })
    }

    /// Starts a copy to the host.
    ///
    /// # Safety
    ///
    /// `to` must be writable for `bytes`, and be used by nobody else until the stream was synchronised.
    pub(crate) unsafe fn to_host(
        &self,
        to: *mut u8,
        from: &DeviceMemory<'_>,
        offset: usize,
        bytes: usize,
        stream: Handle,
    ) -> Result<()> {
        let from = from.at(offset, bytes)?;
        // SAFETY: the range was checked; the destination is the caller's promise.
        must("cuMemcpyDtoHAsync", unsafe {
            (self.api.cuMemcpyDtoHAsync_v2)(to.cast(), from, bytes, stream.0)
        })
    }
}

/// Memory of the device, freed when dropped.
#[derive(Debug)]
pub(crate) struct DeviceMemory<'a> {
    driver: &'a Driver,
    address: DevicePointer,
    bytes: usize,
}

impl DeviceMemory<'_> {
    fn at(&self, offset: usize, bytes: usize) -> Result<DevicePointer> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.address + offset as u64),
            _ => Err(Error::Failed(format!("{bytes} bytes at {offset} of {}", self.bytes))),
        }
    }
}

impl Drop for DeviceMemory<'_> {
    fn drop(&mut self) {
        // SAFETY: it was allocated so, and nobody has its address any more. A failure leaves it allocated.
        let _ = unsafe { (self.driver.api.cuMemFree_v2)(self.address) };
    }
}

/// Page-locked memory of the host, freed when dropped.
#[derive(Debug)]
pub(crate) struct PinnedMemory<'a> {
    driver: &'a Driver,
    pub(crate) start: *mut u8,
    pub(crate) bytes: usize,
}

impl Drop for PinnedMemory<'_> {
    fn drop(&mut self) {
        // SAFETY: it was allocated so, and nobody has its address any more. A failure leaves it allocated.
        let _ = unsafe { (self.driver.api.cuMemFreeHost)(self.start.cast()) };
    }
}
