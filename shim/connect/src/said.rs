//! That the program has been told why there is no server, by whichever library found out first: a program may
//! use both, and is told once.
//!
//! Each library exports `fusewire_said_no_server`, `extern "C" fn() -> bool`, and asks the other's before it speaks.
//! Should both find out at once, libcuda.so.1 speaks: it says so first and asks then, while libnvidia-ml.so.1 asks
//! first, and says so only if it is going to speak. So both may speak, but never neither.

#![allow(unsafe_code, reason = "looks into another library of the process")]

use std::ffi::CStr;

/// Name of the function by which a library says whether it has told.
const SYMBOL: &CStr = c"fusewire_said_no_server";

/// Whether `library`, if this process has it loaded, tells or has told. Loads nothing. Safe from any thread.
#[must_use]
pub fn said_by(library: &CStr) -> bool {
    // SAFETY: with `RTLD_NOLOAD` nothing is loaded, and nothing runs to start it: a library that is there already is
    // counted once more, so that it stays until `dlclose`. Whoever exports this name, which is ours, exports a
    // function of this type, that may be called at any time.
    unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return false;
        }
        let symbol = libc::dlsym(handle, SYMBOL.as_ptr());
        // A driver of NVIDIA's has no such function.
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
