//! CONTEXT_LOCAL_STORAGE: what libraries hang on a context, each under a key of its own.
//!
//! Every copy of the CUDA runtime in a process keeps its per-context state here. Values live until they
//! are deleted or the context ends ([`run_destructors`]).

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
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
    key: usize,
    value: usize,
    destructor: Destructor,
}

/// By context, each in the order of storing. There are a handful of keys, one for each library.
type Contexts = HashMap<usize, Vec<Stored>>;

static STORAGE: Mutex<Option<Contexts>> = Mutex::new(None);

/// Ends everything that hangs on a context, latest first: to be called, without locks of the runtime
/// held, when a context is destroyed, or a primary context is reset or released for the last time, but
/// not at exit. Destructors may use the table again.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "the context is a name, which nobody follows")]
pub fn run_destructors(context: CUcontext) {
    let ended = with(|contexts| contexts.remove(&context.addr()));
    for stored in ended.into_iter().flatten().rev() {
        if let Some(destructor) = stored.destructor {
            // SAFETY: the library that stored the value gave this function to be called with these.
            unsafe { destructor(context, stored.key as *mut c_void, stored.value as *mut c_void) };
        }
    }
}

/// A key that is taken stays as it is.
unsafe extern "C" fn put(
    context: CUcontext,
    key: *mut c_void,
    value: *mut c_void,
    destructor: Destructor,
) -> CUresult {
    let (key, value) = (key as usize, value as usize);
    let done = resolve(context).and_then(|context| {
        with(|contexts| {
            let stored = contexts.entry(context).or_default();
            if stored.iter().any(|other| other.key == key) {
                return Err(CUDA_ERROR_INVALID_HANDLE);
            }
            stored.push(Stored { key, value, destructor });
            Ok(())
        })
    });
    done.map_or_else(|code| code, |()| SUCCESS)
}

/// Forgets a value without destroying it.
unsafe extern "C" fn delete(context: CUcontext, key: *mut c_void) -> CUresult {
    let done = resolve(context).and_then(|context| {
        with(|contexts| {
            let stored = contexts.get_mut(&context).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
            let index = stored.iter().position(|one| one.key == key.addr());
            stored.remove(index.ok_or(CUDA_ERROR_INVALID_HANDLE)?);
            Ok(())
        })
    });
    done.map_or_else(|code| code, |()| SUCCESS)
}

unsafe extern "C" fn get(out: *mut *mut c_void, context: CUcontext, key: *mut c_void) -> CUresult {
    let value = resolve(context).and_then(|context| {
        with(|contexts| {
            let stored = contexts.get(&context)?.iter().find(|one| one.key == key.addr())?;
            Some(stored.value as *mut c_void)
        })
        .ok_or(CUDA_ERROR_INVALID_HANDLE)
    });
    // SAFETY: the caller passes a word to be written.
    unsafe { give(out, value) }
}

fn with<T>(act: impl FnOnce(&mut Contexts) -> T) -> T {
    act(STORAGE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// NULL and all ones mean the calling thread's context. Before `cuInit` nothing can be stored.
fn resolve(context: CUcontext) -> Result<usize, CUresult> {
    let current = hooks().current_context()?;
    let named = !context.is_null() && context.addr() != usize::MAX;
    let context = if named { context } else { current };
    if context.is_null() { Err(CUDA_ERROR_INVALID_CONTEXT) } else { Ok(context as usize) }
}
