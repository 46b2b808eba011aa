//! What is said on stderr: each thing once, and nothing with `FUSEWIRE_QUIET=1`.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use fusewire_connect::log;

static SAID_NO_SERVER: AtomicBool = AtomicBool::new(false);

/// For libcuda.so.1, which says the same.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fusewire_said_no_server() -> bool {
    SAID_NO_SERVER.load(SeqCst)
}

/// Why there is no server: one line for the life of the program.
pub(crate) fn no_server(why: &dyn std::fmt::Display) {
    // In this order (see `fusewire_connect::said_by`).
    if !fusewire_connect::said_by(c"libcuda.so.1") && !SAID_NO_SERVER.swap(true, SeqCst) {
        log::say(&why.to_string());
    }
}

/// That a function is not carried: with `FUSEWIRE_LOG=info` or more, once for each.
pub(crate) fn not_carried(function: &'static str) {
    static SAID: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    if !log::informs() {
        return;
    }
    // Where another thread is at it (or was, when this process was forked off), nothing is said.
    if let Ok(mut said) = SAID.try_lock()
        && said.insert(function)
    {
        log::say(&format!("{function} is not supported; returned NVML_ERROR_NOT_SUPPORTED"));
    }
}
