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
//!
//! What the program's memory is to hold when a stream gets somewhere may still be on its way there when the work is
//! published: the data of an earlier copy, or what a host function will write. Then the stream stands still in front of
//! that work until we have sent what came ([`Stop`]). The caller does not wait, who may have to do something for the
//! stream to get there; and which work the stream really comes behind is the GPU's to know.

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, Weak};

use fusewire_wire::ops::table::{
    CopyOut as CopyOutOp, HostFunc, HostFuncDone, HostMirror, HostWrite, INLINE_BYTES, MIRROR_READ_BYTES,
};

use crate::abi::result::CUDA_ERROR_INVALID_VALUE;
use crate::abi::types::CUresult;

use super::copy_out::{CopyOut, Landing};
use super::memory::Place;
use super::objects::{Context, Stream, StreamKind};
use super::pending::Pending;
use super::session::{Room, Session, lock};
use super::{Runtime, memory_state};

const PAGE: u64 = 4096;
/// What kernels write at once: no part of one comes from the program while the device may be changing the rest.
const WORD: usize = 4;

/// Parts that are kept one by one.
const PARTS: usize = 256;
/// Streams of which it is kept where they stopped last.
const STOPS: usize = 64;

/// What both ends last agreed on.
struct Shadow {
    bytes: Box<[u8]>,
    /// Copies from the device that are under way, as they were asked for.
    under_way: Vec<Weak<UnderWay>>,
    /// Where streams stopped last: their handles, and the numbers of the operations.
    stops: Vec<(u64, u64, Arc<Stop>)>,
}

/// A copy of a mirror from the device that is under way.
struct UnderWay {
    stream: Arc<Stream>,
    /// What the device had before it made the changes of which nothing has come yet, as far as that is not what was sent
    /// since.
    before: Mutex<Box<[u8]>>,
    /// What was sent since it was asked for.
    since: Mutex<Vec<Range<usize>>>,
    /// The last stop of its stream in front of it. What is sent while the stream stands there the device has
    /// before it makes its changes.
    stop: Option<Arc<Stop>>,
}

impl UnderWay {
    /// Part of the mirror was sent, from `at` on: the device has `block` there from now on.
    fn sent(&self, at: usize, block: &[u8], parts: &[Range<usize>]) {
        let whole = |part: &Range<usize>| at + part.start..at + part.end;
        if self.stop.as_ref().is_some_and(|stop| stop.stands()) {
            let mut before = lock(&self.before);
            for part in parts {
                if let (Some(old), Some(new)) = (before.get_mut(whole(part)), block.get(part.clone())) {
                    old.copy_from_slice(new);
                }
            }
            return;
        }
        let mut since = lock(&self.since);
        since.extend(parts.iter().map(whole));
        if since.len() > PARTS {
            join(&mut since);
        }
    }

    /// An earlier copy has come, which found `now`, but for these parts: what this one finds elsewhere has changed
    /// after that or not at all.
    fn comes_behind(&self, now: &[u8], but: &[Range<usize>]) {
        let mut before = lock(&self.before);
        let mut at = 0;
        for part in but.iter().chain([&(now.len()..now.len())]) {
            if let (Some(old), Some(new)) = (before.get_mut(at..part.start), now.get(at..part.start)) {
                old.copy_from_slice(new);
            }
            at = part.end;
        }
    }
}

/// A stream that stands still until changes of mirrors have been sent.
pub(crate) struct Stop {
    /// Given up when it is over: they know their stops.
    mirrors: Mutex<Vec<Arc<Mirror>>>,
    stands: AtomicBool,
}

impl Stop {
    fn new(mirrors: Vec<Arc<Mirror>>) -> Self {
        Self { mirrors: Mutex::new(mirrors), stands: AtomicBool::new(true) }
    }

    fn stands(&self) -> bool {
        self.stands.load(Acquire)
    }

