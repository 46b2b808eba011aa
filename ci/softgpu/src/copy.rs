//! Copies and fills, in all their forms, as one three-dimensional copy and one two-dimensional fill.
//!
//! What a copy may touch is checked twice: when it is asked for, where a bad range is refused as an
//! invalid value, and when it runs, where memory that has gone meanwhile is a fault of the context.
//! Pageable host memory is read before an asynchronous copy returns and written before one returns;
//! memory that is registered is the program's to look after.

use std::sync::Arc;

use crate::abi::{CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, In};
use crate::array::{self, Array};
use crate::capture;
use crate::context::{self, Context};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::space::{self, Map};
use crate::stream::{self, Stream};
use crate::work::Work;

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// One end of a copy.
#[derive(Clone)]
pub(crate) struct Side {
    place: Place,
    /// Address of the first byte.
    address: u64,
    pitch: u64,
    slice: u64,
}

#[derive(Clone)]
enum Place {
    /// Memory in the address map.
    Device,
    /// Memory of the program's.
    Host,
    Array(Arc<Array>),
    /// Host memory as it was when the copy was asked for.
    Captured(Arc<[u8]>),
}

#[derive(Clone)]
pub(crate) struct Copy3 {
    to: Side,
    from: Side,
    width: u64,
    height: u64,
    depth: u64,
    /// As the program described it, for the graph functions.
    params: CUDA_MEMCPY3D,
}

impl Side {
    fn flat(place: Place, address: u64, len: u64) -> Side {
        Side { place, address, pitch: len, slice: len }
    }

    /// An address that may be of either kind.
    fn unified(address: u64, len: u64) -> Side {
        let place = match space::find(address) {
            Some(_) => Place::Device,
            None => Place::Host,
        };
        Side::flat(place, address, len)
    }

    fn is_pageable(&self) -> bool {
        matches!(self.place, Place::Host) && space::find(self.address).is_none_or(|region| !region.is_host())
    }

    fn is_device(&self) -> bool {
        match self.place {
            Place::Array(_) => true,
            Place::Device => space::find(self.address).is_some_and(|region| !region.is_host()),
            Place::Host | Place::Captured(_) => false,
        }
    }

    /// Address of one row, if the row is there.
    fn row(&self, map: &Map, y: u64, z: u64, width: u64) -> Option<u64> {
        let offset = z.checked_mul(self.slice)?.checked_add(y.checked_mul(self.pitch)?)?;
        let address = self.address.checked_add(offset)?;
        let there = match &self.place {
            Place::Device => space::mapped(map, address, width),
            Place::Host => address != 0,
            Place::Array(array) => array.holds(address, width),
            Place::Captured(bytes) => {
                let base = bytes.as_ptr() as u64;
                address >= base && address.checked_add(width)? <= base + bytes.len() as u64
            }
        };
        there.then_some(address)
    }
}

impl Copy3 {
    fn flat(to: Side, from: Side, len: u64) -> Copy3 {
        let params = CUDA_MEMCPY3D {
            srcMemoryType: UNIFIED,
            srcHost: from.address,
            srcDevice: from.address,
            srcPitch: usize::try_from(len).unwrap_or(0),
            dstMemoryType: UNIFIED,
            dstHost: to.address,
            dstDevice: to.address,
            dstPitch: usize::try_from(len).unwrap_or(0),
            WidthInBytes: usize::try_from(len).unwrap_or(0),
            Height: 1,
            Depth: 1,
            ..CUDA_MEMCPY3D::default()
        };
        Copy3 { to, from, width: len, height: 1, depth: 1, params }
    }

    pub(crate) fn from_params(p: &CUDA_MEMCPY3D) -> Res<Copy3> {
        let shape = Shape { width: p.WidthInBytes as u64, height: p.Height as u64, depth: p.Depth as u64 };
        let from = End {
            kind: p.srcMemoryType,
            host: p.srcHost,
            device: p.srcDevice,
            array: p.srcArray,
            at: [p.srcXInBytes as u64, p.srcY as u64, p.srcZ as u64],
            pitch: p.srcPitch as u64,
            rows: p.srcHeight as u64,
        };
        let to = End {
            kind: p.dstMemoryType,
            host: p.dstHost,
            device: p.dstDevice,
            array: p.dstArray,
            at: [p.dstXInBytes as u64, p.dstY as u64, p.dstZ as u64],
            pitch: p.dstPitch as u64,
            rows: p.dstHeight as u64,
        };
        let (to, from) = (to.side(&shape)?, from.side(&shape)?);
        let copy =
            Copy3 { to, from, width: shape.width, height: shape.height, depth: shape.depth, params: *p };
        copy.check(Code::INVALID_VALUE)?;
        Ok(copy)
    }

