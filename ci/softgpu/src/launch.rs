//! Kernel launches: what is refused at once, and the running of the rest.
//!
//! The order of the checks and their codes are those of NVIDIA's driver.

use std::ffi::c_void;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use softgpu_ptx::{Fault, Memory, Region};

use crate::abi::{CUDA_KERNEL_NODE_PARAMS_v2, CUgraphEdgeData, CUlaunchConfig, In};
use crate::attributes::{
    MAX_BLOCK, MAX_GRID, MAX_THREADS_PER_BLOCK, SHARED_PER_BLOCK, SHARED_PER_BLOCK_OPTIN, multiprocessors,
};
use crate::context::{Context, Health};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::event;
use crate::faults;
use crate::function::blocks_per_multiprocessor;
use crate::library;
use crate::program::Function;
use crate::space::View;
use crate::stream;
use crate::sync::lock;
use crate::work::Work;

/// Keys of the `extra` list.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_SIZE: usize = 2;

/// Launch attributes that mean something here.
const COOPERATIVE: u32 = 2;
const CLUSTER_DIMENSION: u32 = 4;
/// The launch may begin before what is before it has ended; here it never does, but captures show it.
const STREAM_SERIALIZATION: u32 = 6;
/// Both record an event some time during the launch; here, at its end.
const PROGRAMMATIC_EVENT: u32 = 7;
const LAUNCH_COMPLETION_EVENT: u32 = 12;

/// A launch with all its parameters.
pub(crate) struct Launch {
    function: Arc<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    dynamic_shared: u32,
    /// Asks for a programmatic edge from the kernel before it.
    pub(crate) overlaps: bool,
    params: Vec<u8>,
    /// Pointers into `params`, for the graph functions that hand them out.
    pointers: Vec<usize>,
}

struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    dynamic_shared: u32,
    cooperative: bool,
    overlaps: bool,
}

impl Launch {
    fn new(function: Arc<Function>, shape: &Shape, params: Vec<u8>) -> Res<Launch> {
        check(&function, shape)?;
        let kernel = function.kernel()?;
        let base = params.as_ptr() as usize;
        let pointers = kernel.params.iter().map(|param| base + param.offset).collect();
        Ok(Launch {
            grid: shape.grid,
            block: shape.block,
            cluster: shape.cluster,
            dynamic_shared: shape.dynamic_shared,
            overlaps: shape.overlaps,
            function,
            params,
            pointers,
        })
    }

    pub(crate) fn from_node(ctx: &Context, p: &CUDA_KERNEL_NODE_PARAMS_v2) -> Res<Arc<Launch>> {
        let function = library::function(ctx, if p.func == 0 { p.kern } else { p.func })?;
        let shape = Shape {
            grid: [p.gridDimX, p.gridDimY, p.gridDimZ],
            block: [p.blockDimX, p.blockDimY, p.blockDimZ],
            cluster: [1; 3],
            dynamic_shared: p.sharedMemBytes,
            cooperative: false,
            overlaps: false,
        };
        let params = collect(&function, In::from_raw(p.kernelParams), In::from_raw(p.extra))?;
        Launch::new(function, &shape, params).map(Arc::new)
    }

    pub(crate) fn to_node(&self) -> CUDA_KERNEL_NODE_PARAMS_v2 {
        let [grid_x, grid_y, grid_z] = self.grid;
        let [block_x, block_y, block_z] = self.block;
        CUDA_KERNEL_NODE_PARAMS_v2 {
            func: if self.function.kernel == 0 { self.function.handle } else { 0 },
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: self.dynamic_shared,
            // Valid as long as the node keeps these parameters.
            kernelParams: self.pointers.as_ptr().cast(),
            extra: std::ptr::null(),
            kern: self.function.kernel,
            ctx: self.function.ctx,
        }
    }

    /// Executes it, on the thread of a stream.
    pub(crate) fn run(&self, health: &Health) -> Res {
        if let Some(delay) = faults::config().kernel_delay {
            pause(delay, health);
        }
        if let Some(fault) = faults::for_kernel(self.function.name()) {
            return Err(fault);
        }
        let Some((module, kernel)) = self.function.interpreted() else {
            // Machine code, of which nobody expects a result.
            return Ok(());
        };
        let printed = Mutex::new(String::new());
        let outcome = softgpu_ptx::run(
            &softgpu_ptx::Launch {
                module,
                kernel,
                global_addrs: &self.function.globals,
                grid: self.grid,
                block: self.block,
                cluster: self.cluster,
                params: &self.params,
                dynamic_shared: self.dynamic_shared,
                cancel: &health.stop,
                stdout: &|text| lock(&printed).push_str(text),
            },
            &View::new(health.device, health.peers.load(std::sync::atomic::Ordering::Acquire)),
        );
        let printed = lock(&printed);
        if !printed.is_empty() {
            let mut out = std::io::stdout().lock();
            // A program that has closed its output loses what is printed there.
            let _ = out.write_all(printed.as_bytes()).and_then(|()| out.flush());
        }
        outcome.or_else(|fault| self.explain(&fault))
    }

