//! Launches: checked here against known limits, published, and never waited for.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fusewire_wire::ops::Dim3;
use fusewire_wire::ops::table::{Launch, LaunchAttribute, LaunchEx};
use zerocopy::IntoBytes;

use crate::abi::per_thread::default_stream;
use crate::abi::result::{
    CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE,
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
};
use crate::abi::types::{CUfunction, CUresult, CUstream};
use crate::runtime::objects::{DISABLE_TIMING, Event, Function, Owner, Stream};
use crate::runtime::parameters::Packed;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, handles, mirror};

use super::arguments::need;
use super::event;

/// What a launch asks for.
struct Shape {
    grid: Dim3,
    block: Dim3,
    shared: u32,
}

// CUdevice_attribute of cuda.h.
const MAX_THREADS_PER_BLOCK: i32 = 1;
const MAX_BLOCK_X: i32 = 2;
const MAX_GRID_X: i32 = 5;

/// What the driver refuses at once.
fn check(runtime: &Runtime, stream: &Stream, function: &Function, shape: &Shape) -> Result<(), CUresult> {
    stream.context.report()?;
    if runtime::log::traces() {
        eprintln!("fusewire: launch of {}", function.name.to_string_lossy());
    }
    if let Owner::Module(module) = &function.owner
        && module.context.handle != stream.context.handle
    {
        return Err(CUDA_ERROR_INVALID_CONTEXT);
    }
    let Shape { grid, block, shared } = shape;
    if [grid.x, grid.y, grid.z, block.x, block.y, block.z].contains(&0) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let limits = &runtime.devices.get(stream.context.device).ok_or(CUDA_ERROR_INVALID_CONTEXT)?.limits;
    for (asked, limit) in [block.x, block.y, block.z, grid.x, grid.y, grid.z].iter().zip(limits.dimensions) {
        if *asked > limit {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
    }
    let threads = u64::from(block.x) * u64::from(block.y) * u64::from(block.z);
    if threads > u64::from(limits.threads) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if function.max_threads != 0 && threads > u64::from(function.max_threads) {
        return Err(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    }
    let most = u32::try_from(function.max_dynamic_shared.load(Relaxed)).unwrap_or(0);
    if *shared > most && *shared != 0 {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    Ok(())
}

/// Limits of a device, as attributes give them.
pub(crate) struct Limits {
    threads: u32,
    /// Block x, y, z, then grid x, y, z.
    dimensions: [u32; 6],
}

impl Limits {
    pub(crate) fn of(device: &fusewire_wire::ops::snapshot::Device) -> Self {
        let of = |id| device.attribute(id).and_then(|value| u32::try_from(value).ok()).unwrap_or(u32::MAX);
        let at = |n: usize| {
            let n = i32::try_from(n).unwrap_or(0);
            if n < 3 { of(MAX_BLOCK_X + n) } else { of(MAX_GRID_X + n - 3) }
        };
        Self { threads: of(MAX_THREADS_PER_BLOCK), dimensions: std::array::from_fn(at) }
    }
}

/// Publishes a launch, with the host memory that the kernel is given before and after it.
fn publish(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    parameters: &[u8],
    post: impl FnOnce() -> Result<(), CUresult>,
) -> Result<(), CUresult> {
    let mirrors = mirror::pointed_to(runtime, &stream.context, parameters)?;
    if mirrors.is_empty() {
        post()?;
        runtime.session.begin();
        return Ok(());
    }
    let ahead = mirror::before_use(runtime, stream, &mirrors)?;
    post()?;
    mirror::owe(&runtime.session, stream, ahead);
    Ok(())
}

/// `parameters`: one pointer for each parameter; `extra`: `CU_LAUNCH_PARAM_*` pairs. One of them is NULL.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: CUstream,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuLaunchKernel"), |runtime| {
        let shape = Shape {
            grid: Dim3 { x: grid_x, y: grid_y, z: grid_z },
            block: Dim3 { x: block_x, y: block_y, z: block_z },
            shared: shared_bytes,
        };
        launch(runtime, function, stream, &shape, &[], parameters, extra)
    })
}

/// `CUlaunchConfig`, as cuda.h lays it out.
#[repr(C)]
pub struct Config {
    pub grid: Dim3,
    pub block: Dim3,
    pub shared_bytes: u32,
    pub stream: CUstream,
    pub attributes: *const Attribute,
    pub count: u32,
}

/// `CUlaunchAttribute`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attribute {
    pub id: u32,
    pub pad: [u8; 4],
    pub value: [u8; 64],
}

const _: () = assert!(size_of::<Attribute>() == 72 && size_of::<Config>() == 56);

// CUlaunchAttributeID of cuda.h.
const COOPERATIVE: u32 = 2;
const PROGRAMMATIC_EVENT: u32 = 7;
const COMPLETION_EVENT: u32 = 12;
const UPDATABLE_NODE: u32 = 13;
/// The most attributes that one launch can mean anything by.
const MOST_ATTRIBUTES: u32 = 32;

