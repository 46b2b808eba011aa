//! Libraries: images that belong to no context. Their kernels are used in any.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, OnceLock};

use fusewire_wire::ops::table::{
    FunctionInfo, LibraryGetGlobal, LibraryGetKernel, LibraryGetModule, LibraryLoad, LibraryNames,
    LibraryUnload,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::abi::result::{CUDA_ERROR_CONTEXT_IS_DESTROYED, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_UNKNOWN};
use crate::abi::types::{CUdeviceptr, CUkernel, CUlibrary, CUmodule, CUresult};
use crate::runtime::handles::{self, Object};
use crate::runtime::images::{self, KnownKernels, Options};
use crate::runtime::memory::Place;
use crate::runtime::objects::{Context, Library, Module, Owner};
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current};

use super::arguments::{give, name, need, offer};
use super::function;

/// Where an operation on a library is carried out: in the thread's context, else in any that is active.
pub(crate) fn somewhere(runtime: &Runtime) -> Result<Arc<Context>, CUresult> {
    if let Ok(context) = current::context() {
        return Ok(context);
    }
    let active = runtime.devices.iter().map(|device| &device.primary).find(|primary| primary.is_active());
    match active {
        Some(primary) => Ok(primary.clone()),
        None => {
            // No context yet: the driver loads without one; ours needs one, and this is the one it will be.
            let primary = &runtime.devices.first().ok_or(CUDA_ERROR_CONTEXT_IS_DESTROYED)?.primary;
            current::retain(runtime, primary)?;
            Ok(primary.clone())
        }
    }
}

/// What the program wants of the compiler: `count` options and values.
struct Jit {
    count: u32,
    options: *const u32,
    values: *mut *mut c_void,
}

/// Library options say who keeps the image: here it is always copied.
///
/// # Safety
/// `library`: room for one handle. `jit`: arrays of `count` elements.
unsafe fn load(runtime: &Runtime, library: *mut CUlibrary, image: &[u8], jit: &Jit) -> Result<(), CUresult> {
    need(library)?;
    // SAFETY: the caller's promise.
    let options = unsafe { Options::read(jit.count, jit.options, jit.values) }?;
    let context = somewhere(runtime)?;
    let count = options.count();
    let (handle, known) = images::load(runtime, image, &options, context.device, |library, blob| {
        LibraryLoad { library, context: context.handle, blob, options: count, library_options: 0 }
    })?;
    let made = Library {
        handle,
        kernels: Mutex::default(),
        known,
        names: OnceLock::new(),
        modules: Mutex::new(HashMap::new()),
        globals: Mutex::new(HashMap::new()),
    };
    handles::fill(handle, Object::Library(Arc::new(made)));
    // SAFETY: the caller's promise.
    unsafe { give(library, handles::pointer(handle)) }
}

/// `jit_options`, `jit_values`: `jit_count` elements; `options`, `values`: `count`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuLibraryLoadData(
    library: *mut CUlibrary,
    code: *const c_void,
    jit_options: *const u32,
    jit_values: *mut *mut c_void,
    jit_count: u32,
    _options: *const u32,
    _values: *mut *mut c_void,
    _count: u32,
) -> CUresult {
    runtime::call(counter!("cuLibraryLoadData"), |runtime| {
        let jit = Jit { count: jit_count, options: jit_options, values: jit_values };
        // SAFETY: the program's pointer to a whole image, its arrays, and its pointer for one value.
        unsafe { load(runtime, library, images::read(code)?, &jit) }
    })
}

