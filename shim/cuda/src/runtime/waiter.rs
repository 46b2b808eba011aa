//! A caller that waits for an answer: it spins ([`spin_until`]), then sleeps.

use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::abi::types::CUresult;

use super::session::lock;

/// How much longer a caller spins than threads that have nothing to wait for, letting others have the core.
pub(super) const LONGER: u32 = 20;

/// Spins until `done`, for a while. `spin`: how long threads spin here; 0: not at all. Gives whether it came to that.
pub(super) fn spin_until(spin: Duration, done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        let elapsed = start.elapsed();
        if elapsed >= spin * LONGER {
            return done();
        }
        if elapsed < spin { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
    true
}

/// One caller that waits.
pub(crate) struct Waiter {
    /// The answer is there and its lock free: the caller that spins takes it without meeting anybody.
    ready: AtomicBool,
    /// The caller sleeps, or is about to: only then is there a system call to wake it.
    asleep: AtomicBool,
    answer: Mutex<Answer>,
    changed: Condvar,
}

#[derive(Default)]
struct Answer {
    given: bool,
    value: Option<(CUresult, Vec<u8>)>,
}

impl Waiter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            answer: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn complete(&self, status: CUresult, body: Vec<u8>) {
        let mut answer = lock(&self.answer);
        if answer.given {
            return;
        }
        *answer = Answer { given: true, value: Some((status, body)) };
        drop(answer);
        self.ready.store(true, Release);
        // A caller that found no answer, which it looked for under the lock, said so there before it slept.
        if self.asleep.load(Acquire) {
            self.changed.notify_all();
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Acquire)
    }

    /// The answer, slept for.
    pub(crate) fn wait(&self) -> (CUresult, Vec<u8>) {
        let mut answer = lock(&self.answer);
        loop {
            if let Some(value) = answer.value.take() {
                return value;
            }
            self.asleep.store(true, Release);
            answer = self.changed.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
