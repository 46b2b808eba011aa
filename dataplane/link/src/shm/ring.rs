//! A ring of bytes with one writer and one reader in two processes.
//!
//! Positions count bytes for ever. Each end keeps its own position to itself and only publishes it; the peer's
//! is read once for each use and has to lie within one ring of ours, so a forged position can make the peer's
//! own data wrong and nothing else. State: `taken <= written <= taken + RING`, with wrapping arithmetic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::area::{Area, RING};

/// The peer's position cannot be: it is not within one ring of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forged;

/// The writing end.
pub(super) struct Producer {
    _area: Arc<Area>,
    written: *mut u8,
    taken: *mut u8,
    data: *mut u8,
    position: u64,
    /// The last good position of the reader.
    seen: u64,
}

/// The reading end.
pub(super) struct Consumer {
    _area: Arc<Area>,
    written: *mut u8,
    taken: *mut u8,
    data: *mut u8,
    position: u64,
}

// SAFETY: the pointers lead into the area, which the value holds and which any thread may use.
unsafe impl Send for Producer {}
// SAFETY: as above.
unsafe impl Send for Consumer {}

/// # Safety
/// `word` must be aligned to 8 bytes and stay mapped for `'a`, and be used as an atomic only.
unsafe fn atomic<'a>(word: *mut u8) -> &'a AtomicU64 {
    // SAFETY: passed on to the caller.
    unsafe { AtomicU64::from_ptr(word.cast()) }
}

fn between(ahead: u64, behind: u64) -> Result<usize, Forged> {
    let distance = ahead.wrapping_sub(behind);
    if distance <= RING as u64 { Ok(distance as usize) } else { Err(Forged) }
}

impl Producer {
    /// # Safety
    /// `written` and `taken` are aligned words, and `data` is one ring long, inside `area`; nobody else in
    /// this process writes there.
    pub(super) unsafe fn new(area: Arc<Area>, written: *mut u8, taken: *mut u8, data: *mut u8) -> Self {
        Producer { _area: area, written, taken, data, position: 0, seen: 0 }
    }

    /// Bytes that can be written now. The reader is looked at only if what was known before is not enough.
    pub(super) fn room(&mut self, wanted: usize) -> Result<usize, Forged> {
        let known = RING - between(self.position, self.seen)?;
        if known >= wanted.min(RING) {
            return Ok(known);
        }
        // SAFETY: see `new`.
        let taken = unsafe { atomic(self.taken) }.load(Ordering::Acquire);
        if taken.wrapping_sub(self.seen) > self.position.wrapping_sub(self.seen) {
            return Err(Forged);
        }
        let room = RING - between(self.position, taken)?;
        self.seen = taken;
        Ok(room)
    }

    /// Copies in as much as there is room for. The reader sees it only after [`publish`](Self::publish).
    ///
    /// # Safety
    /// `from` must be readable for `bytes`.
    pub(super) unsafe fn write(&mut self, from: *const u8, bytes: usize) -> Result<usize, Forged> {
        let bytes = bytes.min(self.room(bytes)?);
        let at = (self.position % RING as u64) as usize;
        let first = bytes.min(RING - at);
        // SAFETY: both pieces lie in the ring; the source is the caller's. The peer may read or write them at
        // the same time: raw copies, whose result only the peer sees.
        unsafe {
            std::ptr::copy_nonoverlapping(from, self.data.add(at), first);
            std::ptr::copy_nonoverlapping(from.add(first), self.data, bytes - first);
        }
        self.position = self.position.wrapping_add(bytes as u64);
        Ok(bytes)
    }

    /// Publishes a position that cannot be.
    #[cfg(test)]
    pub(super) fn forge(&self, position: u64) {
        // SAFETY: see `new`.
        unsafe { atomic(self.written) }.store(position, Ordering::Release);
    }

    /// Lets the reader see what has been written.
    pub(super) fn publish(&self) {
        // SAFETY: see `new`.
        unsafe { atomic(self.written) }.store(self.position, Ordering::Release);
    }
}