    pub(crate) fn to_params(&self) -> CUDA_MEMCPY3D {
        self.params
    }

    fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    /// Whether both ends are there, row by row.
    fn check(&self, otherwise: Code) -> Res {
        let map = space::map();
        self.each_row(&map, otherwise, |_, _| {})
    }

    fn each_row(&self, map: &Map, otherwise: Code, mut visit: impl FnMut(u64, u64)) -> Res {
        if self.is_empty() {
            return Ok(());
        }
        for z in 0..self.depth {
            for y in 0..self.height {
                let to = self.to.row(map, y, z, self.width).ok_or(otherwise)?;
                let from = self.from.row(map, y, z, self.width).ok_or(otherwise)?;
                visit(to, from);
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self) -> Res {
        let map = space::map();
        let width = usize::try_from(self.width).map_err(|_| Code::INVALID_VALUE)?;
        self.each_row(&map, Code::ILLEGAL_ADDRESS, |to, from| {
            // SAFETY: device and array rows have just been found, and `map` keeps them there; host
            // rows are the program's promise. Rows may overlap, hence the memmove.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, width) };
        })
    }

    /// Reads the source now, packed, so that the program may reuse it.
    fn capture_source(&mut self) -> Res {
        let total = self.width.checked_mul(self.height).and_then(|plane| plane.checked_mul(self.depth));
        let total = total.and_then(|total| usize::try_from(total).ok()).ok_or(Code::INVALID_VALUE)?;
        let mut bytes = Vec::with_capacity(total);
        let width = usize::try_from(self.width).map_err(|_| Code::INVALID_VALUE)?;
        self.each_row(&space::map(), Code::INVALID_VALUE, |_, from| {
            // SAFETY: the program vouches for its own memory.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(from as *const u8, width) });
        })?;
        let bytes: Arc<[u8]> = bytes.into();
        let (address, pitch, slice) = (bytes.as_ptr() as u64, self.width, self.width * self.height);
        self.from = Side { place: Place::Captured(bytes), address, pitch, slice };
        Ok(())
    }
}

struct Shape {
    width: u64,
    height: u64,
    depth: u64,
}

/// One end as the parameter structures give it.
struct End {
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    at: [u64; 3],
    pitch: u64,
    rows: u64,
}

impl End {
    fn side(&self, shape: &Shape) -> Res<Side> {
        let [x, y, z] = self.at;
        if self.kind == ARRAY {
            let array = array::get(self.array)?;
            let (pitch, slice) = (array.pitch(), array.slice());
            let address = offset(array.base(), x, y, z, pitch, slice)?;
            return Ok(Side { place: Place::Array(array), address, pitch, slice });
        }
        let pitch = if self.pitch == 0 { shape.width } else { self.pitch };
        let rows = if self.rows == 0 { shape.height } else { self.rows };
        if (shape.height > 1 || shape.depth > 1) && pitch < x.saturating_add(shape.width) {
            return Err(Code::INVALID_VALUE);
        }
        let slice = pitch.checked_mul(rows).ok_or(Code::INVALID_VALUE)?;
        let (place, base) = match self.kind {
            HOST => (Place::Host, self.host),
            DEVICE => (Place::Device, self.device),
            UNIFIED => (Side::unified(self.device, shape.width).place, self.device),
            _ => return Err(Code::INVALID_VALUE),
        };
        Ok(Side { place, address: offset(base, x, y, z, pitch, slice)?, pitch, slice })
    }
}

fn offset(base: u64, x: u64, y: u64, z: u64, pitch: u64, slice: u64) -> Res<u64> {
    let rows = y.checked_mul(pitch).and_then(|rows| rows.checked_add(z.checked_mul(slice)?));
    rows.and_then(|rows| rows.checked_add(x)?.checked_add(base)).ok_or(Code::INVALID_VALUE)
}

/// A fill of rows with a pattern of 1, 2 or 4 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Fill {
    address: u64,
    pitch: u64,
    value: u32,
    element: u32,
    width: u64,
    height: u64,
}

impl Fill {
    fn new(address: u64, pitch: u64, value: u32, element: u32, width: u64, height: u64) -> Res<Fill> {
        let fill = Fill { address, pitch, value, element, width, height };
        let bytes = width.checked_mul(u64::from(element)).ok_or(Code::INVALID_VALUE)?;
        if !matches!(element, 1 | 2 | 4)
            || !address.is_multiple_of(u64::from(element))
            || (height > 1 && (pitch < bytes || !pitch.is_multiple_of(u64::from(element))))
        {
            return Err(Code::INVALID_VALUE);
        }
        fill.each_row(&space::map(), Code::INVALID_VALUE, |_, _| {})?;
        Ok(fill)
    }

