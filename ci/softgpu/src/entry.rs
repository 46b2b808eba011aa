//! The doorway from C: every exported function is declared through [`api!`], which says what must hold
//! before its body runs.
//!
//! * `[any]` — nothing; the function works before `cuInit`.
//! * `[init]` — `cuInit` has been called.
//! * `[ctx c]` — a context is current on this thread and has not failed; the body sees it as `c`.
//!
//! A body returns `Res`. No panic leaves it: one becomes CUDA_ERROR_UNKNOWN. The slow-call switch of
//! `faults.rs` acts here, so that it can name any function.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::context::{self, Context};
use crate::errors::{Code, Res};
use crate::faults;

static INITIALISED: AtomicBool = AtomicBool::new(false);

pub(crate) fn mark_initialised() {
    INITIALISED.store(true, Ordering::Release);
}

pub(crate) fn any(name: &'static str, body: impl FnOnce() -> Res) -> u32 {
    faults::slow_down(name);
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.0,
        Err(_) => Code::UNKNOWN.0,
    }
}

pub(crate) fn init(name: &'static str, body: impl FnOnce() -> Res) -> u32 {
    any(name, || {
        if !INITIALISED.load(Ordering::Acquire) {
            return Err(Code::NOT_INITIALIZED);
        }
        body()
    })
}

pub(crate) fn ctx(name: &'static str, body: impl FnOnce(&Arc<Context>) -> Res) -> u32 {
    init(name, || {
        let current = context::current()?;
        current.health.check()?;
        body(&current)
    })
}

/// Declares exported driver functions. See the module's comment for the three kinds.
macro_rules! api {
    (@run $name:ident [any] $body:block) => { $crate::entry::any(stringify!($name), move || $body) };
    (@run $name:ident [init] $body:block) => { $crate::entry::init(stringify!($name), move || $body) };
    (@run $name:ident [ctx $ctx:pat] $body:block) => {
        $crate::entry::ctx(stringify!($name), move |$ctx: &std::sync::Arc<$crate::context::Context>| $body)
    };
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) [$($need:tt)*] $body:block)*) => {$(
        $(#[$meta])*
        #[doc = concat!("The driver function `", stringify!($name), "`, as cuda.h declares it.")]
        ///
        /// # Safety
        /// Pointers must be valid for what cuda.h says the function does with them.
        #[unsafe(no_mangle)]
        #[allow(clippy::allow_attributes, unused_mut)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            $crate::entry::api!(@run $name [$($need)*] $body)
        }
    )*};
}
pub(crate) use api;