/// As `cuLibraryLoadData`, from a file.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuLibraryLoadFromFile(
    library: *mut CUlibrary,
    file: *const c_char,
    jit_options: *const u32,
    jit_values: *mut *mut c_void,
    jit_count: u32,
    _options: *const u32,
    _values: *mut *mut c_void,
    _count: u32,
) -> CUresult {
    runtime::call(counter!("cuLibraryLoadFromFile"), |runtime| {
        let jit = Jit { count: jit_count, options: jit_options, values: jit_values };
        // SAFETY: the program's C string, its arrays, and its pointer for one value.
        unsafe { load(runtime, library, &images::read_file(file)?, &jit) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryUnload(library: CUlibrary) -> CUresult {
    runtime::call(counter!("cuLibraryUnload"), |runtime| {
        let found = handles::library(library)?;
        handles::end(found.handle);
        for kernel in lock(&found.kernels).values() {
            handles::end(*kernel);
        }
        for module in lock(&found.modules).values() {
            handles::end(*module);
        }
        for (address, _) in lock(&found.globals).values() {
            runtime.memory.map_mut().remove(*address);
        }
        runtime.session.post(&LibraryUnload { library: found.handle }, &[]).map(drop)
    })
}

/// The kernel of this name.
pub(crate) fn find(runtime: &Runtime, library: &Arc<Library>, wanted: &CStr) -> Result<CUkernel, CUresult> {
    if let Some(known) = lock(&library.kernels).get(wanted.to_bytes()) {
        return Ok(handles::pointer(*known));
    }
    let context = somewhere(runtime)?;
    let owner = Owner::Library(library.clone());
    let handle = if let Some(known) = library.known.get(wanted.to_bytes()) {
        function::bind(runtime, known, wanted, owner, &context, library.known.device)?
    } else {
        let (handle, (info, tail)) = handles::minted(|function| {
            let record = LibraryGetKernel { library: library.handle, function, context: context.handle };
            runtime.session.call(&record, &[wanted.to_bytes()])
        })?;
        // Both replies have one layout: what is known of a function.
        let info = FunctionInfo::read_from_bytes(info.as_bytes()).map_err(|_| CUDA_ERROR_UNKNOWN)?;
        let parameters = images::parameters(info.parameters, &tail);
        function::enter(handle, wanted, owner, &info, parameters, i32::try_from(context.device).unwrap_or(0));
        handle
    };
    lock(&library.kernels).insert(wanted.to_bytes().to_vec(), handle);
    Ok(handles::pointer(handle))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(
    kernel: *mut CUkernel,
    library: CUlibrary,
    wanted: *const c_char,
) -> CUresult {
    runtime::call(counter!("cuLibraryGetKernel"), |runtime| {
        need(kernel)?;
        let library = handles::library(library)?;
        // SAFETY: the program's C string.
        let found = find(runtime, &library, unsafe { name(wanted) }?)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(kernel, found) }
    })
}

fn names<'a>(runtime: &Runtime, library: &'a Library) -> Result<&'a [std::ffi::CString], CUresult> {
    if let Some(names) = library.names.get() {
        return Ok(names);
    }
    let (reply, tail) = runtime.session.call(&LibraryNames { library: library.handle }, &[])?;
    Ok(library.names.get_or_init(|| images::names(&tail, reply.count)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernelCount(count: *mut u32, library: CUlibrary) -> CUresult {
    runtime::call(counter!("cuLibraryGetKernelCount"), |runtime| {
        need(count)?;
        let library = handles::library(library)?;
        let found = names(runtime, &library)?.len();
        // SAFETY: the program's pointer, for one value.
        unsafe { give(count, u32::try_from(found).unwrap_or(u32::MAX)) }
    })
}

/// `kernels`: room for `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryEnumerateKernels(
    kernels: *mut CUkernel,
    count: u32,
    library: CUlibrary,
) -> CUresult {
    runtime::call(counter!("cuLibraryEnumerateKernels"), |runtime| {
        need(kernels)?;
        let library = handles::library(library)?;
        for (n, name) in names(runtime, &library)?.iter().take(count as usize).enumerate() {
            let found = find(runtime, &library, name)?;
            // SAFETY: the program's array of `count` elements.
            unsafe { kernels.add(n).write(found) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetModule(module: *mut CUmodule, library: CUlibrary) -> CUresult {
    runtime::call(counter!("cuLibraryGetModule"), |runtime| {
        need(module)?;
        let library = handles::library(library)?;
        let context = current::sound_context()?;
        let known = lock(&library.modules).get(&context.handle).copied();
        let handle = match known {
            Some(known) => known,
            None => {
                let handle = handles::mint()?;
                let record =
                    LibraryGetModule { library: library.handle, context: context.handle, module: handle };
                if let Err(code) = runtime.session.call(&record, &[]) {
                    handles::end(handle);
                    return Err(code);
                }
                let made = Module {
                    handle,
                    context: context.clone(),
                    functions: Mutex::default(),
                    globals: Mutex::default(),
                    known: KnownKernels::default(),
                    library: Some(library.handle),
                };
                handles::fill(handle, Object::Module(Arc::new(made)));
                lock(&library.modules).insert(context.handle, handle);
                handle
            }
        };
        // SAFETY: the program's pointer, for one value.
        unsafe { give(module, handles::pointer(handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetGlobal(
    address: *mut CUdeviceptr,
    bytes: *mut usize,
    library: CUlibrary,
    wanted: *const c_char,
) -> CUresult {
    runtime::call(counter!("cuLibraryGetGlobal"), |runtime| {
        let library = handles::library(library)?;
        // SAFETY: the program's C string.
        let wanted = unsafe { name(wanted) }?.to_bytes();
        let context = current::sound_context()?;
        let key = (context.handle, wanted.to_vec());
        let known = lock(&library.globals).get(&key).copied();
        let (base, size) = match known {
            Some(known) => known,
            None => {
                let record = LibraryGetGlobal { library: library.handle, context: context.handle };
                let (reply, _) = runtime.session.call(&record, &[wanted])?;
                lock(&library.globals).insert(key, (reply.address, reply.bytes));
                let mut map = runtime.memory.map_mut();
                map.insert(reply.address, reply.bytes, Place::Global, context.handle, context.device);
                (reply.address, reply.bytes)
            }
        };
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            offer(address, base);
            offer(bytes, usize::try_from(size).unwrap_or(usize::MAX));
        }
        Ok(())
    })
}

/// Managed memory does not work across the link, and is not advertised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetManaged(
    _address: *mut CUdeviceptr,
    _bytes: *mut usize,
    library: CUlibrary,
    _wanted: *const c_char,
) -> CUresult {
    runtime::call(counter!("cuLibraryGetManaged"), |_| {
        handles::library(library)?;
        Err(CUDA_ERROR_NOT_SUPPORTED)
    })
}

crate::abi::variants!("library.rs");
