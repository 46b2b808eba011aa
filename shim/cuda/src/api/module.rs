//! Modules.

use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex};

use fusewire_wire::ops::table::{ModuleGetFunction, ModuleGetGlobal, ModuleLoad, ModuleNames, ModuleUnload};

use crate::abi::types::{CUdeviceptr, CUfunction, CUmodule, CUresult};
use crate::runtime::handles::{self, Object};
use crate::runtime::images::{self, Options};
use crate::runtime::memory::Place;
use crate::runtime::objects::{Module, Owner};
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current};

use super::arguments::{give, name, need, offer};
use super::function;

/// Loads an image into the current context.
///
/// # Errors
/// What the driver says of it.
pub(crate) fn load(runtime: &Runtime, image: &[u8], options: &Options) -> Result<CUmodule, CUresult> {
    let context = current::sound_context()?;
    runtime.captures.unsafe_call()?;
    let count = options.count();
    let (handle, known) = images::load(runtime, image, options, context.device, |module, blob| ModuleLoad {
        module,
        context: context.handle,
        blob,
        options: count,
        reserved: 0,
    })?;
    let module = Module {
        handle,
        context,
        functions: Mutex::default(),
        globals: Mutex::default(),
        known,
        library: None,
    };
    handles::fill(handle, Object::Module(Arc::new(module)));
    Ok(handles::pointer(handle))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut CUmodule, file: *const c_char) -> CUresult {
    runtime::call(counter!("cuModuleLoad"), |runtime| {
        need(module)?;
        // SAFETY: the program's C string.
        let image = unsafe { images::read_file(file) }?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(module, load(runtime, &image, &Options::default())?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> CUresult {
    runtime::call(counter!("cuModuleLoadData"), |runtime| {
        need(module)?;
        // SAFETY: the program's pointer to a whole image.
        let image = unsafe { images::read_bare(image) }?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(module, load(runtime, image, &Options::default())?) }
    })
}

/// `options` and `values`: `count` elements each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut CUmodule,
    image: *const c_void,
    count: u32,
    options: *const u32,
    values: *mut *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuModuleLoadDataEx"), |runtime| {
        need(module)?;
        // SAFETY: the program's pointer to a whole image.
        let image = unsafe { images::read_bare(image) }?;
        // SAFETY: the program's arrays of `count` elements.
        let options = unsafe { Options::read(count, options, values) }?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(module, load(runtime, image, &options)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadFatBinary(module: *mut CUmodule, image: *const c_void) -> CUresult {
    runtime::call(counter!("cuModuleLoadFatBinary"), |runtime| {
        need(module)?;
        // SAFETY: the program's pointer to a whole container.
        let image = unsafe { images::read_bare(image) }?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(module, load(runtime, image, &Options::default())?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: CUmodule) -> CUresult {
    runtime::call(counter!("cuModuleUnload"), |runtime| {
        let found = handles::module(module)?;
        if found.library.is_some() {
            return Err(crate::abi::result::CUDA_ERROR_NOT_PERMITTED);
        }
        handles::end(found.handle);
        for function in lock(&found.functions).values() {
            handles::end(*function);
        }
        for (address, _) in lock(&found.globals).values() {
            runtime.memory.map_mut().remove(*address);
        }
        runtime.session.post(&ModuleUnload { module: found.handle }, &[]).map(drop)
    })
}

/// Images are loaded whole: the server's driver loads lazily if it was told to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetLoadingMode(mode: *mut u32) -> CUresult {
    runtime::call(counter!("cuModuleGetLoadingMode"), |_| {
        let eager = std::env::var_os("CUDA_MODULE_LOADING").is_some_and(|value| value == "EAGER");
        // SAFETY: the program's pointer, for one value.
        unsafe { give(mode, if eager { 1 } else { 2 }) }
    })
}

/// The function of this name.
///
/// # Errors
/// `CUDA_ERROR_NOT_FOUND`, as the driver has it.
pub(crate) fn find(
    runtime: &Runtime,
    module: &Arc<Module>,
    wanted: &std::ffi::CStr,
) -> Result<CUfunction, CUresult> {
    if let Some(known) = lock(&module.functions).get(wanted.to_bytes()) {
        return Ok(handles::pointer(*known));
    }
    let owner = Owner::Module(module.clone());
    let handle = if let Some(known) = module.known.get(wanted.to_bytes()) {
        function::bind(runtime, known, wanted, owner, &module.context, -1)?
    } else {
        let (handle, (info, tail)) = handles::minted(|function| {
            let record = ModuleGetFunction { module: module.handle, function };
            runtime.session.call(&record, &[wanted.to_bytes()])
        })?;
        let parameters = images::parameters(info.parameters, &tail);
        function::enter(handle, wanted, owner, &info, parameters, -1);
        handle
    };
    lock(&module.functions).insert(wanted.to_bytes().to_vec(), handle);
    Ok(handles::pointer(handle))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    wanted: *const c_char,
) -> CUresult {
    runtime::call(counter!("cuModuleGetFunction"), |runtime| {
        need(function)?;
        let module = handles::module(module)?;
        // SAFETY: the program's C string.
        let found = find(runtime, &module, unsafe { name(wanted) }?)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(function, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut CUdeviceptr,
    bytes: *mut usize,
    module: CUmodule,
    wanted: *const c_char,
) -> CUresult {
    runtime::call(counter!("cuModuleGetGlobal_v2"), |runtime| {
        let module = handles::module(module)?;
        // SAFETY: the program's C string.
        let wanted = unsafe { name(wanted) }?.to_bytes();
        let known = lock(&module.globals).get(wanted).copied();
        let (base, size) = match known {
            Some(known) => known,
            None => {
                let (reply, _) =
                    runtime.session.call(&ModuleGetGlobal { module: module.handle }, &[wanted])?;
                lock(&module.globals).insert(wanted.to_vec(), (reply.address, reply.bytes));
                runtime.memory.map_mut().insert(
                    reply.address,
                    reply.bytes,
                    Place::Global,
                    module.context.handle,
                    module.context.device,
                );
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

/// The names of a module's functions, in the driver's order.
///
/// # Errors
/// What the driver says.
pub(crate) fn names(runtime: &Runtime, module: &Module) -> Result<Vec<CString>, CUresult> {
    let (reply, tail) = runtime.session.call(&ModuleNames { module: module.handle }, &[])?;
    Ok(images::names(&tail, reply.count))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunctionCount(count: *mut u32, module: CUmodule) -> CUresult {
    runtime::call(counter!("cuModuleGetFunctionCount"), |runtime| {
        need(count)?;
        let module = handles::module(module)?;
        let (reply, _) = runtime.session.call(&ModuleNames { module: module.handle }, &[])?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(count, reply.count) }
    })
}

/// `functions`: room for `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleEnumerateFunctions(
    functions: *mut CUfunction,
    count: u32,
    module: CUmodule,
) -> CUresult {
    runtime::call(counter!("cuModuleEnumerateFunctions"), |runtime| {
        need(functions)?;
        let module = handles::module(module)?;
        for (n, name) in names(runtime, &module)?.iter().take(count as usize).enumerate() {
            let found = find(runtime, &module, name)?;
            // SAFETY: the program's array of `count` elements.
            unsafe { functions.add(n).write(found) };
        }
        Ok(())
    })
}

/// Texture and surface references ended with CUDA 12: no image that the driver loads has any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetTexRef(
    _reference: *mut *mut c_void,
    module: CUmodule,
    _name: *const c_char,
) -> CUresult {
    runtime::call(counter!("cuModuleGetTexRef"), |_| {
        handles::module(module)?;
        Err(crate::abi::result::CUDA_ERROR_NOT_FOUND)
    })
}

/// As `cuModuleGetTexRef`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetSurfRef(
    _reference: *mut *mut c_void,
    module: CUmodule,
    _name: *const c_char,
) -> CUresult {
    runtime::call(counter!("cuModuleGetSurfRef"), |_| {
        handles::module(module)?;
        Err(crate::abi::result::CUDA_ERROR_NOT_FOUND)
    })
}

crate::abi::variants!("module.rs");