/// Attributes as they travel; event handles are ours on both ends.
///
/// # Safety
/// `attributes` holds `count` elements.
pub(crate) unsafe fn attributes(
    attributes: *const Attribute,
    count: u32,
) -> Result<Vec<LaunchAttribute>, CUresult> {
    if count > MOST_ATTRIBUTES {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if count != 0 {
        need(attributes)?;
    }
    let mut read = Vec::with_capacity(count as usize);
    for n in 0..count as usize {
        // SAFETY: the caller's promise.
        let Attribute { id, value, .. } = unsafe { attributes.add(n).read() };
        match id {
            PROGRAMMATIC_EVENT | COMPLETION_EVENT => {
                let handle = u64::from_ne_bytes(*value.first_chunk::<8>().ok_or(CUDA_ERROR_INVALID_VALUE)?);
                handles::event(handles::pointer(handle)).map_err(|_| CUDA_ERROR_INVALID_HANDLE)?;
            }
            // A device handle would be written through a pointer in the attribute.
            UPDATABLE_NODE => return Err(crate::abi::result::CUDA_ERROR_NOT_SUPPORTED),
            _ => {}
        }
        read.push(LaunchAttribute { id, reserved: 0, value });
    }
    Ok(read)
}

/// Checks and publishes a launch, with or without attributes.
#[inline]
fn launch(
    runtime: &Runtime,
    function: CUfunction,
    stream: CUstream,
    shape: &Shape,
    attributes: &[LaunchAttribute],
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), CUresult> {
    let function = handles::function(function)?;
    let stream = current::stream(runtime, stream)?;
    check(runtime, &stream, &function, shape)?;
    let mut packed = Packed::new();
    // SAFETY: the program's pointers, as the launch functions take them.
    let bytes = unsafe { packed.pack(&function, parameters, extra) }?;
    let parameter_bytes = u32::try_from(bytes.len()).unwrap_or(0);
    if attributes.is_empty() {
        let record = Launch {
            function: function.handle,
            stream: stream.handle,
            grid: shape.grid,
            block: shape.block,
            shared_bytes: shape.shared,
            parameter_bytes,
        };
        return publish(runtime, &stream, bytes, || {
            runtime.session.post_on(&stream, &record, &[bytes]).map(drop)
        });
    }
    let events = recorded_events(&stream, attributes)?;
    let record = LaunchEx {
        function: function.handle,
        stream: stream.handle,
        grid: shape.grid,
        block: shape.block,
        shared_bytes: shape.shared,
        parameter_bytes,
        attributes: u32::try_from(attributes.len()).unwrap_or(0),
        reserved: 0,
    };
    let Some((first, more)) = events.split_first() else {
        return publish(runtime, &stream, bytes, || {
            runtime.session.post_on(&stream, &record, &[attributes.as_bytes(), bytes]).map(drop)
        });
    };
    publish(runtime, &stream, bytes, || {
        event::post_record(runtime, first, &stream, &record, &[attributes.as_bytes(), bytes])
    })?;
    // Whoever waits for the event may look at what the kernel has written.
    runtime.session.bring_back()?;
    for event in more {
        if event::note(event, &stream) {
            continue;
        }
        // The server says of one event alone that a launch has recorded it. A later record is as good: who waits
        // for the event may be held up until the kernel has ended in any case.
        event::record_on(runtime, event, &stream, 0)?;
    }
    Ok(())
}

/// The events that a launch records.
fn recorded_events(stream: &Stream, attributes: &[LaunchAttribute]) -> Result<Vec<Arc<Event>>, CUresult> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    for attribute in attributes.iter().filter(|a| matches!(a.id, PROGRAMMATIC_EVENT | COMPLETION_EVENT)) {
        let handle = u64::from_ne_bytes(*attribute.value.first_chunk::<8>().ok_or(CUDA_ERROR_INVALID_VALUE)?);
        let event = handles::event(handles::pointer(handle)).map_err(|_| CUDA_ERROR_INVALID_HANDLE)?;
        if event.context.handle != stream.context.handle {
            return Err(CUDA_ERROR_INVALID_HANDLE);
        }
        // The driver refuses it too, but too late for the program to hear of it.
        if event.flags & DISABLE_TIMING == 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if events.iter().all(|known| known.handle != event.handle) {
            events.push(event);
        }
    }
    Ok(events)
}

/// `config` and its attributes; `parameters` and `extra` as `cuLaunchKernel`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const Config,
    function: CUfunction,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuLaunchKernelEx"), |runtime| {
        need(config)?;
        // SAFETY: the program's configuration.
        let config = unsafe { &*config };
        // SAFETY: it says how many attributes there are.
        let attributes = unsafe { attributes(config.attributes, config.count) }?;
        let shape = Shape { grid: config.grid, block: config.block, shared: config.shared_bytes };
        launch(runtime, function, default_stream(config.stream), &shape, &attributes, parameters, extra)
    })
}

/// A grid whose blocks are all there at once.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: CUfunction,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: CUstream,
    parameters: *mut *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuLaunchCooperativeKernel"), |runtime| {
        let shape = Shape {
            grid: Dim3 { x: grid_x, y: grid_y, z: grid_z },
            block: Dim3 { x: block_x, y: block_y, z: block_z },
            shared: shared_bytes,
        };
        let mut value = [0; 64];
        value[0] = 1;
        let attributes = [LaunchAttribute { id: COOPERATIVE, reserved: 0, value }];
        launch(runtime, function, stream, &shape, &attributes, parameters, std::ptr::null_mut())
    })
}

crate::abi::variants!("launch.rs");
