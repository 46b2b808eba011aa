//! User objects: something of the program's that is destroyed when no graph needs it any more.
//!
//! A graph's references are shared with what was cloned or instantiated from it, and go with the last
//! of these.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use crate::abi::{HostFn, Out};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::graph;
use crate::handles::{self, Registry};
use crate::sync::lock;
use crate::work::Opaque;

/// Flag of cuUserObjectCreate, without which it fails.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// Flag of cuGraphRetainUserObject: the caller's own references go over to the graph.
const MOVE: u32 = 1;

static OBJECTS: Registry<UserObject> = Registry::new();

struct UserObject {
    destroy: unsafe extern "C" fn(*mut c_void),
    data: Opaque,
    references: Mutex<u32>,
}

/// References that graphs hold together, by object.
#[derive(Default)]
pub(crate) struct Held(Mutex<BTreeMap<u64, u32>>);

impl Held {
    fn keep(&self, object: u64, count: u32) {
        *lock(&self.0).entry(object).or_insert(0) += count;
    }

    /// Gives them up again, if there are as many.
    fn let_go(&self, object: u64, count: u32) -> bool {
        let mut objects = lock(&self.0);
        let left = objects.get(&object).and_then(|held| held.checked_sub(count));
        match left {
            Some(0) => drop(objects.remove(&object)),
            Some(left) => drop(objects.insert(object, left)),
            None => return false,
        }
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (object, count) in std::mem::take(&mut *lock(&self.0)) {
            let _ = release(object, count);
        }
    }
}

fn retain(object: u64, count: u32) -> Res {
    let object = OBJECTS.find(object).ok_or(Code::INVALID_VALUE)?;
    let mut references = lock(&object.references);
    *references = references.checked_add(count).filter(|_| count > 0).ok_or(Code::INVALID_VALUE)?;
    Ok(())
}

/// Gives references back; the last one destroys the object.
fn release(handle: u64, count: u32) -> Res {
    let object = OBJECTS.find(handle).ok_or(Code::INVALID_VALUE)?;
    let left = {
        let mut references = lock(&object.references);
        *references = references.checked_sub(count).filter(|_| count > 0).ok_or(Code::INVALID_VALUE)?;
        *references
    };
    if left == 0 && OBJECTS.remove(handle).is_ok() {
        // SAFETY: the program gave the function together with its argument.
        unsafe { (object.destroy)(object.data.0) };
    }
    Ok(())
}

api! {
    fn cuUserObjectCreate(out: Out<u64>, data: *mut c_void, destroy: HostFn, count: u32, flags: u32) [init] {
        let destroy = destroy.ok_or(Code::INVALID_VALUE)?;
        if flags != NO_DESTRUCTOR_SYNC || count == 0 || out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = handles::mint();
        let object = UserObject { destroy, data: Opaque(data), references: Mutex::new(count) };
        OBJECTS.insert(handle, Arc::new(object));
        out.set(handle)
    }

    fn cuUserObjectRetain(object: u64, count: u32) [init] {
        retain(object, count)
    }

    fn cuUserObjectRelease(object: u64, count: u32) [init] {
        release(object, count)
    }

    fn cuGraphRetainUserObject(graph: u64, object: u64, count: u32, flags: u32) [init] {
        let graph = graph::get(graph)?;
        if flags & !MOVE != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if flags & MOVE == 0 {
            retain(object, count)?;
        }
        graph.held.keep(object, count);
        Ok(())
    }

    fn cuGraphReleaseUserObject(graph: u64, object: u64, count: u32) [init] {
        if !graph::get(graph)?.held.let_go(object, count) {
            return Err(Code::INVALID_VALUE);
        }
        release(object, count)
    }
}
