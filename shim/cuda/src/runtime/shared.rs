//! Pinned memory that client and server share: one memory, at one address, for the program and for the GPU.
//!
//! The whole host window has one memfd behind it, which the server passed at the start; a part of it becomes
//! memory when both ends map it. The GPU's own engine copies from and to the program's buffer then, and kernels
//! read and write it, so the link carries none of it. What the program does there and what the GPU does are in
//! the order of streams, as everywhere: the client's processor must not copy such memory on a stream's behalf
//! without waiting for the stream.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use fusewire_wire::ops::table::{HostShare, HostUnshare};
use fusewire_wire::ops::window::HOST_BASE;

use crate::abi::result::CUDA_ERROR_OUT_OF_MEMORY;
use crate::abi::types::CUresult;

use super::marks::Marks;
use super::memory::{ALIGNMENT, Ranges, Share};
use super::memory_state::{PAGE, put_back};
use super::pending::{Pending, Reclaim};
use super::session::lock;
use super::staging::Staging;
use super::{Runtime, log};

/// Pages that small allocations are cut from, and below which an allocation is small.
const CHUNK: u64 = 2 << 20;
const SMALL: u64 = CHUNK / 4;

/// The memory behind the host window.
pub(crate) struct Shared {
    memory: OwnedFd,
    /// Free pieces of shared pages. Never held across a call: the I/O thread gives pieces back.
    pieces: Mutex<Ranges>,
    staging: Staging,
    marks: Marks,
    /// It has been said that some memory is not shared.
    said: AtomicBool,
}

impl Shared {
    pub(crate) fn new(memory: OwnedFd) -> Self {
        Self {
            memory,
            pieces: Mutex::new(Ranges::empty()),
            staging: Staging::default(),
            marks: Marks::default(),
            said: AtomicBool::new(false),
        }
    }
}

/// Slots for pageable copies, where memory is shared.
pub(super) fn staging(runtime: &Runtime) -> Option<&Staging> {
    runtime.memory.shared.as_ref().map(|shared| &shared.staging)
}

/// Pages for those slots.
pub(super) fn staging_pages(runtime: &Runtime, bytes: u64) -> Option<u64> {
    runtime.memory.shared.as_ref().and_then(|shared| pages(runtime, shared, bytes).ok())
}

/// Words by which the GPU tells of streams.
pub(super) fn marks(runtime: &Runtime) -> Option<&Marks> {
    runtime.memory.shared.as_ref().map(|shared| &shared.marks)
}

/// Memory for those.
pub(super) fn page_for_marks(runtime: &Runtime, bytes: u64) -> Option<u64> {
    runtime.memory.shared.as_ref().and_then(|shared| pages(runtime, shared, bytes).ok())
}

pub(super) fn give_slot(runtime: &Runtime, slot: u64) {
    if let Some(staging) = staging(runtime) {
        staging.give(slot);
    }
}

/// Allocates shared memory. `None`: the link has none, or the server would not have it; ordinary memory will do.
///
/// # Errors
/// When the session is over.
pub(crate) fn allocate(runtime: &Runtime, bytes: u64) -> Result<Option<(u64, Share)>, CUresult> {
    let Some(shared) = &runtime.memory.shared else { return Ok(None) };
    let made = if bytes < SMALL {
        piece(runtime, shared, bytes.next_multiple_of(ALIGNMENT)).map(|address| (address, Share::Piece))
    } else {
        let whole = bytes.checked_next_multiple_of(PAGE).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
        pages(runtime, shared, whole).map(|address| (address, Share::Pages))
    };
    made.map(Some).or_else(|code| {
        runtime.session.check()?;
        if !shared.said.swap(true, Relaxed) && log::informs() {
            log::say(&format!(
                "{bytes} bytes of pinned memory are not shared with the server (error {code}): what is copied from \
                 and to such memory goes over the link"
            ));
        }
        Ok(None)
    })
}

