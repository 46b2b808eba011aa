//! What a load's answer tells of the image's kernels, so that the client need not ask for each.
//!
//! Of an image with few kernels all are described, by the driver. Of a larger one, those that programs asked for
//! in earlier sessions, from the cache: to describe a kernel the driver loads its code, and a large library has
//! thousands that nobody uses. What a program asks for here and was not told is what the next one is told.

use std::ffi::CStr;

use cudarc::driver::sys::{CUfunc_st, CUfunction};
use fusewire_wire::digest::Digest;
use fusewire_wire::fatbin;
use fusewire_wire::ops::known::{Known, MAX_KNOWN};
use fusewire_wire::ops::table::FunctionBind;
use fusewire_wire::ops::{Status, table::FunctionInfo, table::ParameterInfo};
use rustc_hash::FxHashSet;

use super::gpu::Gpu;
use super::image_cache::Facts;
use super::images::Taken;
use crate::driver::{INVALID_VALUE, check};

/// Kernels of an image that are all described when it is loaded.
const FEW: u32 = 4;

/// An image that is kept, as a module or library.
#[derive(Debug)]
pub(super) struct Loaded {
    digest: Digest,
    device: i32,
    facts: Facts,
    /// The facts are more than what the cache has.
    news: bool,
    /// Kernels of which this program has set something: what the driver says of them is no fact of the image.
    altered: FxHashSet<usize>,
}

impl Gpu {
    /// What the answer to a load says after the logs: bytes of the list, and the list of known kernels.
    /// `altered`: options of the load may have made other kernels of it than it has without. Then nothing that is
    /// known of the image holds, and nothing is learnt of it.
    pub(super) fn tell_kernels(&mut self, owner: u64, taken: &Taken, device: i32, altered: bool) -> Vec<u8> {
        let digest = taken.digest.filter(|_| !altered);
        let kept = match (&self.blobs.cache, digest) {
            (Some(cache), Some(digest)) => cache.facts(&digest, device),
            _ => None,
        };
        let news = kept.is_none();
        let facts = kept.unwrap_or_else(|| Facts {
            prints: fatbin::uses_printf(taken.image.contents()),
            kernels: self.few_kernels(owner, device).unwrap_or_default(),
        });
        self.prints = self.prints || facts.prints;
        let mut list = vec![0; 8];
        for known in &facts.kernels {
            known.append(&mut list);
        }
        let bytes = list.len() as u64 - 8;
        if let Some(room) = list.first_chunk_mut() {
            *room = bytes.to_le_bytes();
        }
        if let Some(digest) = digest {
            self.loaded.insert(owner, Loaded { digest, device, facts, news, altered: FxHashSet::default() });
        }
        list
    }

    /// All kernels of a module or library that has few; none of any other.
    fn few_kernels(&mut self, owner: u64, device: i32) -> Result<Vec<Known>, Status> {
        let (mut count, mut found) = (0, [std::ptr::null_mut::<CUfunc_st>(); FEW as usize]);
        let library = self.libraries.get(owner).ok().map(|library| library.raw);
        // SAFETY: a live library or module, and as many places as is said.
        unsafe {
            if let Some(raw) = library {
                check(self.d.cuLibraryGetKernelCount(&raw mut count, raw))?;
                if count > FEW {
                    return Ok(Vec::new());
                }
                check(self.d.cuLibraryEnumerateKernels(found.as_mut_ptr().cast(), count, raw))?;
            } else {
                let raw = self.modules.get(owner)?.raw;
                check(self.d.cuModuleGetFunctionCount(&raw mut count, raw))?;
                if count > FEW {
                    return Ok(Vec::new());
                }
                check(self.d.cuModuleEnumerateFunctions(found.as_mut_ptr(), count, raw))?;
            }
        }
        let mut kernels = Vec::new();
        for raw in found.into_iter().take(count as usize) {
            let mut text = std::ptr::null();
            // SAFETY: a function or kernel that the driver has just named.
            check(unsafe {
                if library.is_some() {
                    self.d.cuKernelGetName(&raw mut text, raw.cast())
                } else {
                    self.d.cuFuncGetName(&raw mut text, raw)
                }
            })?;
            if text.is_null() {
                return Err(INVALID_VALUE);
            }
            // SAFETY: the driver's text, NUL-terminated.
            let name = unsafe { CStr::from_ptr(text) };
            let raw = if library.is_some() { raw } else { self.loaded_function(owner, name)? };
            let (info, parameters) = self.describe(raw, library.is_some(), device);
            if info.max_threads <= 0 {
                // Not described: the program asks for it when it needs it.
                return Err(INVALID_VALUE);
            }
            kernels.push(Known { name: name.to_bytes().to_vec(), info, parameters });
        }
        Ok(kernels)
    }

