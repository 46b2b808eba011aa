//! User objects, which graphs keep alive. All of it is the client's own.

use std::ffi::c_void;

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::{CUgraph, CUhostFn, CUresult, CUuserObject};
use crate::runtime::stats::counter;
use crate::runtime::{self, graphs, handles, user_objects};

use super::arguments::{give, need};

/// `CU_USER_OBJECT_NO_DESTRUCTOR_SYNC`, which must be said.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// `CU_GRAPH_USER_OBJECT_MOVE`: the caller's references become the graph's.
const MOVE: u32 = 1;

/// How often: the driver takes 1 to `INT_MAX`.
fn times(count: u32) -> Result<u64, CUresult> {
    if count == 0 || i32::try_from(count).is_err() {
        Err(CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(u64::from(count))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuUserObjectCreate(
    object: *mut CUuserObject,
    argument: *mut c_void,
    destroy: CUhostFn,
    count: u32,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuUserObjectCreate"), |_| {
        need(object)?;
        let destroy = destroy.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let count = times(count)?;
        if flags != NO_DESTRUCTOR_SYNC {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let made = user_objects::create(argument, destroy, count);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(object, handles::pointer(made)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuUserObjectRetain(object: CUuserObject, count: u32) -> CUresult {
    runtime::call(counter!("cuUserObjectRetain"), |_| {
        user_objects::retain(handles::number(object), times(count)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuUserObjectRelease(object: CUuserObject, count: u32) -> CUresult {
    runtime::call(counter!("cuUserObjectRelease"), |_| {
        user_objects::release(handles::number(object), times(count)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphRetainUserObject(
    graph: CUgraph,
    object: CUuserObject,
    count: u32,
    flags: u32,
) -> CUresult {
    runtime::call(counter!("cuGraphRetainUserObject"), |_| {
        let graph = handles::graph(graph)?;
        let (object, count) = (handles::number(object), times(count)?);
        match flags {
            0 => user_objects::retain(object, count)?,
            // Looked up, so that a stale handle is refused.
            MOVE => user_objects::retain(object, 0)?,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        }
        graphs::hold(graph.handle, object, count);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphReleaseUserObject(
    graph: CUgraph,
    object: CUuserObject,
    count: u32,
) -> CUresult {
    runtime::call(counter!("cuGraphReleaseUserObject"), |_| {
        let graph = handles::graph(graph)?;
        graphs::let_go(graph.handle, handles::number(object), times(count)?)
    })
}
