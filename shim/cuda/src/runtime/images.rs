//! Images on their way to the server: how long one is, what of it the far GPU needs, and sending it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};

use fusewire_wire::digest::{Digest, SMALL_IMAGE_BYTES};
use fusewire_wire::fatbin;
use fusewire_wire::ops::SyncRecord;
use fusewire_wire::ops::known::Known;
use fusewire_wire::ops::table::{
    BLOB_PART_BYTES, BlobEncoded, BlobNamed, BlobPart, IMAGE_MISSING, JitOption, ParameterInfo,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::abi::result::{CUDA_ERROR_FILE_NOT_FOUND, CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_INVALID_VALUE};
use crate::abi::types::CUresult;

use super::objects::Logs;
use super::{Runtime, handles};

/// Memory behind a pointer that came without a length.
struct Behind(*const u8);

impl fatbin::ByteSource for Behind {
    fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        // SAFETY: the reader asks only for what an image's own headers say belongs to it, and `read_image`'s
        // caller promised a whole image.
        unsafe { std::ptr::copy_nonoverlapping(self.0.wrapping_add(offset), out.as_mut_ptr(), out.len()) };
        true
    }
}

/// # Safety
/// `image` points to a whole image.
unsafe fn read_image<'a>(image: *const u8) -> Option<&'a [u8]> {
    // SAFETY: every image is at least as long as a magic number.
    let magic = unsafe { std::slice::from_raw_parts(image, 4) };
    let length = match fatbin::image_kind(magic).ok()? {
        fatbin::ImageKind::Wrapper => {
            let data = fatbin::Wrapper::read(&Behind(image)).ok()?.data;
            let container = std::ptr::with_exposed_provenance::<u8>(usize::try_from(data).ok()?);
            if container.is_null() {
                return None;
            }
            // SAFETY: a wrapper points to a whole image, by the compiler's making.
            return unsafe { read_image(container) };
        }
        // Text has no length but its end; looking for that must not read a byte further.
        // SAFETY: PTX given without a length ends with NUL, as the driver's manual demands.
        fatbin::ImageKind::Ptx => unsafe { CStr::from_ptr(image.cast()) }.to_bytes_with_nul().len(),
        _ => fatbin::image_length(&Behind(image)).ok()?,
    };
    // SAFETY: the image's own headers, or its end, say that it is this long.
    Some(unsafe { std::slice::from_raw_parts(image, length) })
}

/// The image without what no GPU of this architecture can use; `None`: send it as it is.
fn trim(image: &[u8], target: (u32, u32)) -> Option<Cow<'_, [u8]>> {
    match fatbin::image_kind(image).ok()? {
        fatbin::ImageKind::Container => fatbin::trim(image, target).ok(),
        _ => None,
    }
}

/// The image at a pointer that came without a length: in place, since most of it is code for other GPUs that
/// need not even be paged in.
///
/// # Errors
/// `CUDA_ERROR_INVALID_IMAGE` when it is none.
///
/// # Safety
/// `image` points to a whole image of one of the kinds that the driver takes, which stays as it is for `'a`.
pub(crate) unsafe fn read<'a>(image: *const c_void) -> Result<&'a [u8], CUresult> {
    if image.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { read_image(image.cast()) }.ok_or(CUDA_ERROR_INVALID_IMAGE)
}

/// The same, for the functions that load a module: they take a container, and no wrapper around one.
///
/// # Errors
/// `CUDA_ERROR_INVALID_IMAGE` when it is none of those, or a wrapper.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn read_bare<'a>(image: *const c_void) -> Result<&'a [u8], CUresult> {
    // SAFETY: every image is at least as long as a magic number.
    if !image.is_null() && unsafe { is_wrapper(image.cast()) } {
        return Err(CUDA_ERROR_INVALID_IMAGE);
    }
    // SAFETY: the caller's promise.
    unsafe { read(image) }
}

/// # Safety
/// `image` points to an image.
unsafe fn is_wrapper(image: *const u8) -> bool {
    // SAFETY: every image is at least as long as a magic number.
    let magic = unsafe { std::slice::from_raw_parts(image, 4) };
    matches!(fatbin::image_kind(magic), Ok(fatbin::ImageKind::Wrapper))
}

