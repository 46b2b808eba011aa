//! What NVML functions answer.

use std::ffi::CStr;

/// `nvmlReturn_t`.
pub type Status = u32;

pub const SUCCESS: Status = 0;
pub const UNINITIALIZED: Status = 1;
pub const INVALID_ARGUMENT: Status = 2;
pub const NOT_SUPPORTED: Status = 3;
pub const NOT_FOUND: Status = 6;
pub const INSUFFICIENT_SIZE: Status = 7;
pub const DRIVER_NOT_LOADED: Status = 9;
pub const TIMEOUT: Status = 10;
pub const GPU_IS_LOST: Status = 15;
pub const ARGUMENT_VERSION_MISMATCH: Status = 25;

/// The last status that has a text of its own, but for 999.
const LAST: Status = 29;

/// What `nvmlErrorString` says.
#[must_use]
pub fn text(status: Status) -> &'static CStr {
    match status {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        5 => c"Already Initialized",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        8 => c"Insufficient External Power",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        11 => c"Interrupt Request Issue",
        12 => c"NVML Shared Library Not Found",
        13 => c"Function Not Found",
        14 => c"Corrupted infoROM",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        17 => c"GPU access blocked by the operating system",
        18 => c"Driver/library version mismatch",
        19 => c"In use by another client",
        20 => c"Insufficient Memory",
        21 => c"No data",
        22 => c"Operation not supported with ECC enabled",
        23 => c"Insufficient resources",
        24 => c"Requested frequency not supported",
        25 => c"Argument version mismatch",
        26 => c"Function is deprecated",
        27 => c"Not Ready",
        28 => c"GPU not found",
        LAST => c"Invalid state",
        _ => c"Unknown Error",
    }
}

/// Runs an entry point's body.
#[inline]
pub(crate) fn answer(body: impl FnOnce() -> Result<(), Status>) -> Status {
    match body() {
        Ok(()) => SUCCESS,
        Err(status) => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_text() {
        let mut seen = std::collections::BTreeSet::new();
        for status in (0..=LAST).chain([999]) {
            assert!(seen.insert(text(status)), "{status}");
        }
        assert_eq!(text(12345), text(999));
    }
}