    /// The stream is there, and whatever it comes behind has come: sends what has changed, and lets it go on. On a
    /// thread that may wait.
    pub(crate) fn pass(&self, session: &Session, number: u64) {
        let mut mirrors = std::mem::take(&mut *lock(&self.mirrors));
        mirrors.sort_by_key(|mirror| mirror.base);
        // Whoever has found a change while the stream stood has published it by then: the device has it before the
        // stream goes on. Nobody else holds two of these.
        let sending: Vec<_> = mirrors.iter().map(|mirror| lock(&mirror.sending)).collect();
        for mirror in &mirrors {
            // A session that is over has told its callers already.
            let _ = send_held(session, mirror);
        }
        // Before anything can be brought back that was read from here on.
        self.stands.store(false, Release);
        let gone = lock(&session.pending).remove(number);
        drop(gone);
        let _ = session.post_answer(&HostFuncDone { function: number });
        drop(sending);
    }

    /// The stream never gets there.
    pub(super) fn give_up(&self) {
        self.stands.store(false, Release);
        let mirrors = std::mem::take(&mut *lock(&self.mirrors));
        drop(mirrors);
    }
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
    /// The program has freed the memory, or is about to. Set under `sending`.
    gone: AtomicBool,
}

impl Mirror {
    /// Memory that the server has itself: there is nothing to compare or carry.
    fn of_shared(region: &super::memory::Region) -> Self {
        let bytes = usize::try_from(region.bytes).unwrap_or(usize::MAX);
        Self::new(region.base, bytes, region.base, 0)
    }

