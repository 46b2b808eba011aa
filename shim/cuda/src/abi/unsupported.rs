//! Calls that are not carried: said once each, on stderr, and refused.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::{generated::SYMBOLS, result::CUDA_ERROR_NOT_SUPPORTED, types::CUresult};

static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// What the stub of `SYMBOLS[symbol]` does.
#[cold]
pub fn not_supported(symbol: usize) -> CUresult {
    let name = SYMBOLS.get(symbol).copied().unwrap_or("a function");
    report(&format!("{name} is not supported; returned CUDA_ERROR_NOT_SUPPORTED"));
    CUDA_ERROR_NOT_SUPPORTED
}

/// Says something on stderr the first time it is said, unless nothing is to be said.
pub fn report(message: &str) {
    let first = SAID
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default()
        .insert(message.to_owned());
    if first {
        fusewire_connect::log::say(message);
    }
}
