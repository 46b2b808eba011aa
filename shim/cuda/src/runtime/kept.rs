//! Freed device memory that stays mapped on the server for a while, so that a program which allocates and frees the
//! same sizes again and again asks nobody.
//!
//! What is kept are blocks, each the memory of one large allocation. A block is given out again for an allocation of
//! exactly as many bytes of memory in the same context, once the work that was issued before its free is finished.
//! To the program it is free: its address is refused, it counts as free memory, and it is given back before
//! anything fails for lack of memory. To others on the GPU it is not, so there is little of it, and what has not
//! been wanted for some seconds is given back.
//!
//! The lock is never held while anything is waited for: the I/O thread takes it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use fusewire_wire::ops::table::{BlockUnmap, Fence, HostUnshare};

use crate::abi::result::CUDA_ERROR_OUT_OF_MEMORY;
use crate::abi::types::CUresult;

use super::Runtime;
use super::objects::Context;
use super::pending::{Pending, Reclaim};
use super::session::{Room, lock};
use super::waiter::Waiter;

/// Kept at most: this, or this part of the device's memory if that is less.
const MOST: u64 = 1 << 30;
const PART: u64 = 16;
/// How long what nobody wants is kept.
const IDLE: Duration = Duration::from_secs(5);

struct Block {
    /// Names this stay here: the same addresses may come again.
    id: u64,
    base: u64,
    bytes: u64,
    /// Handle of the context it was mapped in.
    context: u64,
    /// The work that may have used it is finished.
    ready: bool,
    /// Freed by `cuMemFree`, which the program knows to wait for that work.
    awaited: bool,
    since: Instant,
}

impl Block {
    fn record(&self) -> BlockUnmap {
        BlockUnmap { context: self.context, address: self.base, bytes: self.bytes }
    }
}

/// What is kept of one device's memory, oldest first.
#[derive(Default)]
struct Blocks {
    blocks: Vec<Block>,
    bytes: u64,
}

impl Blocks {
    fn remove(&mut self, at: usize) -> Block {
        let block = self.blocks.remove(at);
        self.bytes -= block.bytes;
        block
    }

    /// Takes out every block that is `unwanted`.
    fn take_all(&mut self, unwanted: impl Fn(&Block) -> bool) -> Vec<Block> {
        let taken: Vec<Block> = self.blocks.extract_if(.., |block| unwanted(block)).collect();
        self.bytes -= taken.iter().map(|block| block.bytes).sum::<u64>();
        taken
    }

    /// The block to give out again that was freed last: older ones are on their way back.
    fn take_ready(&mut self, context: u64, bytes: u64) -> Option<u64> {
        let fits = |block: &Block| block.ready && block.context == context && block.bytes == bytes;
        let at = self.blocks.iter().rposition(fits)?;
        Some(self.remove(at).base)
    }

    /// Adds a block and takes out what has to go so that no more than `most` bytes are kept: the oldest, or if work
    /// may still use all of them, the new one.
    fn add(&mut self, block: Block, most: u64) -> Vec<Block> {
        if block.bytes > most {
            return vec![block];
        }
        self.bytes += block.bytes;
        self.blocks.push(block);
        let mut gone = Vec::new();
        while self.bytes > most {
            let at = self.blocks.iter().position(|block| block.ready).unwrap_or(self.blocks.len() - 1);
            gone.push(self.remove(at));
        }
        gone
    }

    /// Whether a block that fits is soon ready, and another should not be had meanwhile.
    fn is_worth_waiting_for(&self, context: u64, bytes: u64, most: u64) -> bool {
        let fits = |block: &Block| block.awaited && block.context == context && block.bytes == bytes;
        self.bytes + bytes > most && self.blocks.iter().any(fits)
    }
}

/// Blocks that are kept, by device.
pub(crate) struct Kept {
    devices: Vec<Mutex<Blocks>>,
    next: AtomicU64,
    /// Blocks in all; with none there is nothing to look after.
    count: AtomicUsize,
    /// The I/O thread will look at them in good time.
    watched: AtomicBool,
}

