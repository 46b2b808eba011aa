//! Handles: numbers that look like pointers and are looked up, never followed.
//!
//! A handle is never 0, 1 or 2 (those name default streams), is never used twice, and a stale one is
//! simply not found.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::errors::{Code, Res};
use crate::sync::{read, write};

static NEXT: AtomicU64 = AtomicU64::new(0x50F7_0000_0000);

/// A fresh handle, unique in this process over all kinds of object.
pub(crate) fn mint() -> u64 {
    NEXT.fetch_add(0x40, Ordering::Relaxed)
}

/// All living objects of one kind, by handle.
pub(crate) struct Registry<T>(RwLock<BTreeMap<u64, Arc<T>>>);

impl<T> Registry<T> {
    pub(crate) const fn new() -> Self {
        Registry(RwLock::new(BTreeMap::new()))
    }

    pub(crate) fn insert(&self, handle: u64, object: Arc<T>) {
        write(&self.0).insert(handle, object);
    }

    pub(crate) fn find(&self, handle: u64) -> Option<Arc<T>> {
        read(&self.0).get(&handle).cloned()
    }

    pub(crate) fn get(&self, handle: u64) -> Res<Arc<T>> {
        self.find(handle).ok_or(Code::INVALID_HANDLE)
    }

    pub(crate) fn remove(&self, handle: u64) -> Res<Arc<T>> {
        write(&self.0).remove(&handle).ok_or(Code::INVALID_HANDLE)
    }

    pub(crate) fn remove_where(&self, mut which: impl FnMut(&T) -> bool) -> Vec<Arc<T>> {
        let mut map = write(&self.0);
        let doomed: Vec<u64> =
            map.iter().filter(|(_, object)| which(object)).map(|(handle, _)| *handle).collect();
        doomed.into_iter().filter_map(|handle| map.remove(&handle)).collect()
    }

    pub(crate) fn any(&self, mut which: impl FnMut(&T) -> bool) -> bool {
        read(&self.0).values().any(|object| which(object))
    }
}
