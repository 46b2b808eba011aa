//! Contexts: the thread's stack of them is the client's own, what they hold is the server's.

use std::sync::atomic::Ordering::Relaxed;

use fusewire_wire::ops::table::{
    CtxDestroy, CtxGetLimit, CtxResetPersistingL2, CtxSetCacheConfig, CtxSetLimit, CtxSynchronize,
    PrimaryRelease, PrimaryReset,
};

use crate::abi::export_table::context_storage::run_destructors;
use crate::abi::result::{
    CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_UNSUPPORTED_LIMIT,
};
use crate::abi::types::{CUcontext, CUdevice, CUresult};
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, handles};

use super::arguments::{give, need, offer};

/// `CU_CTX_FLAGS_MASK` of cuda.h.
const FLAGS_MASK: u32 = 0xff;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDevicePrimaryCtxRetain"), |runtime| {
        need(context)?;
        let primary = &runtime.device(device)?.primary;
        current::retain(runtime, primary)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(context, handles::pointer(primary.handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDevicePrimaryCtxRelease_v2"), |runtime| {
        let primary = &runtime.device(device)?.primary;
        let mut retained = lock(&primary.retained);
        match *retained {
            0 => Err(CUDA_ERROR_INVALID_CONTEXT),
            1 => {
                *retained = 0;
                drop(retained);
                run_destructors(handles::pointer(primary.handle));
                let addresses = reset_client_state(runtime, primary);
                let posted = runtime.session.post(&PrimaryRelease { context: primary.handle }, &[]);
                runtime.memory.give_all(addresses);
                posted.map(drop)
            }
            _ => {
                *retained -= 1;
                Ok(())
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxReset_v2(device: CUdevice) -> CUresult {
    runtime::call(counter!("cuDevicePrimaryCtxReset_v2"), |runtime| {
        let primary = &runtime.device(device)?.primary;
        if !primary.is_active() {
            return Ok(());
        }
        run_destructors(handles::pointer(primary.handle));
        let addresses = reset_client_state(runtime, primary);
        *lock(&primary.retained) = 0;
        let called = runtime.session.call(&PrimaryReset { context: primary.handle }, &[]);
        runtime.memory.give_all(addresses);
        called.map(drop)
    })
}

/// What the client knew of a primary context is void: the context may come back, its objects do not. Gives the
/// addresses of its memory, as [`forget_context`](runtime::memory_state::forget_context).
fn reset_client_state(runtime: &Runtime, primary: &runtime::objects::Context) -> Vec<(u64, u64)> {
    current::sweep(primary, false);
    lock(&primary.limits).clear();
    primary.fault.store(0, Relaxed);
    primary.late_error.store(0, Relaxed);
    primary.cache_config.store(0, Relaxed);
    runtime::memory_state::forget_context(runtime, primary)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: CUdevice,
    flags: *mut u32,
    active: *mut i32,
) -> CUresult {
    runtime::call(counter!("cuDevicePrimaryCtxGetState"), |runtime| {
        let primary = &runtime.device(device)?.primary;
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            give(flags, primary.flags.load(Relaxed))?;
            give(active, i32::from(primary.is_active()))
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: u32) -> CUresult {
    runtime::call(counter!("cuDevicePrimaryCtxSetFlags_v2"), |runtime| {
        if flags & !FLAGS_MASK != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        // Scheduling flags concern the waiting thread, which is ours: there is nothing to tell the server.
        runtime.device(device)?.primary.flags.store(flags, Relaxed);
        Ok(())
    })
}

fn create(
    context: *mut CUcontext,
    flags: u32,
    device: CUdevice,
    version: u32,
    runtime: &Runtime,
) -> Result<(), CUresult> {
    need(context)?;
    if flags & !FLAGS_MASK != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let made = current::create(runtime, device, flags, version)?;
    let handle = handles::pointer(made.handle);
    current::push(made);
    // SAFETY: the program's pointer, for one value.
    unsafe { give(context, handle) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut CUcontext, flags: u32, device: CUdevice) -> CUresult {
    runtime::call(counter!("cuCtxCreate_v2"), |runtime| create(context, flags, device, 3020, runtime))
}

/// Execution affinity is refused: `count` must be 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v3(
    context: *mut CUcontext,
    _affinity: *mut std::ffi::c_void,
    count: i32,
    flags: u32,
    device: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuCtxCreate_v3"), |runtime| {
        if count != 0 {
            return Err(crate::abi::result::CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
        }
        create(context, flags, device, 3020, runtime)
    })
}

/// `parameters` is NULL, or describes execution affinity or a CIG context, which are refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    context: *mut CUcontext,
    parameters: *const [usize; 3],
    flags: u32,
    device: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuCtxCreate_v4"), |runtime| {
        if !parameters.is_null() {
            // SAFETY: CUctxCreateParams is a pointer, a count, a pointer.
            let [affinity, _, cig] = unsafe { parameters.read() };
            if affinity != 0 || cig != 0 {
                return Err(crate::abi::result::CUDA_ERROR_NOT_SUPPORTED);
            }
        }
        create(context, flags, device, 3020, runtime)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDestroy_v2(context: CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxDestroy_v2"), |runtime| {
        let found = handles::context(context)?;
        if found.primary {
            return Err(CUDA_ERROR_INVALID_CONTEXT);
        }
        run_destructors(context);
        found.destroyed.store(true, Relaxed);
        current::sweep(&found, true);
        let addresses = runtime::memory_state::forget_context(runtime, &found);
        handles::end(found.handle);
        if current::top().is_some_and(|top| top.handle == found.handle) {
            current::pop();
        }
        let posted = runtime.session.post(&CtxDestroy { context: found.handle }, &[]);
        runtime.memory.give_all(addresses);
        posted.map(drop)
    })
}

fn of_handle(context: CUcontext) -> Result<Option<std::sync::Arc<runtime::objects::Context>>, CUresult> {
    if context.is_null() { Ok(None) } else { handles::context(context).map(Some) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxSetCurrent"), |_| {
        current::set(of_handle(context)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxGetCurrent"), |_| {
        let handle = current::top().map_or(std::ptr::null_mut(), |top| handles::pointer(top.handle));
        // SAFETY: the program's pointer, for one value.
        unsafe { give(context, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPushCurrent_v2(context: CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxPushCurrent_v2"), |_| {
        current::push(handles::context(context)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxPopCurrent_v2"), |_| {
        let popped = current::pop().ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { offer(context, handles::pointer(popped.handle)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut CUdevice) -> CUresult {
    runtime::call(counter!("cuCtxGetDevice"), |_| {
        let context = current::top().ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(device, i32::try_from(context.device).unwrap_or(0)) }
    })
}

/// NULL is the thread's context.
fn given_or_current(context: CUcontext) -> Result<std::sync::Arc<runtime::objects::Context>, CUresult> {
    match of_handle(context)? {
        Some(context) => Ok(context),
        None => current::top().ok_or(CUDA_ERROR_INVALID_CONTEXT),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice_v2(device: *mut CUdevice, context: CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxGetDevice_v2"), |_| {
        let context = given_or_current(context)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(device, i32::try_from(context.device).unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetFlags(flags: *mut u32) -> CUresult {
    runtime::call(counter!("cuCtxGetFlags"), |_| {
        let context = current::context()?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(flags, context.flags.load(Relaxed)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetFlags(flags: u32) -> CUresult {
    runtime::call(counter!("cuCtxSetFlags"), |_| {
        if flags & !FLAGS_MASK != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        current::context()?.flags.store(flags, Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetId(context: CUcontext, id: *mut u64) -> CUresult {
    runtime::call(counter!("cuCtxGetId"), |_| {
        let context = given_or_current(context)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(id, context.id) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetApiVersion(context: CUcontext, version: *mut u32) -> CUresult {
    runtime::call(counter!("cuCtxGetApiVersion"), |_| {
        let context = given_or_current(context)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(version, context.api_version) }
    })
}

fn synchronize(runtime: &Runtime, context: &runtime::objects::Context) -> Result<(), CUresult> {
    runtime.captures.unsafe_call()?;
    // Also where nothing is left to wait for: a lost session is an error that stays.
    runtime.session.check()?;
    // Before it is looked what is finished: what is owed is work on its stream.
    runtime.session.bring_back()?;
    if !context.is_known_finished() {
        let (number, _, _) =
            runtime.session.call_numbered(&CtxSynchronize { context: context.handle }, &[])?;
        runtime.session.tells_of_all(number);
        context.done.fetch_max(number, std::sync::atomic::Ordering::Release);
    }
    context.report()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> CUresult {
    runtime::call(counter!("cuCtxSynchronize"), |runtime| synchronize(runtime, &*current::context()?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize_v2(context: CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxSynchronize_v2"), |runtime| {
        synchronize(runtime, &*given_or_current(context)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> CUresult {
    runtime::call(counter!("cuCtxSetLimit"), |runtime| {
        let context = current::sound_context()?;
        lock(&context.limits).remove(&limit);
        let record = CtxSetLimit { context: context.handle, value: value as u64, limit, reserved: 0 };
        runtime.session.call(&record, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetLimit(value: *mut usize, limit: u32) -> CUresult {
    runtime::call(counter!("cuCtxGetLimit"), |runtime| {
        need(value)?;
        let context = current::context()?;
        let known = lock(&context.limits).get(&limit).copied();
        let found = match known {
            Some(found) => found,
            None => {
                if limit > 0xff {
                    return Err(CUDA_ERROR_UNSUPPORTED_LIMIT);
                }
                let record = CtxGetLimit { context: context.handle, limit, reserved: 0 };
                let found = runtime.session.call(&record, &[])?.0.value;
                lock(&context.limits).insert(limit, found);
                found
            }
        };
        // SAFETY: the program's pointer, for one value.
        unsafe { give(value, usize::try_from(found).unwrap_or(usize::MAX)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCacheConfig(config: *mut u32) -> CUresult {
    runtime::call(counter!("cuCtxGetCacheConfig"), |_| {
        let context = current::context()?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(config, context.cache_config.load(Relaxed)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCacheConfig(config: u32) -> CUresult {
    runtime::call(counter!("cuCtxSetCacheConfig"), |runtime| {
        if config > 3 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let context = current::sound_context()?;
        context.cache_config.store(config, Relaxed);
        runtime
            .session
            .post(&CtxSetCacheConfig { context: context.handle, config, reserved: 0 }, &[])
            .map(drop)
    })
}

/// Shared-memory bank sizes ended with Maxwell: there is one, of 4 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetSharedMemConfig(config: *mut u32) -> CUresult {
    runtime::call(counter!("cuCtxGetSharedMemConfig"), |_| {
        current::context()?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(config, 1) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetSharedMemConfig(config: u32) -> CUresult {
    runtime::call(counter!("cuCtxSetSharedMemConfig"), |_| {
        current::context()?;
        if config > 2 { Err(CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) -> CUresult {
    runtime::call(counter!("cuCtxGetStreamPriorityRange"), |runtime| {
        let context = current::context()?;
        let info = &runtime.device(i32::try_from(context.device).unwrap_or(0))?.snapshot.info;
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            offer(least, info.least_priority);
            offer(greatest, info.greatest_priority);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxResetPersistingL2Cache() -> CUresult {
    runtime::call(counter!("cuCtxResetPersistingL2Cache"), |runtime| {
        let context = current::sound_context()?;
        runtime.session.post(&CtxResetPersistingL2 { context: context.handle }, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxAttach(context: *mut CUcontext, _flags: u32) -> CUresult {
    runtime::call(counter!("cuCtxAttach"), |_| {
        let found = current::context()?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(context, handles::pointer(found.handle)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDetach(context: CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxDetach"), |_| handles::context(context).map(drop))
}

/// `CU_CTX_*` execution affinity: none is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetExecAffinity(_affinity: *mut std::ffi::c_void, _kind: u32) -> CUresult {
    runtime::call(counter!("cuCtxGetExecAffinity"), |_| {
        current::context()?;
        Err(crate::abi::result::CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY)
    })
}

crate::abi::variants!("context.rs");
