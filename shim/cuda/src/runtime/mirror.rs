//! Host memory that kernels use: mirrored on the server at the same address, over links that share none.
//!
//! Before a launch that is given an address in such memory, what the program has changed there is sent;
//! what the kernel has changed is brought back before the program can learn that it has ended ([`Owed`]).
//! "Changed" is found by comparing with a shadow of what both ends last agreed on, so that neither end overwrites
//! what the other has written since.
//!
//! What is sent is on the server at once, in the order of no stream: as with memory that is really shared, a kernel sees
//! all that was written before its launch, whatever other streams have been given or wait for. So what is brought
//! back may have been read before or after something that the program sent meanwhile, and is not looked at there:
//! what a program changes without knowing that a kernel is finished, that kernel has no right to change.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, Weak};

use fusewire_wire::ops::table::{CopyOut as CopyOutOp, HostMirror, HostWrite, INLINE_BYTES};

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::CUresult;

use super::Runtime;
use super::copy_out::{CopyOut, Landing};
use super::memory::Place;
use super::objects::{Context, Stream};
use super::session::{Room, Session, lock};

const PAGE: u64 = 4096;
/// What kernels write at once: no part of one comes from the program while the device may be changing the rest.
const WORD: usize = 4;

/// Parts of a mirror.
type Parts = Mutex<Vec<Range<usize>>>;
/// Parts that are kept one by one.
const PARTS: usize = 256;

/// What both ends last agreed on.
struct Shadow {
    bytes: Box<[u8]>,
    /// For each copy from the device that is under way, what was sent since it was asked for.
    under_way: Vec<Weak<Parts>>,
}

/// One mirrored range: whole pages, of which the program uses a part.
pub(crate) struct Mirror {
    pub(crate) base: u64,
    pub(crate) bytes: usize,
    /// Where the part begins that is compared and carried.
    start: u64,
    /// Of that part. Never held while something is published, which may wait for
    /// the I/O thread: that one takes it.
    shadow: Mutex<Shadow>,
    /// How long that part is.
    used: usize,
    /// Held by who sends changes, until they are published, and by who has those of the device's brought back: what
    /// is agreed on then is what the server has been told. Taken before `shadow`, and after what is owed.
    sending: Mutex<()>,
    /// Changes of the device's that are owed or on their way: bytes that the program has left alone are not sent
    /// then, for the shadow may be behind.
    ahead: AtomicUsize,
}

impl Mirror {
    /// Memory that the server has itself: there is nothing to compare or carry.
    fn of_shared(region: &super::memory::Region) -> Self {
        let bytes = usize::try_from(region.bytes).unwrap_or(usize::MAX);
        Self::new(region.base, bytes, region.base, 0)
    }

    fn new(base: u64, bytes: usize, start: u64, used: usize) -> Self {
        let shadow = Mutex::new(Shadow { bytes: vec![0; used].into_boxed_slice(), under_way: Vec::new() });
        Self { base, bytes, start, shadow, used, sending: Mutex::default(), ahead: AtomicUsize::new(0) }
    }

    /// What the program has changed in a block of up to a page, which counts as agreed upon from here on: the
    /// block, and which parts of it.
    fn changed(&self, at: usize, length: usize) -> Option<([u8; PAGE as usize], Vec<Range<usize>>)> {
        let source = std::ptr::with_exposed_provenance::<u8>(self.start as usize + at);
        let Shadow { bytes, under_way } = &mut *lock(&self.shadow);
        let shadow = bytes.get_mut(at..at + length)?;
        // SAFETY: mirrored memory is the program's pinned memory, mapped as long as the mirror is known; a race
        // with the program's own stores is the race that a kernel would see.
        if unsafe { libc::memcmp(source.cast(), shadow.as_ptr().cast(), length) } == 0 {
            return None;
        }
        let mut block = [0; PAGE as usize];
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(source, block.as_mut_ptr(), length) };
        let mut parts: Vec<Range<usize>> = Vec::new();
        if self.ahead.load(Acquire) == 0 {
            parts.push(0..length);
        } else {
            for (n, (new, old)) in block[..length].chunks(WORD).zip(shadow.chunks(WORD)).enumerate() {
                let word = n * WORD..n * WORD + new.len();
                match parts.last_mut() {
                    _ if new == old => {}
                    Some(last) if last.end == word.start => last.end = word.end,
                    _ => parts.push(word),
                }
            }
        }
        shadow.copy_from_slice(&block[..length]);
        under_way.retain(|copy| {
            let Some(since) = copy.upgrade() else { return false };
            let mut since = lock(&since);
            since.extend(parts.iter().map(|part| at + part.start..at + part.end));
            if since.len() > PARTS {
                join(&mut since);
            }
            true
        });
        Some((block, parts))
    }
}

