//! Fork, exit, and being unloaded: what happens to the session then.
//!
//! A child forked after `cuInit` has neither the threads nor the right to the connection: every call there
//! gives `CUDA_ERROR_NOT_INITIALIZED`, as the driver's do. At exit nothing waits: the server sees the
//! connection end and frees everything. The library is never unloaded (`-z nodelete`), for its threads'
//! sake.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::stats;

static FORKED: AtomicBool = AtomicBool::new(false);
static DESCRIPTORS: OnceLock<Vec<i32>> = OnceLock::new();
/// The session is over, and its descriptors may be other files' by now.
static OVER: AtomicBool = AtomicBool::new(false);

#[inline]
pub(crate) fn is_forked() -> bool {
    FORKED.load(Relaxed)
}

unsafe extern "C" fn in_child() {
    FORKED.store(true, Relaxed);
    if OVER.load(Relaxed) {
        return;
    }
    // The parent's connections: closed here, so that the server sees the parent's end when it comes.
    for &descriptor in DESCRIPTORS.get().map_or(&[][..], Vec::as_slice) {
        // SAFETY: closes a number that this process inherited and never uses.
        unsafe { libc::close(descriptor) };
    }
}

/// Arranges for forks of a process that has a session.
pub(crate) fn watch_forks(descriptors: Vec<i32>) {
    if DESCRIPTORS.set(descriptors).is_ok() {
        // SAFETY: `in_child` calls nothing but `close`, which may be called after fork.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}

/// The session is over: its threads are about to close their descriptors.
pub(crate) fn session_over() {
    OVER.store(true, Relaxed);
}

/// Arranges for the statistics at exit: `FUSEWIRE_STATS=1` as text on stderr, `FUSEWIRE_STATS=json` as
/// JSON there, `FUSEWIRE_STATS=/PATH` as JSON appended to that file.
pub(crate) fn report_at_exit() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // SAFETY: registers a function of this library, which is never unloaded.
        unsafe { libc::atexit(report) };
    });
}

extern "C" fn report() {
    if is_forked() {
        return;
    }
    let Some(how) = std::env::var_os("FUSEWIRE_STATS") else { return };
    match how.to_str() {
        None | Some("" | "0") => {}
        Some("json") => eprint!("{}", stats::report(true)),
        Some(path) if path.starts_with('/') => {
            use std::io::Write as _;
            let written = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .and_then(|mut file| file.write_all(stats::report(true).as_bytes()));
            if let Err(error) = written {
                eprintln!("fusewire: writing statistics to {path} failed: {error}");
            }
        }
        Some(_) => eprint!("{}", stats::report(false)),
    }
}