impl Kept {
    pub(super) fn new(devices: usize) -> Self {
        Self {
            devices: (0..devices).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
        }
    }

    /// Does something with the blocks of a device.
    fn with<T>(&self, device: usize, act: impl FnOnce(&mut Blocks) -> T) -> Option<T> {
        let mut blocks = lock(self.devices.get(device)?);
        let before = blocks.blocks.len();
        let done = act(&mut blocks);
        let after = blocks.blocks.len();
        // One of them is 0.
        self.count.fetch_add(after.saturating_sub(before), SeqCst);
        self.count.fetch_sub(before.saturating_sub(after), SeqCst);
        Some(done)
    }

    /// Bytes that are kept of a device's memory, and so are free.
    pub(crate) fn bytes(&self, device: usize) -> u64 {
        self.with(device, |blocks| blocks.bytes).unwrap_or(0)
    }

    /// The work that may have used a block is finished. For the I/O thread.
    pub(super) fn ready(&self, device: usize, id: u64) {
        self.with(device, |blocks| {
            if let Some(block) = blocks.blocks.iter_mut().find(|block| block.id == id) {
                block.ready = true;
            }
        });
    }

    /// A context is going, and its memory with it: gives the addresses and bytes of what is not kept any more.
    pub(super) fn forget(&self, context: &Context) -> Vec<(u64, u64)> {
        let gone =
            self.with(context.device, |blocks| blocks.take_all(|block| block.context == context.handle));
        gone.unwrap_or_default().iter().map(|block| (block.base, block.bytes)).collect()
    }
}

fn most(runtime: &Runtime, device: usize) -> u64 {
    runtime.devices.get(device).map_or(0, |device| MOST.min(device.snapshot.info.total_memory / PART))
}

/// Says `Done` when the work that may use memory of a context is finished. With several contexts, that is the work
/// of all of them.
///
/// # Errors
/// When the session is over.
pub(super) fn fence(runtime: &Runtime, context: &Context, pending: Pending) -> Result<(), CUresult> {
    if super::current::is_alone(runtime, context) {
        let fence = Fence { context: context.handle, through: 0 };
        runtime.session.post_pending(None, &fence, &[], |_| pending)?;
    } else {
        runtime.session.post_pending(None, &HostUnshare { address: 0, bytes: 0 }, &[], |_| pending)?;
    }
    Ok(())
}

/// Whether the work that may use memory of a context is known to be finished.
pub(super) fn is_idle(runtime: &Runtime, context: &Context) -> bool {
    super::current::is_alone(runtime, context) && context.is_known_finished()
}

/// Keeps the memory of an allocation that is freed, or gives it back. `in_order`: the free is in the order of a
/// stream, and nobody expects it to wait.
///
/// # Errors
/// When the session is over.
pub(super) fn keep(
    runtime: &Runtime,
    context: &Context,
    base: u64,
    bytes: u64,
    in_order: bool,
) -> Result<(), CUresult> {
    let kept = &runtime.memory.kept;
    let ready = is_idle(runtime, context);
    let id = kept.next.fetch_add(1, Relaxed);
    let (context_handle, awaited, since) = (context.handle, !in_order, Instant::now());
    let block = Block { id, base, bytes, context: context_handle, ready, awaited, since };
    let most = most(runtime, context.device);
    let gone = kept.with(context.device, |blocks| blocks.add(block, most)).unwrap_or_default();
    for block in &gone {
        let range = Reclaim::Range(block.base, block.bytes);
        runtime.session.post_pending(None, &block.record(), &[], |_| Pending::Reclaim(range))?;
    }
    if gone.iter().any(|block| block.id == id) {
        return Ok(());
    }
    if ready {
        if !kept.watched.swap(true, SeqCst) {
            runtime.session.wake();
        }
        return Ok(());
    }
    fence(runtime, context, Pending::Reclaim(Reclaim::Kept { device: context.device, id }))
}

