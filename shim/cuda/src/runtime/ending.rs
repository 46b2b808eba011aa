//! How a session ends: the first who finds it lost says why, the bulk lanes let go of the program's memory, and only
//! then everybody is told.
//!
//! Lanes send from the program's memory and receive into it, from threads of their own. A caller that is told of the
//! end may free what it waited for, so nobody may be told before.

use std::sync::atomic::Ordering::Relaxed;

use fusewire_link::BulkHandle;

use crate::abi::result::{CUDA_ERROR_DEVICE_UNAVAILABLE, CUDA_SUCCESS};

use super::pending::Pending;
use super::session::{Session, lock};
use super::{log, process};

#[derive(Default)]
pub(super) struct Ending {
    /// Bulk lanes that may still touch the program's memory.
    lanes: usize,
    /// Why it is lost, once it is.
    why: Option<String>,
}

impl Session {
    /// The lanes of the session, which count as [opened](Self::lane_opened).
    pub(crate) fn set_bulk(&self, lanes: Vec<BulkHandle>) {
        let _ = self.bulk.set(lanes);
        if self.is_lost() {
            self.abort_lanes();
        }
    }

    /// A bulk lane will use the program's memory, until it is [closed](Self::lane_closed).
    pub(crate) fn lane_opened(&self) {
        lock(&self.ending).lanes += 1;
    }

    /// A bulk lane uses no memory any more.
    pub(crate) fn lane_closed(&self) {
        let mut ending = lock(&self.ending);
        ending.lanes = ending.lanes.saturating_sub(1);
        let last = ending.lanes == 0;
        let why = ending.why.clone();
        drop(ending);
        if let (true, Some(why)) = (last, why) {
            self.end(&why);
        }
    }

    /// Whether the session is over, or about to be.
    pub(crate) fn is_lost(&self) -> bool {
        lock(&self.ending).why.is_some()
    }

    fn abort_lanes(&self) {
        for lane in self.bulk.get().into_iter().flatten() {
            lane.abort();
        }
    }

    /// Ends the session, as soon as no lane uses the program's memory any more. The first reason counts.
    pub(crate) fn lose(&self, why: &str) {
        let mut ending = lock(&self.ending);
        if ending.why.is_some() {
            return;
        }
        ending.why = Some(why.to_owned());
        let alone = ending.lanes == 0;
        drop(ending);
        process::session_over();
        self.abort_lanes();
        if alone {
            self.end(why);
        }
    }

