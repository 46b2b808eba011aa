//! Texture and surface objects. Kernels are given them by value, so they are the driver's own numbers; what one
//! was made of is remembered here.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use fusewire_wire::ops::table::{SurfaceCreate, SurfaceDestroy, TextureCreate, TextureDestroy};
use zerocopy::{Immutable, IntoBytes};

use crate::abi::result::{CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_SUPPORTED};
use crate::abi::types::{CUresult, CUsurfObject, CUtexObject};
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, copies, current, handles};

use super::arguments::{give, need};

// CUresourcetype of cuda.h.
const ARRAY: u32 = 0;
const MIPMAPPED: u32 = 1;
const LINEAR: u32 = 2;
const PITCHED: u32 = 3;

/// `CUDA_RESOURCE_DESC`, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
pub struct Resource {
    pub kind: u32,
    pub pad: u32,
    /// An array; or an address, format and channels, then bytes or width, height and pitch.
    pub words: [u64; 16],
    pub flags: u32,
    pub pad_after: u32,
}

/// `CUDA_TEXTURE_DESC`: 26 words of 4 bytes.
pub type Texture = [u32; 26];
/// `CUDA_RESOURCE_VIEW_DESC`: 14 words of 8 bytes.
pub type View = [u64; 14];

const _: () =
    assert!(size_of::<Resource>() == 144 && size_of::<Texture>() == 104 && size_of::<View>() == 112);

#[derive(Clone, Copy)]
struct Made {
    resource: Resource,
    texture: Texture,
    view: View,
}

/// What objects were made of, by context and the driver's number.
#[derive(Default)]
struct Objects {
    textures: HashMap<(u64, u64), Made>,
    surfaces: HashMap<(u64, u64), Resource>,
}

static OBJECTS: LazyLock<Mutex<Objects>> = LazyLock::new(Mutex::default);

/// Checks what a resource names. Gives the handle of its array, or 0.
fn check(runtime: &Runtime, resource: &Resource) -> Result<u64, CUresult> {
    let [first, _, third, height, pitch, ..] = resource.words;
    let bytes = match resource.kind {
        ARRAY => return Ok(handles::array(handles::pointer(first))?.handle),
        MIPMAPPED => return Err(CUDA_ERROR_NOT_SUPPORTED),
        LINEAR => third,
        // The width is in elements: the first byte of the last row has to be there at least.
        PITCHED => height
            .saturating_sub(1)
            .checked_mul(pitch)
            .and_then(|b| b.checked_add(1))
            .ok_or(CUDA_ERROR_INVALID_VALUE)?,
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    };
    copies::check_device(runtime, first, usize::try_from(bytes).map_err(|_| CUDA_ERROR_INVALID_VALUE)?)?;
    Ok(0)
}

/// # Safety
/// `resource` is NULL or a description.
unsafe fn read(resource: *const Resource) -> Result<Resource, CUresult> {
    need(resource)?;
    // SAFETY: the caller's promise.
    let given = unsafe { resource.read() };
    Ok(Resource { pad: 0, pad_after: 0, ..given })
}

/// `view` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTexObjectCreate(
    object: *mut CUtexObject,
    resource: *const Resource,
    texture: *const Texture,
    view: *const View,
) -> CUresult {
    runtime::call(counter!("cuTexObjectCreate"), |runtime| {
        need(object)?;
        need(texture)?;
        // SAFETY: the program's descriptions.
        let (resource, texture, viewed) = unsafe {
            (read(resource)?, texture.read(), if view.is_null() { None } else { Some(view.read()) })
        };
        let array = check(runtime, &resource)?;
        let context = current::sound_context()?.handle;
        let record = TextureCreate { context, array, view: u32::from(viewed.is_some()), reserved: 0 };
        let tail =
            [resource.as_bytes(), texture.as_bytes(), viewed.as_ref().map_or(&[][..], IntoBytes::as_bytes)];
        let (reply, _) = runtime.session.call(&record, &tail)?;
        let made = Made { resource, texture, view: viewed.unwrap_or_default() };
        lock(&OBJECTS).textures.insert((context, reply.object), made);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(object, reply.object) }
    })
}

/// The driver takes any number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTexObjectDestroy(object: CUtexObject) -> CUresult {
    runtime::call(counter!("cuTexObjectDestroy"), |runtime| {
        let context = current::context()?.handle;
        match lock(&OBJECTS).textures.remove(&(context, object)) {
            Some(_) => runtime.session.post(&TextureDestroy { context, object }, &[]).map(drop),
            None => Ok(()),
        }
    })
}

fn texture(object: CUtexObject) -> Result<Made, CUresult> {
    let context = current::context()?.handle;
    lock(&OBJECTS).textures.get(&(context, object)).copied().ok_or(CUDA_ERROR_INVALID_HANDLE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTexObjectGetResourceDesc(
    resource: *mut Resource,
    object: CUtexObject,
) -> CUresult {
    runtime::call(counter!("cuTexObjectGetResourceDesc"), |_| {
        // SAFETY: the program's pointer, for one description.
        unsafe { give(resource, texture(object)?.resource) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTexObjectGetTextureDesc(
    description: *mut Texture,
    object: CUtexObject,
) -> CUresult {
    runtime::call(counter!("cuTexObjectGetTextureDesc"), |_| {
        // SAFETY: the program's pointer, for one description.
        unsafe { give(description, texture(object)?.texture) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTexObjectGetResourceViewDesc(view: *mut View, object: CUtexObject) -> CUresult {
    runtime::call(counter!("cuTexObjectGetResourceViewDesc"), |_| {
        // SAFETY: the program's pointer, for one description.
        unsafe { give(view, texture(object)?.view) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuSurfObjectCreate(
    object: *mut CUsurfObject,
    resource: *const Resource,
) -> CUresult {
    runtime::call(counter!("cuSurfObjectCreate"), |runtime| {
        need(object)?;
        // SAFETY: the program's description.
        let resource = unsafe { read(resource) }?;
        if resource.kind != ARRAY {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let array = check(runtime, &resource)?;
        let context = current::sound_context()?.handle;
        let (reply, _) = runtime.session.call(&SurfaceCreate { context, array }, &[resource.as_bytes()])?;
        lock(&OBJECTS).surfaces.insert((context, reply.object), resource);
        // SAFETY: the program's pointer, for one value.
        unsafe { give(object, reply.object) }
    })
}

/// The driver takes any number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuSurfObjectDestroy(object: CUsurfObject) -> CUresult {
    runtime::call(counter!("cuSurfObjectDestroy"), |runtime| {
        let context = current::context()?.handle;
        match lock(&OBJECTS).surfaces.remove(&(context, object)) {
            Some(_) => runtime.session.post(&SurfaceDestroy { context, object }, &[]).map(drop),
            None => Ok(()),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuSurfObjectGetResourceDesc(
    resource: *mut Resource,
    object: CUsurfObject,
) -> CUresult {
    runtime::call(counter!("cuSurfObjectGetResourceDesc"), |_| {
        let context = current::context()?.handle;
        let made =
            lock(&OBJECTS).surfaces.get(&(context, object)).copied().ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        // SAFETY: the program's pointer, for one description.
        unsafe { give(resource, made) }
    })
}
