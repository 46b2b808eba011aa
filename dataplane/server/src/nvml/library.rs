//! The library itself: loaded at run time, called by name.
//!
//! All calls have one of a few shapes — a device, some numbers, then pointers to write to — so one function
//! per shape stands for the sixty that are called. A function that the library lacks answers nothing.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;

use fusewire_wire::inventory::text_of;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// The name that NVIDIA's driver package installs.
pub const DEFAULT_LIBRARY: &str = "libnvidia-ml.so.1";

/// Longer than any text that is asked for.
const TEXT: usize = 96;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvmlError {
    /// No such library.
    #[error("{0}")]
    NotLoaded(String),
    /// It is there and does not work.
    #[error("nvmlInit says {0}")]
    NotStarted(u32),
    /// It knows none of the devices that are served.
    #[error("it knows none of the devices served")]
    OtherDevices,
}

/// `nvmlDevice_t`.
pub(super) type Handle = *mut c_void;

/// Where a function writes.
pub(super) type To = *mut u64;

/// Finds a function by its name.
pub(super) type Symbols = Box<dyn Fn(&CStr) -> Option<*mut c_void>>;

/// An initialised library.
pub(super) struct Nvml {
    symbols: Symbols,
}

impl Nvml {
    /// Loads and initialises the library.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub(super) fn load(file: &Path) -> Result<Self, NvmlError> {
        // SAFETY: runs the constructors of the machine's own driver library.
        let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| NvmlError::NotLoaded(error.to_string()))?;
        let symbols = move |name: &CStr| {
            // SAFETY: only the address is taken.
            let symbol = unsafe { library.get::<*mut c_void>(name.to_bytes_with_nul()) };
            symbol.ok().map(|symbol| symbol.into_raw()).filter(|address| !address.is_null())
        };
        Self::start(Box::new(symbols))
    }

    /// Initialises the library whose functions these are.
    pub(super) fn start(symbols: Symbols) -> Result<Self, NvmlError> {
        let nvml = Self { symbols };
        match nvml.plain(c"nvmlInit_v2") {
            Some(0) => Ok(nvml),
            status => {
                // What did not start is not shut down.
                std::mem::forget(nvml);
                Err(NvmlError::NotStarted(status.unwrap_or(13)))
            }
        }
    }

    /// The device of this UUID.
    pub(super) fn handle(&self, uuid: &str) -> Option<Handle> {
        type ByUuid = unsafe extern "C" fn(*const c_char, *mut Handle) -> u32;
        let uuid = CString::new(uuid).ok()?;
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the function's own type; a text that ends with a zero, and a live handle to write to.
        let status =
            unsafe { self.find::<ByUuid>(c"nvmlDeviceGetHandleByUUID")?(uuid.as_ptr(), &raw mut handle) };
        (status == 0 && !handle.is_null()).then_some(handle)
    }

    /// Calls a function of `(device, numbers…, pointers…)`. The pointers are to whole 8-byte words, at least
    /// as large as what is written there, or to a structure.
    pub(super) fn call(&self, name: &CStr, device: Handle, numbers: &[u32], to: &[To]) -> Option<()> {
        type One = unsafe extern "C" fn(Handle, To) -> u32;
        type Two = unsafe extern "C" fn(Handle, To, To) -> u32;
        type Four = unsafe extern "C" fn(Handle, To, To, To, To) -> u32;
        type Chosen = unsafe extern "C" fn(Handle, u32, To) -> u32;
        type ChosenTwice = unsafe extern "C" fn(Handle, u32, u32, To) -> u32;
        // SAFETY: `probes` has each function with the numbers and pointers that it takes, and every pointer is
        // to live memory of at least the size that the function writes.
        let status = unsafe {
            match (numbers, to) {
                ([], [a]) => self.find::<One>(name)?(device, *a),
                ([], [a, b]) => self.find::<Two>(name)?(device, *a, *b),
                ([], [a, b, c, d]) => self.find::<Four>(name)?(device, *a, *b, *c, *d),
                ([x], [a]) => self.find::<Chosen>(name)?(device, *x, *a),
                ([x, y], [a]) => self.find::<ChosenTwice>(name)?(device, *x, *y, *a),
                _ => return None,
            }
        };
        (status == 0).then_some(())
    }

    /// A text of a device.
    pub(super) fn text(&self, name: &CStr, device: Handle, object: Option<u32>) -> Option<String> {
        type Plain = unsafe extern "C" fn(Handle, *mut c_char, u32) -> u32;
        type OfObject = unsafe extern "C" fn(Handle, u32, *mut c_char, u32) -> u32;
        let mut text = [0u8; TEXT];
        let (to, length) = (text.as_mut_ptr().cast::<c_char>(), text.len() as u32);
        // SAFETY: `probes` has each function with or without an object, as it is. All are told the length but
        // for that of the firmware's version, which ignores the number after its pointer and writes up to 64.
        let status = unsafe {
            match object {
                None => self.find::<Plain>(name)?(device, to, length),
                Some(object) => self.find::<OfObject>(name)?(device, object, to, length),
            }
        };
        (status == 0).then(|| text_of(&text))
    }

    /// A text about the system.
    pub(super) fn system_text(&self, name: &CStr) -> Option<String> {
        type Version = unsafe extern "C" fn(*mut c_char, u32) -> u32;
        let mut text = [0u8; TEXT];
        // SAFETY: the type of the functions that give versions; a live buffer and its length.
        let status = unsafe { self.find::<Version>(name)?(text.as_mut_ptr().cast(), text.len() as u32) };
        (status == 0).then(|| text_of(&text))
    }

    fn plain(&self, name: &CStr) -> Option<u32> {
        // SAFETY: the type of nvmlInit_v2 and nvmlShutdown, which may be called at any time.
        unsafe { self.find::<unsafe extern "C" fn() -> u32>(name).map(|function| function()) }
    }

    /// A function, as a pointer of type `F`.
    ///
    /// # Safety
    /// `F` is a function pointer of the type that the function has.
    unsafe fn find<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let address = (self.symbols)(name)?;
        // SAFETY: an address that is not NULL, of the size of a function pointer, and the caller says of which type.
        Some(unsafe { std::mem::transmute_copy(&address) })
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        self.plain(c"nvmlShutdown");
    }
}
