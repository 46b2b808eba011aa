//! Host functions: the program's own code, run in the client when a stream gets there.
//!
//! Outside of captures the stream is held on a word until the client says that its function has run; no thread
//! waits. In a graph the driver's own host function is used, and the driver's own thread waits in it.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use fusewire_link::Waker;
use fusewire_wire::ops::{Call, Status};
use rustc_hash::FxHashMap;

use super::gpu::Gpu;
use super::pinned::Word;
use super::streams::Then;
use crate::driver::{INVALID_VALUE, OUT_OF_MEMORY};

/// Host functions of graphs that one session may have.
const MAX_CAPTURED: usize = 64 << 10;

#[derive(Default)]
pub(super) struct HostFunctions {
    /// Streams held: the word, and the value that lets the stream go on.
    held: FxHashMap<u64, (Word, u32)>,
    captured: FxHashMap<u64, Arc<Captured>>,
    calls: Arc<Calls>,
}

/// Calls of captured host functions, from the driver's threads to the shard.
#[derive(Default)]
struct Calls {
    numbers: Mutex<Vec<u64>>,
    waker: OnceLock<Waker>,
}

/// A host function in a graph. It lives until the process ends: graphs are copied inside the driver, and nobody
/// says when the last copy has gone.
pub(super) struct Captured {
    number: u64,
    calls: Arc<Calls>,
    /// How often the client has said that it has run, and how often that was used.
    ran: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl HostFunctions {
    /// Who is woken when a captured host function is reached.
    pub(super) fn set_waker(&self, waker: Waker) {
        let _ = self.calls.waker.set(waker);
    }

    /// Whether the GPU waits, or may come to wait, for the client to say that a host function has run.
    pub(super) fn is_depended_on(&self, busy: bool) -> bool {
        !self.held.is_empty() || (busy && !self.captured.is_empty())
    }

    /// Captured host functions that have been reached since the last call.
    pub(super) fn take_calls(&self) -> Vec<u64> {
        std::mem::take(&mut *self.calls.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a host function for a graph. Gives what the driver is given.
    pub(super) fn capture(&mut self, number: u64) -> Result<*mut c_void, Status> {
        if self.captured.len() >= MAX_CAPTURED {
            return Err(OUT_OF_MEMORY);
        }
        let captured = Arc::new(Captured {
            number,
            calls: Arc::clone(&self.calls),
            ran: Mutex::new((0, 0)),
            changed: Condvar::new(),
        });
        // The driver's reference, which is never given back.
        let data = Arc::into_raw(Arc::clone(&captured));
        self.captured.insert(number, captured);
        Ok(data.cast_mut().cast())
    }
}

/// What the driver calls on a thread of its own. Returns when the client has run the function.
pub(super) unsafe extern "C" fn reached(data: *mut c_void) {
    // SAFETY: `capture` made it, and it lives until the process ends.
    let captured = unsafe { &*data.cast_const().cast::<Captured>() };
    captured.calls.numbers.lock().unwrap_or_else(PoisonError::into_inner).push(captured.number);
    if let Some(waker) = captured.calls.waker.get() {
        waker.wake();
    }
    let ran = captured.ran.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ran =
        captured.changed.wait_while(ran, |(done, used)| done <= used).unwrap_or_else(PoisonError::into_inner);
    ran.1 += 1;
}

impl Gpu {
    pub(super) fn host_func(&mut self, call: Call, stream: u64) -> Result<(), Status> {
        let (id, raw) = self.stream_for_work(stream)?;
        if self.is_capturing(id) {
            let data = self.hosts.capture(call.number)?;
            // SAFETY: the data live until the process ends.
            let status = unsafe { self.d.cuLaunchHostFunc(raw, reached, data) };
            return self.ok(status);
        }
        self.after(id, Then::HostCall { number: call.number })?;
        let (word, value) = self.next_hold(id)?;
        self.hosts.held.insert(call.number, (word, value));
        let address = self.pinned.word_address(word);
        // SAFETY: a live stream and a registered word. 0: until the word is at least the value.
        let status = unsafe { self.d.cuStreamWaitValue32_v2(raw, address, value, 0) };
        if let Ok(stream) = self.streams.get_mut(id) {
            stream.dirty = true;
        }
        self.ok(status)
    }

    pub(super) fn host_func_done(&mut self, function: u64) -> Result<(), Status> {
        if let Some((word, value)) = self.hosts.held.remove(&function) {
            self.pinned.word(word).store(value, std::sync::atomic::Ordering::Release);
            return Ok(());
        }
        let captured = self.hosts.captured.get(&function).ok_or(INVALID_VALUE)?;
        captured.ran.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        captured.changed.notify_one();
        Ok(())
    }
}