impl Consumer {
    /// # Safety
    /// As for [`Producer::new`].
    pub(super) unsafe fn new(area: Arc<Area>, written: *mut u8, taken: *mut u8, data: *mut u8) -> Self {
        Consumer { _area: area, written, taken, data, position: 0 }
    }

    /// Bytes that are there.
    pub(super) fn available(&self) -> Result<usize, Forged> {
        // SAFETY: see `new`.
        let written = unsafe { atomic(self.written) }.load(Ordering::Acquire);
        between(written, self.position)
    }

    /// Copies out at most `most` of what is there. The writer gets the room only after
    /// [`publish`](Self::publish).
    ///
    /// # Safety
    /// `into` must be writable for `most`.
    pub(super) unsafe fn read(&mut self, into: *mut u8, most: usize) -> Result<usize, Forged> {
        let bytes = most.min(self.available()?);
        let at = (self.position % RING as u64) as usize;
        let first = bytes.min(RING - at);
        // SAFETY: both pieces lie in the ring; the destination is the caller's. What the peer writes there
        // meanwhile makes the copied bytes arbitrary, which bytes from a peer are anyway.
        unsafe {
            std::ptr::copy_nonoverlapping(self.data.add(at), into, first);
            std::ptr::copy_nonoverlapping(self.data, into.add(first), bytes - first);
        }
        self.position = self.position.wrapping_add(bytes as u64);
        Ok(bytes)
    }

    /// Gives the room that has been read back to the writer.
    pub(super) fn publish(&self) {
        // SAFETY: see `new`.
        unsafe { atomic(self.taken) }.store(self.position, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;

    fn ends() -> (Producer, Consumer) {
        let (area, _) = Area::create(0).unwrap();
        (area.ends(0, Side::Client).unwrap().out, area.ends(0, Side::Server).unwrap().back)
    }

    fn write(out: &mut Producer, bytes: &[u8]) -> Result<usize, Forged> {
        // SAFETY: a live slice.
        let written = unsafe { out.write(bytes.as_ptr(), bytes.len()) };
        out.publish();
        written
    }

    fn read(back: &mut Consumer, most: usize) -> Result<Vec<u8>, Forged> {
        let mut bytes = vec![0; most];
        // SAFETY: a live buffer.
        let got = unsafe { back.read(bytes.as_mut_ptr(), most) }?;
        back.publish();
        bytes.truncate(got);
        Ok(bytes)
    }

    #[test]
    fn bytes_keep_their_order_around_the_end() {
        let (mut out, mut back) = ends();
        let (mut next, mut due) = (0u8, 0u8);
        for size in (1..400).map(|n| n * 997 % RING) {
            let bytes: Vec<u8> = (0..size)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let written = write(&mut out, rest).unwrap();
                rest = &rest[written..];
                for byte in read(&mut back, RING / 3).unwrap() {
                    due = due.wrapping_add(1);
                    assert_eq!(byte, due);
                }
            }
        }
    }

    #[test]
    fn a_full_ring_takes_nothing_more() {
        let (mut out, mut back) = ends();
        assert_eq!(write(&mut out, &vec![7; RING + 5]), Ok(RING));
        assert_eq!(write(&mut out, &[1]), Ok(0));
        assert_eq!(read(&mut back, 3).unwrap(), [7; 3]);
        assert_eq!(write(&mut out, &[1; 9]), Ok(3));
    }

    #[test]
    fn forged_positions_are_noticed() {
        for forged in [RING as u64 + 1, u64::MAX, 1 << 63] {
            let (mut out, mut back) = ends();
            // SAFETY: words of the live area.
            unsafe { atomic(back.written) }.store(forged, Ordering::Relaxed);
            assert_eq!(back.available(), Err(Forged));
            assert_eq!(read(&mut back, 10), Err(Forged));
            write(&mut out, &[1, 2]).unwrap();
            // SAFETY: as above.
            unsafe { atomic(out.taken) }.store(forged, Ordering::Relaxed);
            assert_eq!(out.room(RING), Err(Forged));
            assert_eq!(write(&mut out, &vec![0; RING]), Err(Forged));
        }
    }
}
