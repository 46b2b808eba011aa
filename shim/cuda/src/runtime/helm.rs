//! Who turns the command lane: the I/O thread, or a caller that waits for an answer anyway.
//!
//! A caller that spins for its answer turns the lane itself meanwhile, where the link lets any thread do so: what it
//! has published goes out at once and what comes back is taken where it is waited for, with no other thread between.
//! The I/O thread stands by meanwhile, and keeps out of the way for a moment after.
//!
//! A signal handler may interrupt such a caller and never return to it, because it calls `exit`. Nothing comes and goes
//! any more then; so whatever that thread calls afterwards is refused ([`Helm::is_mine`]) before it can wait.

use std::sync::atomic::{
    AtomicBool, AtomicUsize, Ordering, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
    Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
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
const PAUSE: Duration = Duration::from_micros(3);

#[derive(Default)]
pub(crate) struct Helm {
    /// The thread that has the helm, or is about to take it; 0: the I/O thread has it. Every call of the program's looks.
    owner: AtomicUsize,
    /// The I/O thread sleeps: it is woken, and does what there is to do.
    asleep: CachePadded<AtomicBool>,
    /// The I/O thread, and that it has to be told when the helm is free.
    io: OnceLock<Thread>,
    waits: AtomicBool,
    /// Locked in each turn.
    crew: CachePadded<Mutex<Option<Crew>>>,
}

/// A number that no other thread has; not 0.
fn this_thread() -> usize {
    thread_local! { static MARK: u8 = const { 0 } }
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
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
    /// the I/O thread sleeps. `spin`: how long threads spin here. Gives whether it came to that, the lane having been
    /// turned here.
    pub(crate) fn take(&self, spin: Duration, done: impl Fn() -> bool) -> bool {
        if spin.is_zero() || self.asleep.load(Relaxed) {
            return false;
        }
        if self.owner.compare_exchange(0, this_thread(), AcqRel, Relaxed).is_err() {
            return false;
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
        let mut finished = false;
        // Nobody is aboard where only the I/O thread may turn the lane.
        if let Some(mut crew) = crew
            && let Some(Crew { pump, lane, over }) = crew.as_mut()
        {
            while over.is_none() {
                finished = done();
                if finished {
                    break;
                }
                *over = pump.turn(&mut **lane, false).err();
                if done() {
                    continue;
                }
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
        self.owner.store(0, SeqCst);
        if self.waits.load(SeqCst)
            && let Some(io) = self.io.get()
        {
            io.unpark();
        }
        finished
    }

    /// Whether this thread has the helm: it has been interrupted there.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        let owner = self.owner.load(Relaxed);
        owner != 0 && owner == this_thread()
    }

    fn is_taken(&self, ordering: Ordering) -> bool {
        self.owner.load(ordering) != 0
    }

    /// For the I/O thread: waits while a caller has the helm. Gives whether one had.
    fn stand_by(&self) -> bool {
        if !self.is_taken(Acquire) {
            return false;
        }
        let start = Instant::now();
        while self.is_taken(Acquire) {
            if start.elapsed() < STAND_BY {
                std::hint::spin_loop();
                continue;
            }
            // Said before the last look: either it is seen that we wait, or we see that the helm is free.
            self.waits.store(true, SeqCst);
            while self.is_taken(SeqCst) {
                std::thread::park();
            }
            self.waits.store(false, Relaxed);
        }
        true
    }

    /// For the I/O thread: leaves callers a chance to take the helm. Gives whether one has. It looks only in the end:
    /// what it looks at, a caller has to fetch from this core's cache.
    fn give_way(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PAUSE {
            std::hint::spin_loop();
        }
        self.is_taken(Acquire)
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
        if asleep {
            helm.asleep.store(true, Relaxed);
        }
        let turned = match over.take() {
            Some(over) => Err(over),
            None => pump.turn(&mut **lane, asleep),
        };
        if asleep {
            helm.asleep.store(false, Relaxed);
        }
        if let Err(over) = turned
            && let Some(crew) = crew.take()
        {
            break (crew, over);
        }
    };
    crew.pump.end(&mut *crew.lane, &over);
}
