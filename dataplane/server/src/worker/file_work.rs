//! Work on files, done in order by a thread of its own, so that a slow disk holds nobody up.
//!
//! What waits to be done is bounded in bytes: what finds no room is not done, which its giver must be able to live
//! with. Nothing here knows what the work is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

/// What a piece of work counts for at least, so that there are not too many of them either.
const LEAST: u64 = 4096;
/// Bytes written after which it is time to tidy up, even if more is to be written.
const TIDY_AFTER: u64 = 64 << 20;

/// Gives the bytes that it has written.
type Piece = Box<dyn FnOnce() -> u64 + Send>;

enum Order {
    Do(u64, Piece),
    /// Answers when all that was given before is done.
    Flush(Sender<()>),
}

/// See the module's comment.
#[derive(Debug)]
pub(super) struct FileWork {
    orders: Sender<Order>,
    /// Bytes that given pieces hold.
    held: Arc<AtomicU64>,
    most: u64,
}

impl FileWork {
    /// Starts the thread. `most`: bytes that pieces may hold together. `tidy` is called when something was written
    /// and nothing more is to be done, and now and then in between.
    pub(super) fn start(most: u64, tidy: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (orders, received) = unbounded();
        let held = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&held);
        std::thread::Builder::new()
            .name("fusewire-files".into())
            .spawn(move || work(&received, &counter, &tidy))?;
        Ok(Self { orders, held, most })
    }

    /// Has a piece of work done that holds `bytes`. False: there was no room, and it will not be.
    pub(super) fn give(&self, bytes: u64, piece: impl FnOnce() -> u64 + Send + 'static) -> bool {
        let bytes = bytes.max(LEAST);
        // Only the shard gives, so there is at most as much as is read here.
        if self.held.load(Ordering::Acquire).saturating_add(bytes) > self.most {
            return false;
        }
        self.held.fetch_add(bytes, Ordering::AcqRel);
        self.orders.send(Order::Do(bytes, Box::new(piece))).is_ok()
    }

    /// Waits until all that was given is done, but not longer than `limit`.
    pub(super) fn finish(&self, limit: Duration) {
        let (answer, done) = bounded(1);
        if self.orders.send(Order::Flush(answer)).is_ok() {
            // Too late or not: whoever waits goes on.
            let _ = done.recv_timeout(limit);
        }
    }
}

fn work(orders: &Receiver<Order>, held: &AtomicU64, tidy: &dyn Fn()) {
    let mut written = 0_u64;
    for order in orders {
        let flushed = match order {
            Order::Do(bytes, piece) => {
                // What the piece held is gone when it returns.
                written = written.saturating_add(piece());
                held.fetch_sub(bytes, Ordering::AcqRel);
                None
            }
            Order::Flush(answer) => Some(answer),
        };
        if written >= TIDY_AFTER || (written != 0 && (flushed.is_some() || orders.is_empty())) {
            tidy();
            written = 0;
        }
        if let Some(answer) = flushed {
            // Who has stopped waiting needs no answer.
            let _ = answer.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn what_waits_is_bounded_and_done_in_order() {
        let (started, has_started) = bounded(0);
        let (go, gate) = bounded::<()>(0);
        let (sender, results) = unbounded();
        let files = FileWork::start(11_000, || {}).unwrap();
        let result = sender.clone();
        assert!(files.give(6000, move || {
            started.send(()).unwrap();
            gate.recv().unwrap();
            result.send(1).unwrap();
            0
        }));
        has_started.recv().unwrap();
        assert!(!files.give(6000, || 0), "the first still holds its bytes");
        let result = sender.clone();
        assert!(files.give(0, move || {
            result.send(2).unwrap();
            0
        }));
        assert!(!files.give(0, || 0), "small ones count, too");
        files.finish(Duration::from_millis(1));
        assert!(results.is_empty(), "nobody waits longer than he said");
        go.send(()).unwrap();
        files.finish(LIMIT);
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert!(files.give(11_000, || 0), "all is given back");
    }

    #[test]
    fn it_is_tidied_up_after_something_was_written() {
        let (tidied, count) = unbounded();
        let files = FileWork::start(1 << 30, move || tidied.send(()).unwrap()).unwrap();
        files.give(1, || 0);
        files.finish(LIMIT);
        assert_eq!(count.try_iter().count(), 0, "nothing was written");
        files.give(1, || 1);
        files.finish(LIMIT);
        assert_eq!(count.try_iter().count(), 1);
        for _ in 0..3 {
            files.give(1, || TIDY_AFTER);
        }
        files.finish(LIMIT);
        assert_eq!(count.try_iter().count(), 3, "in between, too");
    }
}