/// Makes one of parts that overlap or touch.
fn join(parts: &mut Vec<Range<usize>>) {
    parts.sort_unstable_by_key(|part| part.start);
    parts.dedup_by(|next, last| {
        let together = next.start <= last.end;
        if together {
            last.end = last.end.max(next.end);
        }
        together
    });
}

/// A mirror that the device is ahead of, for as long as this lives: until the change has come, or will not.
pub(crate) struct Ahead(Arc<Mirror>);

impl Ahead {
    fn of(mirror: &Arc<Mirror>) -> Self {
        mirror.ahead.fetch_add(1, Relaxed);
        Self(mirror.clone())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Behind the merge: who sees this under the shadow's lock sees there what came.
        self.0.ahead.fetch_sub(1, Release);
    }
}

#[derive(Default)]
pub(crate) struct Mirrors(Mutex<BTreeMap<u64, Arc<Mirror>>>);

impl Mirrors {
    fn find(&self, address: u64) -> Option<Arc<Mirror>> {
        let mirrors = lock(&self.0);
        let (_, mirror) = mirrors.range(..=address).next_back()?;
        (address - mirror.base < mirror.bytes as u64).then(|| mirror.clone())
    }

    /// Forgets the mirror of a range, and returns it if there was one.
    pub(crate) fn forget(&self, base: u64, bytes: u64) -> Option<(u64, u64)> {
        let mut mirrors = lock(&self.0);
        let (&at, mirror) = mirrors.range(..base.saturating_add(bytes)).next_back()?;
        if at + mirror.bytes as u64 <= base {
            return None;
        }
        mirrors.remove(&at).map(|mirror| (mirror.base, mirror.bytes as u64))
    }
}

/// The mirror that holds a range of host memory, made if there is none.
///
/// # Errors
/// When the server cannot map the range, or it straddles the end of a mirror.
pub(crate) fn ensure(
    runtime: &Runtime,
    context: &Context,
    address: u64,
    bytes: u64,
) -> Result<Arc<Mirror>, CUresult> {
    if let Some(region) = runtime.memory.find(address).filter(super::memory::Region::is_shared) {
        let fits = address + bytes <= region.base + region.bytes;
        return if fits { Ok(Arc::new(Mirror::of_shared(&region))) } else { Err(CUDA_ERROR_INVALID_VALUE) };
    }
    if let Some(mirror) = runtime.mirrors.find(address) {
        let fits = address + bytes <= mirror.base + mirror.bytes as u64;
        return if fits { Ok(mirror) } else { Err(CUDA_ERROR_INVALID_VALUE) };
    }
    let (start, end, own_pages) = match runtime.memory.find(address) {
        Some(region) if region.is_host() => {
            (region.base, region.base + region.bytes, matches!(region.place, Place::Pinned { .. }))
        }
        _ => (address, address + bytes, false),
    };
    let base = start & !(PAGE - 1);
    let bytes = end.next_multiple_of(PAGE) - base;
    if super::log::traces() {
        eprintln!("fusewire: {bytes} bytes of host memory at {base:#x} are mirrored for {address:#x}");
    }
    runtime.session.call(&HostMirror { context: context.handle, address: base, bytes }, &[])?;
    // Pinned memory has its pages to itself; other memory may share one with more that is asked for later.
    let (start, end) = if own_pages { (start, end) } else { (base, base + bytes) };
    let used = usize::try_from(end - start).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let bytes = usize::try_from(bytes).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
    let mirror = Arc::new(Mirror::new(base, bytes, start, used));
    lock(&runtime.mirrors.0).insert(base, mirror.clone());
    Ok(mirror)
}

/// Sends what the program has changed in mirrors that the next operation may use. From then on the device may be ahead
/// of them: what that operation changes is owed ([`owe`]).
///
/// # Errors
/// When the session is over.
pub(crate) fn push(runtime: &Runtime, mirrors: &[Arc<Mirror>]) -> Result<Vec<Ahead>, CUresult> {
    let mut ahead = Vec::with_capacity(mirrors.len());
    for mirror in mirrors.iter().filter(|mirror| mirror.used != 0) {
        let _sending = lock(&mirror.sending);
        let mut run = Run { mirror, at: 0, bytes: Vec::new() };
        let mut at = 0;
        while at < mirror.used {
            let length = (PAGE as usize).min(mirror.used - at);
            if let Some((block, changed)) = mirror.changed(at, length) {
                for part in changed {
                    run.add(&runtime.session, at + part.start, &block[part])?;
                }
            }
            at += length;
        }
        run.send(&runtime.session)?;
        // Before another thread can send whole pages.
        ahead.push(Ahead::of(mirror));
    }
    Ok(ahead)
}

