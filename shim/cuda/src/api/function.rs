//! Functions and kernels: their attributes are cached until something sets them.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fusewire_wire::ops::known::Known;
use fusewire_wire::ops::table::{
    FuncGetAttribute, FuncSetAttribute, FuncSetCacheConfig, FunctionBind, FunctionInfo, ParameterInfo,
};

use crate::abi::result::{CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUDA_SUCCESS};
use crate::abi::types::{CUdevice, CUfunction, CUkernel, CUlibrary, CUmodule, CUresult};
use crate::runtime::handles::{self, Object};
use crate::runtime::objects::{Context, Function, Owner};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current};

use super::arguments::{give, need};
use super::library;

// CUfunction_attribute of cuda.h.
const MAX_DYNAMIC_SHARED: i32 = 8;
const CARVEOUT: i32 = 9;
const CLUSTER_REQUIRED: i32 = 10;
const LAST: i32 = 15;
/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`.
const DEVICE_SHARED_OPTIN: i32 = 97;

/// Makes the function behind a handle from what the server said of it. `device` is the ordinal that the
/// attributes of a library's kernel were asked for, -1 for a module's function.
pub(crate) fn enter(
    handle: u64,
    name: &CStr,
    owner: Owner,
    info: &FunctionInfo,
    parameters: Vec<ParameterInfo>,
    device: i32,
) {
    let values = [
        info.max_threads,
        info.shared_bytes,
        info.const_bytes,
        info.local_bytes,
        info.registers,
        info.ptx_version,
        info.binary_version,
        info.cache_mode_ca,
        info.max_dynamic_shared,
        info.carveout,
        info.cluster_required,
        info.cluster_x,
        info.cluster_y,
        info.cluster_z,
        info.non_portable_cluster,
        info.cluster_scheduling,
    ];
    let attributes = (0..).zip(values).map(|(id, value)| ((id, device), value)).collect();
    let function = Function {
        handle,
        name: name.to_owned(),
        owner,
        parameters,
        parameter_bytes: info.parameter_bytes as usize,
        attributes: RwLock::new(attributes),
        max_threads: u32::try_from(info.max_threads).unwrap_or(0),
        static_shared: u32::try_from(info.shared_bytes).unwrap_or(0),
        max_dynamic_shared: AtomicI32::new(info.max_dynamic_shared),
        occupancy: Mutex::default(),
    };
    handles::fill(handle, Object::Function(Arc::new(function)));
}

/// Makes the function that the server described when its image was loaded, under a new handle. Nobody waits:
/// that the driver cannot load it comes back as any later error does.
pub(crate) fn bind(
    runtime: &Runtime,
    known: &Known,
    name: &CStr,
    owner: Owner,
    context: &Context,
    device: i32,
) -> Result<u64, CUresult> {
    let (module, library) = match &owner {
        Owner::Module(module) => (module.handle, 0),
        Owner::Library(library) => (0, library.handle),
    };
    let (handle, _) = handles::minted(|function| {
        let record = FunctionBind { function, module, library, context: context.handle };
        runtime.session.post(&record, &[name.to_bytes()])
    })?;
    enter(handle, name, owner, &known.info, known.parameters.clone(), device);
    Ok(handle)
}

/// The key of a function's attributes: library kernels have them for each device.
fn key(function: &Function, device: i32) -> i32 {
    match function.owner {
        Owner::Module(_) => -1,
        Owner::Library(_) => device,
    }
}

/// The context that an operation on the function is carried out in.
pub(crate) fn place(runtime: &Runtime, function: &Function) -> Result<Arc<Context>, CUresult> {
    match &function.owner {
        Owner::Module(module) => Ok(module.context.clone()),
        Owner::Library(_) => library::somewhere(runtime),
    }
}

fn get_attribute(
    runtime: &Runtime,
    function: &Function,
    attribute: i32,
    device: i32,
) -> Result<i32, CUresult> {
    if !(0..=LAST).contains(&attribute) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let device = key(function, device);
    let known =
        function.attributes.read().unwrap_or_else(PoisonError::into_inner).get(&(attribute, device)).copied();
    if let Some(known) = known {
        return Ok(known);
    }
    let remote = if device < 0 { -1 } else { runtime.device(device)?.remote };
    let record = FuncGetAttribute {
        function: function.handle,
        context: place(runtime, function)?.handle,
        attribute,
        device: remote,
    };
    let value = runtime.session.call(&record, &[])?.0.value;
    function.attributes.write().unwrap_or_else(PoisonError::into_inner).insert((attribute, device), value);
    Ok(value)
}

fn set_attribute(
    runtime: &Runtime,
    function: &Function,
    attribute: i32,
    value: i32,
    device: i32,
) -> Result<(), CUresult> {
    // What the driver refuses at once is refused here; read-only attributes first.
    if !(MAX_DYNAMIC_SHARED..=LAST).contains(&attribute) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let context = place(runtime, function)?;
    match attribute {
        MAX_DYNAMIC_SHARED => {
            let ordinal = if device < 0 { i32::try_from(context.device).unwrap_or(0) } else { device };
            let limit = runtime.device(ordinal)?.snapshot.attribute(DEVICE_SHARED_OPTIN).unwrap_or(i32::MAX);
            let fixed = i32::try_from(function.static_shared).unwrap_or(0);
            if value < 0 || value > limit - fixed {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
        }
        CARVEOUT if !(-1..=100).contains(&value) => return Err(CUDA_ERROR_INVALID_VALUE),
        CLUSTER_REQUIRED => return Err(CUDA_ERROR_INVALID_VALUE),
        _ => {}
    }
    let slot = (attribute, key(function, device));
    let mut attributes = function.attributes.write().unwrap_or_else(PoisonError::into_inner);
    if attributes.get(&slot) == Some(&value) {
        return Ok(());
    }
    attributes.insert(slot, value);
    drop(attributes);
    if attribute == MAX_DYNAMIC_SHARED {
        function.max_dynamic_shared.store(value, Relaxed);
    }
    runtime::session::lock(&function.occupancy).clear();
    let remote = if device < 0 { -1 } else { runtime.device(device)?.remote };
    let record = FuncSetAttribute {
        function: function.handle,
        context: context.handle,
        attribute,
        value,
        device: remote,
        reserved: 0,
    };
    runtime.session.post(&record, &[]).map(drop)
}

/// The device of the thread's context: what a kernel used as a function refers to.
fn here(runtime: &Runtime, function: &Function) -> Result<i32, CUresult> {
    Ok(i32::try_from(place(runtime, function)?.device).unwrap_or(0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut i32,
    attribute: i32,
    function: CUfunction,
) -> CUresult {
    runtime::call(counter!("cuFuncGetAttribute"), |runtime| {
        need(value)?;
        let function = handles::function(function)?;
        let found = get_attribute(runtime, &function, attribute, here(runtime, &function)?)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(value, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: CUfunction, attribute: i32, value: i32) -> CUresult {
    runtime::call(counter!("cuFuncSetAttribute"), |runtime| {
        let function = handles::function(function)?;
        set_attribute(runtime, &function, attribute, value, here(runtime, &function)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetAttribute(
    value: *mut i32,
    attribute: i32,
    kernel: CUkernel,
    device: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuKernelGetAttribute"), |runtime| {
        need(value)?;
        let function = handles::function(kernel)?;
        runtime.device(device)?;
        let found = get_attribute(runtime, &function, attribute, device)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(value, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelSetAttribute(
    attribute: i32,
    value: i32,
    kernel: CUkernel,
    device: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuKernelSetAttribute"), |runtime| {
        let function = handles::function(kernel)?;
        runtime.device(device)?;
        set_attribute(runtime, &function, attribute, value, device)
    })
}

fn cache_config(runtime: &Runtime, function: CUfunction, config: u32, device: i32) -> Result<(), CUresult> {
    if config > 3 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let function = handles::function(function)?;
    let context = place(runtime, &function)?.handle;
    let device = if device < 0 { -1 } else { runtime.device(device)?.remote };
    let record = FuncSetCacheConfig { function: function.handle, context, config, device };
    runtime.session.post(&record, &[]).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetCacheConfig(function: CUfunction, config: u32) -> CUresult {
    runtime::call(counter!("cuFuncSetCacheConfig"), |runtime| cache_config(runtime, function, config, -1))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelSetCacheConfig(kernel: CUkernel, config: u32, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuKernelSetCacheConfig"), |runtime| cache_config(runtime, kernel, config, device))
}

/// Shared-memory bank sizes ended with Maxwell: accepted, without effect, as by the driver.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetSharedMemConfig(function: CUfunction, config: u32) -> CUresult {
    runtime::call(counter!("cuFuncSetSharedMemConfig"), |_| {
        handles::function(function)?;
        if config > 2 { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    })
}

/// A kernel is its own function: the server takes it wherever it takes one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetFunction(function: *mut CUfunction, kernel: CUkernel) -> CUresult {
    runtime::call(counter!("cuKernelGetFunction"), |_| {
        need(function)?;
        handles::function(kernel)?;
        current::context()?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(function, kernel) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetLibrary(library: *mut CUlibrary, kernel: CUkernel) -> CUresult {
    runtime::call(counter!("cuKernelGetLibrary"), |_| match &handles::function(kernel)?.owner {
        // SAFETY: the program's pointer, for one value.
        Owner::Library(found) => unsafe { give(library, handles::pointer(found.handle)) },
        Owner::Module(_) => Err(CUDA_ERROR_INVALID_HANDLE),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetModule(module: *mut CUmodule, function: CUfunction) -> CUresult {
    runtime::call(counter!("cuFuncGetModule"), |_| match &handles::function(function)?.owner {
        // SAFETY: the program's pointer, for one value.
        Owner::Module(found) => unsafe { give(module, handles::pointer(found.handle)) },
        Owner::Library(found) => {
            // SAFETY: the program's pointer, for one value; the library is alive as long as its kernel.
            let code = unsafe { library::cuLibraryGetModule(module, handles::pointer(found.handle)) };
            if code == CUDA_SUCCESS { Ok(()) } else { Err(code) }
        }
    })
}

fn name_of(text: *mut *const c_char, function: CUfunction) -> Result<(), CUresult> {
    need(text)?;
    let function = handles::function(function)?;
    // The name lives as long as the function, as the driver's does.
    // SAFETY: the program's pointer, for one value.
    unsafe { give(text, function.name.as_ptr()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetName(text: *mut *const c_char, function: CUfunction) -> CUresult {
    runtime::call(counter!("cuFuncGetName"), |_| name_of(text, function))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetName(text: *mut *const c_char, kernel: CUkernel) -> CUresult {
    runtime::call(counter!("cuKernelGetName"), |_| name_of(text, kernel))
}

fn parameter(
    function: CUfunction,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> Result<(), CUresult> {
    need(offset)?;
    let function = handles::function(function)?;
    let info = function.parameters.get(index).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the program's pointers, for one value each.
    unsafe {
        give(offset, info.offset as usize)?;
        super::arguments::offer(bytes, info.bytes as usize);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: CUfunction,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuFuncGetParamInfo"), |_| parameter(function, index, offset, bytes))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetParamInfo(
    kernel: CUkernel,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuKernelGetParamInfo"), |_| parameter(kernel, index, offset, bytes))
}

/// Functions are loaded with their metadata: there is nothing left to load.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncLoad(function: CUfunction) -> CUresult {
    runtime::call(counter!("cuFuncLoad"), |_| handles::function(function).map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncIsLoaded(state: *mut u32, function: CUfunction) -> CUresult {
    runtime::call(counter!("cuFuncIsLoaded"), |_| {
        handles::function(function)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(state, 1) }
    })
}

crate::abi::variants!("function.rs");
