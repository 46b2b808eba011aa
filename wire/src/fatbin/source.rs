//! Where image bytes come from: a slice, or memory of which only the start is known.

use zerocopy::{FromBytes, IntoBytes};

use super::error::FatbinError;

/// Random access to the bytes of an image whose length may not be known yet.
///
/// The driver's interface gives bare pointers, so the holder of such a pointer implements this trait
/// (and takes the responsibility for reading through it); everything else here works on `[u8]`.
pub trait ByteSource {
    /// Fills `out` with the bytes from `offset` on. Returns false, with `out` in any state, if not all
    /// of them can be had. It must not panic for any offset.
    fn read(&self, offset: usize, out: &mut [u8]) -> bool;

    /// The offset of the first NUL at or after `from` and before `end`.
    ///
    /// The default asks byte by byte, because a larger read could cross into memory that is not mapped;
    /// sources that know better should override it.
    fn find_nul(&self, from: usize, end: usize) -> Option<usize> {
        let mut byte = [0xff_u8];
        for offset in from..end {
            if !self.read(offset, &mut byte) {
                return None;
            }
            if byte[0] == 0 {
                return Some(offset);
            }
        }
        None
    }
}

impl ByteSource for [u8] {
    fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some(bytes) = offset.checked_add(out.len()).and_then(|end| self.get(offset..end)) else {
            return false;
        };
        out.copy_from_slice(bytes);
        true
    }

    fn find_nul(&self, from: usize, end: usize) -> Option<usize> {
        let bytes = self.get(from..end.min(self.len()))?;
        memchr::memchr(0, bytes).map(|position| from + position)
    }
}

impl<S: ByteSource + ?Sized> ByteSource for &S {
    fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        (**self).read(offset, out)
    }

    fn find_nul(&self, from: usize, end: usize) -> Option<usize> {
        (**self).find_nul(from, end)
    }
}

/// Reads one fixed-layout record.
pub(super) fn read_record<T, S>(source: &S, offset: u64, what: &'static str) -> Result<T, FatbinError>
where
    T: FromBytes + IntoBytes,
    S: ByteSource + ?Sized,
{
    let needed = size_of::<T>();
    // An offset that does not fit is as unreadable as one that is not mapped.
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut record = T::new_zeroed();
    if source.read(offset, record.as_mut_bytes()) {
        Ok(record)
    } else {
        Err(FatbinError::Unreadable { what, offset, needed })
    }
}
