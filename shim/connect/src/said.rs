//! That the program has been told why there is no server, by whichever library found out first: a program may
//! use both, and is told once.
//!
//! Each library exports `fusewire_said_no_server`, `extern "C" fn() -> bool`, and looks for the other's before it speaks.

#![allow(unsafe_code, reason = "looks into another library of the process")]

use std::ffi::CStr;

/// Name of the function by which a library says whether it has told.
const SYMBOL: &CStr = c"fusewire_said_no_server";

/// Whether `library`, if this process has it loaded, has told already. Loads nothing. Safe from any thread.
#[must_use]
pub fn said_by(library: &CStr) -> bool {
    // SAFETY: a library that is loaded already is only counted once more, and once less again; nothing of it
    // runs.
    unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return false;
        }
        let symbol = libc::dlsym(handle, SYMBOL.as_ptr());
        // A driver of NVIDIA's has no such function; ours is of this type.
        let said =
            !symbol.is_null() && std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> bool>(symbol)();
        libc::dlclose(handle);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_absent_or_somebody_elses_has_not_told() {
        assert!(!said_by(c"libno-such-library.so.1"));
        assert!(!said_by(c"libc.so.6"));
    }
}
