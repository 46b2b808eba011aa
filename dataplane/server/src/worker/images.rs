//! Images on their way to the driver: as they come in parts, or by their name from the cache.
//!
//! A blob that was only named becomes an image when the cache has it; else its parts may follow. It is kept once
//! the driver has accepted it. The driver reads an image where it lies here, so it stays as it is for as long as the
//! driver may look at it. What the driver makes of images is in [`super::modules`], how they are kept in
//! [`super::image_cache`].

use std::ffi::c_void;
use std::sync::Arc;

use fusewire_wire::digest::Digest;
use fusewire_wire::ops::Status;
use fusewire_wire::ops::table::IMAGE_MISSING;
use rustc_hash::FxHashMap;

use super::image_cache::ImageCache;
use crate::driver::{INVALID_HANDLE, INVALID_VALUE, OUT_OF_MEMORY};

/// Bytes of images that may be under way at once, not counting what waits to be written to the cache, which has a
/// bound of its own.
const MAX_BLOB_BYTES: u64 = 2 << 30;
/// Images that may be under way at once. A link may have 4096 inputs, which all come before it.
const MAX_BLOBS: usize = 16 << 10;

/// Wrapper around a fat binary, as compilers emit it: the driver takes the container's address from it.
#[derive(Debug)]
#[repr(C)]
struct Wrapper {
    magic: u32,
    version: u32,
    container: *const c_void,
    unused: *const c_void,
}

const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const CONTAINER_MAGIC: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

/// Images under way, by the client's handle.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    blobs: FxHashMap<u64, Blob>,
    /// Bytes announced by all of them.
    bytes: u64,
    /// Where images are kept, if they are.
    pub(super) cache: Option<ImageCache>,
}

#[derive(Debug)]
struct Blob {
    total: u64,
    /// What the client says it hashes to.
    digest: Option<Digest>,
    data: Vec<u8>,
}

impl Blobs {
    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }

    pub(super) fn part(&mut self, blob: u64, total: u64, part: &[u8]) -> Result<(), Status> {
        if !self.blobs.contains_key(&blob) {
            self.announce(blob, total, None)?;
        }
        let found = self.blobs.get_mut(&blob).ok_or(INVALID_HANDLE)?;
        if found.total != total {
            return Err(INVALID_VALUE);
        }
        // A record's tail is padded to 8 bytes; the total says what belongs to the image.
        let missing = usize::try_from(total).unwrap_or(0).saturating_sub(found.data.len());
        found.data.extend_from_slice(part.get(..missing).unwrap_or(part));
        Ok(())
    }

    pub(super) fn named(&mut self, blob: u64, total: u64, digest: Digest) -> Result<(), Status> {
        if self.blobs.contains_key(&blob) {
            return Err(INVALID_VALUE);
        }
        self.announce(blob, total, Some(digest))
    }

    fn announce(&mut self, blob: u64, total: u64, digest: Option<Digest>) -> Result<(), Status> {
        let full = self.blobs.len() >= MAX_BLOBS;
        if total == 0 || full || self.bytes.saturating_add(total) > MAX_BLOB_BYTES {
            return Err(OUT_OF_MEMORY);
        }
        self.bytes += total;
        self.blobs.insert(blob, Blob { total, digest, data: Vec::new() });
        Ok(())
    }

    /// The whole image. [`IMAGE_MISSING`] leaves the blob there for its parts.
    pub(super) fn take(&mut self, blob: u64) -> Result<Taken, Status> {
        let found = self.blobs.get(&blob).ok_or(INVALID_HANDLE)?;
        let named = found.digest.filter(|_| found.data.is_empty());
        let kept = match (&self.cache, named) {
            (Some(cache), Some(digest)) => Some(cache.get(&digest, found.total).ok_or(IMAGE_MISSING)?),
            (None, Some(_)) => return Err(IMAGE_MISSING),
            _ => None,
        };
        let found = self.blobs.remove(&blob).ok_or(INVALID_HANDLE)?;
        self.bytes -= found.total;
        if let Some(data) = kept {
            return Ok(Taken { image: Arc::new(Image::new(data)), digest: found.digest, fresh: false });
        }
        if found.data.len() as u64 != found.total {
            return Err(INVALID_VALUE);
        }
        let digest = found.digest.filter(|_| self.cache.is_some());
        if digest.is_some_and(|digest| Digest::of(&found.data) != digest) {
            return Err(INVALID_VALUE);
        }
        Ok(Taken { image: Arc::new(Image::new(found.data)), digest, fresh: true })
    }

    /// The driver has accepted an image: it is worth keeping.
    pub(super) fn keep(&self, taken: &Taken) {
        if let (Some(cache), Some(digest), true) = (&self.cache, taken.digest, taken.fresh) {
            cache.put(digest, &taken.image);
        }
    }
}