    fn new(base: u64, bytes: usize, start: u64, used: usize) -> Self {
        let bytes_agreed = vec![0; used].into_boxed_slice();
        Self {
            base,
            bytes,
            start,
            shadow: Mutex::new(Shadow { bytes: bytes_agreed, under_way: Vec::new(), stops: Vec::new() }),
            used,
            sending: Mutex::default(),
            ahead: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// The program's memory.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.start + self.used as u64
    }

    /// Where a stream stopped last for this mirror, and whether it stands there.
    fn last_stop(&self, stream: &Stream) -> Option<(u64, Arc<Stop>)> {
        let shadow = lock(&self.shadow);
        let known = shadow.stops.iter().find(|(of, ..)| *of == stream.handle);
        known.map(|(_, number, stop)| (*number, stop.clone()))
    }

    /// A stream stops. Under the lane's lock, so that what is brought back behind it finds it.
    fn stops(&self, stream: &Stream, number: u64, stop: &Arc<Stop>) {
        let stops = &mut lock(&self.shadow).stops;
        stops.retain(|(of, ..)| *of != stream.handle);
        if stops.len() >= STOPS {
            // Of others it is not known then that they need not stop again.
            stops.retain(|(.., stop)| stop.stands());
        }
        stops.push((stream.handle, number, stop.clone()));
    }

    /// What the program has changed in a block of up to a page, which counts as agreed upon from here on: the
    /// block, and which parts of it.
    fn changed(&self, at: usize, length: usize) -> Option<([u8; PAGE as usize], Vec<Range<usize>>)> {
        let source = ptr::with_exposed_provenance::<u8>(self.start as usize + at);
        let Shadow { bytes, under_way, .. } = &mut *lock(&self.shadow);
        let shadow = bytes.get_mut(at..at + length)?;
        // SAFETY: mirrored memory is the program's pinned memory, mapped as long as the mirror is known; a race
        // with the program's own stores is the race that a kernel would see.
        if unsafe { libc::memcmp(source.cast(), shadow.as_ptr().cast(), length) } == 0 {
            return None;
        }
        let mut block = [0; PAGE as usize];
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(source, block.as_mut_ptr(), length) };
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
            let copy = copy.upgrade();
            copy.is_some_and(|copy| {
                copy.sent(at, &block, &parts);
                true
            })
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

    /// Forgets the mirror of a range, and returns it if there was one. From then on nobody looks at the memory.
    pub(crate) fn forget(&self, base: u64, bytes: u64) -> Option<(u64, u64)> {
        let mut mirrors = lock(&self.0);
        let (&at, mirror) = mirrors.range(..base.saturating_add(bytes)).next_back()?;
        if at + mirror.bytes as u64 <= base {
            return None;
        }
        let mirror = mirrors.remove(&at)?;
        drop(mirrors);
        let _sending = lock(&mirror.sending);
        mirror.gone.store(true, Relaxed);
        lock(&mirror.shadow).stops.clear();
        Some((mirror.base, mirror.bytes as u64))
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

/// What an operation on `stream` that uses mirrors does before it is published: as [`push`]; or, in a capture, has its
/// replays do that.
///
/// # Errors
/// When the session is over.
pub(crate) fn before_use(
    runtime: &Runtime,
    stream: &Stream,
    mirrors: &[Arc<Mirror>],
) -> Result<Vec<Ahead>, CUresult> {
    let capture = stream.capture.load(Relaxed);
    if capture == 0 {
        return push(&runtime.session, stream, mirrors);
    }
    for mirror in mirrors {
        runtime.captures.uses(capture, mirror.base, mirror.bytes as u64);
    }
    Ok(Vec::new())
}

/// Sends what the program has changed in mirrors that the next operation on `stream` may use. From then on the device
/// may be ahead of them: what that operation changes is owed ([`owe`]). If something may be on its way into that memory
/// which the stream comes behind, it stops until that has come and been sent as well.
///
/// # Errors
/// When the session is over.
pub(crate) fn push(
    session: &Session,
    stream: &Stream,
    mirrors: &[Arc<Mirror>],
) -> Result<Vec<Ahead>, CUresult> {
    // Memory that the server has itself needs nothing.
    let mirrors = || mirrors.iter().filter(|mirror| mirror.used != 0);
    // Looked at before what is there is sent: what is not to come any more is among that.
    let to_come: Vec<_> = if session.counts.any_changes() {
        mirrors().filter(|mirror| is_to_come(session, stream, mirror)).cloned().collect()
    } else {
        Vec::new()
    };
    let mut ahead = Vec::new();
    for mirror in mirrors() {
        ahead.extend(send(session, mirror)?);
    }
    if !to_come.is_empty() {
        stop(session, stream, to_come)?;
    }
    Ok(ahead)
}

/// Whether something may be on its way into the memory of a mirror that the stream comes behind, and did not at its last
/// stop.
fn is_to_come(session: &Session, stream: &Stream, mirror: &Mirror) -> bool {
    let since = mirror.last_stop(stream).map_or(0, |(number, _)| number);
    memory_state::is_to_change(session, stream, &mirror.range(), since)
}

/// Has the stream stop until changes of these mirrors have been sent.
fn stop(session: &Session, stream: &Stream, mirrors: Vec<Arc<Mirror>>) -> Result<(), CUresult> {
    let stop = Arc::new(Stop::new(mirrors.clone()));
    let record = HostFunc { stream: stream.handle };
    let then = |number| {
        stream.issued(number);
        mirrors.iter().for_each(|mirror| mirror.stops(stream, number, &stop));
        Some(Pending::Stop(stop))
    };
    session.publish_with(&[], Room::Await, |_| record, |_, number| then(number)).map(drop)
}

/// Sends what the program has changed in a mirror.
fn send(session: &Session, mirror: &Arc<Mirror>) -> Result<Option<Ahead>, CUresult> {
    let _sending = lock(&mirror.sending);
    send_held(session, mirror)
}

/// The same, for who holds `sending`.
fn send_held(session: &Session, mirror: &Arc<Mirror>) -> Result<Option<Ahead>, CUresult> {
    if mirror.gone.load(Relaxed) {
        return Ok(None);
    }
    let mut run = Run { mirror, at: 0, bytes: Vec::new() };
    let mut at = 0;
    while at < mirror.used {
        let length = (PAGE as usize).min(mirror.used - at);
        if let Some((block, changed)) = mirror.changed(at, length) {
            for part in changed {
                run.add(session, at + part.start, &block[part])?;
            }
        }
        at += length;
    }
    run.send(session)?;
    // Before another thread can send whole pages.
    Ok(Some(Ahead::of(mirror)))
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

    /// Whether anything is owed of a stream that blocks with the legacy stream.
    pub(crate) fn is_of_blocking(&self) -> bool {
        let is_blocking = |on: &Stream| on.kind != StreamKind::Legacy && on.blocks_with_legacy();
        lock(&self.list).iter().any(|(_, on)| is_blocking(on))
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
    let used = mirror.used;
    let stop = mirror.last_stop(stream).map(|(_, stop)| stop).filter(|stop| stop.stands());
    let copy = {
        let mut shadow = lock(&mirror.shadow);
        let before = Mutex::new(shadow.bytes.clone());
        let copy = Arc::new(UnderWay { stream: stream.clone(), before, since: Mutex::default(), stop });
        shadow.under_way.push(Arc::downgrade(&copy));
        copy
    };
    let changed = session.owed.changed.clone();
    let finish = move |now: &[u8]| {
        if merge(&ahead.0, &copy, now) {
            changed.store(true, Relaxed);
        }
    };
    let landing = Landing::packed(used, finish);
    let copy = CopyOut::new(stream.clone(), used, landing, mirror.range(), None).of_mirror();
    let record = CopyOutOp { stream: stream.handle, source: mirror.start, bytes: used as u64 };
    session.post_copy_out(&record, Arc::new(copy), room)
}

/// Writes what the device changed, from `before` to `now`, into the program's memory, but for what was sent `since`.
/// Gives whether there was anything.
fn merge(mirror: &Mirror, copy: &UnderWay, now: &[u8]) -> bool {
    let mut shadow = lock(&mirror.shadow);
    let mut since = std::mem::take(&mut *lock(&copy.since));
    join(&mut since);
    let mut others = shadow.under_way.iter().filter_map(Weak::upgrade);
    if now.len() as u64 <= MIRROR_READ_BYTES {
        // What is still to come was read after this.
        let others = others.filter(|other| !ptr::eq(&raw const **other, copy));
        others.for_each(|other| other.comes_behind(now, &since));
    } else if others.any(|other| ptr::eq(&raw const *other, copy)) {
        // Each was read when its stream got there.
        others
            .filter(|other| other.stream.may_come_behind(1, &copy.stream, 0, true))
            .for_each(|other| other.comes_behind(now, &since));
    }
    let mut before = lock(&copy.before);
    for part in since {
        if let (Some(old), Some(new)) = (before.get_mut(part.clone()), now.get(part)) {
            old.copy_from_slice(new);
        }
    }
    if **before == *now {
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
                let target = ptr::with_exposed_provenance_mut::<u8>(mirror.start as usize + at);
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
    let target = ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: the range was checked against the mirror; the program polls this word.
    unsafe { ptr::copy_nonoverlapping(value.as_ptr(), target, value.len()) };
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
    use crate::runtime::objects::Context;
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
            for (number, pending) in lock(&session.pending).take() {
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
            let word = ptr::with_exposed_provenance_mut::<u32>(start as usize).wrapping_add(at);
            // SAFETY: the array above.
            unsafe { word.write_volatile(value) };
        };
        let copy = under_way(&mirror, 1, None);
        let _ahead = Ahead::of(&mirror);
        // It sends two values while the copy is under way, which finds the first there, and goes on.
        for value in 7..9 {
            write(0, value);
            assert!(mirror.changed(0, 16).is_some());
        }
        write(0, 9);
        assert!(merge(&mirror, &copy, &bytes(&[7, 5, 0, 0])));
        // SAFETY: as above.
        let left = unsafe { memory.as_ptr().cast::<[u32; 4]>().read_volatile() };
        assert_eq!(left, [9, 5, 0, 0]);
        let copy = under_way(&mirror, 1, None);
        assert!(!merge(&mirror, &copy, &bytes(&[8, 5, 0, 0])));
    }

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A copy that is asked for now, on this stream.
    fn under_way(mirror: &Mirror, stream: u64, stop: Option<Arc<Stop>>) -> Arc<UnderWay> {
        let context = Arc::new(Context::new(1, 0, true, 0, 3020));
        let stream = Arc::new(Stream::new(stream, context, StreamKind::Created, 1, 0));
        let mut shadow = lock(&mirror.shadow);
        let before = Mutex::new(shadow.bytes.clone());
        let copy = Arc::new(UnderWay { stream, before, since: Mutex::default(), stop });
        shadow.under_way.push(Arc::downgrade(&copy));
        copy
    }

    #[test]
    fn what_is_sent_while_the_stream_stands_still_comes_before_what_the_device_does() {
        let mut memory = [0u32; 2];
        let start = memory.as_mut_ptr().expose_provenance() as u64;
        let mirror = Arc::new(Mirror::new(start, 8, start, 8));
        let word = ptr::with_exposed_provenance_mut::<u32>(start as usize);
        let _ahead = Ahead::of(&mirror);
        let stop = Arc::new(Stop::new(vec![mirror.clone()]));
        let behind = under_way(&mirror, 1, Some(stop.clone()));
        let beside = under_way(&mirror, 2, None);
        // SAFETY: the array above.
        unsafe { word.write_volatile(7) };
        assert!(mirror.changed(0, 8).is_some());
        stop.stands.store(false, Release);
        // That of another stream was read before; this one after a kernel that adds to what was sent.
        assert!(!merge(&mirror, &beside, &bytes(&[0, 0])));
        assert!(merge(&mirror, &behind, &bytes(&[8, 1])));
        // SAFETY: as above.
        assert_eq!(unsafe { memory.as_ptr().cast::<[u32; 2]>().read_volatile() }, [8, 1]);
    }

    #[test]
    fn what_was_read_later_counts_also_where_it_is_what_it_was_before_both() {
        for (words, small) in [(2, true), (MIRROR_READ_BYTES as usize / 4 + 1, false)] {
            let mut memory = vec![0u32; words];
            let start = memory.as_mut_ptr().expose_provenance() as u64;
            let mirror = Arc::new(Mirror::new(start, 4 * words, start, 4 * words));
            let found = |first: u32, second: u32| {
                let mut now = vec![0; 4 * words];
                now[..8].copy_from_slice(&bytes(&[first, second]));
                now
            };
            let (one, two, three) =
                (under_way(&mirror, 1, None), under_way(&mirror, 2, None), under_way(&mirror, 3, None));
            let again = under_way(&mirror, 2, None);
            // Large ones are read by their streams: the second one comes behind the first.
            two.stream.waited.store(1, Relaxed);
            assert!(merge(&mirror, &one, &found(1, 5)));
            assert!(merge(&mirror, &two, &found(0, 5)));
            // The third was read last if it is small, and in no order with the others if not.
            assert_eq!(merge(&mirror, &three, &found(0, 0)), small);
            // SAFETY: the memory above.
            let left = unsafe { memory.as_ptr().cast::<[u32; 2]>().read_volatile() };
            assert_eq!(left, if small { [0, 0] } else { [0, 5] });
            // Nothing has changed on the second stream since.
            assert_eq!(merge(&mirror, &again, &found(0, 5)), small);
            let again = under_way(&mirror, 2, None);
            let last = under_way(&mirror, 2, None);
            assert!(merge(&mirror, &again, &found(3, 5)) && merge(&mirror, &last, &found(0, 5)));
        }
    }

    #[test]
    fn parts_that_overlap_or_touch_are_one() {
        let mut parts = vec![8..12, 0..4, 4..8, 20..24, 20..24, 22..30];
        join(&mut parts);
        assert_eq!(parts, [0..12, 20..30]);
    }
}