/// The address of kept memory of exactly so many bytes, if there is any. `patient`: the caller would rather wait for
/// what is being freed than have more and more memory, as a program has that waits in each free.
///
/// # Errors
/// When the session is over.
pub(super) fn take(
    runtime: &Runtime,
    context: &Context,
    bytes: u64,
    patient: bool,
) -> Result<Option<u64>, CUresult> {
    let most = most(runtime, context.device);
    if runtime.memory.kept.count.load(Relaxed) == 0 {
        return Ok(None);
    }
    loop {
        let found = runtime.memory.kept.with(context.device, |blocks| {
            if is_idle(runtime, context) {
                blocks.blocks.iter_mut().for_each(|block| block.ready = true);
            }
            let found = blocks.take_ready(context.handle, bytes);
            (found, found.is_none() && blocks.is_worth_waiting_for(context.handle, bytes, most))
        });
        match found {
            // While something is captured nothing is known to be finished.
            Some((None, true)) if patient && !runtime.captures.any() => {}
            found => return Ok(found.and_then(|(found, _)| found)),
        }
        let waiter = Waiter::new();
        fence(runtime, context, Pending::Call(waiter.clone()))?;
        runtime.session.wait_for(&waiter, 0)?;
    }
}

/// Gives all that is kept of a device's memory back. `true` if there was anything; it is on its way then.
pub(crate) fn give_back(runtime: &Runtime, device: usize) -> bool {
    let gone = runtime.memory.kept.with(device, |blocks| blocks.take_all(|_| true)).unwrap_or_default();
    for block in &gone {
        let range = Reclaim::Range(block.base, block.bytes);
        // A session that is over has nothing to give back.
        let _ = runtime.session.post_pending(None, &block.record(), &[], |_| Pending::Reclaim(range));
    }
    !gone.is_empty()
}

