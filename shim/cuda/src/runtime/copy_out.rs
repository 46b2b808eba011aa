//! Device-to-host copies that are under way, and where their data land.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use fusewire_link::RawSliceMut;

use crate::abi::result::CUDA_SUCCESS;
use crate::abi::types::CUresult;

use super::objects::Stream;
use super::session::lock;
use super::waiter::Waiter;

/// Where the data of a device-to-host copy go.
pub(crate) enum Landing {
    /// Straight into the program's memory.
    Direct(usize),
    /// Into a buffer, from which `finish` takes them when all have come.
    Packed(Mutex<Box<[u8]>>, Mutex<Option<Finish>>),
}

/// Unpacks a copy that has come whole.
pub(crate) type Finish = Box<dyn FnOnce(&[u8]) + Send>;

/// A device-to-host copy that is under way.
pub(crate) struct CopyOut {
    pub(crate) stream: Arc<Stream>,
    pub(crate) bytes: usize,
    pub(crate) landing: Landing,
    /// Host memory that is written: from the first byte to the last, with what may lie between.
    pub(crate) writes: Range<u64>,
    /// The caller, if it waits.
    pub(crate) waiter: Option<Arc<Waiter>>,
}

impl Landing {
    /// A buffer of so many bytes, from which `finish` takes them.
    pub(crate) fn packed(bytes: usize, finish: impl FnOnce(&[u8]) + Send + 'static) -> Self {
        Self::Packed(Mutex::new(vec![0; bytes].into_boxed_slice()), Mutex::new(Some(Box::new(finish))))
    }
}

impl CopyOut {
    /// Whether the copy may write a byte of `range`.
    pub(crate) fn writes_to(&self, range: &Range<u64>) -> bool {
        self.writes.start < range.end && range.start < self.writes.end
    }

    /// The memory for `length` bytes at `offset`, if they belong to the copy.
    pub(crate) fn room(&self, offset: u64, length: usize) -> Option<RawSliceMut> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        if end > self.bytes {
            return None;
        }
        let start = match &self.landing {
            Landing::Direct(address) => std::ptr::with_exposed_provenance_mut::<u8>(*address),
            Landing::Packed(buffer, _) => lock(buffer).as_mut_ptr(),
        };
        // SAFETY: `offset + length` was checked against the copy. A direct destination is the program's,
        // which the driver's rules make it keep until the copy is finished; a buffer lives as long as the
        // copy, which whoever writes there holds.
        Some(unsafe { RawSliceMut::new(start.add(offset), length) })
    }

    /// Puts bytes that came in the command lane where they belong.
    pub(crate) fn place(&self, offset: u64, data: &[u8]) -> bool {
        let Some(room) = self.room(offset, data.len()) else { return false };
        // SAFETY: `room` checked the range; the source is a received record, elsewhere in memory.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), room.start(), data.len()) };
        true
    }

    /// All data are there, or none will come.
    pub(crate) fn complete(&self, number: u64, status: CUresult) {
        if status == CUDA_SUCCESS {
            if let Landing::Packed(buffer, finish) = &self.landing {
                let finish = lock(finish).take();
                if let Some(finish) = finish {
                    finish(&lock(buffer));
                }
            }
            // Last: who sees the stream finished reads what was unpacked.
            self.stream.finished(number);
        }
        if let Some(waiter) = &self.waiter {
            waiter.complete(status, Vec::new());
        }
    }
}
