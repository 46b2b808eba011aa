//! Pitched, three-dimensional and array copies.
//!
//! What they touch and how they are cut is [`crate::runtime::rect`]; when they may return is
//! [`crate::runtime::copies`].

use std::ffi::c_void;
use std::sync::Arc;

use fusewire_wire::ops::table::CopyRect;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUarray, CUcontext, CUdeviceptr, CUresult, CUstream};
use crate::runtime::copies::{self, Form, Side, check_device, side};
use crate::runtime::objects::{Array, Stream};
use crate::runtime::rect::{self, Extent, Offset, Piece, Pitch};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, handles, mirror};

use super::arguments::need;

// CUmemorytype of cuda.h.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// Chunks that may wait to be sent before the next one is packed.
const AHEAD: usize = 16;

/// One side of `CUDA_MEMCPY2D`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Side2D {
    pub x: usize,
    pub y: usize,
    pub kind: u32,
    pub host: *mut c_void,
    pub device: CUdeviceptr,
    pub array: CUarray,
    pub pitch: usize,
}

/// `CUDA_MEMCPY2D`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy2D {
    pub source: Side2D,
    pub destination: Side2D,
    pub width: usize,
    pub height: usize,
}

/// One side of `CUDA_MEMCPY3D`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Side3D {
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub lod: usize,
    pub kind: u32,
    pub host: *mut c_void,
    pub device: CUdeviceptr,
    pub array: CUarray,
    /// Of `CUDA_MEMCPY3D_PEER` alone; reserved otherwise.
    pub context: CUcontext,
    pub pitch: usize,
    pub rows: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`, as cuda.h lays them out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy3D {
    pub source: Side3D,
    pub destination: Side3D,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

const _: () = assert!(size_of::<Memcpy2D>() == 128 && size_of::<Memcpy3D>() == 200);

// SAFETY: a description; its addresses are numbers until a copy is made of it.
unsafe impl Send for Memcpy3D {}

impl From<Side2D> for Side3D {
    fn from(side: Side2D) -> Self {
        let Side2D { x, y, kind, host, device, array, pitch } = side;
        Self { x, y, z: 0, lod: 0, kind, host, device, array, context: std::ptr::null_mut(), pitch, rows: 0 }
    }
}

impl From<Memcpy2D> for Memcpy3D {
    fn from(copy: Memcpy2D) -> Self {
        let Memcpy2D { source, destination, width, height } = copy;
        Self { source: source.into(), destination: destination.into(), width, height, depth: 1 }
    }
}

impl Side3D {
    /// An array from a byte of its first row on.
    fn row_of(array: CUarray, x: usize) -> Self {
        Self { kind: ARRAY, array, x, ..Self::at(0) }
    }

    /// Memory of whatever kind.
    pub(crate) fn at(address: u64) -> Self {
        let null = std::ptr::null_mut();
        Self {
            x: 0,
            y: 0,
            z: 0,
            lod: 0,
            kind: UNIFIED,
            host: null,
            device: address,
            array: null,
            context: null,
            pitch: 0,
            rows: 0,
        }
    }

    /// Memory of whatever kind, in rows; 0 says that there are no gaps.
    pub(crate) fn pitched(address: u64, pitch: usize, rows: usize) -> Self {
        Self { pitch, rows, ..Self::at(address) }
    }

    /// An array, from a place on.
    pub(crate) fn array(array: CUarray, at: Offset) -> Self {
        Self { kind: ARRAY, array, x: at.x, y: at.y, z: at.z, ..Self::at(0) }
    }
}

/// What a side of a copy turns out to be.
enum Place {
    Memory { base: u64, pitch: Pitch, side: Side },
    Array(Arc<Array>),
}

/// A side of a copy, checked.
pub(crate) struct End {
    place: Place,
    at: Offset,
}

/// A copy, checked.
pub(crate) struct Copy {
    pub(crate) source: End,
    pub(crate) destination: End,
    pub(crate) extent: Extent,
}

impl End {
    fn read(runtime: &Runtime, given: &Side3D, extent: Extent) -> Result<Self, CUresult> {
        let at = Offset { x: given.x, y: given.y, z: given.z };
        if given.lod != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let base = match given.kind {
            HOST => given.host.expose_provenance() as u64,
            DEVICE | UNIFIED => given.device,
            ARRAY => {
                let array = handles::array(given.array)?;
                fits(&array, at, extent)?;
                return Ok(Self { place: Place::Array(array), at });
            }
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        };
        let pitch = Pitch::of(given.pitch, given.rows, at, extent)?;
        if extent.is_empty() {
            return Ok(Self { place: Place::Memory { base, pitch, side: Side::Device }, at });
        }
        let span = pitch.span(at, extent)?;
        let start = base.checked_add(span.start as u64).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let side = side(runtime, start, span.len())?;
        if given.kind == DEVICE && side == Side::Pageable {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if side == Side::Device {
            check_device(runtime, start, span.len())?;
        }
        Ok(Self { place: Place::Memory { base, pitch, side }, at })
    }

    fn host(&self) -> Option<(u64, Pitch, Side)> {
        match self.place {
            Place::Memory { base, pitch, side: side @ (Side::Pinned | Side::Pageable) } => {
                Some((base, pitch, side))
            }
            _ => None,
        }
    }

    /// The first byte and the length of what is shared with the server.
    fn shared(&self, extent: Extent) -> Result<Option<(u64, usize)>, CUresult> {
        let Place::Memory { base, pitch, side: Side::Shared } = self.place else { return Ok(None) };
        let span = pitch.span(self.at, extent)?;
        Ok(Some((base + span.start as u64, span.len())))
    }

    /// The address of the first byte, and the pitch, of memory.
    pub(crate) fn memory(&self) -> Option<(u64, Pitch)> {
        match self.place {
            Place::Memory { base, pitch, .. } => {
                pitch.at(self.at).map(|offset| (base + offset as u64, pitch))
            }
            Place::Array(_) => None,
        }
    }

    /// The address of the whole, where it is one run of bytes.
    fn dense(&self, extent: Extent) -> Option<u64> {
        self.memory().filter(|(_, pitch)| pitch.is_dense(extent)).map(|(start, _)| start)
    }

    /// Has host memory mirrored, so that the server can use it under its own address. Gives what it is part of.
    pub(crate) fn mirror(
        &self,
        runtime: &Runtime,
        stream_context: &runtime::objects::Context,
        extent: Extent,
    ) -> Result<Option<(u64, u64)>, CUresult> {
        let Some((base, pitch, _)) = self.host() else { return Ok(None) };
        let span = pitch.span(self.at, extent)?;
        // A range that no mirror can hold is one that a graph cannot use.
        let mirror = mirror::ensure(runtime, stream_context, base + span.start as u64, span.len() as u64)
            .map_err(|code| if code == CUDA_ERROR_INVALID_VALUE { CUDA_ERROR_NOT_SUPPORTED } else { code })?;
        Ok(Some((mirror.base, mirror.bytes as u64)))
    }
}

/// Whether a box lies in an array.
fn fits(array: &Array, at: Offset, extent: Extent) -> Result<(), CUresult> {
    let row = array.width.saturating_mul(super::array::element_bytes(array.format, array.channels)?);
    let within =
        |at: usize, length: usize, limit: usize| at.checked_add(length).is_some_and(|end| end <= limit);
    let inside = within(at.x, extent.width, row)
        && within(at.y, extent.height, array.height.max(1))
        && within(at.z, extent.depth, array.depth.max(1));
    if inside { Ok(()) } else { Err(CUDA_ERROR_INVALID_VALUE) }
}

impl Copy {
    /// Checks a description as the driver does.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE`, or `CUDA_ERROR_INVALID_HANDLE` for an array that is not there.
    pub(crate) fn read(runtime: &Runtime, given: &Memcpy3D) -> Result<Self, CUresult> {
        let extent = Extent { width: given.width, height: given.height, depth: given.depth };
        Ok(Self {
            source: End::read(runtime, &given.source, extent)?,
            destination: End::read(runtime, &given.destination, extent)?,
            extent,
        })
    }

    /// The operation for a piece; what the other direction does not use stays 0.
    fn record(&self, stream: &Stream, piece: Piece, direction: u32, first_chunk: u64) -> CopyRect {
        let mut record = CopyRect {
            stream: stream.handle,
            destination: 0,
            destination_array: 0,
            destination_pitch: 0,
            destination_height: 0,
            destination_x: 0,
            destination_y: 0,
            destination_z: 0,
            source: 0,
            source_array: 0,
            source_pitch: 0,
            source_height: 0,
            source_x: 0,
            source_y: 0,
            source_z: 0,
            width: piece.extent.width as u64,
            height: piece.extent.height as u64,
            depth: piece.extent.depth as u64,
            first_chunk,
            direction,
            reserved: 0,
        };
        let place = |end: &End| {
            let (x, y, z) = (end.at.x + piece.at.x, end.at.y + piece.at.y, end.at.z + piece.at.z);
            let at = [x as u64, y as u64, z as u64];
            match &end.place {
                Place::Memory { base, pitch, .. } => (*base, 0, pitch.row as u64, pitch.rows as u64, at),
                Place::Array(array) => (0, array.handle, 0, 0, at),
            }
        };
        if direction != OUT {
            let (base, array, pitch, rows, [x, y, z]) = place(&self.destination);
            record.destination = base;
            record.destination_array = array;
            record.destination_pitch = pitch;
            record.destination_height = rows;
            (record.destination_x, record.destination_y, record.destination_z) = (x, y, z);
        }
        if direction != IN {
            let (base, array, pitch, rows, [x, y, z]) = place(&self.source);
            record.source = base;
            record.source_array = array;
            record.source_pitch = pitch;
            record.source_height = rows;
            (record.source_x, record.source_y, record.source_z) = (x, y, z);
        }
        record
    }

    fn whole(&self) -> Piece {
        Piece { at: Offset::default(), extent: self.extent }
    }
}