/// An image that is whole.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) image: Arc<Image>,
    /// What it hashes to, if it has a name that the cache knows it by.
    pub(super) digest: Option<Digest>,
    /// It came from the client, not from the cache.
    fresh: bool,
}

/// An image in the form that the driver takes.
#[derive(Debug)]
pub(super) struct Image {
    data: Vec<u8>,
    bytes: usize,
    wrapper: Option<Box<Wrapper>>,
}

// SAFETY: the pointer inside is to the image's own data, which nobody changes.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    pub(super) fn new(mut data: Vec<u8>) -> Self {
        let bytes = data.len();
        // PTX is text, and ends with NUL.
        data.extend_from_slice(&[0; 8]);
        let wrapper = data.starts_with(&CONTAINER_MAGIC).then(|| {
            Box::new(Wrapper {
                magic: WRAPPER_MAGIC,
                version: 1,
                container: data.as_ptr().cast(),
                unused: std::ptr::null(),
            })
        });
        Self { data, bytes, wrapper }
    }

    /// For the functions that load a module: they take a container, and answer INVALID_IMAGE to a wrapper
    /// (seen with driver 580).
    pub(super) fn bare(&self) -> *const c_void {
        self.data.as_ptr().cast()
    }

    /// For the functions that load a library: they find a container behind a wrapper.
    pub(super) fn wrapped(&self) -> *const c_void {
        self.wrapper.as_deref().map_or(self.bare(), |wrapper| std::ptr::from_ref(wrapper).cast())
    }

    pub(super) fn contents(&self) -> &[u8] {
        self.data.get(..self.bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_whole_and_bounded() {
        let mut blobs = Blobs::default();
        assert_eq!(blobs.part(1, MAX_BLOB_BYTES + 1, &[0; 8]), Err(OUT_OF_MEMORY));
        blobs.part(1, 12, &[7; 8]).unwrap();
        assert_eq!(blobs.part(1, 13, &[7; 8]), Err(INVALID_VALUE));
        blobs.part(1, 12, &[7; 8]).unwrap();
        let taken = blobs.take(1).unwrap();
        assert_eq!(taken.image.contents(), [7; 12]);
        assert_eq!(blobs.take(1).err(), Some(INVALID_HANDLE));
        blobs.part(2, 12, &[7; 8]).unwrap();
        assert_eq!(blobs.take(2).err(), Some(INVALID_VALUE));
        assert_eq!(blobs.bytes, 0);
    }

    #[test]
    fn images_under_way_are_counted() {
        let mut blobs = Blobs::default();
        let most = MAX_BLOBS as u64;
        for blob in 0..most {
            blobs.named(blob, 8, Digest::of(b"eight by")).unwrap();
        }
        assert_eq!(blobs.named(most, 8, Digest::of(b"eight by")), Err(OUT_OF_MEMORY));
        assert_eq!(blobs.part(most, 8, b"eight by"), Err(OUT_OF_MEMORY));
        blobs.part(1, 8, b"eight by").unwrap();
        blobs.take(1).unwrap();
        blobs.named(most, 8, Digest::of(b"eight by")).unwrap();
    }

    #[test]
    fn a_container_gets_its_wrapper_back() {
        let mut data = CONTAINER_MAGIC.to_vec();
        data.extend_from_slice(&[0; 12]);
        let image = Image::new(data);
        let wrapper = image.wrapper.as_deref().unwrap();
        assert_eq!((wrapper.magic, wrapper.version), (WRAPPER_MAGIC, 1));
        assert_eq!(wrapper.container, image.data.as_ptr().cast());
        assert!(Image::new(b".version 8.0".to_vec()).wrapper.is_none());
    }
}
