//! What this library prints, and where the device's own output goes.

use std::io::Write as _;
use std::sync::OnceLock;

/// `FUSEWIRE_LOG=trace`: every driver call, its result, and what the server refused.
#[inline]
pub(crate) fn traces() -> bool {
    static TRACE: OnceLock<bool> = OnceLock::new();
    *TRACE.get_or_init(|| std::env::var_os("FUSEWIRE_LOG").is_some_and(|value| value == "trace"))
}

/// `FUSEWIRE_LOG=info` and above: what is unusual but not wrong.
pub(crate) fn informs() -> bool {
    let named = |value: std::ffi::OsString| matches!(value.to_str(), Some("info" | "debug" | "trace"));
    std::env::var_os("FUSEWIRE_LOG").is_some_and(named)
}

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
