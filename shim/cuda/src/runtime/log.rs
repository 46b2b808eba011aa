//! What this library prints, and where the device's own output goes.

use std::io::Write as _;

pub(crate) use fusewire_connect::log::{informs, quiet, say, traces};

/// Prints what device code printed, as the program's own output.
pub(crate) fn print(descriptor: u32, text: &[u8]) {
    if descriptor == 2 {
        let _ = std::io::stderr().write_all(text);
        return;
    }
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    // The program's own buffer, so that its lines and the device's keep their order.
    // SAFETY: libc's stdout is open for the life of the process; `text` is that long.
    unsafe {
        libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout);
        libc::fflush(stdout);
    }
}