/// The contents of an image file.
///
/// # Errors
/// `CUDA_ERROR_FILE_NOT_FOUND`.
///
/// # Safety
/// `name` is a C string.
pub(crate) unsafe fn read_file(name: *const c_char) -> Result<Vec<u8>, CUresult> {
    if name.is_null() {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let path =
        std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes()));
    std::fs::read(path).map_err(|_| CUDA_ERROR_FILE_NOT_FOUND)
}

/// What of an image the device needs; what other GPUs need of it stays here.
fn trimmed<'a>(runtime: &Runtime, image: &'a [u8], device: usize) -> Cow<'a, [u8]> {
    let target = runtime.devices.get(device).map(|device| {
        let attribute = |id| u32::try_from(device.snapshot.attribute(id).unwrap_or(0)).unwrap_or(0);
        (attribute(75), attribute(76))
    });
    let sent = target.and_then(|target| trim(image, target)).unwrap_or(Cow::Borrowed(image));
    if super::log::traces() {
        let kind = fatbin::image_kind(image);
        eprintln!("fusewire: image of {} bytes ({kind:?}), {} of them needed", image.len(), sent.len());
    }
    sent
}

/// Has an image loaded, under a new handle, by the operation that `record` makes of the handle and the image's.
/// It is sent unless the server has it. The program's log buffers are filled. Gives the kernels that the server
/// told of, too.
///
/// # Errors
/// What the driver says of the image, or the session's.
pub(crate) fn load<R: SyncRecord>(
    runtime: &Runtime,
    image: &[u8],
    options: &Options,
    device: usize,
    record: impl Fn(u64, u64) -> R,
) -> Result<(u64, KnownKernels), CUresult> {
    let image = trimmed(runtime, image, device);
    let (handle, tail) = handles::minted(|handle| {
        let (blob, answer) = handles::minted(|blob| {
            let load = || runtime.session.call(&record(handle, blob), &[options.send.as_bytes()]);
            if runtime.session.keeps_images && image.len() > SMALL_IMAGE_BYTES {
                name(runtime, blob, &image)?;
                let answer = load();
                if !matches!(answer, Err(IMAGE_MISSING)) {
                    return answer;
                }
            }
            send_parts(runtime, blob, &image)?;
            load()
        })?;
        handles::end(blob);
        Ok(answer.1)
    })?;
    // SAFETY: the program described its log buffers in the options.
    let rest = unsafe { give_logs(&options.logs, &tail) };
    Ok((handle, KnownKernels::read(rest, device)))
}

/// Names an image by its hash, so that it need not be sent if the server has it.
fn name(runtime: &Runtime, blob: u64, image: &[u8]) -> Result<(), CUresult> {
    let [digest_0, digest_1, digest_2, digest_3] = Digest::of(image).words();
    let record = BlobNamed { blob, bytes: image.len() as u64, digest_0, digest_1, digest_2, digest_3 };
    runtime.session.post(&record, &[]).map(drop)
}

/// Kernels that the server described with a load, by name: no need to ask for them.
#[derive(Default)]
pub(crate) struct KnownKernels {
    kernels: HashMap<Vec<u8>, Known>,
    /// The ordinal of the device that the attributes are for.
    pub(crate) device: i32,
}

impl KnownKernels {
    /// From what follows the logs in a load's answer. What makes no sense there counts as nothing: the kernels
    /// are asked for.
    fn read(rest: &[u8], device: usize) -> Self {
        let list = || {
            let (bytes, rest) = u64::read_from_prefix(rest).ok()?;
            Known::read_list(rest.get(..usize::try_from(bytes).ok()?)?)
        };
        let kernels = list().unwrap_or_default().into_iter();
        Self {
            kernels: kernels.map(|known| (known.name.clone(), known)).collect(),
            device: i32::try_from(device).unwrap_or(0),
        }
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Known> {
        self.kernels.get(name)
    }
}

/// Sends an image, whole and under no name.
///
/// # Errors
/// The session's.
pub(crate) fn send_whole(runtime: &Runtime, image: &[u8]) -> Result<u64, CUresult> {
    let blob = handles::mint()?;
    send_parts(runtime, blob, image)?;
    Ok(blob)
}

/// The first part is on its way while the second is compressed.
fn send_parts(runtime: &Runtime, blob: u64, image: &[u8]) -> Result<(), CUresult> {
    let session = &runtime.session;
    let total = image.len() as u64;
    for part in image.chunks(BLOB_PART_BYTES) {
        match session.packing.pack(part) {
            Some(packed) => {
                let (encoded_bytes, bytes) = (packed.len() as u32, part.len() as u32);
                session.post(&BlobEncoded { blob, total, encoded_bytes, bytes }, &[&packed])?
            }
            None => session.post(&BlobPart { blob, total }, &[part])?,
        };
    }
    Ok(())
}

/// `CUjit_option`s, sorted into what the server needs and the program's log buffers.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) send: Vec<JitOption>,
    pub(crate) logs: Logs,
}