    fn explain(&self, fault: &Fault) -> Res {
        let code = match fault {
            Fault::IllegalAddress { .. } => Code::ILLEGAL_ADDRESS,
            Fault::Misaligned { .. } => Code::MISALIGNED_ADDRESS,
            Fault::Trap => Code::LAUNCH_FAILED,
            Fault::Assert(message) => {
                eprintln!("{message}");
                return Err(Code::ASSERT);
            }
            Fault::IllegalInstruction(_) => Code::ILLEGAL_INSTRUCTION,
            Fault::Cancelled => return Ok(()),
        };
        eprintln!("softgpu: kernel {}: {fault}", self.function.name());
        Err(code)
    }
}

fn pause(delay: Duration, health: &Health) {
    let end = Instant::now() + delay;
    while !health.stopped() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(5)));
    }
}

impl Memory for View {
    fn resolve(&self, addr: u64, len: usize, write: bool) -> Result<*mut u8, Fault> {
        if self.covers(addr, len as u64, write) {
            Ok(addr as *mut u8)
        } else {
            Err(Fault::IllegalAddress { addr })
        }
    }

    fn region(&self, addr: u64) -> Option<Region> {
        let (base, len, writable) = self.whole(addr)?;
        Some(Region { base, len, ptr: base as *mut u8, writable })
    }
}

