//! What a program with one stream need not wait for, and what becomes of that with its second stream.
//!
//! The end of a copy to the device whose source has been read is nothing that a program with one stream can see: all
//! that comes later comes after it. So such a copy is *quiet*: it does not count as work on its stream, and a
//! synchronisation with nothing else before it is answered in the client. Work on a second stream has only the
//! program's synchronisation to come after. So when that stream is made, the copies that the program may take for
//! finished are waited for, those that it was told of (*relied*); and the others count as work from then on.
//!
//! Never waited for is anything that the program was not told of. It may be behind a kernel that waits for what the
//! second stream is about to do.
//!
//! What is told is entered under a lock (`Context::telling`), and under the same lock the second stream's maker has copies
//! count and looks what was told; who tells looks again after. So of two threads one sees the other.

use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, OnceLock};

use super::objects::{Context, Stream};
use super::session::{Session, lock};

#[derive(Default)]
pub(crate) struct Concurrency {
    /// The first stream that the program was given, a default stream: the only one with quiet copies.
    first: OnceLock<Arc<Stream>>,
    /// The second has been made, and what it comes after is finished.
    several: OnceLock<()>,
    /// Copies are not quiet any more.
    loud: AtomicBool,
}

impl Session {
    /// As [`Stream::issued`], for a copy to the device whose source has been read. Called under the lane's lock.
    pub(super) fn quiet_on(&self, stream: &Stream, number: u64) {
        if self.concurrency.loud.load(Relaxed) {
            stream.issued(number);
        } else {
            stream.context.quiet.store(number, Release);
        }
    }

    /// The program is about to be told that copy `number` is finished. Gives whether it has to be, because there are
    /// several streams, which only the program's synchronisation keeps in order.
    pub(crate) fn tell(&self, stream: &Stream, number: u64) -> bool {
        let loud = || self.concurrency.loud.load(Relaxed);
        loud() || {
            stream.context.rely(number);
            loud()
        }
    }

    /// Whether the program has used several streams.
    pub(super) fn has_several_streams(&self) -> bool {
        self.concurrency.loud.load(Relaxed)
    }

    /// A stream is made. When this returns the second one may be used.
    pub(crate) fn add_stream(&self, stream: &Arc<Stream>) {
        stream.context.add(stream);
        let first = self.concurrency.first.get_or_init(|| stream.clone());
        if first.handle == stream.handle {
            return;
        }
        self.concurrency.several.get_or_init(|| {
            let context = &first.context;
            let relied = {
                let _lane = lock(&self.lane);
                let _telling = lock(&context.telling);
                self.concurrency.loud.store(true, Relaxed);
                let quiet = context.quiet.load(Relaxed);
                if quiet > first.last.load(Relaxed) {
                    first.issued(quiet);
                }
                context.relied.load(Relaxed)
            };
            if relied > first.done.load(Acquire).max(context.done.load(Acquire)) {
                self.wait_for_context(context, relied);
                first.finished(relied);
            }
        });
    }
}

impl Context {
    /// The program is about to be told that everything up to `number` is finished.
    fn rely(&self, number: u64) {
        let _telling = lock(&self.telling);
        self.relied.fetch_max(number, Release);
    }