/// Bytes of a mirror, one after the other, that go in one record.
struct Run<'a> {
    mirror: &'a Mirror,
    at: usize,
    bytes: Vec<u8>,
}

impl Run<'_> {
    fn add(&mut self, session: &Session, at: usize, bytes: &[u8]) -> Result<(), CUresult> {
        if self.at + self.bytes.len() != at || self.bytes.len() + bytes.len() > INLINE_BYTES {
            self.send(session)?;
            self.at = at;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn send(&mut self, session: &Session) -> Result<(), CUresult> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let address = self.mirror.start + self.at as u64;
        let record = HostWrite { address, bytes: self.bytes.len() as u64 };
        session.publish_with(&[&self.bytes], Room::Await, |_| record, |_, _| None)?;
        self.bytes.clear();
        Ok(())
    }
}

/// What the device may have changed, and nobody has asked for yet: brought back before the program can learn that
/// the work is finished, and otherwise by the I/O thread after a while, for programs that look at the memory
/// without asking. So a kernel that is given the same word a hundred times costs one copy, not a hundred.
#[derive(Default)]
pub(crate) struct Owed {
    any: AtomicBool,
    /// Something that was brought back was new.
    changed: Arc<AtomicBool>,
    /// Held while what is owed is published: whoever finds nothing owed can rely on its having been published.
    list: Mutex<Vec<(Ahead, Arc<Stream>)>>,
}

impl Owed {
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Acquire)
    }

    /// Whether anything that came back since the last call was new.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.load(Relaxed) && self.changed.swap(false, Relaxed)
    }
}

/// The last operation on the stream may have changed these mirrors.
pub(crate) fn owe(session: &Session, stream: &Arc<Stream>, mirrors: Vec<Ahead>) {
    let mut list = lock(&session.owed.list);
    for mirror in mirrors {
        let known = |(other, on): &(Ahead, Arc<Stream>)| {
            Arc::ptr_eq(&other.0, &mirror.0) && on.handle == stream.handle
        };
        if !list.iter().any(known) {
            list.push((mirror, stream.clone()));
        }
    }
    let first = !list.is_empty() && !session.owed.any.swap(true, Release);
    drop(list);
    if first {
        // It may have gone to sleep with nothing owed.
        session.wake();
    }
}

/// Publishes the copies that are owed. Only the I/O thread does so without waiting for room, which it makes itself;
/// it comes back later if somebody else is at it, or is sending changes of the same memory.
///
/// # Errors
/// When the session is over.
pub(crate) fn bring_back(session: &Session, room: Room) -> Result<(), CUresult> {
    let mut list = match room {
        Room::Await => lock(&session.owed.list),
        Room::Take => match session.owed.list.try_lock() {
            Ok(list) => list,
            Err(_) => return Ok(()),
        },
    };
    let mut left = Vec::new();
    for (ahead, stream) in list.drain(..) {
        let mirror = ahead.0.clone();
        let _sending = match room {
            Room::Await => lock(&mirror.sending),
            Room::Take => match mirror.sending.try_lock() {
                Ok(sending) => sending,
                Err(_) => {
                    left.push((ahead, stream));
                    continue;
                }
            },
        };
        pull(session, &stream, ahead, room)?;
    }
    *list = left;
    session.owed.any.store(!list.is_empty(), Release);
    Ok(())
}

/// Brings back what the device has changed in a mirror, after the last operation on the stream. Nobody sends changes
/// meanwhile.
fn pull(session: &Session, stream: &Arc<Stream>, ahead: Ahead, room: Room) -> Result<(), CUresult> {
    let mirror = ahead.0.clone();
    let since = Arc::<Parts>::default();
    let mut before = {
        let mut shadow = lock(&mirror.shadow);
        shadow.under_way.push(Arc::downgrade(&since));
        shadow.bytes.clone()
    };
    let used = before.len();
    let changed = session.owed.changed.clone();
    let finish = move |now: &[u8]| {
        if merge(&ahead.0, &mut before, &since, now) {
            changed.store(true, Relaxed);
        }
    };
    let writes = mirror.start..mirror.start + used as u64;
    let copy = CopyOut::new(stream.clone(), used, Landing::packed(used, finish), writes, None);
    let record = CopyOutOp { stream: stream.handle, source: mirror.start, bytes: used as u64 };
    session.post_copy_out(&record, Arc::new(copy), room)
}