// Directions of `CopyRect`.
const IN: u32 = 0;
const OUT: u32 = 1;
const WITHIN: u32 = 2;

/// Makes a copy.
///
/// # Errors
/// For what the driver would refuse at once; the stream's or session's otherwise.
///
/// # Safety
/// Host memory must be good for the box, as the driver's rules demand of the program.
pub(crate) unsafe fn copy(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    given: &Memcpy3D,
    form: Form,
) -> Result<(), CUresult> {
    stream.context.check()?;
    let copy = Copy::read(runtime, given)?;
    if copy.extent.is_empty() {
        return Ok(());
    }
    let bytes = copy.extent.bytes()?;
    if let (Some(to), Some(from)) = (copy.destination.dense(copy.extent), copy.source.dense(copy.extent)) {
        // SAFETY: the caller's promise.
        return unsafe { copies::copy(runtime, stream, to, from, bytes, form) };
    }
    if stream.is_capturing() {
        return captured(runtime, stream, &copy, form);
    }
    let (to, from) = (copy.destination.shared(copy.extent)?, copy.source.shared(copy.extent)?);
    if let Some((start, bytes)) = from {
        copies::after_writers(runtime, start, bytes)?;
    }
    match (copy.destination.host(), copy.source.host()) {
        (None, None) => {
            runtime.session.post_on(stream, &copy.record(stream, copy.whole(), WITHIN, 0), &[])?;
            if to.or(from).is_some() { copies::shared_copied(runtime, stream, form) } else { Ok(()) }
        }
        (None, Some(host)) => {
            // SAFETY: the caller's promise.
            let number = unsafe { send(runtime, stream, &copy, host) }?;
            // A copy between two places of the host's is done when it returns.
            let form = if to.is_some() { Form::Sync } else { form };
            if to.is_some() {
                return copies::shared_copied(runtime, stream, form);
            }
            copies::copied_in(runtime, stream, number, form)
        }
        // SAFETY: the caller's promise.
        (Some(host), None) => unsafe { receive(runtime, stream, &copy, host, form) },
        (Some((to, to_pitch, _)), Some((from, from_pitch, _))) => {
            copies::synchronize(runtime, stream)?;
            let source = std::ptr::with_exposed_provenance::<u8>(from as usize);
            let target = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
            // SAFETY: the caller's promise.
            unsafe {
                let packed = rect::gather(source, from_pitch, copy.source.at, copy.extent);
                rect::scatter(&packed, target, to_pitch, copy.destination.at, copy.extent);
            }
            Ok(())
        }
    }
}