    /// Whether all is `finished` as far as is known. If so, the program is told, of quiet copies too.
    pub(super) fn relying(&self, finished: impl Fn() -> bool) -> bool {
        // Before it is looked: a copy that comes meanwhile may come behind work that is not finished.
        let relied = self.relied.load(Acquire);
        let quiet = self.quiet.load(Acquire);
        if !finished() {
            return false;
        }
        if quiet > relied {
            self.rely(quiet);
            return finished();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fusewire_wire::frame::{FRAME_HEADER_BYTES, record_at};
    use fusewire_wire::ops::Record;
    use fusewire_wire::ops::table::{CopyInInline, Fence, StreamDestroy};
    use zerocopy::FromBytes;

    use crate::abi::result::CUDA_SUCCESS;
    use crate::runtime::objects::StreamKind;
    use crate::runtime::pending::Pending;

    use super::*;

    struct Setup {
        session: Session,
        one: Arc<Stream>,
        two: Arc<Stream>,
    }

    impl Setup {
        fn new() -> Self {
            let session = Session::new(1 << 20, 8, Duration::ZERO, true);
            let context = Arc::new(Context::new(1, 0, true, 0, 3020));
            let stream = |handle| Arc::new(Stream::new(handle, context.clone(), StreamKind::Created, 1, 0));
            let (one, two) = (stream(16), stream(32));
            session.add_stream(&one);
            Self { session, one, two }
        }

        fn copy(&self) -> u64 {
            let copy = CopyInInline { stream: self.one.handle, destination: 0, bytes: 4 };
            self.session.post_quiet_on(&self.one, &copy, &[&[0; 4]], None).unwrap()
        }

        /// Something that waits, as far as anybody knows, for what is done on the second stream.
        fn work(&self) -> u64 {
            self.session.post_on(&self.one, &StreamDestroy { stream: 48 }, &[]).unwrap()
        }

        /// What is to be sent next, behind room for a header.
        fn sent(&self) -> Option<Vec<u8>> {
            let mut batch = vec![0; FRAME_HEADER_BYTES];
            self.session.take(&mut batch).map(|_| batch)
        }

        /// Makes the second stream; gives what that waited for.
        fn second(&self) -> Option<Fence> {
            while self.sent().is_some() {}
            std::thread::scope(|scope| {
                let made = scope.spawn(|| self.session.add_stream(&self.two));
                let batch = loop {
                    match self.sent() {
                        Some(batch) => break batch,
                        None if made.is_finished() => return None,
                        None => std::thread::yield_now(),
                    }
                };
                let waited = !made.is_finished();
                for (_, pending) in lock(&self.session.pending).take() {
                    if let Pending::Call(waiter) = pending {
                        waiter.complete(CUDA_SUCCESS, Vec::new());
                    }
                }
                let (record, body, _) = record_at(&batch, FRAME_HEADER_BYTES, 1, 0).unwrap();
                assert_eq!(record.op, Fence::CODE, "a synchronisation of the stream may be refused");
                assert!(waited);
                Some(Fence::read_from_prefix(body).unwrap().0)
            })
        }
    }

    #[test]
    fn a_copy_counts_as_work_once_there_is_a_second_stream() {
        let setup = Setup::new();
        let number = setup.copy();
        assert!(setup.one.is_known_finished(), "nothing can overtake it");
        // Else the second stream would have the first waited for.
        setup.one.finished(number);
        assert!(setup.second().is_none());
        setup.copy();
        assert!(!setup.one.is_known_finished() && setup.two.is_known_finished());
    }

    #[test]
    fn the_second_stream_comes_after_the_copies_that_the_program_was_told_of_and_no_more() {
        let setup = Setup::new();
        let told = setup.copy();
        assert!(setup.one.is_known_finished());
        setup.work();
        let untold = setup.copy();
        assert!(!setup.one.is_known_finished());
        assert_eq!(setup.second().unwrap().through, told);
        assert!(!setup.one.is_known_finished());
        assert_eq!(setup.one.last.load(Relaxed), untold);
    }

    #[test]
    fn a_copy_that_nobody_was_told_of_is_not_waited_for_but_counts() {
        let setup = Setup::new();
        setup.copy();
        assert!(setup.second().is_none());
        assert!(!setup.one.is_known_finished() && !setup.one.context.is_known_finished());
    }

    #[test]
    fn a_synchronous_copy_is_told_of_at_once() {
        let setup = Setup::new();
        let number = setup.copy();
        assert!(!setup.session.tell(&setup.one, number), "with one stream nobody can tell");
        assert_eq!(setup.second().unwrap().through, number);
        assert!(setup.one.is_known_finished());
        assert!(setup.session.tell(&setup.one, setup.copy()));
    }
}