/// Writes what the device changed, `before` to `now`, into the program's memory, but for what was sent `since`. Gives
/// whether there was anything.
fn merge(mirror: &Mirror, before: &mut [u8], since: &Parts, now: &[u8]) -> bool {
    let mut shadow = lock(&mirror.shadow);
    for part in lock(since).drain(..) {
        if let (Some(old), Some(new)) = (before.get_mut(part.clone()), now.get(part)) {
            old.copy_from_slice(new);
        }
    }
    if before == now {
        return false;
    }
    for (block, (old, new)) in before.chunks(64).zip(now.chunks(64)).enumerate() {
        if old == new {
            continue;
        }
        for (n, (old, new)) in old.iter().zip(new).enumerate() {
            if old != new {
                let at = block * 64 + n;
                let Some(byte) = shadow.bytes.get_mut(at) else { continue };
                // Known from another copy, and the program may be further by now.
                if *byte == *new {
                    continue;
                }
                *byte = *new;
                let target = std::ptr::with_exposed_provenance_mut::<u8>(mirror.start as usize + at);
                // SAFETY: inside the mirror's range, which is mapped: freeing waits for pending copies.
                unsafe { target.write_volatile(*new) };
            }
        }
    }
    true
}

/// A stream has written a word of mirrored memory.
pub(crate) fn word(address: u64, value: u64, bytes: u32) {
    let Ok(runtime) = super::get() else { return };
    let Some(mirror) = runtime.mirrors.find(address) else { return };
    let Some(offset) = address.checked_sub(mirror.start).and_then(|at| usize::try_from(at).ok()) else {
        return;
    };
    let value = value.to_le_bytes();
    let value = &value[..if bytes == 8 { 8 } else { 4 }];
    let mut shadow = lock(&mirror.shadow);
    let Some(room) = shadow.bytes.get_mut(offset..offset + value.len()) else { return };
    room.copy_from_slice(value);
    let target = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: the range was checked against the mirror; the program polls this word.
    unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), target, value.len()) };
}