/// A copy in a capture happens at every replay, between mirrors where a side is the host's.
fn captured(runtime: &Runtime, stream: &Arc<Stream>, copy: &Copy, form: Form) -> Result<(), CUresult> {
    if form == Form::Sync {
        runtime.captures.unsafe_call()?;
    }
    let capture = runtime.captures.active(stream)?;
    for end in [&copy.source, &copy.destination] {
        if let Some((base, bytes)) = end.mirror(runtime, &stream.context, copy.extent)? {
            runtime.captures.uses(capture, base, bytes);
        }
    }
    runtime.session.post_on(stream, &copy.record(stream, copy.whole(), WITHIN, 0), &[]).map(drop)
}

/// Host to device. The source has been read when this returns, whatever kind of memory it is. Gives the number of the
/// last operation of the copy.
///
/// # Safety
/// As [`copy`].
unsafe fn send(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    copy: &Copy,
    (base, pitch, side): (u64, Pitch, Side),
) -> Result<u64, CUresult> {
    let mut number = 0;
    if side == Side::Pinned {
        let span = pitch.span(copy.source.at, copy.extent)?;
        copies::before_reading(runtime, stream, base + span.start as u64, span.len())?;
    }
    let source = std::ptr::with_exposed_provenance::<u8>(base as usize);
    let mut waiting = std::collections::VecDeque::new();
    for piece in rect::pieces(copy.extent, runtime.session.slot_bytes) {
        let Offset { x, y, z } = copy.source.at;
        let at = Offset { x: x + piece.at.x, y: y + piece.at.y, z: z + piece.at.z };
        // SAFETY: a part of the box that the caller vouches for.
        let packed = unsafe { rect::gather(source, pitch, at, piece.extent) };
        waiting.push_back((packed.as_ptr().addr() as u64, packed.len() as u64));
        number = runtime.session.send_chunk(stream, packed, |first| copy.record(stream, piece, IN, first))?;
        if waiting.len() > AHEAD
            && let Some((base, bytes)) = waiting.pop_front()
        {
            // Found by where it is packed, if it has not been sent and freed.
            for transfer in runtime.session.transfers.reading(base, bytes) {
                transfer.wait();
            }
        }
    }
    runtime.session.check().map(|()| number)
}

