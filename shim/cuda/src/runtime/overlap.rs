//! Copies from the device into the same host memory, one behind the other.
//!
//! The GPU makes them in order; their data travel on several lanes, and may come in another. What comes for memory
//! into which an earlier copy still has something to bring is put aside until that has come. The program sees what
//! the later copy has brought, as natively: it may look once that is finished, and all data are in place then.

use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};

use super::copy_out::CopyOut;
use super::session::lock;

/// The copies that are under way, and data that came before their time.
#[derive(Default)]
pub(crate) struct Overlaps {
    copies: Mutex<Vec<Arc<CopyOut>>>,
    early: Mutex<Vec<Early>>,
    /// How many there are of those.
    count: AtomicUsize,
    /// How many copies are to be unpacked.
    packed: AtomicUsize,
}

/// Data that came before what belongs under them.
struct Early {
    copy: Arc<CopyOut>,
    offset: u64,
    data: Vec<u8>,
}

impl Overlaps {
    /// A copy is about to be published.
    pub(crate) fn enter(&self, copy: &Arc<CopyOut>) {
        let mut copies = lock(&self.copies);
        let mut before = Vec::new();
        for other in copies.iter().rev().filter(|other| other.writes_to(&copy.writes)) {
            before.push(other.clone());
            // It comes behind all that were before it.
            if other.covers(&copy.writes) {
                break;
            }
        }
        before.reverse();
        copy.comes_behind(before);
        copies.push(copy.clone());
        self.packed.fetch_add(copy.is_packed().into(), AcqRel);
    }

    /// Data are in their place.
    pub(crate) fn landed(&self, copy: &CopyOut, offset: u64, length: usize) {
        copy.has_come(offset, length);
        if self.count.load(Acquire) != 0 {
            self.release(&mut lock(&self.early));
        }
    }

    /// Data have come, and are not in their place: they are brought there as soon as that may be.
    pub(crate) fn keep(&self, copy: &Arc<CopyOut>, offset: u64, data: Vec<u8>) {
        let mut early = lock(&self.early);
        early.push(Early { copy: copy.clone(), offset, data });
        self.count.store(early.len(), Release);
        // What they waited for may have come meanwhile.
        self.release(&mut early);
    }

    /// Unpacks what has come whole, in the order of the copies.
    pub(crate) fn unpack_whole(&self) {
        if self.packed.load(Acquire) == 0 {
            return;
        }
        let packed: Vec<_> = lock(&self.copies).iter().filter(|copy| copy.is_packed()).cloned().collect();
        for copy in packed {
            copy.unpack_if_whole();
        }
        if self.count.load(Acquire) != 0 {
            self.release(&mut lock(&self.early));
        }
    }

    /// All data of a copy have come, if it is `good`, or none will any more: `complete` tells who waits.
    pub(crate) fn finish(&self, copy: &CopyOut, good: bool, complete: impl FnOnce()) {
        // Of two streams the later one may be told of first. What is to be unpacked under this copy is there.
        for under in copy.before() {
            under.unpack_if_whole();
        }
        if self.count.load(Acquire) != 0 {
            let mut early = lock(&self.early);
            // What they still wait for would be a copy in no order with this one.
            for mine in early.extract_if(.., |early| std::ptr::eq(&raw const *early.copy, copy)) {
                if good {
                    copy.place(mine.offset, &mine.data);
                }
            }
            self.count.store(early.len(), Release);
        }
        complete();
        let mut copies = lock(&self.copies);
        let at = copies.iter().position(|other| std::ptr::eq(&raw const **other, copy));
        let gone = at.map(|at| copies.remove(at));
        drop(copies);
        if gone.is_some() {
            self.packed.fetch_sub(copy.is_packed().into(), AcqRel);
        }
        // What a copy has to say when it goes is said under no lock.
        drop(gone);
        copy.is_over();
        if self.count.load(Acquire) != 0 {
            self.release(&mut lock(&self.early));
        }
    }

    /// The session is over, and its lanes are: nothing is brought anywhere any more.
    pub(crate) fn abandon(&self) {
        let mut early = lock(&self.early);
        early.clear();
        self.count.store(0, Release);
    }

