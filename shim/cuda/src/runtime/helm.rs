//! Who turns the command lane: the I/O thread, or a caller that waits for an answer anyway.
//!
//! A caller that spins for its answer turns the lane itself meanwhile, where the link lets any thread do so: what it
//! has published goes out at once and what comes back is taken where it is waited for, with no other thread between.
//! The I/O thread stands by for as long, which is never longer than a caller spins.

use std::sync::atomic::{
    AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use fusewire_link::CommandLane;

use super::pump::{Over, Pump};
use super::session::{Session, lock};

/// Tries between two chances for other threads, while a caller has the helm.
const TRIES: u32 = 64;

#[derive(Default)]
pub(crate) struct Helm {
    /// A caller has the helm, or is about to take it.
    taken: AtomicBool,
    /// The I/O thread sleeps: it is woken, and does what there is to do.
    asleep: AtomicBool,
    crew: Mutex<Option<Crew>>,
}

/// What turns.
struct Crew {
    pump: Pump,
    lane: Box<dyn CommandLane>,
    /// The session ended while a caller had the helm; the I/O thread brings it to its end.
    over: Option<Over>,
}

impl Helm {
    /// Turns the lane in place of the I/O thread until `done`, for `limit` at most; not if somebody else does, or if
    /// the I/O thread sleeps.
    pub(crate) fn take(&self, limit: Duration, done: impl Fn() -> bool) {
        if limit.is_zero() || self.asleep.load(Relaxed) || self.taken.swap(true, AcqRel) {
            return;
        }
        let start = Instant::now();
        let crew = loop {
            match self.crew.try_lock() {
                Ok(crew) => break Some(crew),
                Err(TryLockError::Poisoned(crew)) => break Some(crew.into_inner()),
                // The I/O thread is in the middle of a turn.
                Err(TryLockError::WouldBlock) => {}
            }
            if done() || self.asleep.load(Relaxed) || start.elapsed() >= limit {
                break None;
            }
            std::hint::spin_loop();
        };
        // Nobody is aboard where only the I/O thread may turn the lane.
        if let Some(mut crew) = crew
            && let Some(Crew { pump, lane, over }) = crew.as_mut()
        {
            while over.is_none() && !done() && start.elapsed() < limit {
                *over = pump.turn(&mut **lane, false).err();
            }
        }
        self.taken.store(false, Release);
    }

    /// Lets callers to the helm, while there is none. For the I/O thread: waits as long as one has it.
    fn stand_by(&self) {
        let mut tries = 0;
        while self.taken.load(Acquire) {
            tries += 1;
            if tries % TRIES == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// Runs the I/O thread until the session is over.
pub(crate) fn run(mut lane: Box<dyn CommandLane>, session: &Arc<Session>, spin: Duration) {
    let mut pump = Pump::new(session.clone(), spin);
    if !lane.any_thread() || spin.is_zero() {
        let over = loop {
            if let Err(over) = pump.turn(&mut *lane, true) {
                break over;
            }
        };
        return pump.end(&mut *lane, &over);
    }
    let helm = &session.helm;
    *lock(&helm.crew) = Some(Crew { pump, lane, over: None });
    let (mut crew, over) = loop {
        helm.stand_by();
        let mut crew = helm.crew.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Crew { pump, lane, over }) = crew.as_mut() else { return };
        let asleep = pump.is_idle();
        helm.asleep.store(asleep, Relaxed);
        let turned = match over.take() {
            Some(over) => Err(over),
            None => pump.turn(&mut **lane, asleep),
        };
        helm.asleep.store(false, Relaxed);
        if let Err(over) = turned
            && let Some(crew) = crew.take()
        {
            break (crew, over);
        }
    };
    crew.pump.end(&mut *crew.lane, &over);
}