/// Device to host: returns when the data are there, unless they come into pinned memory asynchronously.
///
/// # Safety
/// As [`copy`].
unsafe fn receive(
    runtime: &Runtime,
    stream: &Arc<Stream>,
    copy: &Copy,
    (base, pitch, side): (u64, Pitch, Side),
    form: Form,
) -> Result<(), CUresult> {
    let waits = form == Form::Sync || side == Side::Pageable;
    let region = if waits { None } else { runtime.memory.find(base).map(|region| region.id) };
    let mut pieces = rect::pieces(copy.extent, runtime.session.slot_bytes).peekable();
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        let Offset { x, y, z } = copy.destination.at;
        let at = Offset { x: x + piece.at.x, y: y + piece.at.y, z: z + piece.at.z };
        let finish = move |packed: &[u8]| {
            let Ok(runtime) = runtime::get() else { return };
            // Held while the data are put in place: pinned memory that nobody waits for may have been freed.
            let map = runtime.memory.map();
            if region.is_some() && map.find(base).map(|found| found.id) != region {
                return;
            }
            let target = std::ptr::with_exposed_provenance_mut::<u8>(base as usize);
            // SAFETY: the program's memory: it waits for the data, or the memory is still registered.
            unsafe { rect::scatter(packed, target, pitch, at, piece.extent) };
        };
        let record = copy.record(stream, piece, OUT, 0);
        let span = pitch.span(at, piece.extent)?;
        let writes = base + span.start as u64..base + span.end as u64;
        let bytes = piece.extent.bytes()?;
        copies::receive_packed(runtime, stream, bytes, writes, waits && last, &record, finish)?;
    }
    Ok(())
}