    /// Everything that waits gets `CUDA_ERROR_DEVICE_UNAVAILABLE`, and every later call.
    fn end(&self, why: &str) {
        // Before anybody hears that his memory is his own again.
        self.overlaps.abandon();
        let first = self.lost.compare_exchange(CUDA_SUCCESS, CUDA_ERROR_DEVICE_UNAVAILABLE, Relaxed, Relaxed);
        if first.is_err() {
            return;
        }
        if !self.quiet {
            log::say(&format!(
                "the session with the GPU server is lost: {why}; every CUDA call now returns \
                 CUDA_ERROR_DEVICE_UNAVAILABLE (46). Start the program again; if it happens again, look at the \
                 server's log."
            ));
        }
        // A caller that found the session alive enters its pending operation under the lane's lock.
        drop(lock(&self.lane));
        self.room.notify_all();
        let pending = lock(&self.pending).take();
        for (number, pending) in pending {
            match pending {
                Pending::Call(waiter) | Pending::Query(waiter, _) => {
                    waiter.complete(CUDA_ERROR_DEVICE_UNAVAILABLE, Vec::new());
                }
                Pending::CopyOut(copy) => {
                    let complete = || copy.complete(number, CUDA_ERROR_DEVICE_UNAVAILABLE);
                    self.overlaps.finish(&copy, false, complete);
                }
                Pending::Event(event, _) => event.reach(number, CUDA_ERROR_DEVICE_UNAVAILABLE),
                Pending::EventWatch(asked) => asked.answered(CUDA_ERROR_DEVICE_UNAVAILABLE),
                Pending::EventQuery(waiter, asked) => {
                    asked.answered(CUDA_ERROR_DEVICE_UNAVAILABLE);
                    waiter.complete(CUDA_ERROR_DEVICE_UNAVAILABLE, Vec::new());
                }
                Pending::Stop(stop) => stop.give_up(),
                Pending::Reclaim(_) | Pending::HostFunction { .. } | Pending::Watch(_) => {}
            }
        }
        self.transfers.abandon();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::RawFd;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use fusewire_link::bulk::{BulkEngine, Outbox};
    use fusewire_link::compress::Compress;
    use fusewire_link::{BulkMover, BulkSink, LinkError, RawSlice, Waker, memory};
    use fusewire_wire::ops::table::{CopyIn, CopyOut as CopyOutOp};

    use super::*;
    use crate::runtime::copy_out::{CopyOut, Landing};
    use crate::runtime::objects::{Context, Stream, StreamKind};
    use crate::runtime::pump::Landings;
    use crate::runtime::session::Room;
    use crate::runtime::waiter::Waiter;

    /// A lane that goes on with what it has until the test lets it.
    struct Holding {
        inner: Box<dyn BulkEngine>,
        let_go: Receiver<()>,
    }

    impl BulkEngine for Holding {
        fn run(self: Box<Self>, outbox: &Outbox, sink: &mut dyn BulkSink) -> LinkError {
            self.let_go.recv().unwrap();
            self.inner.run(outbox, sink)
        }

        fn waker(&self) -> Waker {
            self.inner.waker()
        }

        fn descriptors(&self) -> Vec<RawFd> {
            Vec::new()
        }
    }

    #[test]
    fn nobody_hears_of_the_end_while_a_lane_may_use_his_memory() {
        let session = Arc::new(Session::new(1 << 20, 8, Duration::ZERO, true));
        let mut lanes = Vec::new();
        let mut let_go = Vec::new();
        for lane in 0..2 {
            let (tell, told) = channel();
            let engine = Holding { inner: Box::new(memory::bulk_pair().unwrap().0), let_go: told };
            let sink = Landings::new(session.clone(), lane, Compress::Off);
            let queue = session.outgoing.clone();
            lanes.push(BulkMover::spawn_for(queue, Box::new(engine), Vec::new(), sink).unwrap());
            let_go.push(tell);
        }
        session.set_bulk(lanes);
        let context = Arc::new(Context::new(1, 0, true, 0, 3020));
        let stream = Arc::new(Stream::new(16, context, StreamKind::Created, 1, 0));
        let source = vec![1u8; 3 << 20];
        // SAFETY: the vector outlives the lanes.
        let slice = unsafe { RawSlice::new(source.as_ptr(), source.len()) };
        let record =
            |first_chunk| CopyIn { stream: 16, destination: 0, bytes: source.len() as u64, first_chunk };
        let (_, sent) = session.send_bulk(&stream, slice, None, true, record).unwrap();
        let waiter = Waiter::new();
        let landing = Landing::Direct(0x1000);
        let copy = CopyOut::new(stream.clone(), 8, landing, 0x1000..0x1008, Some(waiter.clone()));
        let record = CopyOutOp { stream: 16, source: 0, bytes: 8 };
        session.post_copy_out(&record, Arc::new(copy), Room::Await).unwrap();
        session.lose("a test ends it");
        session.lose("and only once");
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| sent.wait());
            let receiver = scope.spawn(|| waiter.wait().0);
            let unaware = || {
                std::thread::sleep(Duration::from_millis(30));
                !sender.is_finished() && !receiver.is_finished() && session.check().is_ok()
            };
            let both = unaware();
            let_go[0].send(()).unwrap();
            let one = unaware();
            let_go[1].send(()).unwrap();
            assert_eq!(receiver.join().unwrap(), CUDA_ERROR_DEVICE_UNAVAILABLE);
            sender.join().unwrap();
            assert!(both && one);
        });
        assert_eq!(session.check(), Err(CUDA_ERROR_DEVICE_UNAVAILABLE));
        // Who comes late waits for nothing.
        assert!(session.transfers.queue(9, slice, None, false, 1 << 20).is_sent());
        // The lanes' threads must not be the last to have it.
        std::mem::forget(session);
    }
}
