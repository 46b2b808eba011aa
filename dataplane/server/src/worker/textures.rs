//! Arrays, texture and surface objects, tensor maps.

use std::ffi::c_void;

use fusewire_wire::ops::Status;
use fusewire_wire::ops::table::{ArrayCreate, SurfaceCreate, TensorMap as TensorMapOp, TextureCreate};
use zerocopy::FromBytes;

use super::gpu::{Array, Gpu};
use crate::driver::layouts::{Array3d, Resource, TensorMap, Texture, View};
use crate::driver::{INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED, check};

/// Flags of arrays that are carried: layered, surface load/store, cube map, texture gather, depth texture, colour
/// attachment. Sparse and deferred mapping are not.
const ARRAY_FLAGS: u32 = 0x3f;
/// `CUarray_format` numbers lie below this.
const FORMATS: u32 = 0x100;
/// Extent of an array in elements at most, far beyond every device.
const MAX_EXTENT: u64 = 1 << 32;

/// `CUresourcetype`.
const ARRAY: u32 = 0;
const LINEAR: u32 = 2;
const PITCHED: u32 = 3;

/// Dimensions of a tensor map at most.
const MAX_RANK: u32 = 5;

impl Gpu {
    pub(super) fn array_create(&mut self, record: &ArrayCreate) -> Result<(), Status> {
        self.mint("array", record.array, self.arrays.has(record.array))?;
        let extents = [record.width, record.height, record.depth];
        if extents.iter().any(|&extent| extent > MAX_EXTENT) || record.format >= FORMATS {
            return Err(INVALID_VALUE);
        }
        if record.flags & !ARRAY_FLAGS != 0 {
            return Err(NOT_SUPPORTED);
        }
        self.enter(record.context)?;
        let descriptor = Array3d {
            width: record.width as usize,
            height: record.height as usize,
            depth: record.depth as usize,
            format: record.format,
            channels: record.channels,
            flags: record.flags,
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: both are live.
        let status = unsafe { self.d.cuArray3DCreate_v2(&raw mut raw, &raw const descriptor) };
        self.ok(status)?;
        self.arrays.put(record.array, Array { raw, context: record.context });
        Ok(())
    }

    pub(super) fn array_destroy(&mut self, handle: u64) -> Result<(), Status> {
        let array = self.arrays.take(handle)?;
        self.enter(array.context)?;
        // SAFETY: ours, and named no more.
        let status = unsafe { self.d.cuArrayDestroy(array.raw) };
        self.ok(status)
    }

    pub(super) fn texture_create(&mut self, record: &TextureCreate, tail: &[u8]) -> Result<u64, Status> {
        let (mut resource, rest) = Resource::read_from_prefix(tail).map_err(|_| INVALID_VALUE)?;
        let (texture, rest) = Texture::read_from_prefix(rest).map_err(|_| INVALID_VALUE)?;
        let view = match record.view {
            0 => None,
            _ => Some(View::read_from_prefix(rest).map_err(|_| INVALID_VALUE)?.0),
        };
        let enums = texture.address_modes.iter().all(|&mode| mode <= 3)
            && texture.filter_mode <= 1
            && texture.mipmap_filter_mode <= 1
            && view.is_none_or(|view| view.format < FORMATS);
        if !enums {
            return Err(INVALID_VALUE);
        }
        self.check_resource(&mut resource, record.array)?;
        self.enter(record.context)?;
        let mut object = 0;
        let view = view.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: all are live; what the resource names was checked.
        let status = unsafe {
            self.d.cuTexObjectCreate(&raw mut object, &raw const resource, &raw const texture, view)
        };
        self.ok(status)?;
        self.textures.insert(object, record.context);
        Ok(object)
    }

    /// Puts the driver's array in place of ours, and checks the memory that a resource names.
    fn check_resource(&self, resource: &mut Resource, array: u64) -> Result<(), Status> {
        match resource.kind {
            ARRAY => {
                resource.words = [0; 16];
                resource.words[0] = self.arrays.get(array)?.raw as u64;
                Ok(())
            }
            LINEAR | PITCHED => {
                let [address, format, third, fourth, fifth, ..] = resource.words;
                if format & 0xffff_ffff >= u64::from(FORMATS) {
                    return Err(INVALID_VALUE);
                }
                if resource.kind == LINEAR {
                    return self.covered(address, third);
                }
                // Width, height, pitch. Its rows reach from the first to the end of the last.
                let bytes =
                    fourth.checked_sub(1).and_then(|rows| rows.checked_mul(fifth)).ok_or(INVALID_VALUE)?;
                self.covered(address, bytes.checked_add(third).ok_or(INVALID_VALUE)?)
            }
            _ => Err(NOT_SUPPORTED),
        }
    }

    pub(super) fn texture_destroy(&mut self, context: u64, object: u64) -> Result<(), Status> {
        self.textures.remove(&object).ok_or(INVALID_HANDLE)?;
        self.enter(context)?;
        // SAFETY: ours, and named no more.
        let status = unsafe { self.d.cuTexObjectDestroy(object) };
        self.ok(status)
    }

    pub(super) fn surface_create(&mut self, record: &SurfaceCreate, tail: &[u8]) -> Result<u64, Status> {
        let (mut resource, _) = Resource::read_from_prefix(tail).map_err(|_| INVALID_VALUE)?;
        if resource.kind != ARRAY {
            return Err(INVALID_VALUE);
        }
        self.check_resource(&mut resource, record.array)?;
        self.enter(record.context)?;
        let mut object = 0;
        // SAFETY: both are live, and the array is ours.
        let status = unsafe { self.d.cuSurfObjectCreate(&raw mut object, &raw const resource) };
        self.ok(status)?;
        self.surfaces.insert(object, record.context);
        Ok(object)
    }

    pub(super) fn surface_destroy(&mut self, context: u64, object: u64) -> Result<(), Status> {
        self.surfaces.remove(&object).ok_or(INVALID_HANDLE)?;
        self.enter(context)?;
        // SAFETY: ours, and named no more.
        let status = unsafe { self.d.cuSurfObjectDestroy(object) };
        self.ok(status)
    }

    pub(super) fn drop_textures(&mut self, context: u64) {
        let usable = self.enter(context).is_ok();
        let objects = [&mut self.textures, &mut self.surfaces]
            .map(|map| map.extract_if(|_, of| *of == context).map(|(object, _)| object).collect::<Vec<_>>());
        let [textures, surfaces] = objects;
        let arrays = self.arrays.take_all(|array| array.context == context);
        if !usable {
            return;
        }
        // SAFETY: all ours, and named no more.
        unsafe {
            for object in textures {
                let _ = check(self.d.cuTexObjectDestroy(object));
            }
            for object in surfaces {
                let _ = check(self.d.cuSurfObjectDestroy(object));
            }
            for array in arrays {
                let _ = check(self.d.cuArrayDestroy(array.raw));
            }
        }
    }

    /// Encodes a tensor map, which is arithmetic: the driver touches no memory for it.
    pub(super) fn tensor_map(&mut self, record: &TensorMapOp, tail: &[u8]) -> Result<Vec<u8>, Status> {
        if record.rank == 0 || record.rank > MAX_RANK {
            return Err(INVALID_VALUE);
        }
        // Data type, interleave, swizzle, promotion, fill: what CUDA 13 has, and room for what comes.
        let enums = [record.data_type, record.interleave, record.swizzle, record.promotion, record.fill];
        if enums.iter().any(|&value| value > 63) {
            return Err(INVALID_VALUE);
        }
        let rank = record.rank as usize;
        let words: Vec<u64> =
            tail.chunks_exact(8).filter_map(|word| u64::read_from_bytes(word).ok()).collect();
        let mut at = words.as_slice();
        let mut take = |count: usize| -> Result<&[u64], Status> {
            let (taken, rest) = at.split_at_checked(count).ok_or(INVALID_VALUE)?;
            at = rest;
            Ok(taken)
        };
        let narrow = |words: &[u64]| words.iter().map(|&word| word as u32).collect::<Vec<u32>>();
        let mut map = TensorMap([0; 128]);
        let address = record.address as *mut c_void;
        let dims = take(rank)?;
        // At least one place, so that the pointer is good for rank 1.
        let mut strides = take(rank - 1)?.to_vec();
        strides.push(0);
        let status = match record.kind {
            0 => {
                let boxes = narrow(take(rank)?);
                let elements = narrow(take(rank)?);
                // SAFETY: every array is as long as the rank asks for.
                unsafe {
                    self.d.cuTensorMapEncodeTiled(
                        &raw mut map,
                        record.data_type,
                        record.rank,
                        address,
                        dims.as_ptr(),
                        strides.as_ptr(),
                        boxes.as_ptr(),
                        elements.as_ptr(),
                        record.interleave,
                        record.swizzle,
                        record.promotion,
                        record.fill,
                    )
                }
            }
            1 if rank >= 3 => {
                let signed = |words: &[u64]| {
                    words.iter().map(|&word| (word as u32).cast_signed()).collect::<Vec<i32>>()
                };
                let lower = signed(take(rank - 2)?);
                let upper = signed(take(rank - 2)?);
                let &[channels, pixels] = take(2)? else { return Err(INVALID_VALUE) };
                let elements = narrow(take(rank)?);
                // SAFETY: every array is as long as the rank asks for.
                unsafe {
                    self.d.cuTensorMapEncodeIm2col(
                        &raw mut map,
                        record.data_type,
                        record.rank,
                        address,
                        dims.as_ptr(),
                        strides.as_ptr(),
                        lower.as_ptr(),
                        upper.as_ptr(),
                        channels as u32,
                        pixels as u32,
                        elements.as_ptr(),
                        record.interleave,
                        record.swizzle,
                        record.promotion,
                        record.fill,
                    )
                }
            }
            _ => INVALID_VALUE,
        };
        check(status)?;
        Ok(map.0.to_vec())
    }
}
