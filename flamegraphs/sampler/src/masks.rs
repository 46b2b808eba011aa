//! SIGPROF stays open, whatever a thread blocks.
//!
//! The client's threads block all signals, which are the program's. But the one that sampling uses is only worth
//! anything where it arrives in the thread that used the processor.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

/// Takes the place of glibc's, and calls it.
///
/// # Safety
/// As `pthread_sigmask(3)`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    set: *const libc::sigset_t,
    old: *mut libc::sigset_t,
) -> c_int {
    type Real = unsafe extern "C" fn(c_int, *const libc::sigset_t, *mut libc::sigset_t) -> c_int;
    // SAFETY: a look-up by a name that is a C string.
    let real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_sigmask".as_ptr()) };
    if real.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: glibc's function of this name has this type.
    let real: Real = unsafe { std::mem::transmute(real) };
    if set.is_null() || how == libc::SIG_UNBLOCK {
        // SAFETY: the caller's promise.
        return unsafe { real(how, set, old) };
    }
    let mut open = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the caller's set is good to read, and the copy is initialised by the first call; a set without
    // SIGPROF is a set.
    unsafe {
        ptr::copy_nonoverlapping(set, open.as_mut_ptr(), 1);
        libc::sigdelset(open.as_mut_ptr(), libc::SIGPROF);
        real(how, open.as_ptr(), old)
    }
}