/// Does something that may need memory of a device, and once more, with nothing kept, if there was too little.
///
/// # Errors
/// As `attempt`.
pub(crate) fn with_room<T>(
    runtime: &Runtime,
    device: usize,
    attempt: impl Fn() -> Result<T, CUresult>,
) -> Result<T, CUresult> {
    match attempt() {
        // What is given back while something is captured comes after the capture.
        Err(CUDA_ERROR_OUT_OF_MEMORY) if !runtime.captures.any() => {}
        other => return other,
    }
    let gone = runtime.memory.kept.with(device, |blocks| blocks.take_all(|_| true)).unwrap_or_default();
    if gone.is_empty() {
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    let post = |block: &Block| {
        let waiter = Waiter::new();
        let mine = waiter.clone();
        runtime.session.post_pending(None, &block.record(), &[], |_| Pending::Call(mine)).map(|_| waiter)
    };
    let posted: Vec<_> = gone.iter().map(post).collect();
    for (block, waiter) in gone.iter().zip(posted) {
        // A fault of the context's: the memory is gone from there all the same.
        let _ = runtime.session.wait_for(&*waiter?, 0);
        runtime.memory.give_addresses(block.base, block.bytes);
    }
    attempt()
}

/// Gives back what nobody has wanted for some time, and says when to look again. For the I/O thread.
pub(super) fn give_back_idle(now: Instant) -> Option<Instant> {
    let runtime = super::get().ok()?;
    let kept = &runtime.memory.kept;
    // First: who adds a block from here on says so.
    kept.watched.store(false, SeqCst);
    if kept.count.load(SeqCst) == 0 {
        return None;
    }
    let mut next = None;
    for device in 0..kept.devices.len() {
        kept.with(device, |blocks| {
            // Published under the lock: who forgets what is kept, of a context that goes, comes before or after.
            for block in blocks.take_all(|block| block.ready && block.since + IDLE <= now) {
                let range = Reclaim::Range(block.base, block.bytes);
                let pending = |_: &mut _, _| Some(Pending::Reclaim(range));
                let _ = runtime.session.publish_with(&[], Room::Take, |_| block.record(), pending);
            }
            // One that is not ready yet is looked at when it is.
            let due = blocks.blocks.iter().filter(|block| block.ready).map(|block| block.since + IDLE).min();
            next = next.into_iter().chain(due).min();
        });
    }
    kept.watched.fetch_or(next.is_some(), SeqCst);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn block(id: u64, mib: u64, ready: bool) -> Block {
        let since = Instant::now();
        Block { id, base: id * 1024 * MIB, bytes: mib * MIB, context: 16, ready, awaited: true, since }
    }

    fn kept(blocks: impl IntoIterator<Item = Block>) -> Blocks {
        let blocks: Vec<Block> = blocks.into_iter().collect();
        let bytes = blocks.iter().map(|block| block.bytes).sum();
        Blocks { blocks, bytes }
    }

    fn ids(blocks: &[Block]) -> Vec<u64> {
        blocks.iter().map(|block| block.id).collect()
    }

    #[test]
    fn a_block_is_given_out_for_its_own_size_and_context_and_when_it_is_ready() {
        let mut blocks = kept([block(1, 4, true), block(2, 4, true), block(3, 4, false)]);
        assert_eq!(blocks.take_ready(16, 2 * MIB), None);
        assert_eq!(blocks.take_ready(32, 4 * MIB), None);
        assert_eq!(blocks.take_ready(16, 4 * MIB), Some(2048 * MIB), "the newest that is ready");
        assert_eq!(blocks.take_ready(16, 4 * MIB), Some(1024 * MIB));
        assert_eq!(blocks.take_ready(16, 4 * MIB), None);
        assert_eq!((ids(&blocks.blocks), blocks.bytes), (vec![3], 4 * MIB));
    }

    #[test]
    fn what_is_too_much_goes_oldest_first_and_what_is_in_use_last() {
        let mut blocks = kept([block(1, 4, false), block(2, 4, true), block(3, 4, true)]);
        assert_eq!(ids(&blocks.add(block(4, 4, false), 16 * MIB)), []);
        assert_eq!(ids(&blocks.add(block(5, 6, false), 16 * MIB)), [2, 3]);
        assert_eq!(
            ids(&blocks.add(block(6, 4, false), 16 * MIB)),
            [6],
            "as it would go if nothing were kept"
        );
        assert_eq!(ids(&blocks.add(block(7, 18, true), 16 * MIB)), [7], "and nothing else for its sake");
        assert_eq!((ids(&blocks.blocks), blocks.bytes), (vec![1, 4, 5], 14 * MIB));
    }

    #[test]
    fn only_who_would_have_more_than_may_be_kept_waits_and_only_for_what_is_free_soon() {
        let mut blocks = kept([block(1, 4, false), block(2, 2, false)]);
        assert!(!blocks.is_worth_waiting_for(16, 4 * MIB, 10 * MIB), "there is room for another");
        assert!(blocks.is_worth_waiting_for(16, 4 * MIB, 9 * MIB));
        assert!(!blocks.is_worth_waiting_for(16, 8 * MIB, 9 * MIB), "none fits");
        assert!(!blocks.is_worth_waiting_for(32, 4 * MIB, 9 * MIB));
        blocks.blocks[0].awaited = false;
        assert!(!blocks.is_worth_waiting_for(16, 4 * MIB, 9 * MIB), "its free is in the order of a stream");
    }

    #[test]
    fn a_block_that_has_gone_and_come_again_is_not_ready_for_its_earlier_stay() {
        let kept = Kept::new(1);
        kept.with(0, |blocks| blocks.blocks.push(block(2, 4, false)));
        kept.ready(0, 1);
        assert!(!kept.with(0, |blocks| blocks.blocks[0].ready).unwrap());
        kept.ready(0, 2);
        assert!(kept.with(0, |blocks| blocks.blocks[0].ready).unwrap());
        assert_eq!(kept.count.load(Relaxed), 1);
    }
}
