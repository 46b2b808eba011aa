//! Looking functions up by name, private tables, and what is refused on purpose.

use std::ffi::{CString, c_char, c_void};

use crate::abi::{CUuuid, In, Out, text};
use crate::device::VERSION;
use crate::entry::api;
use crate::errors::{Code, Res};

const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;

/// Functions whose variants take different arguments: from which version on a name means which.
const VARIANTS: &[(&str, &[(i32, &str)])] = &[
    ("cuCtxCreate", &[(12050, "cuCtxCreate_v4"), (11040, "cuCtxCreate_v3"), (0, "cuCtxCreate_v2")]),
    ("cuCtxGetDevice", &[(13000, "cuCtxGetDevice_v2"), (0, "cuCtxGetDevice")]),
    ("cuCtxSynchronize", &[(13000, "cuCtxSynchronize_v2"), (0, "cuCtxSynchronize")]),
    ("cuStreamGetCtx", &[(12050, "cuStreamGetCtx_v2"), (0, "cuStreamGetCtx")]),
    ("cuStreamGetCaptureInfo", &[(12030, "cuStreamGetCaptureInfo_v3"), (11030, "cuStreamGetCaptureInfo_v2")]),
    (
        "cuStreamUpdateCaptureDependencies",
        &[(12030, "cuStreamUpdateCaptureDependencies_v2"), (0, "cuStreamUpdateCaptureDependencies")],
    ),
    ("cuGraphGetEdges", &[(12030, "cuGraphGetEdges_v2"), (0, "cuGraphGetEdges")]),
    ("cuGraphAddNode", &[(12030, "cuGraphAddNode_v2"), (0, "cuGraphAddNode")]),
    ("cuGraphAddDependencies", &[(12030, "cuGraphAddDependencies_v2"), (0, "cuGraphAddDependencies")]),
    ("cuGraphRemoveDependencies", &[(12030, "cuGraphRemoveDependencies_v2")]),
    ("cuGraphNodeGetDependencies", &[(12030, "cuGraphNodeGetDependencies_v2")]),
    ("cuGraphNodeGetDependentNodes", &[(12030, "cuGraphNodeGetDependentNodes_v2")]),
    ("cuGraphAddKernelNode", &[(12000, "cuGraphAddKernelNode_v2")]),
    ("cuGraphExecUpdate", &[(12000, "cuGraphExecUpdate_v2")]),
    ("cuGraphInstantiate", &[(12000, "cuGraphInstantiateWithFlags"), (0, "cuGraphInstantiate_v2")]),
    ("cuGetProcAddress", &[(12000, "cuGetProcAddress_v2")]),
];

/// The variant that a name means in a version, if this library has it.
fn variant(name: &str, version: i32) -> Option<*mut c_void> {
    let listed = VARIANTS.iter().find(|(listed, _)| *listed == name);
    match listed {
        Some((_, variants)) => exported(variants.iter().find(|(since, _)| version >= *since)?.1),
        None => ["_v3", "_v2", ""].iter().find_map(|suffix| exported(&format!("{name}{suffix}"))),
    }
}

/// The address of one of this library's functions.
fn exported(symbol: &str) -> Option<*mut c_void> {
    let symbol = CString::new(symbol).ok()?;
    // SAFETY: the library is open for as long as this code runs, and the name is a C string.
    let address = unsafe { libc::dlsym(own_library()?, symbol.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// A handle to the library this code is in, whatever it was loaded as.
fn own_library() -> Option<*mut c_void> {
    let mut found = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let here = own_library as *const c_void;
    // SAFETY: `found` is a structure of the right type; the name it receives lives as long as the library.
    let library = unsafe {
        if libc::dladdr(here, &raw mut found) == 0 || found.dli_fname.is_null() {
            return None;
        }
        libc::dlopen(found.dli_fname, libc::RTLD_NOLOAD | libc::RTLD_NOW)
    };
    // Linked into a program, as in tests, the functions are the program's own.
    if library.is_null() { Some(libc::RTLD_DEFAULT) } else { Some(library) }
}

fn look_up(symbol: In<c_char>, out: Out<*mut c_void>, version: i32, status: Out<u32>) -> Res {
    if version > VERSION {
        return Err(Code::INVALID_VALUE);
    }
    let name = text(symbol)?;
    let versioned = name.rsplit_once("_v").is_some_and(|(_, digits)| digits.parse::<u32>().is_ok());
    let address = if versioned || !name.starts_with("cu") { None } else { variant(&name, version) };
    status.set_if_wanted(if address.is_some() { FOUND } else { NOT_FOUND });
    out.set(address.unwrap_or(std::ptr::null_mut()))
}

api! {
    fn cuGetProcAddress_v2(
        symbol: In<c_char>, out: Out<*mut c_void>, version: i32, flags: u64, status: Out<u32>,
    ) [any] {
        let _ = flags;
        look_up(symbol, out, version, status)
    }

    fn cuGetExportTable(out: Out<*const c_void>, id: In<CUuuid>) [any] {
        let _ = id.get()?;
        out.set(std::ptr::null())?;
        Err(Code::NOT_FOUND)
    }

    fn cuCheckpointProcessGetState(pid: i32, state: Out<u32>) [any] {
        let _ = (pid, state);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuCheckpointProcessGetRestoreThreadId(pid: i32, thread: Out<i32>) [any] {
        let _ = (pid, thread);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuCheckpointProcessLock(pid: i32, args: *mut c_void) [any] {
        let _ = (pid, args);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuCheckpointProcessCheckpoint(pid: i32, args: *mut c_void) [any] {
        let _ = (pid, args);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuCheckpointProcessRestore(pid: i32, args: *mut c_void) [any] {
        let _ = (pid, args);
        Err(Code::NOT_SUPPORTED)
    }

    fn cuCheckpointProcessUnlock(pid: i32, args: *mut c_void) [any] {
        let _ = (pid, args);
        Err(Code::NOT_SUPPORTED)
    }
}
