//! Handles: what a program holds in place of the driver's objects.
//!
//! They look like pointers — aligned, never 0, 1 or 2 — and are not: a handle is a slot and a generation
//! in the table of this module, so that one that was destroyed, or made up, is refused and never followed.
//! Slots are used again in the order they were freed, with a new generation each time.
//!
//! The same number names the object to the server.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::abi::result::{CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_OUT_OF_MEMORY};
use crate::abi::types::CUresult;

use super::objects::{
    Allocation, Array, Context, Event, Function, Graph, GraphExec, Library, LinkState, Module, Pool, Stream,
};

const CHUNK: usize = 4096;
const CHUNKS: usize = 4096;
/// Slots rest until this many are free, so that a stale handle stays recognisable for long.
const RESTING: usize = 4096;
/// Handle bits: 0x5 in the top nibble of 47 bits, generation above the slot, 16-byte alignment.
const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 16;
const TAG: u64 = 0x5 << 44;

/// An object behind a handle.
#[derive(Clone)]
pub(crate) enum Object {
    Context(Arc<Context>),
    Stream(Arc<Stream>),
    Event(Arc<Event>),
    Module(Arc<Module>),
    Library(Arc<Library>),
    Function(Arc<Function>),
    Graph(Arc<Graph>),
    GraphExec(Arc<GraphExec>),
    Array(Arc<Array>),
    Allocation(Arc<Allocation>),
    Pool(Arc<Pool>),
    Link(Arc<LinkState>),
}

struct Slot {
    generation: AtomicU32,
    object: RwLock<Option<Object>>,
}

struct Table {
    chunks: [AtomicPtr<[Slot; CHUNK]>; CHUNKS],
    free: Mutex<Free>,
}

struct Free {
    used: usize,
    resting: VecDeque<usize>,
}

static TABLE: Table = Table {
    chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
    free: Mutex::new(Free { used: 0, resting: VecDeque::new() }),
};

fn encode(slot: usize, generation: u32) -> u64 {
    TAG | (u64::from(generation & ((1 << GENERATION_BITS) - 1)) << (SLOT_BITS + 4)) | ((slot as u64) << 4)
}

fn slot(handle: u64) -> Option<(&'static Slot, usize)> {
    if handle & !((1 << 44) - 1) != TAG || handle & 15 != 0 {
        return None;
    }
    let index = usize::try_from((handle >> 4) & ((1 << SLOT_BITS) - 1)).ok()?;
    let chunk = TABLE.chunks.get(index / CHUNK)?.load(Acquire);
    // SAFETY: a chunk, once published, is never freed or moved.
    let chunk = unsafe { chunk.as_ref() }?;
    let slot = &chunk[index % CHUNK];
    is_current(slot, handle).then_some((slot, index))
}

/// Whether the handle is of the slot's generation; for certain under the slot's lock.
#[inline]
fn is_current(slot: &Slot, handle: u64) -> bool {
    let mask = (1 << GENERATION_BITS) - 1;
    u64::from(slot.generation.load(Relaxed)) & mask == (handle >> (SLOT_BITS + 4)) & mask
}

/// A handle that names nothing yet: the operation that makes the object carries it.
///
/// # Errors
/// `CUDA_ERROR_OUT_OF_MEMORY` after 16 million live handles.
pub(crate) fn mint() -> Result<u64, CUresult> {
    let mut free = TABLE.free.lock().unwrap_or_else(PoisonError::into_inner);
    let index = if free.resting.len() > RESTING { free.resting.pop_front() } else { None };
    let index = match index {
        Some(index) => index,
        None => {
            let index = free.used;
            let Some(chunk) = TABLE.chunks.get(index / CHUNK) else {
                return Err(CUDA_ERROR_OUT_OF_MEMORY);
            };
            if chunk.load(Relaxed).is_null() {
                let fresh: Box<[Slot; CHUNK]> = Box::new(std::array::from_fn(|_| Slot {
                    generation: AtomicU32::new(1),
                    object: RwLock::new(None),
                }));
                chunk.store(Box::into_raw(fresh), Release);
            }
            free.used += 1;
            index
        }
    };
    drop(free);
    let chunk = TABLE.chunks[index / CHUNK].load(Acquire);
    // SAFETY: the chunk of a slot that was handed out exists, and is never freed.
    let generation = unsafe { (&(*chunk))[index % CHUNK].generation.load(Relaxed) };
    Ok(encode(index, generation))
}

/// Mints a handle for what `make` makes; takes it back if that fails.
///
/// # Errors
/// As [`mint`], or as `make`.
pub(crate) fn minted<T>(make: impl FnOnce(u64) -> Result<T, CUresult>) -> Result<(u64, T), CUresult> {
    let handle = mint()?;
    match make(handle) {
        Ok(made) => Ok((handle, made)),
        Err(code) => {
            end(handle);
            Err(code)
        }
    }
}

/// Puts the object behind a minted handle.
pub(crate) fn fill(handle: u64, object: Object) {
    if let Some((slot, _)) = slot(handle) {
        *slot.object.write().unwrap_or_else(PoisonError::into_inner) = Some(object);
    }
}

