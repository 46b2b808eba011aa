//! Nodes that launch kernels.

use std::ffi::c_void;
use std::sync::Arc;

use fusewire_wire::ops::table::{
    AddKernelNode, NodeCopyAttributes, NodeGetAttribute, NodeGetKernel, NodeSetAttribute, NodeSetKernel,
};
use fusewire_wire::ops::{Dim3, NodeLaunch};
use zerocopy::IntoBytes;

use crate::abi::result::{
    CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_UNKNOWN,
};
use crate::abi::types::{CUcontext, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUkernel, CUresult};
use crate::api::arguments::{give, need};
use crate::runtime::graphs::{self, Kept, Made, Node};
use crate::runtime::objects::{Context, Function, Owner};
use crate::runtime::parameters::Packed;
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, handles, mirror};

use super::{KERNEL, New, add_ranges, context_of, kind};

/// `CUDA_KERNEL_NODE_PARAMS_v1`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParamsV1 {
    pub function: CUfunction,
    pub grid: Dim3,
    pub block: Dim3,
    pub shared_bytes: u32,
    pub parameters: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2` and `_v3`, as cuda.h lays them out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    pub v1: KernelParamsV1,
    pub kernel: CUkernel,
    pub context: CUcontext,
}

const _: () = assert!(size_of::<KernelParamsV1>() == 56 && size_of::<KernelParams>() == 72);

impl KernelParamsV1 {
    fn whole(self) -> KernelParams {
        KernelParams { v1: self, kernel: std::ptr::null_mut(), context: std::ptr::null_mut() }
    }
}

/// A kernel node's parameters, read.
struct Kernel {
    function: Arc<Function>,
    context: Arc<Context>,
    launch: NodeLaunch,
    parameters: Vec<u8>,
    /// Host memory that the kernel is given.
    ranges: Vec<(u64, u64)>,
}

impl Kernel {
    /// # Safety
    /// The pointers in `given` are what the driver takes for the function.
    unsafe fn read(runtime: &Runtime, given: &KernelParams) -> Result<Self, CUresult> {
        let KernelParams { v1, kernel, context } = *given;
        let named = if v1.function.is_null() { kernel } else { v1.function };
        let function = handles::function(named).map_err(|_| CUDA_ERROR_INVALID_HANDLE)?;
        let context = match &function.owner {
            Owner::Module(module) if context.is_null() => module.context.clone(),
            _ => context_of(context)?,
        };
        let KernelParamsV1 { grid, block, shared_bytes, parameters, extra, .. } = v1;
        if [grid.x, grid.y, grid.z, block.x, block.y, block.z].contains(&0) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let mut packed = Packed::new();
        // SAFETY: the caller's promise.
        let parameters = unsafe { packed.pack(&function, parameters, extra) }?.to_vec();
        let mirrors = mirror::pointed_to(runtime, &context, &parameters)?;
        let ranges = mirrors.iter().map(|mirror| (mirror.base, mirror.bytes as u64)).collect();
        let parameter_bytes = u32::try_from(parameters.len()).unwrap_or(0);
        let launch = NodeLaunch { grid, block, shared_bytes, parameter_bytes };
        Ok(Self { function, context, launch, parameters, ranges })
    }
}

/// # Safety
/// As [`Kernel::read`].
pub(super) unsafe fn add_kernel(runtime: &Runtime, new: New, given: &KernelParams) -> Result<(), CUresult> {
    // SAFETY: the caller's promise.
    let kernel = unsafe { Kernel::read(runtime, given) }?;
    let record = AddKernelNode {
        graph: new.graph.handle,
        node: new.node,
        function: kernel.function.handle,
        context: kernel.context.handle,
        launch: kernel.launch,
        dependencies: new.count,
        reserved: 0,
    };
    let [nodes, edges] = new.dependencies.pieces();
    runtime.session.call(&record, &[nodes, edges, &kernel.parameters])?;
    add_ranges(&new.graph.host, &kernel.ranges);
    new.done(KERNEL, Made::Kernel)
}

/// `dependencies` holds `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphAddKernelNode_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_kernel(runtime, New::read(node, graph, dependencies, count)?, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphAddKernelNode"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { add_kernel(runtime, New::read(node, graph, dependencies, count)?, &params.read().whole()) }
    })
}

/// Keeps values of parameters for the program, with a pointer to each. A node that is asked again keeps them in
/// the same place.
fn keep(node: &Node, function: &Function, buffer: &[u8]) -> *mut *mut c_void {
    let mut all = lock(&node.kept);
    let words = buffer.len().div_ceil(8).max(1);
    let known = all.iter().position(|kept| kept.function == function.handle && kept.values.len() == words);
    let at = known.unwrap_or_else(|| {
        let mut values = vec![0u64; words].into_boxed_slice();
        let start = values.as_mut_ptr().expose_provenance();
        let pointers = function.parameters.iter().map(|p| start + p.offset as usize).collect();
        all.push(Kept { function: function.handle, values, pointers });
        all.len() - 1
    });
    let kept = &mut all[at];
    kept.values.as_mut_bytes()[..buffer.len()].copy_from_slice(buffer);
    kept.pointers.as_mut_ptr().cast()
}

