//! `nvmlInit` to `nvmlShutdown`: counted, as programs and the libraries they use each do their own.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::server;
use crate::status::{Status, UNINITIALIZED};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One more user. Without a server there is none.
pub(crate) fn open() -> Result<(), Status> {
    server::first()?;
    COUNT.fetch_add(1, Relaxed);
    Ok(())
}

/// One user less.
pub(crate) fn close() -> Result<(), Status> {
    COUNT.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).map(drop).map_err(|_| UNINITIALIZED)
}

/// Fails where nobody has called `nvmlInit`.
pub(crate) fn check() -> Result<(), Status> {
    if COUNT.load(Relaxed) == 0 { Err(UNINITIALIZED) } else { Ok(()) }
}