/// Ends a handle, or takes a minted one back. The object is returned if this call ended it.
pub(crate) fn end(handle: u64) -> Option<Object> {
    let (slot, index) = slot(handle)?;
    let mut object = slot.object.write().unwrap_or_else(PoisonError::into_inner);
    if !is_current(slot, handle) {
        // Another thread has ended it meanwhile: a slot must not be given back twice.
        return None;
    }
    slot.generation.fetch_add(1, Relaxed);
    let taken = object.take();
    drop(object);
    TABLE.free.lock().unwrap_or_else(PoisonError::into_inner).resting.push_back(index);
    taken
}

/// The object behind a handle, if it is alive.
#[inline]
pub(crate) fn object(handle: u64) -> Option<Object> {
    let (slot, _) = slot(handle)?;
    let object = slot.object.read().unwrap_or_else(PoisonError::into_inner);
    if is_current(slot, handle) { object.clone() } else { None }
}

/// What `look` says of the event behind a handle, without holding on to the event. It must not end handles, nor wait.
///
/// # Errors
/// When the handle is not, or no longer, an event's.
#[inline]
pub(crate) fn look_at_event<T>(event: *mut c_void, look: impl FnOnce(&Event) -> T) -> Result<T, CUresult> {
    let handle = number(event);
    let (slot, _) = slot(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    let object = slot.object.read().unwrap_or_else(PoisonError::into_inner);
    match &*object {
        Some(Object::Event(event)) if is_current(slot, handle) => Ok(look(event)),
        _ => Err(CUDA_ERROR_INVALID_HANDLE),
    }
}

/// Calls `visit` for every live object. For the rare sweep when a context goes.
pub(crate) fn each(mut visit: impl FnMut(u64, &Object)) {
    let used = TABLE.free.lock().unwrap_or_else(PoisonError::into_inner).used;
    for index in 0..used {
        let chunk = TABLE.chunks[index / CHUNK].load(Acquire);
        // SAFETY: slots below `used` lie in published chunks, which are never freed.
        let slot = unsafe { &(&(*chunk))[index % CHUNK] };
        let object = slot.object.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(object) = object {
            visit(encode(index, slot.generation.load(Relaxed)), &object);
        }
    }
}

/// A handle as the program sees it.
pub(crate) fn pointer(handle: u64) -> *mut c_void {
    ptr::without_provenance_mut(usize::try_from(handle).unwrap_or(0))
}

/// A handle as the program gave it.
pub(crate) fn number(pointer: *mut c_void) -> u64 {
    pointer.addr() as u64
}

macro_rules! lookups {
    ($($name:ident $variant:ident $type:ty, $refusal:expr;)*) => {
        $(
            /// The object of this kind behind a handle.
            ///
            /// # Errors
            /// When the handle is not, or no longer, of that kind.
            #[inline]
            pub(crate) fn $name(pointer: *mut c_void) -> Result<Arc<$type>, CUresult> {
                match object(number(pointer)) {
                    Some(Object::$variant(object)) => Ok(object),
                    _ => Err($refusal),
                }
            }
        )*
    };
}

lookups! {
    context Context Context, CUDA_ERROR_INVALID_CONTEXT;
    stream Stream Stream, CUDA_ERROR_INVALID_HANDLE;
    event Event Event, CUDA_ERROR_INVALID_HANDLE;
    module Module Module, CUDA_ERROR_INVALID_HANDLE;
    library Library Library, CUDA_ERROR_INVALID_HANDLE;
    function Function Function, CUDA_ERROR_INVALID_HANDLE;
    graph Graph Graph, CUDA_ERROR_INVALID_VALUE;
    graph_exec GraphExec GraphExec, CUDA_ERROR_INVALID_VALUE;
    array Array Array, CUDA_ERROR_INVALID_HANDLE;
    pool Pool Pool, CUDA_ERROR_INVALID_VALUE;
    link Link LinkState, CUDA_ERROR_INVALID_HANDLE;
}

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_look_like_pointers_and_never_come_back_alive() {
        let handle = mint().unwrap();
        assert!(handle > 2 && handle.is_multiple_of(16) && handle < 1 << 47);
        assert!(object(handle).is_none(), "minted, not filled");
        fill(handle, Object::Graph(Arc::new(Graph::new(handle))));
        assert!(graph(pointer(handle)).is_ok());
        assert!(stream(pointer(handle)).is_err(), "of another kind");
        assert!(end(handle).is_some());
        assert!(graph(pointer(handle)).is_err(), "stale");
        assert!(end(handle).is_none(), "ended twice");
        for forged in [0, 1, 2, 16, u64::MAX, TAG | 8, handle + 16] {
            assert!(object(forged).is_none(), "{forged:#x}");
        }
    }

    #[test]
    fn a_slot_rests_before_it_is_used_again() {
        let first = mint().unwrap();
        end(first);
        assert_ne!(mint().unwrap(), first);
    }
}