/// # Safety
/// `given` is NULL or a description; its host memory is good for the box.
unsafe fn copy_2d(
    runtime: &Runtime,
    stream: CUstream,
    given: *const Memcpy2D,
    form: Form,
) -> Result<(), CUresult> {
    need(given)?;
    let stream = current::stream(runtime, stream)?;
    // SAFETY: the caller's promise.
    unsafe { copy(runtime, &stream, &given.read().into(), form) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2D_v2(given: *const Memcpy2D) -> CUresult {
    runtime::call(counter!("cuMemcpy2D_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { copy_2d(runtime, std::ptr::null_mut(), given, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DUnaligned_v2(given: *const Memcpy2D) -> CUresult {
    runtime::call(counter!("cuMemcpy2DUnaligned_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { copy_2d(runtime, std::ptr::null_mut(), given, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(given: *const Memcpy2D, stream: CUstream) -> CUresult {
    runtime::call(counter!("cuMemcpy2DAsync_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { copy_2d(runtime, stream, given, Form::Async) }
    })
}

/// # Safety
/// As [`copy_2d`].
unsafe fn copy_3d(
    runtime: &Runtime,
    stream: CUstream,
    given: *const Memcpy3D,
    form: Form,
) -> Result<(), CUresult> {
    need(given)?;
    let stream = current::stream(runtime, stream)?;
    // SAFETY: the caller's promise.
    unsafe { copy(runtime, &stream, &given.read(), form) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy3D_v2(given: *const Memcpy3D) -> CUresult {
    runtime::call(counter!("cuMemcpy3D_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { copy_3d(runtime, std::ptr::null_mut(), given, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy3DAsync_v2(given: *const Memcpy3D, stream: CUstream) -> CUresult {
    runtime::call(counter!("cuMemcpy3DAsync_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { copy_3d(runtime, stream, given, Form::Async) }
    })
}

/// Comes after the work of both devices and before any later work of either.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy3DPeer(given: *const Memcpy3D) -> CUresult {
    runtime::call(counter!("cuMemcpy3DPeer"), |runtime| {
        need(given)?;
        // SAFETY: the program's description.
        let given = unsafe { given.read() };
        let legacy =
            |context| handles::context(context)?.legacy.get().cloned().ok_or(CUDA_ERROR_INVALID_VALUE);
        let (stream, target) = (legacy(given.source.context)?, legacy(given.destination.context)?);
        let apart = target.handle != stream.handle;
        if apart {
            copies::synchronize(runtime, &target)?;
        }
        // SAFETY: the program's pointers.
        unsafe { copy(runtime, &stream, &given, Form::Sync) }?;
        if apart { copies::synchronize(runtime, &stream) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy3DPeerAsync(given: *const Memcpy3D, stream: CUstream) -> CUresult {
    runtime::call(counter!("cuMemcpy3DPeerAsync"), |runtime| {
        need(given)?;
        // SAFETY: the program's description.
        let Memcpy3D { source, destination, .. } = unsafe { given.read() };
        handles::context(source.context)?;
        handles::context(destination.context)?;
        // SAFETY: the program's pointers.
        unsafe { copy_3d(runtime, stream, given, Form::Async) }
    })
}

/// A run of bytes from or to the first row of an array.
///
/// # Safety
/// Host memory must be good for `bytes` bytes.
unsafe fn row(
    runtime: &Runtime,
    stream: CUstream,
    destination: Side3D,
    source: Side3D,
    bytes: usize,
    form: Form,
) -> Result<(), CUresult> {
    let stream = current::stream(runtime, stream)?;
    let given = Memcpy3D { source, destination, width: bytes, height: 1, depth: 1 };
    // SAFETY: the caller's promise.
    unsafe { copy(runtime, &stream, &given, form) }
}

fn host(address: *const c_void) -> Side3D {
    Side3D { kind: HOST, host: address.cast_mut(), ..Side3D::at(0) }
}

fn device(address: CUdeviceptr) -> Side3D {
    Side3D { kind: DEVICE, ..Side3D::at(address) }
}

const LEGACY: CUstream = std::ptr::null_mut();

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoA_v2(
    to: CUarray,
    offset: usize,
    from: *const c_void,
    bytes: usize,
) -> CUresult {
    runtime::call(counter!("cuMemcpyHtoA_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { row(runtime, LEGACY, Side3D::row_of(to, offset), host(from), bytes, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoAAsync_v2(
    to: CUarray,
    offset: usize,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyHtoAAsync_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { row(runtime, stream, Side3D::row_of(to, offset), host(from), bytes, Form::Async) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAtoH_v2(
    to: *mut c_void,
    from: CUarray,
    offset: usize,
    bytes: usize,
) -> CUresult {
    runtime::call(counter!("cuMemcpyAtoH_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { row(runtime, LEGACY, host(to), Side3D::row_of(from, offset), bytes, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAtoHAsync_v2(
    to: *mut c_void,
    from: CUarray,
    offset: usize,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    runtime::call(counter!("cuMemcpyAtoHAsync_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { row(runtime, stream, host(to), Side3D::row_of(from, offset), bytes, Form::Async) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAtoD_v2(
    to: CUdeviceptr,
    from: CUarray,
    offset: usize,
    bytes: usize,
) -> CUresult {
    runtime::call(counter!("cuMemcpyAtoD_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { row(runtime, LEGACY, device(to), Side3D::row_of(from, offset), bytes, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoA_v2(
    to: CUarray,
    offset: usize,
    from: CUdeviceptr,
    bytes: usize,
) -> CUresult {
    runtime::call(counter!("cuMemcpyDtoA_v2"), |runtime| {
        // SAFETY: the program's pointers.
        unsafe { row(runtime, LEGACY, Side3D::row_of(to, offset), device(from), bytes, Form::Sync) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAtoA_v2(
    to: CUarray,
    to_offset: usize,
    from: CUarray,
    from_offset: usize,
    bytes: usize,
) -> CUresult {
    runtime::call(counter!("cuMemcpyAtoA_v2"), |runtime| {
        let (to, from) = (Side3D::row_of(to, to_offset), Side3D::row_of(from, from_offset));
        // SAFETY: no memory of the program's.
        unsafe { row(runtime, LEGACY, to, from, bytes, Form::Sync) }
    })
}

crate::abi::variants!("copy_rect.rs");
