//! Looking functions up by name, private tables, and what is refused on purpose.

use std::ffi::{CString, c_char, c_void};

use crate::abi::{CUuuid, In, Out, text};
use crate::device::VERSION;
use crate::entry::api;
use crate::errors::{Code, Res};

const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;

/// The newest variant of a function that this library exports, at this library's own address.
fn newest(name: &str) -> Option<*mut c_void> {
    let library = own_library()?;
    ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| {
        let symbol = CString::new(format!("{name}{suffix}")).ok()?;
        // SAFETY: the library is open for as long as this code runs, and the name is a C string.
        let address = unsafe { libc::dlsym(library, symbol.as_ptr()) };
        (!address.is_null()).then_some(address)
    })
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
    let address = if versioned || !name.starts_with("cu") { None } else { newest(&name) };
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
