//! Handles: what the client calls its objects.
//!
//! The client mints them, so nothing about one can be trusted but its equality with another. A table per kind of
//! object; a handle that is not in the table is refused, one that is minted twice ends the session.

use rustc_hash::FxHashMap;

use crate::driver::{INVALID_HANDLE, Status};

/// Most objects that one session may have, all kinds together. Far beyond any program; there so that a client
/// cannot exhaust the host's memory.
pub(super) const MAX_OBJECTS: usize = 4 << 20;

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Table<T> {
    objects: FxHashMap<u64, T>,
    missing: Status,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::refusing_with(INVALID_HANDLE)
    }
}

impl<T> Table<T> {
    /// A table that answers `missing` for a handle that it does not have.
    pub(super) fn refusing_with(missing: Status) -> Self {
        Self { objects: FxHashMap::default(), missing }
    }

    #[inline]
    pub(super) fn get(&self, handle: u64) -> Result<&T, Status> {
        self.objects.get(&handle).ok_or(self.missing)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, handle: u64) -> Result<&mut T, Status> {
        self.objects.get_mut(&handle).ok_or(self.missing)
    }

    pub(super) fn take(&mut self, handle: u64) -> Result<T, Status> {
        self.objects.remove(&handle).ok_or(self.missing)
    }

    pub(super) fn has(&self, handle: u64) -> bool {
        self.objects.contains_key(&handle)
    }

    /// The handle must be free: see `Gpu::mint`.
    pub(super) fn put(&mut self, handle: u64, object: T) {
        self.objects.insert(handle, object);
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.objects.iter().map(|(handle, object)| (*handle, object))
    }

    /// Takes out every object that `gone` picks.
    pub(super) fn take_all(&mut self, mut gone: impl FnMut(&T) -> bool) -> Vec<T> {
        self.objects.extract_if(|_, object| gone(object)).map(|(_, object)| object).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_or_forged_handle_is_refused() {
        let mut table = Table::default();
        table.put(16, "stream");
        assert_eq!(table.get(16), Ok(&"stream"));
        assert_eq!(table.get(17), Err(INVALID_HANDLE));
        assert_eq!(table.take(16), Ok("stream"));
        assert_eq!(table.take(16), Err(INVALID_HANDLE));
    }
}
