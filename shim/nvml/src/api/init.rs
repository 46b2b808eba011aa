//! Start, end, and the names of errors.

use std::ffi::c_char;

use crate::session;
use crate::status::{Status, answer, text};

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Status {
    answer(session::open)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit() -> Status {
    nvmlInit_v2()
}

/// The flags only ask to succeed where there is less to use.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: u32) -> Status {
    nvmlInit_v2()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Status {
    answer(session::close)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(status: Status) -> *const c_char {
    text(status).as_ptr()
}