fn piece(runtime: &Runtime, shared: &Shared, bytes: u64) -> Result<u64, CUresult> {
    if let Some(address) = lock(&shared.pieces).take(bytes, ALIGNMENT) {
        return Ok(address);
    }
    let chunk = pages(runtime, shared, CHUNK)?;
    let mut pieces = lock(&shared.pieces);
    pieces.give(chunk, CHUNK);
    pieces.take(bytes, ALIGNMENT).ok_or(CUDA_ERROR_OUT_OF_MEMORY)
}

/// Maps pages here and has the server map and register them.
fn pages(runtime: &Runtime, shared: &Shared, bytes: u64) -> Result<u64, CUresult> {
    // Large pages need such addresses.
    let alignment = if bytes >= CHUNK { CHUNK } else { PAGE };
    let window = &runtime.memory.host_window;
    let address = lock(window).take(bytes, alignment).ok_or(CUDA_ERROR_OUT_OF_MEMORY)?;
    let result = map(shared, address, bytes)
        .and_then(|()| runtime.session.call(&HostShare { address, bytes }, &[]).map(drop));
    if let Err(code) = result {
        put_back(address, bytes);
        give_back_pages(shared, address, bytes);
        lock(window).give(address, bytes);
        return Err(code);
    }
    Ok(address)
}

fn map(shared: &Shared, address: u64, bytes: u64) -> Result<(), CUresult> {
    let pointer = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address as usize);
    let offset = libc::off_t::try_from(address - HOST_BASE).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
    let how = libc::MAP_SHARED | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: replaces a part of our own reservation that nobody else was given.
    let at =
        unsafe { libc::mmap(pointer, bytes as usize, protection, how, shared.memory.as_raw_fd(), offset) };
    if at != pointer {
        return Err(CUDA_ERROR_OUT_OF_MEMORY);
    }
    // The pages are taken here, and so charged to this process, not to the server, which would take them when it
    // registers them. A kernel that knows neither does without.
    // SAFETY: advice about the mapping that was just made.
    let taken = unsafe {
        libc::madvise(pointer, bytes as usize, libc::MADV_HUGEPAGE);
        libc::madvise(pointer, bytes as usize, libc::MADV_POPULATE_WRITE)
    };
    let unknown = || std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL);
    if taken == 0 || unknown() { Ok(()) } else { Err(CUDA_ERROR_OUT_OF_MEMORY) }
}

/// Gives pages back to the system that the server never had.
fn give_back_pages(shared: &Shared, address: u64, bytes: u64) {
    let range = (libc::off_t::try_from(address - HOST_BASE), libc::off_t::try_from(bytes));
    if let (Ok(offset), Ok(length)) = range {
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: numbers only; nothing is mapped there any more. If it fails the pages go with the session.
        unsafe { libc::fallocate(shared.memory.as_raw_fd(), hole, offset, length) };
    }
}

/// Gives memory up. Its address is used again when no work issued before can use it any more.
pub(crate) fn free(runtime: &Runtime, address: u64, bytes: u64, share: Share) {
    let (bytes, record) = match share {
        Share::Pages => {
            let whole = bytes.next_multiple_of(PAGE);
            // The server keeps its own mapping for as long as the GPU may use it.
            put_back(address, whole);
            (whole, HostUnshare { address, bytes: whole })
        }
        _ => (bytes.next_multiple_of(ALIGNMENT), HostUnshare { address: 0, bytes: 0 }),
    };
    // A session that is over has nothing to give back.
    let _ = runtime
        .session
        .post_pending(None, &record, &[], |_| Pending::Reclaim(Reclaim::Host(address, bytes, share)));
}

/// Nothing uses freed memory any more. For the I/O thread.
pub(crate) fn reclaim(runtime: &Runtime, address: u64, bytes: u64, share: Share) {
    match (&runtime.memory.shared, share) {
        (Some(shared), Share::Piece) => lock(&shared.pieces).give(address, bytes),
        _ => lock(&runtime.memory.host_window).give(address, bytes),
    };
}