    /// A function of a module, with its code on the GPU. What `cuModuleEnumerateFunctions` names is not loaded
    /// yet, and has no attributes: asked for one, driver 580 answers FUNCTION_NOT_LOADED.
    fn loaded_function(&self, module: u64, name: &CStr) -> Result<CUfunction, Status> {
        let mut raw = std::ptr::null_mut();
        let module = self.modules.get(module)?.raw;
        // SAFETY: a live module, and a name that the driver gave.
        check(unsafe { self.d.cuModuleGetFunction(&raw mut raw, module, name.as_ptr()) })?;
        Ok(raw)
    }

    /// Attributes and parameters of a function or kernel.
    pub(super) fn describe(
        &self,
        raw: CUfunction,
        kernel: bool,
        device: i32,
    ) -> (FunctionInfo, Vec<ParameterInfo>) {
        let parameters = self.parameters_of(raw, kernel);
        let attribute = |number| self.attribute_of(raw, kernel, number, device).unwrap_or(0);
        let info = FunctionInfo {
            parameters: parameters.len() as u32,
            parameter_bytes: parameter_bytes(&parameters),
            max_threads: attribute(0),
            shared_bytes: attribute(1),
            const_bytes: attribute(2),
            local_bytes: attribute(3),
            registers: attribute(4),
            ptx_version: attribute(5),
            binary_version: attribute(6),
            cache_mode_ca: attribute(7),
            max_dynamic_shared: attribute(8),
            carveout: attribute(9),
            cluster_required: attribute(10),
            cluster_x: attribute(11),
            cluster_y: attribute(12),
            cluster_z: attribute(13),
            non_portable_cluster: attribute(14),
            cluster_scheduling: attribute(15),
        };
        (info, parameters)
    }

    /// A program asked for a kernel: the next one that loads the image is told of it.
    pub(super) fn learn(
        &mut self,
        owner: u64,
        raw: CUfunction,
        name: &[u8],
        info: FunctionInfo,
        parameters: &[ParameterInfo],
    ) {
        let Some(loaded) = self.loaded.get_mut(&owner) else { return };
        if loaded.altered.contains(&raw.addr()) {
            return;
        }
        let kernels = &mut loaded.facts.kernels;
        if kernels.len() < MAX_KNOWN && kernels.iter().all(|known| known.name != name) {
            kernels.push(Known { name: name.to_vec(), info, parameters: parameters.to_vec() });
            loaded.news = true;
        }
    }

    /// A program sets something of a function or kernel.
    pub(super) fn alter(&mut self, function: u64) {
        let Ok(function) = self.functions.get(function) else { return };
        if let Some(loaded) = self.loaded.get_mut(&function.owner) {
            loaded.altered.insert(function.raw.addr());
        }
    }

    /// The module or library goes: what it taught is kept.
    pub(super) fn keep_facts(&mut self, owner: u64) {
        if let Some(loaded) = self.loaded.remove(&owner)
            && loaded.news
            && let Some(cache) = &self.blobs.cache
        {
            cache.put_facts(&loaded.digest, loaded.device, loaded.facts);
        }
    }

    /// The session is over: what it taught is kept.
    pub(super) fn keep_all_facts(&mut self) {
        let owners: Vec<u64> = self.loaded.keys().copied().collect();
        for owner in owners {
            self.keep_facts(owner);
        }
        if let Some(cache) = &self.blobs.cache {
            cache.finish();
        }
    }

    /// Names a function that the client was told of. What it was told is not relied on here.
    pub(super) fn function_bind(&mut self, record: &FunctionBind, tail: &[u8]) -> Result<(), Status> {
        if record.module != 0 {
            let (raw, _) = self.find_function(record.function, record.module, tail)?;
            self.add_function(record.function, raw, false, record.module, self.parameters_of(raw, false));
        } else {
            let (raw, _) = self.find_kernel(record.function, record.library, record.context, tail)?;
            self.add_function(record.function, raw, true, record.library, self.parameters_of(raw, true));
        }
        Ok(())
    }
}

/// Bytes of the buffer that holds all parameters.
pub(super) fn parameter_bytes(parameters: &[ParameterInfo]) -> u32 {
    parameters.iter().map(|place| place.offset.saturating_add(place.bytes)).max().unwrap_or(0)
}
