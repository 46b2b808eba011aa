//! Device-to-host copies that are under way, and where their data land.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};

use fusewire_link::RawSliceMut;
use fusewire_wire::ops::table::MIRROR_READ_BYTES;

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

/// Parts of a copy, in bytes from its beginning. Those that come side by side are one, so that there are few.
#[derive(Default)]
struct Come {
    few: [Range<u64>; 8],
    more: Vec<Range<u64>>,
}

impl Come {
    fn bytes(&self) -> u64 {
        self.few.iter().chain(&self.more).map(|part| part.end - part.start).sum()
    }

    fn add(&mut self, part: Range<u64>) {
        let beside = |known: &&mut Range<u64>| known.is_empty() || known.end == part.start;
        match self.few.iter_mut().find(beside) {
            Some(place) if place.is_empty() => *place = part,
            Some(place) => place.end = part.end,
            None => self.more.push(part),
        }
    }
}

/// A device-to-host copy that is under way.
pub(crate) struct CopyOut {
    pub(crate) stream: Arc<Stream>,
    pub(crate) bytes: usize,
    pub(crate) landing: Landing,
    /// Host memory that is written: from the first byte to the last, with what may lie between.
    pub(crate) writes: Range<u64>,
    /// It brings back what the device changed in a mirror: nobody has asked for it.
    pub(crate) is_of_mirror: bool,
    /// The caller, if it waits.
    waiter: Option<Arc<Waiter>>,
    /// Earlier copies into the same memory, that were under way when this one was published.
    before: Mutex<Vec<Arc<CopyOut>>>,
    alone: AtomicBool,
    /// What has come, and whether it is all over.
    come: Mutex<Come>,
    over: AtomicBool,
    unpacked: AtomicBool,
}

impl Landing {
    /// A buffer of so many bytes, from which `finish` takes them.
    pub(crate) fn packed(bytes: usize, finish: impl FnOnce(&[u8]) + Send + 'static) -> Self {
        Self::Packed(Mutex::new(vec![0; bytes].into_boxed_slice()), Mutex::new(Some(Box::new(finish))))
    }
}

impl CopyOut {
    pub(crate) fn new(
        stream: Arc<Stream>,
        bytes: usize,
        landing: Landing,
        writes: Range<u64>,
        waiter: Option<Arc<Waiter>>,
    ) -> Self {
        Self {
            stream,
            bytes,
            landing,
            writes,
            is_of_mirror: false,
            waiter,
            before: Mutex::default(),
            alone: AtomicBool::new(true),
            come: Mutex::default(),
            over: AtomicBool::new(false),
            unpacked: AtomicBool::new(false),
        }
    }

    /// The same copy, of what the device changed in a mirror.
    pub(crate) fn of_mirror(self) -> Self {
        Self { is_of_mirror: true, ..self }
    }

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

    /// The copy is published behind others into the same memory.
    pub(crate) fn comes_behind(&self, others: Vec<Arc<CopyOut>>) {
        self.alone.store(others.is_empty(), Release);
        *lock(&self.before) = others;
    }

    pub(crate) fn before(&self) -> Vec<Arc<CopyOut>> {
        if self.alone.load(Acquire) { Vec::new() } else { lock(&self.before).clone() }
    }

    /// Brings what is to be unpacked to its place, if all of it has come. Else that is done at the end.
    ///
    /// What the device changed in a mirror comes behind no copy that is still to come: in front of that the device has
    /// waited until it had come. And of two such, the one that came first was read first ([`MIRROR_READ_BYTES`]).
    pub(crate) fn unpack_if_whole(&self) {
        let Landing::Packed(buffer, finish) = &self.landing else { return };
        let is_whole = lock(&self.come).bytes() == self.bytes as u64;
        let is_read_in_order = self.is_of_mirror && self.bytes as u64 <= MIRROR_READ_BYTES;
        let is_next =
            || is_read_in_order || self.before().iter().all(|other| other.has_brought(&self.writes));
        if is_whole && is_next() {
            let finish = lock(finish).take();
            if let Some(finish) = finish {
                finish(&lock(buffer));
                self.unpacked.store(true, Release);
            }
        }
    }

    pub(crate) fn is_packed(&self) -> bool {
        matches!(self.landing, Landing::Packed(..))
    }

    /// Whether all of `range` is written straight: who comes behind this copy comes behind all before it.
    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        !self.is_packed() && self.writes.start <= range.start && range.end <= self.writes.end
    }

    /// Whether nothing is still to come that belongs under these bytes.
    pub(crate) fn is_clear(&self, offset: u64, length: usize) -> bool {
        // What is unpacked goes to the program's memory at the end, behind all that was before.
        let Landing::Direct(address) = self.landing else { return true };
        if self.alone.load(Acquire) {
            return true;
        }
        let start = (address as u64).saturating_add(offset);
        let range = start..start.saturating_add(length as u64);
        lock(&self.before).iter().all(|other| other.has_brought(&range))
    }

    /// Whether all is there that the copy brings into this range.
    fn has_brought(&self, range: &Range<u64>) -> bool {
        if self.over.load(Acquire) || !self.writes_to(range) {
            return true;
        }
        let Landing::Direct(address) = self.landing else { return self.unpacked.load(Acquire) };
        let at = |offset| (address as u64).saturating_add(offset);
        let shared = |piece: &Range<u64>| {
            let (start, end) = (at(piece.start), at(piece.end));
            end.min(range.end).saturating_sub(start.max(range.start))
        };
        let all = shared(&(0..self.bytes as u64));
        let come = lock(&self.come);
        come.few.iter().chain(&come.more).map(shared).sum::<u64>() == all
    }

    /// Data are in their place.
    pub(crate) fn has_come(&self, offset: u64, length: usize) {
        lock(&self.come).add(offset..offset.saturating_add(length as u64));
    }

    /// Nothing more comes.
    pub(crate) fn is_over(&self) {
        self.over.store(true, Release);
        // Or each copy would keep all that were before it.
        let before = std::mem::take(&mut *lock(&self.before));
        drop(before);
    }

    /// All data are there, or none will come.
    pub(crate) fn complete(&self, number: u64, status: CUresult) {
        // Taken in any case: it may hold what others wait for.
        let finish = match &self.landing {
            Landing::Packed(buffer, finish) => lock(finish).take().map(|finish| (finish, buffer)),
            Landing::Direct(_) => None,
        };
        if status == CUDA_SUCCESS {
            if let Some((finish, buffer)) = finish {
                finish(&lock(buffer));
            }
            // Last: who sees the stream finished reads what was unpacked.
            self.stream.finished(number);
        }
        if let Some(waiter) = &self.waiter {
            waiter.complete(status, Vec::new());
        }
    }
}
