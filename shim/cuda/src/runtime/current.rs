//! The calling thread's contexts and streams.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use fusewire_wire::ops::table::{CtxCreate, PrimaryRetain, StreamDefault, StreamDestroy};

use crate::abi::per_thread::default_stream;
use crate::abi::result::{
    CUDA_ERROR_CONTEXT_IS_DESTROYED, CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE,
};
use crate::abi::types::{CUresult, CUstream};

use super::Runtime;
use super::handles::{self, Object};
use super::objects::{Context, Stream, StreamKind};
use super::session::lock;
use super::{kept, marks};

/// Per-thread default streams of a thread, by context; they end with it.
#[derive(Default)]
struct Streams(HashMap<u64, Arc<Stream>>);

impl Drop for Streams {
    fn drop(&mut self) {
        let Ok(runtime) = super::enter() else { return };
        for (_, stream) in self.0.drain() {
            handles::end(stream.handle);
            // A session that is over needs no tidying.
            let _ = runtime.session.post(&StreamDestroy { stream: stream.handle }, &[]);
            stream.context.remove(&stream);
        }
    }
}

/// There is, or was, a context that the program made itself.
static OTHERS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static STACK: RefCell<Vec<Arc<Context>>> = const { RefCell::new(Vec::new()) };
    static STREAMS: RefCell<Streams> = RefCell::new(Streams::default());
}

fn stack<T>(look: impl FnOnce(&mut Vec<Arc<Context>>) -> T) -> Option<T> {
    STACK.try_with(|stack| stack.try_borrow_mut().ok().map(|mut stack| look(&mut stack))).ok().flatten()
}

/// The thread's context, whatever its state.
pub(crate) fn top() -> Option<Arc<Context>> {
    stack(|stack| stack.last().cloned()).flatten()
}

/// The thread's context.
///
/// # Errors
/// `CUDA_ERROR_INVALID_CONTEXT` when it has none, `CUDA_ERROR_CONTEXT_IS_DESTROYED` when it is gone.
#[inline]
pub(crate) fn context() -> Result<Arc<Context>, CUresult> {
    let context = top().ok_or(CUDA_ERROR_INVALID_CONTEXT)?;
    if context.destroyed.load(Relaxed) || !context.is_active() {
        return Err(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    }
    Ok(context)
}

/// The thread's context, if no fault has made it useless.
///
/// # Errors
/// As [`context`], or the sticky error.
pub(crate) fn sound_context() -> Result<Arc<Context>, CUresult> {
    let context = context()?;
    context.check()?;
    Ok(context)
}

pub(crate) fn push(context: Arc<Context>) {
    stack(|stack| stack.push(context));
}

pub(crate) fn pop() -> Option<Arc<Context>> {
    stack(Vec::pop).flatten()
}

/// Replaces the thread's context; `None` takes it away.
pub(crate) fn set(context: Option<Arc<Context>>) {
    stack(|stack| {
        stack.pop();
        stack.extend(context);
    });
}

/// The stream behind a program's handle, special ones included.
///
/// # Errors
/// `CUDA_ERROR_INVALID_HANDLE`, or that there is no context.
#[inline]
pub(crate) fn stream(runtime: &Runtime, handle: CUstream) -> Result<Arc<Stream>, CUresult> {
    match default_stream(handle).addr() {
        0 | 1 => {
            let context = context()?;
            context.legacy.get().cloned().ok_or(CUDA_ERROR_INVALID_CONTEXT)
        }
        2 => per_thread(runtime, &context()?),
        _ => handles::stream(handle),
    }
}

/// The calling thread's own default stream of a context.
fn per_thread(runtime: &Runtime, context: &Arc<Context>) -> Result<Arc<Stream>, CUresult> {
    let found = STREAMS.try_with(|streams| {
        let mut streams = streams.borrow_mut();
        if let Some(stream) = streams.0.get(&context.handle)
            && handles::object(stream.handle).is_some()
        {
            return Ok(stream.clone());
        }
        let stream = default(runtime, context, StreamKind::PerThread)?;
        streams.0.insert(context.handle, stream.clone());
        Ok(stream)
    });
    found.unwrap_or(Err(CUDA_ERROR_INVALID_HANDLE))
}

fn default(runtime: &Runtime, context: &Arc<Context>, kind: StreamKind) -> Result<Arc<Stream>, CUresult> {
    let handle = handles::mint()?;
    let stream = Arc::new(Stream::new(handle, context.clone(), kind, 0, 0));
    let per_thread = u32::from(kind == StreamKind::PerThread);
    runtime
        .session
        .post(&StreamDefault { stream: handle, context: context.handle, per_thread, reserved: 0 }, &[])?;
    handles::fill(handle, Object::Stream(stream.clone()));
    runtime.session.add_stream(&stream);
    Ok(stream)
}

/// Makes a primary context active, once more.
///
/// # Errors
/// What the driver says to the first.
pub(crate) fn retain(runtime: &Runtime, context: &Arc<Context>) -> Result<(), CUresult> {
    let mut retained = lock(&context.retained);
    if *retained == 0 {
        let device = runtime.devices.get(context.device).map_or(0, |device| device.remote);
        let flags = context.flags.load(Relaxed);
        runtime.session.call(&PrimaryRetain { context: context.handle, device, flags }, &[])?;
        if context.legacy.get().is_none() {
            let stream = default(runtime, context, StreamKind::Legacy)?;
            let _ = context.legacy.set(stream);
        }
        marks::prepare(runtime);
    }
    *retained += 1;
    Ok(())
}

/// Whether no other context has ever been used: all work is of this one.
pub(crate) fn is_alone(runtime: &Runtime, context: &Context) -> bool {
    !OTHERS.load(Relaxed)
        && runtime
            .devices
            .iter()
            .all(|device| device.primary.handle == context.handle || device.primary.legacy.get().is_none())
}

/// Makes a context of the program's own.
///
/// # Errors
/// What the driver says.
pub(crate) fn create(
    runtime: &Runtime,
    device: i32,
    flags: u32,
    version: u32,
) -> Result<Arc<Context>, CUresult> {
    let remote = runtime.device(device)?.remote;
    let ordinal = usize::try_from(device).unwrap_or(0);
    let handle = handles::mint()?;
    OTHERS.store(true, Relaxed);
    let record = CtxCreate { context: handle, device: remote, flags };
    if let Err(code) = kept::with_room(runtime, ordinal, || runtime.session.call(&record, &[])) {
        handles::end(handle);
        return Err(code);
    }
    let context = Arc::new(Context::new(handle, ordinal, false, flags, version));
    handles::fill(handle, Object::Context(context.clone()));
    let stream = default(runtime, &context, StreamKind::Legacy)?;
    let _ = context.legacy.set(stream);
    Ok(context)
}

/// Ends every handle that belongs to a context, which is going.
pub(crate) fn sweep(context: &Context, with_legacy: bool) {
    let mut ends = Vec::new();
    handles::each(|handle, object| {
        let owned = match object {
            Object::Stream(stream) => {
                stream.context.handle == context.handle && (with_legacy || stream.kind != StreamKind::Legacy)
            }
            Object::Event(event) => event.context.handle == context.handle,
            Object::Module(module) => module.context.handle == context.handle,
            Object::Array(array) => array.context.handle == context.handle,
            _ => false,
        };
        if owned {
            if let Object::Stream(stream) = object {
                context.remove(stream);
            }
            ends.push(handle);
        }
    });
    for handle in ends {
        handles::end(handle);
    }
}