    pub(crate) fn from_node(p: &CUDA_MEMSET_NODE_PARAMS) -> Res<Fill> {
        Fill::new(p.dst, p.pitch as u64, p.value, p.elementSize, p.width as u64, p.height as u64)
    }

    pub(crate) fn to_node(self) -> CUDA_MEMSET_NODE_PARAMS {
        CUDA_MEMSET_NODE_PARAMS {
            dst: self.address,
            pitch: usize::try_from(self.pitch).unwrap_or(0),
            value: self.value,
            elementSize: self.element,
            width: usize::try_from(self.width).unwrap_or(0),
            height: usize::try_from(self.height).unwrap_or(0),
        }
    }

    fn each_row(&self, map: &Map, otherwise: Code, mut visit: impl FnMut(u64, usize)) -> Res {
        if self.width == 0 {
            return Ok(());
        }
        for y in 0..self.height {
            let address = y
                .checked_mul(self.pitch)
                .and_then(|offset| offset.checked_add(self.address))
                .ok_or(otherwise)?;
            if !space::mapped(map, address, self.width * u64::from(self.element)) {
                return Err(otherwise);
            }
            visit(address, usize::try_from(self.width).map_err(|_| otherwise)?);
        }
        Ok(())
    }

    pub(crate) fn run(&self) -> Res {
        let map = space::map();
        self.each_row(&map, Code::ILLEGAL_ADDRESS, |address, width| {
            // SAFETY: the row has just been found and `map` keeps it there; the address is aligned to
            // the element, and nothing else forms a Rust reference to device memory.
            unsafe {
                match self.element {
                    1 => std::ptr::write_bytes(address as *mut u8, self.value as u8, width),
                    2 => std::slice::from_raw_parts_mut(address as *mut u16, width).fill(self.value as u16),
                    _ => std::slice::from_raw_parts_mut(address as *mut u32, width).fill(self.value),
                }
            }
        })
    }
}

fn device_range(address: u64, len: u64) -> Side {
    Side::flat(Place::Device, address, len)
}

fn host_range(address: u64, len: u64) -> Side {
    Side::flat(Place::Host, address, len)
}

/// Part of a one-dimensional array.
fn array_range(handle: u64, offset: usize, len: u64) -> Res<Side> {
    let array = array::get(handle)?;
    let address = array.base().checked_add(offset as u64).ok_or(Code::INVALID_VALUE)?;
    Ok(Side::flat(Place::Array(array), address, len))
}

/// Copies at once: returns when the copy is done, or, between device memories, when it is on its way.
fn copy_now(ctx: &Arc<Context>, copy: Copy3) -> Res {
    capture::forbid_unsafe()?;
    copy.check(Code::INVALID_VALUE)?;
    if copy.is_empty() {
        return Ok(());
    }
    let on_device = copy.to.is_device() && copy.from.is_device();
    let fence = stream::submit(&ctx.legacy, Work::Copy(Arc::new(copy)))?;
    match fence {
        Some(fence) if !on_device => fence.wait(&ctx.health),
        _ => Ok(()),
    }
}

/// Copies in the order of a stream. Who copies into pageable memory, or from host memory to host memory, waits for it
/// (CUDA driver API, API synchronization behavior).
fn copy_later(stream: &Arc<Stream>, mut copy: Copy3) -> Res {
    copy.check(Code::INVALID_VALUE)?;
    if copy.is_empty() && !capture::is_capturing(stream) {
        return Ok(());
    }
    if capture::is_capturing(stream) {
        return stream::submit(stream, Work::Copy(Arc::new(copy))).map(drop);
    }
    let waits = copy.to.is_pageable() || !(copy.to.is_device() || copy.from.is_device());
    if copy.from.is_pageable() && !waits {
        copy.capture_source()?;
    }
    let fence = stream::submit(stream, Work::Copy(Arc::new(copy)))?;
    match fence {
        Some(fence) if waits => fence.wait(&stream.health),
        _ => Ok(()),
    }
}

fn to_3d(p: &CUDA_MEMCPY2D) -> CUDA_MEMCPY3D {
    CUDA_MEMCPY3D {
        srcXInBytes: p.srcXInBytes,
        srcY: p.srcY,
        srcMemoryType: p.srcMemoryType,
        srcHost: p.srcHost,
        srcDevice: p.srcDevice,
        srcArray: p.srcArray,
        srcPitch: p.srcPitch,
        dstXInBytes: p.dstXInBytes,
        dstY: p.dstY,
        dstMemoryType: p.dstMemoryType,
        dstHost: p.dstHost,
        dstDevice: p.dstDevice,
        dstArray: p.dstArray,
        dstPitch: p.dstPitch,
        WidthInBytes: p.WidthInBytes,
        Height: p.Height,
        Depth: 1,
        ..CUDA_MEMCPY3D::default()
    }
}

fn fill_now(ctx: &Arc<Context>, fill: Fill) -> Res {
    capture::forbid_unsafe()?;
    stream::submit(&ctx.legacy, Work::Fill(fill)).map(drop)
}

fn fill_later(ctx: &Arc<Context>, handle: u64, fill: Fill) -> Res {
    stream::submit(&stream::get(ctx, handle)?, Work::Fill(fill)).map(drop)
}

/// The contexts of a peer copy must exist; the addresses already say which device is meant.
fn peers(to: u64, from: u64) -> Res {
    context::get(to)?;
    context::get(from).map(drop)
}

/// A plain copy between two ranges of the same length.
fn span(
    to: fn(u64, u64) -> Side,
    to_address: u64,
    from: fn(u64, u64) -> Side,
    from_address: u64,
    len: usize,
) -> Copy3 {
    let len = len as u64;
    Copy3::flat(to(to_address, len), from(from_address, len), len)
}

api! {
    fn cuMemcpy(to: u64, from: u64, len: usize) [ctx context] {
        copy_now(context, span(Side::unified, to, Side::unified, from, len))
    }

    fn cuMemcpyAsync(to: u64, from: u64, len: usize, handle: u64) [ctx context] {
        copy_later(&stream::get(context, handle)?, span(Side::unified, to, Side::unified, from, len))
    }

    fn cuMemcpyHtoD_v2(to: u64, from: u64, len: usize) [ctx context] {
        copy_now(context, span(device_range, to, host_range, from, len))
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, len: usize, handle: u64) [ctx context] {
        copy_later(&stream::get(context, handle)?, span(device_range, to, host_range, from, len))
    }

    fn cuMemcpyDtoH_v2(to: u64, from: u64, len: usize) [ctx context] {
        copy_now(context, span(host_range, to, device_range, from, len))
    }

    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, len: usize, handle: u64) [ctx context] {
        copy_later(&stream::get(context, handle)?, span(host_range, to, device_range, from, len))
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, len: usize) [ctx context] {
        copy_now(context, span(device_range, to, device_range, from, len))
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, handle: u64) [ctx context] {
        copy_later(&stream::get(context, handle)?, span(device_range, to, device_range, from, len))
    }

