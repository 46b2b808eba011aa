//! User objects: the program's own, counted here, destroyed by its own function when nobody holds them.
//!
//! The server never hears of them: what holds one is a graph or an executable graph of this client.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex};

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::CUresult;

use super::session::lock;

/// The first handle: aligned, and of no other kind.
const FIRST: u64 = 0x7 << 44;

struct Object {
    destroy: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    count: u64,
}

// SAFETY: the argument is the program's, which asked for it to be destroyed wherever its last holder lets go.
unsafe impl Send for Object {}

#[derive(Default)]
struct Objects {
    made: u64,
    alive: HashMap<u64, Object>,
}

static OBJECTS: LazyLock<Mutex<Objects>> = LazyLock::new(Mutex::default);

/// A new object, held `count` times by the program.
pub(crate) fn create(argument: *mut c_void, destroy: unsafe extern "C" fn(*mut c_void), count: u64) -> u64 {
    let mut objects = lock(&OBJECTS);
    let handle = FIRST + objects.made * 16;
    objects.made += 1;
    objects.alive.insert(handle, Object { destroy, argument, count });
    handle
}

/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for an object that is not, or no longer, there.
pub(crate) fn retain(object: u64, count: u64) -> Result<(), CUresult> {
    let mut objects = lock(&OBJECTS);
    let object = objects.alive.get_mut(&object).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    object.count = object.count.checked_add(count).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    Ok(())
}

/// Lets go of an object; the last to do so destroys it.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for an object that is not there, or held less often.
pub(crate) fn release(object: u64, count: u64) -> Result<(), CUresult> {
    let mut objects = lock(&OBJECTS);
    let held = objects.alive.get_mut(&object).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    held.count = held.count.checked_sub(count).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if held.count != 0 {
        return Ok(());
    }
    let gone = objects.alive.remove(&object);
    drop(objects);
    if let Some(Object { destroy, argument, .. }) = gone {
        // SAFETY: the program gave function and argument for exactly this; nobody holds the object any more.
        unsafe { destroy(argument) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    unsafe extern "C" fn count(argument: *mut c_void) {
        // SAFETY: the tests pass a counter that outlives the object.
        unsafe { &*argument.cast::<AtomicU32>() }.fetch_add(1, Relaxed);
    }

    #[test]
    fn the_last_holder_destroys_an_object_once() {
        let destroyed = AtomicU32::new(0);
        let object = create((&raw const destroyed).cast_mut().cast(), count, 2);
        retain(object, 1).unwrap();
        release(object, 2).unwrap();
        assert_eq!(destroyed.load(Relaxed), 0);
        assert!(release(object, 2).is_err(), "held once");
        release(object, 1).unwrap();
        assert_eq!(destroyed.load(Relaxed), 1);
        assert!(release(object, 1).is_err() && retain(object, 1).is_err(), "gone");
    }
}