    /// Brings to their places what need not wait any more, until nothing is left that need not.
    fn release(&self, early: &mut Vec<Early>) {
        while let Some(at) =
            early.iter().position(|early| early.copy.is_clear(early.offset, early.data.len()))
        {
            let Early { copy, offset, data } = early.remove(at);
            if copy.place(offset, &data) {
                copy.has_come(offset, data.len());
            }
        }
        self.count.store(early.len(), Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::copy_out::Landing;
    use crate::runtime::objects::{Context, Stream, StreamKind};

    fn copy(to: &mut [u8], landing: Landing) -> Arc<CopyOut> {
        let stream =
            Arc::new(Stream::new(16, Arc::new(Context::new(1, 0, true, 0, 3020)), StreamKind::Created, 1, 0));
        let start = to.as_ptr().expose_provenance() as u64;
        Arc::new(CopyOut::new(stream, to.len(), landing, start..start + to.len() as u64, None))
    }

    fn direct(to: &mut [u8]) -> Arc<CopyOut> {
        let address = to.as_mut_ptr().expose_provenance();
        copy(to, Landing::Direct(address))
    }

    /// One that is unpacked at its end.
    fn packed(to: &mut [u8]) -> Arc<CopyOut> {
        let address = to.as_mut_ptr().expose_provenance();
        let unpack = move |data: &[u8]| {
            let to = std::ptr::with_exposed_provenance_mut::<u8>(address);
            // SAFETY: the test's memory, which lives as long as the copy.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        };
        let landing = Landing::packed(to.len(), unpack);
        copy(to, landing)
    }

    /// As a lane does.
    fn come(overlaps: &Overlaps, copy: &Arc<CopyOut>, offset: u64, data: &[u8]) {
        if copy.is_clear(offset, data.len()) {
            copy.place(offset, data);
            overlaps.landed(copy, offset, data.len());
        } else {
            overlaps.keep(copy, offset, data.to_vec());
        }
    }

    fn end(overlaps: &Overlaps, copy: &CopyOut) {
        overlaps.finish(copy, true, || copy.complete(1, 0));
    }

    #[test]
    fn later_copies_lie_on_top_however_their_data_come() {
        let mut memory = [0; 8];
        let overlaps = Overlaps::default();
        let (one, two, three) = (direct(&mut memory), direct(&mut memory[2..6]), direct(&mut memory));
        for copy in [&one, &two, &three] {
            overlaps.enter(copy);
        }
        come(&overlaps, &three, 4, &[3; 4]);
        come(&overlaps, &two, 0, &[2; 4]);
        come(&overlaps, &three, 0, &[3; 4]);
        assert_eq!(memory, [0; 8], "nothing may be there before the first");
        come(&overlaps, &one, 4, &[1; 4]);
        assert_eq!(memory, [0, 0, 0, 0, 1, 1, 1, 1], "the second is one piece, half of which has to wait");
        come(&overlaps, &one, 0, &[1; 4]);
        assert_eq!(memory, [3; 8]);
        for copy in [&one, &two, &three] {
            end(&overlaps, copy);
        }
        assert_eq!(memory, [3; 8]);
        assert!(lock(&overlaps.copies).is_empty());
    }

    #[test]
    fn what_nothing_lies_under_goes_to_its_place_at_once() {
        let mut memory = [0; 8];
        let overlaps = Overlaps::default();
        let (one, two) = (direct(&mut memory[..6]), direct(&mut memory));
        overlaps.enter(&one);
        overlaps.enter(&two);
        come(&overlaps, &one, 0, &[1; 3]);
        come(&overlaps, &two, 0, &[2; 3]);
        come(&overlaps, &two, 6, &[2; 2]);
        assert_eq!(memory, [2, 2, 2, 0, 0, 0, 2, 2]);
        assert_eq!(overlaps.count.load(Acquire), 0);
    }

    #[test]
    fn a_copy_that_ends_has_all_its_data_in_place() {
        let mut memory = [0; 4];
        let overlaps = Overlaps::default();
        let (one, two) = (direct(&mut memory), direct(&mut memory));
        overlaps.enter(&one);
        overlaps.enter(&two);
        come(&overlaps, &two, 0, &[2; 4]);
        end(&overlaps, &two);
        assert_eq!(memory, [2; 4], "the first was in no order with it");
        end(&overlaps, &one);
    }

    #[test]
    fn what_is_unpacked_lies_under_a_later_copy_that_is_told_of_first() {
        let mut memory = [0; 4];
        let overlaps = Overlaps::default();
        let one = packed(&mut memory);
        let two = direct(&mut memory[..2]);
        overlaps.enter(&one);
        overlaps.enter(&two);
        come(&overlaps, &one, 0, &[1; 4]);
        come(&overlaps, &two, 0, &[2; 2]);
        end(&overlaps, &two);
        assert_eq!(memory, [2, 2, 1, 1]);
        end(&overlaps, &one);
        assert_eq!(memory, [2, 2, 1, 1]);
    }

    #[test]
    fn copies_that_are_unpacked_are_waited_for_to_their_end() {
        let mut memory = [0; 4];
        let overlaps = Overlaps::default();
        let one = packed(&mut memory);
        let two = direct(&mut memory);
        overlaps.enter(&one);
        overlaps.enter(&two);
        come(&overlaps, &one, 0, &[1; 4]);
        come(&overlaps, &two, 0, &[2; 4]);
        end(&overlaps, &one);
        assert_eq!(memory, [2; 4]);
        end(&overlaps, &two);
        assert_eq!(memory, [2; 4]);
    }
}
