//! CONTEXT_LOCAL_STORAGE: what libraries hang on a context, each under a key of its own.
//!
//! Every copy of the CUDA runtime in a process keeps its per-context state here. Values live until they
//! are deleted or the context ends ([`run_destructors`]).

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Slot, Table, give, uuid};
use crate::abi::{
    hooks::hooks,
    result::{CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE, SUCCESS},
    types::{CUcontext, CUresult},
};

pub(super) const UUID: [u8; 16] = uuid(0xc693336e_1121_df11_a8c3_68f355d89593);

/// This table has no size word.
pub(super) static TABLE: Table<3> = Table([
    Slot::function(put as *const c_void),
    Slot::function(delete as *const c_void),
    Slot::function(get as *const c_void),
]);

type Destructor = Option<unsafe extern "C" fn(CUcontext, *mut c_void, *mut c_void)>;

/// Addresses are kept as numbers: they are the program's, and nothing here follows them.
struct Stored {
    value: usize,
    destructor: Destructor,
}

/// By context, then key.
static STORAGE: Mutex<Option<HashMap<usize, HashMap<usize, Stored>>>> = Mutex::new(None);

fn storage() -> MutexGuard<'static, Option<HashMap<usize, HashMap<usize, Stored>>>> {
    STORAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends everything that hangs on a context: to be called, without locks of the runtime held, when a
/// context is destroyed or a primary context reset. Destructors may use the table again.
pub fn run_destructors(context: CUcontext) {
    let ended = storage().as_mut().and_then(|contexts| contexts.remove(&context.addr()));
    for (key, stored) in ended.into_iter().flatten() {
        if let Some(destructor) = stored.destructor {
            // SAFETY: the library that stored the value gave this function to be called with these.
            unsafe { destructor(context, key as *mut c_void, stored.value as *mut c_void) };
        }
    }
}

unsafe extern "C" fn put(
    context: CUcontext,
    key: *mut c_void,
    value: *mut c_void,
    destructor: Destructor,
) -> CUresult {
    let context = match resolve(context) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let stored = Stored { value: value as usize, destructor };
    storage().get_or_insert_default().entry(context).or_default().insert(key as usize, stored);
    SUCCESS
}

unsafe extern "C" fn delete(context: CUcontext, key: *mut c_void) -> CUresult {
    let context = match resolve(context) {
        Ok(context) => context,
        Err(code) => return code,
    };
    let removed = storage()
        .as_mut()
        .and_then(|contexts| contexts.get_mut(&context))
        .and_then(|keys| keys.remove(&(key as usize)));
    if removed.is_some() { SUCCESS } else { CUDA_ERROR_INVALID_HANDLE }
}

unsafe extern "C" fn get(out: *mut *mut c_void, context: CUcontext, key: *mut c_void) -> CUresult {
    let value = resolve(context).and_then(|context| {
        storage()
            .as_ref()
            .and_then(|contexts| contexts.get(&context))
            .and_then(|keys| keys.get(&(key as usize)))
            .map(|stored| stored.value as *mut c_void)
            .ok_or(CUDA_ERROR_INVALID_HANDLE)
    });
    // SAFETY: the caller passes a word to be written.
    unsafe { give(out, value) }
}

/// NULL and all ones mean the calling thread's context.
fn resolve(context: CUcontext) -> Result<usize, CUresult> {
    if !context.is_null() && context.addr() != usize::MAX {
        return Ok(context as usize);
    }
    match hooks().current_context() {
        Ok(current) if !current.is_null() => Ok(current as usize),
        _ => Err(CUDA_ERROR_INVALID_CONTEXT),
    }
}
