//! The rest of the interface: functions that only say that they are not supported. Written by `build.rs`.

use crate::status::{NOT_SUPPORTED, Status};
use crate::{report, session};

#[cold]
fn not_supported(function: &'static str) -> Status {
    if let Err(status) = session::check() {
        return status;
    }
    report::not_carried(function);
    NOT_SUPPORTED
}

include!(concat!(env!("OUT_DIR"), "/stubs.rs"));