// CUjit_option values that concern the client: cuda.h.
const INFO_LOG_BUFFER: u32 = 3;
const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
const ERROR_LOG_BUFFER: u32 = 5;
const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
const WALL_TIME: u32 = 2;
/// Options whose value is a pointer: they cannot travel.
const POINTERS: [u32; 4] = [19, 20, 23, 25];

impl Options {
    /// How many the server needs.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.send.len()).unwrap_or(0)
    }

    /// Reads parallel arrays of options and values. Sizes that the driver returns are written into
    /// `values` by [`give_logs`].
    ///
    /// # Safety
    /// Both arrays hold `count` elements.
    pub(crate) unsafe fn read(
        count: u32,
        options: *const u32,
        values: *const *mut c_void,
    ) -> Result<Self, CUresult> {
        let mut read = Self { send: Vec::new(), logs: Logs::default() };
        if count == 0 {
            return Ok(read);
        }
        if options.is_null() || values.is_null() {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        for n in 0..count as usize {
            // SAFETY: the caller's promise.
            let (option, slot) = unsafe { (*options.add(n), values.add(n)) };
            // SAFETY: as above.
            let value = unsafe { *slot }.addr();
            match option {
                INFO_LOG_BUFFER => read.logs.info = value,
                ERROR_LOG_BUFFER => read.logs.error = value,
                INFO_LOG_BUFFER_SIZE_BYTES => {
                    read.logs.info_bytes = value & 0xffff_ffff;
                    read.logs.info_length = slot.addr();
                    slot.expose_provenance();
                }
                ERROR_LOG_BUFFER_SIZE_BYTES => {
                    read.logs.error_bytes = value & 0xffff_ffff;
                    read.logs.error_length = slot.addr();
                    slot.expose_provenance();
                }
                WALL_TIME => {}
                _ if POINTERS.contains(&option) => {}
                _ => read.send.push(JitOption { option, reserved: 0, value: value as u64 }),
            }
            // SAFETY: as above: the program's buffers are used through their addresses.
            unsafe { (*slot).expose_provenance() };
        }
        Ok(read)
    }
}

/// Writes the compiler's logs into the program's buffers; returns what follows them in `tail`.
///
/// # Safety
/// The buffers in `logs` are the program's, as it described them.
pub(crate) unsafe fn give_logs<'a>(logs: &Logs, tail: &'a [u8]) -> &'a [u8] {
    let Ok((lengths, rest)) = <[u32; 2]>::read_from_prefix(tail) else { return &[] };
    let (info, rest) = rest.split_at(rest.len().min(lengths[0] as usize));
    let (error, rest) = rest.split_at(rest.len().min(lengths[1] as usize));
    for (text, buffer, room, length) in [
        (info, logs.info, logs.info_bytes, logs.info_length),
        (error, logs.error, logs.error_bytes, logs.error_length),
    ] {
        let used = text.len().min(room.saturating_sub(1));
        if buffer != 0 && room != 0 {
            let target = std::ptr::with_exposed_provenance_mut::<u8>(buffer);
            // SAFETY: `used + 1` is at most the size that the program gave.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), target, used);
                target.add(used).write(0);
            }
        }
        if length != 0 {
            let value = std::ptr::with_exposed_provenance_mut::<usize>(length);
            // SAFETY: the element of the option array that held the size.
            unsafe { value.write(if buffer != 0 { used } else { 0 }) };
        }
    }
    rest
}

/// Parameter layouts in a reply's tail.
pub(crate) fn parameters(count: u32, tail: &[u8]) -> Vec<ParameterInfo> {
    let (infos, _) = tail.as_chunks::<{ size_of::<ParameterInfo>() }>();
    infos.iter().take(count as usize).filter_map(|bytes| ParameterInfo::read_from_bytes(bytes).ok()).collect()
}

/// NUL-terminated names in a reply's tail.
pub(crate) fn names(tail: &[u8], count: u32) -> Vec<CString> {
    tail.split(|byte| *byte == 0).take(count as usize).filter_map(|name| CString::new(name).ok()).collect()
}