/// The mirrors of host memory that a parameter buffer points to.
///
/// # Errors
/// When the server cannot map one.
#[inline]
pub(crate) fn pointed_to(
    runtime: &Runtime,
    context: &Context,
    parameters: &[u8],
) -> Result<Vec<Arc<Mirror>>, CUresult> {
    if !runtime.memory.has_host() {
        return Ok(Vec::new());
    }
    let mut found: Vec<Arc<Mirror>> = Vec::new();
    for word in parameters.chunks_exact(8) {
        let Ok(word) = <[u8; 8]>::try_from(word) else { continue };
        let address = u64::from_le_bytes(word);
        if address < PAGE || address >> 47 != 0 {
            continue;
        }
        let needs_mirror = |region: &super::memory::Region| region.is_host() && !region.is_shared();
        if !runtime.memory.map().find(address).is_some_and(needs_mirror) {
            continue;
        }
        if super::log::traces() {
            eprintln!("fusewire: parameters of {} bytes name {address:#x} in host memory", parameters.len());
        }
        let mirror = ensure(runtime, context, address, 1)?;
        if !found.iter().any(|known| known.base == mirror.base) {
            found.push(mirror);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::result::CUDA_SUCCESS;
    use crate::runtime::objects::{Context, StreamKind};
    use crate::runtime::pending::Pending;
    use std::time::Duration;

    #[test]
    fn what_many_kernels_may_have_written_comes_back_once() {
        let session = Session::new(1 << 20, 8, Duration::ZERO, true);
        let context = Arc::new(Context::new(1, 0, true, 0, 3020));
        let stream = |handle| Arc::new(Stream::new(handle, context.clone(), StreamKind::Created, 1, 0));
        let (one, two) = (stream(16), stream(32));
        let mirror = Arc::new(Mirror::new(0x1000, PAGE as usize, 0x1000, 4));
        for _ in 0..100 {
            owe(&session, &one, vec![Ahead::of(&mirror)]);
        }
        owe(&session, &two, vec![Ahead::of(&mirror)]);
        let copies = || {
            let pending = lock(&session.pending);
            pending.values().filter(|pending| matches!(pending, Pending::CopyOut(_))).count()
        };
        assert_eq!((copies(), session.owed.any()), (0, true));
        session.bring_back().unwrap();
        // One for each stream, since nothing orders the two.
        assert_eq!((copies(), session.owed.any()), (2, false));
        session.bring_back().unwrap();
        assert_eq!(copies(), 2);
    }

    #[test]
    fn bytes_that_the_program_left_alone_are_not_sent_while_the_device_is_ahead() {
        let mut memory = vec![0u8; 64];
        let start = memory.as_mut_ptr().expose_provenance() as u64;
        let mirror = Mirror::new(start, 64, start, 64);
        memory[8] = 1;
        memory[13] = 1;
        memory[40] = 1;
        mirror.ahead.store(1, Relaxed);
        assert_eq!(mirror.changed(0, 64).map(|(_, parts)| parts), Some(vec![8..16, 40..44]));
        assert!(mirror.changed(0, 64).is_none(), "it is agreed on now");
        mirror.ahead.store(0, Relaxed);
        memory[8] = 2;
        let whole = |parts: Vec<Range<usize>>| parts.len() == 1 && parts[0] == (0..64);
        assert!(mirror.changed(0, 64).is_some_and(|(_, parts)| whole(parts)));
    }

    #[test]
    fn the_device_is_ahead_until_its_changes_have_come_or_will_not() {
        let session = Session::new(1 << 20, 8, Duration::ZERO, true);
        let context = Arc::new(Context::new(1, 0, true, 0, 3020));
        let stream = Arc::new(Stream::new(16, context, StreamKind::Created, 1, 0));
        let memory = [0u8; 4];
        let start = memory.as_ptr().expose_provenance() as u64;
        let mirror = Arc::new(Mirror::new(start, 4, start, 4));
        let ahead = || mirror.ahead.load(Relaxed);
        for status in [CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE] {
            owe(&session, &stream, vec![Ahead::of(&mirror)]);
            session.bring_back().unwrap();
            assert_eq!(ahead(), 1);
            for (number, pending) in lock(&session.pending).drain() {
                let Pending::CopyOut(copy) = pending else { panic!("a copy") };
                session.overlaps.finish(&copy, status == CUDA_SUCCESS, || copy.complete(number, status));
            }
            assert_eq!(ahead(), 0);
        }
    }

    #[test]
    fn nothing_is_asked_for_while_changes_of_the_same_memory_are_being_sent() {
        let session = Session::new(1 << 20, 8, Duration::ZERO, true);
        let context = Arc::new(Context::new(1, 0, true, 0, 3020));
        let stream = Arc::new(Stream::new(16, context, StreamKind::Created, 1, 0));
        let mirror = |base| Arc::new(Mirror::new(base, PAGE as usize, base, 4));
        let (one, two) = (mirror(0x1000), mirror(0x2000));
        owe(&session, &stream, vec![Ahead::of(&one), Ahead::of(&two)]);
        let sending = lock(&one.sending);
        bring_back(&session, Room::Take).unwrap();
        assert_eq!(lock(&session.pending).len(), 1, "that of the other");
        assert!(session.owed.any());
        drop(sending);
        bring_back(&session, Room::Take).unwrap();
        assert_eq!((lock(&session.pending).len(), session.owed.any()), (2, false));
    }

    #[test]
    fn what_the_program_has_sent_since_is_not_the_devices() {
        let mut memory = [0u32; 4];
        let start = memory.as_mut_ptr().expose_provenance() as u64;
        let mirror = Arc::new(Mirror::new(start, 16, start, 16));
        let write = |at: usize, value: u32| {
            let word = std::ptr::with_exposed_provenance_mut::<u32>(start as usize).wrapping_add(at);
            // SAFETY: the array above.
            unsafe { word.write_volatile(value) };
        };
        let _ahead = Ahead::of(&mirror);
        let since = Arc::<Parts>::default();
        lock(&mirror.shadow).under_way.push(Arc::downgrade(&since));
        // It sends two values while the copy is under way, which finds the first there, and goes on.
        for value in 7..9 {
            write(0, value);
            assert!(mirror.changed(0, 16).is_some());
        }
        write(0, 9);
        let now: Vec<u8> = [7u32, 5, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert!(merge(&mirror, &mut [0; 16], &since, &now));
        // SAFETY: as above.
        let left = unsafe { memory.as_ptr().cast::<[u32; 4]>().read_volatile() };
        assert_eq!(left, [9, 5, 0, 0]);
        let nothing = Arc::<Parts>::default();
        assert!(!merge(&mirror, &mut now.clone(), &nothing, &now));
    }

    #[test]
    fn parts_that_overlap_or_touch_are_one() {
        let mut parts = vec![8..12, 0..4, 4..8, 20..24, 20..24, 22..30];
        join(&mut parts);
        assert_eq!(parts, [0..12, 20..30]);
    }
}