fn get_kernel(runtime: &Runtime, node: CUgraphNode) -> Result<KernelParams, CUresult> {
    let node = graphs::node(node)?;
    if kind(runtime, &node)? != KERNEL {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let (reply, buffer) = runtime.session.call(&NodeGetKernel { node: node.handle }, &[])?;
    // A kernel that the program never looked up: one that a library launched by itself.
    let function =
        handles::function(handles::pointer(reply.function)).map_err(|_| CUDA_ERROR_NOT_SUPPORTED)?;
    let buffer = buffer.get(..reply.parameter_bytes as usize).ok_or(CUDA_ERROR_NOT_SUPPORTED)?;
    let end = function.parameters.iter().map(|p| p.offset as usize + p.bytes as usize).max().unwrap_or(0);
    if end > buffer.len() {
        return Err(CUDA_ERROR_NOT_SUPPORTED);
    }
    let handle = handles::pointer(function.handle);
    let (kernel, context) = match &function.owner {
        Owner::Library(_) => (handle, current::context()?.handle),
        Owner::Module(module) => (std::ptr::null_mut(), module.context.handle),
    };
    let v1 = KernelParamsV1 {
        function: handle,
        grid: reply.grid,
        block: reply.block,
        shared_bytes: reply.shared_bytes,
        parameters: keep(&node, &function, buffer),
        extra: std::ptr::null_mut(),
    };
    Ok(KernelParams { v1, kernel, context: handles::pointer(context) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeGetParams_v2(
    node: CUgraphNode,
    params: *mut KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeGetParams_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointer, for one structure.
        unsafe { give(params, get_kernel(runtime, node)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeGetParams(
    node: CUgraphNode,
    params: *mut KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeGetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointer, for one structure.
        unsafe { give(params, get_kernel(runtime, node)?.v1) }
    })
}

/// Sets a kernel node's parameters, in its graph or in an executable one.
///
/// # Safety
/// As [`Kernel::read`].
pub(super) unsafe fn set_kernel(
    runtime: &Runtime,
    exec: Option<CUgraphExec>,
    node: CUgraphNode,
    given: &KernelParams,
) -> Result<(), CUresult> {
    let exec = exec.map(handles::graph_exec).transpose()?;
    let node = graphs::node(node)?;
    // SAFETY: the caller's promise.
    let kernel = unsafe { Kernel::read(runtime, given) }?;
    let record = NodeSetKernel {
        node: node.handle,
        exec: exec.as_ref().map_or(0, |exec| exec.handle),
        function: kernel.function.handle,
        context: kernel.context.handle,
        launch: kernel.launch,
    };
    runtime.session.call(&record, &[&kernel.parameters])?;
    match exec {
        Some(exec) => add_ranges(&exec.host, &kernel.ranges),
        None => {
            if let Ok(graph) = handles::graph(handles::pointer(node.graph)) {
                add_ranges(&graph.host, &kernel.ranges);
            }
        }
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetParams_v2(
    node: CUgraphNode,
    params: *const KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeSetParams_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, None, node, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetParams(
    node: CUgraphNode,
    params: *const KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, None, node, &params.read().whole()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const KernelParams,
) -> CUresult {
    runtime::call(counter!("cuGraphExecKernelNodeSetParams_v2"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, Some(exec), node, &params.read()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const KernelParamsV1,
) -> CUresult {
    runtime::call(counter!("cuGraphExecKernelNodeSetParams"), |runtime| {
        need(params)?;
        // SAFETY: the program's pointers.
        unsafe { set_kernel(runtime, Some(exec), node, &params.read().whole()) }
    })
}

/// `CUkernelNodeAttrValue`.
pub type AttributeValue = [u8; 64];

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeSetAttribute(
    node: CUgraphNode,
    attribute: u32,
    value: *const AttributeValue,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeSetAttribute"), |runtime| {
        need(value)?;
        let node = graphs::node(node)?.handle;
        // SAFETY: the program's value, of 64 bytes.
        let value = unsafe { value.read() };
        runtime.session.call(&NodeSetAttribute { node, attribute, reserved: 0 }, &[&value]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeGetAttribute(
    node: CUgraphNode,
    attribute: u32,
    value: *mut AttributeValue,
) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeGetAttribute"), |runtime| {
        need(value)?;
        let node = graphs::node(node)?.handle;
        let (_, found) = runtime.session.call(&NodeGetAttribute { node, attribute, reserved: 0 }, &[])?;
        // SAFETY: the program's place, of 64 bytes.
        unsafe { give(value, *found.first_chunk().ok_or(CUDA_ERROR_UNKNOWN)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphKernelNodeCopyAttributes(to: CUgraphNode, from: CUgraphNode) -> CUresult {
    runtime::call(counter!("cuGraphKernelNodeCopyAttributes"), |runtime| {
        let (destination, source) = (graphs::node(to)?.handle, graphs::node(from)?.handle);
        runtime.session.call(&NodeCopyAttributes { destination, source }, &[]).map(drop)
    })
}