fn check(function: &Function, shape: &Shape) -> Res {
    let kernel = function.kernel()?;
    let fits = |size: &[u32; 3], most: &[u32; 3]| {
        size.iter().zip(most).all(|(size, most)| *size > 0 && size <= most)
    };
    if !fits(&shape.grid, &MAX_GRID) || !fits(&shape.block, &MAX_BLOCK) {
        return Err(Code::INVALID_VALUE);
    }
    let threads: u32 = shape.block.iter().product();
    if threads > MAX_THREADS_PER_BLOCK {
        return Err(Code::INVALID_VALUE);
    }
    if threads > kernel.max_threads || kernel.required_block.is_some_and(|block| block != shape.block) {
        return Err(Code::LAUNCH_OUT_OF_RESOURCES);
    }
    let total = kernel.static_shared.saturating_add(shape.dynamic_shared as usize);
    let limit = function
        .dynamic_shared_limit()?
        .max(SHARED_PER_BLOCK.saturating_sub(u32::try_from(kernel.static_shared).unwrap_or(u32::MAX)));
    if shape.dynamic_shared > limit || total > SHARED_PER_BLOCK_OPTIN as usize {
        return Err(Code::INVALID_VALUE);
    }
    let blocks: u32 = shape.cluster.iter().fold(1, |all, size| all.saturating_mul(*size));
    if blocks == 0 || blocks > 16 || shape.cluster.iter().zip(&shape.grid).any(|(part, all)| all % part != 0)
    {
        return Err(Code::INVALID_CLUSTER_SIZE);
    }
    if shape.cooperative {
        let resident =
            blocks_per_multiprocessor(function, threads, shape.dynamic_shared as usize)? * multiprocessors();
        let wanted: u64 = shape.grid.iter().map(|size| u64::from(*size)).product();
        if wanted > u64::from(resident) {
            return Err(Code::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
    }
    Ok(())
}

/// Puts the parameters into one buffer, from whichever form the program chose.
fn collect(function: &Function, params: In<*const c_void>, extra: In<*const c_void>) -> Res<Vec<u8>> {
    let kernel = function.kernel()?;
    let mut buffer = vec![0u8; kernel.param_bytes];
    if !extra.is_null() {
        if !params.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let (source, len) = read_extra(extra)?;
        if len < last_byte(function)? || (source.is_null() && len > 0) {
            return Err(Code::INVALID_VALUE);
        }
        let len = len.min(buffer.len());
        // SAFETY: the program says that its buffer has at least `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(source.cast::<u8>(), buffer.as_mut_ptr(), len) };
        return Ok(buffer);
    }
    for (index, param) in kernel.params.iter().enumerate() {
        let source = params.at(index)?;
        let place = buffer.get_mut(param.offset..param.offset + param.size).ok_or(Code::INVALID_VALUE)?;
        if source.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program passes a pointer to an argument of the parameter's type.
        unsafe { std::ptr::copy_nonoverlapping(source.cast::<u8>(), place.as_mut_ptr(), place.len()) };
    }
    Ok(buffer)
}

fn last_byte(function: &Function) -> Res<usize> {
    Ok(function.kernel()?.params.last().map_or(0, |param| param.offset + param.size))
}

fn read_extra(extra: In<*const c_void>) -> Res<(*const c_void, usize)> {
    let (mut buffer, mut size) = (std::ptr::null(), None);
    let mut index = 0;
    loop {
        match extra.at(index)? as usize {
            EXTRA_END => break,
            EXTRA_BUFFER => buffer = extra.at(index + 1)?,
            EXTRA_SIZE => size = Some(In::from_raw(extra.at(index + 1)?.cast::<usize>()).get()?),
            _ => return Err(Code::INVALID_VALUE),
        }
        index += 2;
    }
    Ok((buffer, size.ok_or(Code::INVALID_VALUE)?))
}

fn attributes_of(config: &CUlaunchConfig) -> Res<Vec<crate::abi::CUlaunchAttribute>> {
    In::from_raw(config.attrs).list(config.numAttrs as usize)
}

/// The cluster that a launch asks for.
pub(crate) fn cluster_of(config: &CUlaunchConfig) -> Res<[u32; 3]> {
    let mut cluster = [1; 3];
    for attribute in attributes_of(config)?.iter().filter(|attribute| attribute.id == CLUSTER_DIMENSION) {
        let [first, second, ..] = attribute.value;
        cluster = [first as u32, (first >> 32) as u32, second as u32];
    }
    Ok(cluster)
}

fn launch(
    ctx: &Arc<Context>,
    function: u64,
    handle: u64,
    mut shape: Shape,
    params: In<*const c_void>,
    extra: In<*const c_void>,
) -> Res {
    let function = library::function(ctx, function)?;
    let stream = stream::get(ctx, handle)?;
    if function.ctx != stream::owner(&stream)?.handle {
        return Err(Code::INVALID_HANDLE);
    }
    if let Some(required) = function.kernel()?.required_cluster {
        if shape.cluster != [1; 3] && shape.cluster != required {
            return Err(Code::INVALID_CLUSTER_SIZE);
        }
        shape.cluster = required;
    }
    let params = collect(&function, params, extra)?;
    let launch = Launch::new(function, &shape, params)?;
    stream::submit(&stream, Work::Kernel(Arc::new(launch))).map(drop)
}

api! {
    fn cuLaunchKernel(
        function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, handle: u64, params: In<*const c_void>, extra: In<*const c_void>,
    ) [ctx context] {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            cluster: [1; 3],
            dynamic_shared,
            cooperative: false,
            overlaps: false,
        };
        launch(context, function, handle, shape, params, extra)
    }

    fn cuLaunchCooperativeKernel(
        function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, handle: u64, params: In<*const c_void>,
    ) [ctx context] {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            cluster: [1; 3],
            dynamic_shared,
            cooperative: true,
            overlaps: false,
        };
        launch(context, function, handle, shape, params, In::null())
    }

    fn cuLaunchKernelEx(
        config: In<CUlaunchConfig>, function: u64, params: In<*const c_void>, extra: In<*const c_void>,
    ) [ctx context] {
        let config = config.get()?;
        let cooperative = |attribute: &crate::abi::CUlaunchAttribute| {
            attribute.id == COOPERATIVE && attribute.value[0] as u32 != 0
        };
        let overlaps = |attribute: &crate::abi::CUlaunchAttribute| {
            attribute.id == STREAM_SERIALIZATION && attribute.value[0] as u32 != 0
        };
        let shape = Shape {
            grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
            block: [config.blockDimX, config.blockDimY, config.blockDimZ],
            cluster: cluster_of(&config)?,
            dynamic_shared: config.sharedMemBytes,
            cooperative: attributes_of(&config)?.iter().any(cooperative),
            overlaps: attributes_of(&config)?.iter().any(overlaps),
        };
        launch(context, function, config.hStream, shape, params, extra)?;
        for attribute in attributes_of(&config)? {
            let data = match attribute.id {
                PROGRAMMATIC_EVENT => CUgraphEdgeData::PROGRAMMATIC,
                LAUNCH_COMPLETION_EVENT => CUgraphEdgeData::LAUNCH_ORDER,
                _ => continue,
            };
            event::record_as(&stream::get(context, config.hStream)?, attribute.value[0], 0, data)?;
        }
        Ok(())
    }
}
