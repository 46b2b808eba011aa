//! CUDA arrays, kept as plain rows: there is no texture unit to please.

use std::sync::Arc;

use crate::abi::{CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_DESCRIPTOR, In, Out};
use crate::capture;
use crate::context::Context;
use crate::device::{self, Charge};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::handles::{self, Registry};
use crate::space;

static ARRAYS: Registry<Array> = Registry::new();

pub(crate) struct Array {
    shape: CUDA_ARRAY3D_DESCRIPTOR,
    ctx: u64,
    base: u64,
    len: u64,
    pitch: u64,
    _charge: Charge,
}

impl Array {
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn pitch(&self) -> u64 {
        self.pitch
    }

    pub(crate) fn slice(&self) -> u64 {
        self.pitch * self.shape.Height.max(1) as u64
    }

    /// Whether a range lies inside.
    pub(crate) fn holds(&self, address: u64, len: u64) -> bool {
        address >= self.base && address.checked_add(len).is_some_and(|end| end <= self.base + self.len)
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        space::release_pages(self.base, self.len);
    }
}

pub(crate) fn get(handle: u64) -> Res<Arc<Array>> {
    ARRAYS.get(handle)
}

pub(crate) fn forget(ctx: u64) {
    ARRAYS.remove_where(|array| array.ctx == ctx);
}

fn element(shape: &CUDA_ARRAY3D_DESCRIPTOR) -> Res<u64> {
    let component = match shape.Format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        _ => return Err(Code::INVALID_VALUE),
    };
    if matches!(shape.NumChannels, 1 | 2 | 4) {
        Ok(component * u64::from(shape.NumChannels))
    } else {
        Err(Code::INVALID_VALUE)
    }
}

fn create(ctx: &Context, out: Out<u64>, shape: CUDA_ARRAY3D_DESCRIPTOR) -> Res {
    capture::forbid_unsafe()?;
    let pitch = (shape.Width as u64).checked_mul(element(&shape)?).filter(|pitch| *pitch > 0);
    let rows = (shape.Height.max(1) as u64).checked_mul(shape.Depth.max(1) as u64);
    let len = pitch.and_then(|pitch| pitch.checked_mul(rows?)).ok_or(Code::INVALID_VALUE)?;
    let charge = device::get(ctx.device.cast_signed())?.take(len)?;
    let array = Array {
        shape,
        ctx: ctx.handle,
        base: space::new_pages(len)?,
        len,
        pitch: pitch.unwrap_or(0),
        _charge: charge,
    };
    let handle = handles::mint();
    ARRAYS.insert(handle, Arc::new(array));
    out.set(handle)
}

api! {
    fn cuArrayCreate_v2(out: Out<u64>, shape: In<CUDA_ARRAY_DESCRIPTOR>) [ctx context] {
        let CUDA_ARRAY_DESCRIPTOR { Width, Height, Format, NumChannels } = shape.get()?;
        create(context, out, CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Depth: 0, Format, NumChannels, Flags: 0 })
    }

    fn cuArray3DCreate_v2(out: Out<u64>, shape: In<CUDA_ARRAY3D_DESCRIPTOR>) [ctx context] {
        create(context, out, shape.get()?)
    }

    fn cuArrayDestroy(array: u64) [ctx context] {
        capture::forbid_unsafe()?;
        get(array)?;
        context.synchronize()?;
        ARRAYS.remove(array).map(drop)
    }

    fn cuArrayGetDescriptor_v2(shape: Out<CUDA_ARRAY_DESCRIPTOR>, array: u64) [ctx _] {
        let CUDA_ARRAY3D_DESCRIPTOR { Width, Height, Format, NumChannels, .. } = get(array)?.shape;
        shape.set(CUDA_ARRAY_DESCRIPTOR { Width, Height, Format, NumChannels })
    }

    fn cuArray3DGetDescriptor_v2(shape: Out<CUDA_ARRAY3D_DESCRIPTOR>, array: u64) [ctx _] {
        shape.set(get(array)?.shape)
    }
}