    fn cuMemcpyPeer(to: u64, to_ctx: u64, from: u64, from_ctx: u64, len: usize) [ctx context] {
        peers(to_ctx, from_ctx)?;
        copy_now(context, span(device_range, to, device_range, from, len))
    }

    fn cuMemcpyPeerAsync(to: u64, to_ctx: u64, from: u64, from_ctx: u64, len: usize, handle: u64) [ctx context] {
        peers(to_ctx, from_ctx)?;
        copy_later(&stream::get(context, handle)?, span(device_range, to, device_range, from, len))
    }

    fn cuMemcpyHtoA_v2(to: u64, offset: usize, from: u64, len: usize) [ctx context] {
        let len = len as u64;
        copy_now(context, Copy3::flat(array_range(to, offset, len)?, host_range(from, len), len))
    }

    fn cuMemcpyHtoAAsync_v2(to: u64, offset: usize, from: u64, len: usize, handle: u64) [ctx context] {
        let len = len as u64;
        let copy = Copy3::flat(array_range(to, offset, len)?, host_range(from, len), len);
        copy_later(&stream::get(context, handle)?, copy)
    }

    fn cuMemcpyAtoH_v2(to: u64, from: u64, offset: usize, len: usize) [ctx context] {
        let len = len as u64;
        copy_now(context, Copy3::flat(host_range(to, len), array_range(from, offset, len)?, len))
    }

    fn cuMemcpyAtoHAsync_v2(to: u64, from: u64, offset: usize, len: usize, handle: u64) [ctx context] {
        let len = len as u64;
        let copy = Copy3::flat(host_range(to, len), array_range(from, offset, len)?, len);
        copy_later(&stream::get(context, handle)?, copy)
    }

