//! The inventory, as the server last gave it.
//!
//! Fork-safe without a fork handler: the state belongs to the process that made it, and a child, which may
//! have inherited a lock that nobody will ever open, makes its own. No lock is held while the server is
//! asked.

use std::sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fusewire_connect::{Config, ConnectError, query_server};
use fusewire_wire::inventory::Inventory;

use crate::report;
use crate::status::{DRIVER_NOT_LOADED, GPU_IS_LOST, Status};

/// How old a figure may be that is given out.
const FRESH: Duration = Duration::from_millis(200);
/// How long a figure may still be given out while another thread asks for a newer one.
const STALE: Duration = Duration::from_secs(5);
/// How long the server may take. It answers at once, but for its own first look at the GPUs.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a server that did not answer is left alone.
const REST: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    last: Option<(Arc<Inventory>, Instant)>,
    failed: Option<Instant>,
    asking: bool,
}

struct Owned {
    process: u32,
    state: Mutex<State>,
}

/// What the server has, of any age; for what does not change.
pub(crate) fn known() -> Result<Arc<Inventory>, Status> {
    let last = state().last.as_ref().map(|(inventory, _)| Arc::clone(inventory));
    last.map_or_else(fresh, Ok)
}

/// What the server has, now.
pub(crate) fn fresh() -> Result<Arc<Inventory>, Status> {
    {
        let mut at = state();
        if let Some((inventory, taken)) = &at.last {
            let limit = if at.asking { STALE } else { FRESH };
            if taken.elapsed() < limit {
                return Ok(Arc::clone(inventory));
            }
        }
        if at.failed.is_some_and(|since| since.elapsed() < REST) {
            return Err(GPU_IS_LOST);
        }
        at.asking = true;
    }
    let asked = ask();
    let mut at = state();
    at.asking = false;
    match asked {
        Ok(inventory) => {
            let inventory = Arc::new(inventory);
            at.failed = None;
            at.last = Some((Arc::clone(&inventory), Instant::now()));
            Ok(inventory)
        }
        Err(error) => {
            at.failed = Some(Instant::now());
            drop(at);
            report::no_server(&error);
            Err(GPU_IS_LOST)
        }
    }
}

/// As [`fresh`], for `nvmlInit`, to which a GPU that cannot be reached is one that is not there.
pub(crate) fn first() -> Result<Arc<Inventory>, Status> {
    state().failed = None;
    fresh().map_err(|_| DRIVER_NOT_LOADED)
}

fn ask() -> Result<Inventory, ConnectError> {
    let mut config = Config::from_env()?;
    config.timeout = config.timeout.min(PATIENCE);
    query_server(&config)
}

/// This process's state.
fn state() -> MutexGuard<'static, State> {
    static CURRENT: AtomicPtr<Owned> = AtomicPtr::new(std::ptr::null_mut());
    let process = std::process::id();
    let mut current = CURRENT.load(Acquire);
    loop {
        // SAFETY: never freed once it is here, and only ever reached by shared references.
        if let Some(owned) = unsafe { current.as_ref() }
            && owned.process == process
        {
            return owned.state.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let fresh = Box::into_raw(Box::new(Owned { process, state: Mutex::default() }));
        match CURRENT.compare_exchange(current, fresh, AcqRel, Acquire) {
            Ok(_) => current = fresh,
            Err(other) => {
                // SAFETY: made above and seen by nobody.
                drop(unsafe { Box::from_raw(fresh) });
                current = other;
            }
        }
    }
}
