//! Who turns the command lane: the I/O thread, or a caller that waits for an answer anyway.
//!
//! A caller that spins for its answer turns the lane itself meanwhile, where the link lets any thread do so: what it
//! has published goes out at once and what comes back is taken where it is waited for, with no other thread between.
//! The I/O thread stands by meanwhile, and keeps out of the way for a moment after.

use std::sync::atomic::{
    AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use fusewire_link::CommandLane;

use super::pump::{Over, Pump};
use super::session::{Session, lock};

/// How much longer a caller turns the lane than others spin. The driver's own threads spin for as long as it takes,
/// unless told otherwise; to be woken costs more than a short synchronisation.
const LONGER: u32 = 200;
/// How long the I/O thread spins while a caller has the helm, before it sleeps.
const STAND_BY: Duration = Duration::from_micros(50);
/// How long a caller who had the helm is likely to want it again, and how often the I/O thread turns the lane then:
/// what nobody waits for gathers for longer than that.
const EASE: Duration = Duration::from_micros(50);
const PAUSE: Duration = Duration::from_micros(2);

#[derive(Default)]
pub(crate) struct Helm {
    /// A caller has the helm, or is about to take it.
    taken: AtomicBool,
    /// The I/O thread sleeps: it is woken, and does what there is to do.
    asleep: AtomicBool,
    /// The I/O thread, and that it has to be told when the helm is free.
    io: OnceLock<Thread>,
    waits: AtomicBool,
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
    /// Turns the lane in place of the I/O thread until `done`, for a while at most; not if somebody else does, or if
    /// the I/O thread sleeps. `spin`: how long threads spin here.
    pub(crate) fn take(&self, spin: Duration, done: impl Fn() -> bool) {
        if spin.is_zero() || self.asleep.load(Relaxed) || self.taken.swap(true, AcqRel) {
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
            if done() || self.asleep.load(Relaxed) || start.elapsed() >= spin {
                break None;
            }
            std::hint::spin_loop();
        };
        // Nobody is aboard where only the I/O thread may turn the lane.
        if let Some(mut crew) = crew
            && let Some(Crew { pump, lane, over }) = crew.as_mut()
        {
            while over.is_none() && !done() {
                *over = pump.turn(&mut **lane, false).err();
                let elapsed = start.elapsed();
                if elapsed >= spin * LONGER {
                    break;
                }
                if elapsed >= spin {
                    // Whoever needs this core more gets it.
                    std::thread::yield_now();
                }
            }
        }
        self.taken.store(false, SeqCst);
        if self.waits.load(SeqCst)
            && let Some(io) = self.io.get()
        {
            io.unpark();
        }
    }

    /// For the I/O thread: waits while a caller has the helm. Gives whether one had.
    fn stand_by(&self) -> bool {
        if !self.taken.load(Acquire) {
            return false;
        }
        let start = Instant::now();
        while self.taken.load(Acquire) {
            if start.elapsed() < STAND_BY {
                std::hint::spin_loop();
                continue;
            }
            // Said before the last look: either it is seen that we wait, or we see that the helm is free.
            self.waits.store(true, SeqCst);
            while self.taken.load(SeqCst) {
                std::thread::park();
            }
            self.waits.store(false, Relaxed);
        }
        true
    }

    /// For the I/O thread: leaves callers a chance to take the helm. Gives whether one has.
    fn give_way(&self) -> bool {
        let start = Instant::now();
        while !self.taken.load(Acquire) {
            if start.elapsed() >= PAUSE {
                return false;
            }
            std::hint::spin_loop();
        }
        true
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
    let _ = helm.io.set(std::thread::current());
    *lock(&helm.crew) = Some(Crew { pump, lane, over: None });
    let mut eased: Option<Instant> = None;
    let (mut crew, over) = loop {
        if helm.stand_by() {
            eased = Some(Instant::now());
        }
        if eased.is_some_and(|since| since.elapsed() < EASE) && helm.give_way() {
            continue;
        }
        // Not to be waited for: a caller that lets go would have to wake us.
        let mut crew = match helm.crew.try_lock() {
            Ok(crew) => crew,
            Err(TryLockError::Poisoned(crew)) => crew.into_inner(),
            Err(TryLockError::WouldBlock) => continue,
        };
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