    fn cuMemcpyDtoA_v2(to: u64, offset: usize, from: u64, len: usize) [ctx context] {
        let len = len as u64;
        copy_now(context, Copy3::flat(array_range(to, offset, len)?, device_range(from, len), len))
    }

    fn cuMemcpyAtoD_v2(to: u64, from: u64, offset: usize, len: usize) [ctx context] {
        let len = len as u64;
        copy_now(context, Copy3::flat(device_range(to, len), array_range(from, offset, len)?, len))
    }

    fn cuMemcpyAtoA_v2(to: u64, to_offset: usize, from: u64, from_offset: usize, len: usize) [ctx context] {
        let len = len as u64;
        copy_now(context, Copy3::flat(array_range(to, to_offset, len)?, array_range(from, from_offset, len)?, len))
    }

    fn cuMemcpy2D_v2(params: In<CUDA_MEMCPY2D>) [ctx context] {
        copy_now(context, Copy3::from_params(&to_3d(&params.get()?))?)
    }

    fn cuMemcpy2DUnaligned_v2(params: In<CUDA_MEMCPY2D>) [ctx context] {
        copy_now(context, Copy3::from_params(&to_3d(&params.get()?))?)
    }

    fn cuMemcpy2DAsync_v2(params: In<CUDA_MEMCPY2D>, handle: u64) [ctx context] {
        copy_later(&stream::get(context, handle)?, Copy3::from_params(&to_3d(&params.get()?))?)
    }

    fn cuMemcpy3D_v2(params: In<CUDA_MEMCPY3D>) [ctx context] {
        copy_now(context, Copy3::from_params(&params.get()?)?)
    }

    fn cuMemcpy3DAsync_v2(params: In<CUDA_MEMCPY3D>, handle: u64) [ctx context] {
        copy_later(&stream::get(context, handle)?, Copy3::from_params(&params.get()?)?)
    }

    fn cuMemcpy3DPeer(params: In<CUDA_MEMCPY3D>) [ctx context] {
        copy_now(context, Copy3::from_params(&params.get()?)?)
    }

    fn cuMemcpy3DPeerAsync(params: In<CUDA_MEMCPY3D>, handle: u64) [ctx context] {
        copy_later(&stream::get(context, handle)?, Copy3::from_params(&params.get()?)?)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) [ctx context] {
        fill_now(context, Fill::new(to, 0, u32::from(value), 1, count as u64, 1)?)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) [ctx context] {
        fill_now(context, Fill::new(to, 0, u32::from(value), 2, count as u64, 1)?)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) [ctx context] {
        fill_now(context, Fill::new(to, 0, value, 4, count as u64, 1)?)
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) [ctx context] {
        fill_now(context, Fill::new(to, pitch as u64, u32::from(value), 1, width as u64, height as u64)?)
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) [ctx context] {
        fill_now(context, Fill::new(to, pitch as u64, u32::from(value), 2, width as u64, height as u64)?)
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) [ctx context] {
        fill_now(context, Fill::new(to, pitch as u64, value, 4, width as u64, height as u64)?)
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, handle: u64) [ctx context] {
        fill_later(context, handle, Fill::new(to, 0, u32::from(value), 1, count as u64, 1)?)
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, handle: u64) [ctx context] {
        fill_later(context, handle, Fill::new(to, 0, u32::from(value), 2, count as u64, 1)?)
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, handle: u64) [ctx context] {
        fill_later(context, handle, Fill::new(to, 0, value, 4, count as u64, 1)?)
    }

    fn cuMemsetD2D8Async(to: u64, pitch: usize, value: u8, width: usize, height: usize, handle: u64) [ctx context] {
        let fill = Fill::new(to, pitch as u64, u32::from(value), 1, width as u64, height as u64)?;
        fill_later(context, handle, fill)
    }

    fn cuMemsetD2D16Async(to: u64, pitch: usize, value: u16, width: usize, height: usize, handle: u64) [ctx context] {
        let fill = Fill::new(to, pitch as u64, u32::from(value), 2, width as u64, height as u64)?;
        fill_later(context, handle, fill)
    }

    fn cuMemsetD2D32Async(to: u64, pitch: usize, value: u32, width: usize, height: usize, handle: u64) [ctx context] {
        let fill = Fill::new(to, pitch as u64, value, 4, width as u64, height as u64)?;
        fill_later(context, handle, fill)
    }
}
