//! Modules, libraries, and the functions in them.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction, CUlibrary, CUmodule};
use fusewire_wire::encoded;
use fusewire_wire::ops::table::{
    BLOB_PART_BYTES, BlobEncoded, BlobPart, FuncGetAttribute, FuncSetAttribute, FuncSetCacheConfig,
    FunctionInfo, GlobalReply, JitOption, KernelInfo, LibraryGetGlobal, LibraryGetKernel, LibraryGetModule,
    LibraryGlobalReply, LibraryLoad, Link, LinkInput, ModuleGetFunction, ModuleLoad, ParameterInfo,
};
use fusewire_wire::ops::{Answer, Nothing, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::gpu::Gpu;
use super::images::Image;
use super::known::parameter_bytes;
use super::ranges::Kind;
use crate::driver::{INVALID_VALUE, NOT_SUPPORTED, check};

/// Room for each of a load's two logs.
const LOG_BYTES: usize = 16 << 10;
/// JIT options and link inputs at most.
const MAX_OPTIONS: u32 = 64;
const MAX_INPUTS: u32 = 4096;
/// Kernel parameters at most.
const MAX_PARAMETERS: usize = 4096;
/// Names in a listing at most.
const MAX_NAMES: u32 = 1 << 20;

#[derive(Debug)]
pub(super) struct Module {
    pub(super) raw: CUmodule,
    context: u64,
    /// The library that it is part of, and goes with.
    library: Option<u64>,
}

pub(super) struct Library {
    pub(super) raw: CUlibrary,
    /// The image, which the driver may go on reading.
    _image: Arc<Image>,
}

/// A function of a module, or a kernel of a library; the driver takes either where it launches.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) raw: CUfunction,
    pub(super) kernel: bool,
    /// The module or library it is in.
    pub(super) owner: u64,
    /// Bytes that its parameter buffer must have.
    pub(super) parameter_bytes: u32,
    pub(super) parameters: Vec<ParameterInfo>,
    /// Its code is on the GPU.
    pub(super) launched: bool,
}

/// JIT options with buffers for the logs, which always come back.
struct Options {
    names: Vec<u32>,
    values: Vec<*mut c_void>,
    info: Vec<u8>,
    errors: Vec<u8>,
    /// Some of them may have made other kernels of the image than it has without.
    alter: bool,
}

/// `CUjit_option`: the information log's buffer and size, the error log's buffer and size.
const LOG_OPTIONS: [u32; 4] = [3, 4, 5, 6];
/// The one that only makes logs longer.
const LOG_VERBOSE: u32 = 12;

impl Options {
    /// Reads `count` options off the front of `tail`. Those that carry a buffer, or return something into one,
    /// are the client's own business and left out.
    fn read(tail: &mut &[u8], count: u32) -> Result<Self, Status> {
        let mut options = Self {
            names: LOG_OPTIONS.to_vec(),
            values: Vec::new(),
            info: vec![0; LOG_BYTES],
            errors: vec![0; LOG_BYTES],
            alter: false,
        };
        let size = std::ptr::without_provenance_mut(LOG_BYTES);
        options.values =
            vec![options.info.as_mut_ptr().cast(), size, options.errors.as_mut_ptr().cast(), size];
        for (name, value) in read_options(tail, count)? {
            match name {
                2..=6 => {}
                0 | 1 | 7..=14 | 16 | 20..=24 | 30..=33 => {
                    options.names.push(name);
                    options.values.push(std::ptr::without_provenance_mut(value as usize));
                    options.alter |= name != LOG_VERBOSE;
                }
                _ => return Err(INVALID_VALUE),
            }
        }
        Ok(options)
    }

    fn count(&self) -> u32 {
        self.names.len() as u32
    }

    /// The logs as a reply's tail begins: two lengths, then both.
    fn logs(&self) -> Vec<u8> {
        let [info, errors] = [&self.info, &self.errors]
            .map(|log| log.iter().position(|&byte| byte == 0).and_then(|end| log.get(..end)).unwrap_or(log));
        let mut tail = Vec::with_capacity(8 + info.len() + errors.len());
        tail.extend_from_slice(&(info.len() as u32).to_le_bytes());
        tail.extend_from_slice(&(errors.len() as u32).to_le_bytes());
        tail.extend_from_slice(info);
        tail.extend_from_slice(errors);
        tail
    }
}

fn read_options(tail: &mut &[u8], count: u32) -> Result<Vec<(u32, u64)>, Status> {
    if count > MAX_OPTIONS {
        return Err(INVALID_VALUE);
    }
    let mut options = Vec::new();
    for _ in 0..count {
        let (option, rest) = JitOption::read_from_prefix(tail).map_err(|_| INVALID_VALUE)?;
        *tail = rest;
        options.push((option.option, option.value));
    }
    Ok(options)
}

/// A name that came as a tail, padded with zeros.
fn name(tail: &[u8]) -> Result<&CStr, Status> {
    CStr::from_bytes_until_nul(tail).map_err(|_| INVALID_VALUE)
}

/// A name that fills its tail to the last byte has no NUL after it.
fn owned_name(tail: &[u8]) -> Result<CString, Status> {
    match name(tail) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => CString::new(tail).map_err(|_| INVALID_VALUE),
    }
}

impl Gpu {
    /// Modules and libraries have one space of handles: functions, globals and what is learnt of an image go by
    /// their owner's handle, whichever of the two it is.
    fn mint_owner(&mut self, what: &str, handle: u64) -> Result<(), Status> {
        self.mint(what, handle, self.modules.has(handle) || self.libraries.has(handle))
    }

    pub(super) fn blob_part(&mut self, record: &BlobPart, tail: &[u8]) -> Result<(), Status> {
        if tail.len() > BLOB_PART_BYTES {
            self.misbehave(format!("it sent {} bytes of an image at once", tail.len()));
            return Err(INVALID_VALUE);
        }
        self.blobs.part(record.blob, record.total, tail)
    }

    pub(super) fn blob_encoded(&mut self, record: &BlobEncoded, tail: &[u8]) -> Result<(), Status> {
        let bytes = record.bytes as usize;
        let payload = tail.get(..record.encoded_bytes as usize).filter(|payload| payload.len() < bytes);
        let Some(payload) = payload.filter(|_| bytes <= BLOB_PART_BYTES) else {
            let (encoded, there) = (record.encoded_bytes, tail.len());
            self.misbehave(format!("it sent {encoded} of {there} bytes of an image that come to {bytes}"));
            return Err(INVALID_VALUE);
        };
        let mut part = vec![0; bytes];
        if let Err(error) = encoded::decode(payload, &mut part) {
            self.misbehave(format!("part of an image: {error}"));
            return Err(INVALID_VALUE);
        }
        self.blobs.part(record.blob, record.total, &part)
    }

    pub(super) fn module_load(
        &mut self,
        record: &ModuleLoad,
        mut tail: &[u8],
    ) -> Result<Answer<Nothing>, (Status, Vec<u8>)> {
        let plain = |status| (status, Vec::new());
        self.mint_owner("module", record.module).map_err(plain)?;
        self.enter(record.context).map_err(plain)?;
        let taken = self.blobs.take(record.blob).map_err(plain)?;
        let mut options = Options::read(&mut tail, record.options).map_err(plain)?;
        let mut raw = std::ptr::null_mut();
        let count = options.count();
        // SAFETY: the image is in the form that its first bytes say, and ends with zeros; options and values are
        // as long as is said.
        let status = unsafe {
            let (names, values) = (options.names.as_mut_ptr(), options.values.as_mut_ptr());
            self.d.cuModuleLoadDataEx(&raw mut raw, taken.image.bare(), count, names, values)
        };
        let mut tail = options.logs();
        self.ok(status).map_err(|status| (status, tail.clone()))?;
        self.modules.put(record.module, Module { raw, context: record.context, library: None });
        self.blobs.keep(&taken);
        let device = self.contexts.get(record.context).map_err(plain)?.device;
        tail.extend(self.tell_kernels(record.module, &taken, device, options.alter));
        Ok(Answer::Now(Nothing {}, tail))
    }

    pub(super) fn module_unload(&mut self, handle: u64) -> Result<(), Status> {
        let module = self.modules.take(handle)?;
        self.forget_functions(handle);
        if module.library.is_some() {
            return Ok(());
        }
        self.enter(module.context)?;
        // SAFETY: ours, and named no more.
        let status = unsafe { self.d.cuModuleUnload(module.raw) };
        self.ok(status)
    }

    fn forget_functions(&mut self, owner: u64) {
        self.keep_facts(owner);
        self.functions.take_all(|function| function.owner == owner);
        self.ranges.take_all(|kind| kind == Kind::Global { owner });
    }

    pub(super) fn drop_modules(&mut self, context: u64) {
        let gone: Vec<u64> = self
            .modules
            .iter()
            .filter(|(_, module)| module.context == context)
            .map(|(handle, _)| handle)
            .collect();
        for handle in gone {
            let _ = self.module_unload(handle);
        }
    }

    pub(super) fn module_get_function(
        &mut self,
        record: &ModuleGetFunction,
        tail: &[u8],
    ) -> Result<Answer<FunctionInfo>, Status> {
        let (raw, name) = self.find_function(record.function, record.module, tail)?;
        let (info, parameters) = self.describe(raw, false, 0);
        self.learn(record.module, raw, name.as_bytes(), info, &parameters);
        let tail = parameters.as_bytes().to_vec();
        self.add_function(record.function, raw, false, record.module, parameters);
        Ok(Answer::Now(info, tail))
    }

    /// The driver's function of the name in `tail`, to be called `handle`.
    pub(super) fn find_function(
        &mut self,
        handle: u64,
        module: u64,
        tail: &[u8],
    ) -> Result<(CUfunction, CString), Status> {
        self.mint("function", handle, self.functions.has(handle))?;
        let name = owned_name(tail)?;
        let (module, context) = self.modules.get(module).map(|module| (module.raw, module.context))?;
        self.enter(context)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a live module and a NUL-terminated name.
        let status = unsafe { self.d.cuModuleGetFunction(&raw mut raw, module, name.as_ptr()) };
        self.ok(status)?;
        Ok((raw, name))
    }

    /// Remembers a function.
    pub(super) fn add_function(
        &mut self,
        handle: u64,
        raw: CUfunction,
        kernel: bool,
        owner: u64,
        parameters: Vec<ParameterInfo>,
    ) {
        let parameter_bytes = parameter_bytes(&parameters);
        self.functions
            .put(handle, Function { raw, kernel, owner, parameter_bytes, parameters, launched: false });
    }

    /// Where the parameters of a function lie: asked for one by one until there is none.
    pub(super) fn parameters_of(&self, raw: CUfunction, kernel: bool) -> Vec<ParameterInfo> {
        let mut parameters = Vec::new();
        for index in 0..MAX_PARAMETERS {
            let (mut offset, mut bytes) = (0usize, 0usize);
            // SAFETY: a live function or kernel, live integers.
            let status = unsafe {
                if kernel {
                    self.d.cuKernelGetParamInfo(raw.cast(), index, &raw mut offset, &raw mut bytes)
                } else {
                    self.d.cuFuncGetParamInfo(raw, index, &raw mut offset, &raw mut bytes)
                }
            };
            if status != 0 {
                break;
            }
            parameters.push(ParameterInfo { offset: offset as u32, bytes: bytes as u32 });
        }
        parameters
    }

    pub(super) fn attribute_of(
        &self,
        raw: CUfunction,
        kernel: bool,
        attribute: i32,
        device: i32,
    ) -> Result<i32, Status> {
        let mut value = 0;
        // SAFETY: a live function or kernel, a live integer. The driver judges the attribute's number.
        check(unsafe {
            if kernel {
                self.d.cuKernelGetAttribute(&raw mut value, attribute, raw.cast(), device)
            } else {
                self.d.cuFuncGetAttribute(&raw mut value, attribute, raw)
            }
        })?;
        Ok(value)
    }

    pub(super) fn module_get_global(&mut self, module: u64, tail: &[u8]) -> Result<GlobalReply, Status> {
        let name = owned_name(tail)?;
        let (raw, context) = self.modules.get(module).map(|module| (module.raw, module.context))?;
        self.enter(context)?;
        let (mut address, mut bytes) = (0, 0usize);
        // SAFETY: a live module and a NUL-terminated name.
        let status =
            unsafe { self.d.cuModuleGetGlobal_v2(&raw mut address, &raw mut bytes, raw, name.as_ptr()) };
        self.ok(status)?;
        self.note_global(address, bytes as u64, module)?;
        Ok(GlobalReply { address, bytes: bytes as u64 })
    }

    pub(super) fn module_names(&mut self, module: u64) -> Result<(u32, Vec<u8>), Status> {
        let (raw, context) = self.modules.get(module).map(|module| (module.raw, module.context))?;
        self.enter(context)?;
        let mut count = 0;
        // SAFETY: a live module and a live integer.
        let status = unsafe { self.d.cuModuleGetFunctionCount(&raw mut count, raw) };
        self.ok(status)?;
        let mut functions = vec![std::ptr::null_mut(); count.min(MAX_NAMES) as usize];
        let wanted = functions.len() as u32;
        // SAFETY: as many places as is said.
        let status = unsafe { self.d.cuModuleEnumerateFunctions(functions.as_mut_ptr(), wanted, raw) };
        self.ok(status)?;
        let mut names = Vec::new();
        for function in functions {
            let mut text = std::ptr::null();
            // SAFETY: a function that the driver has just named.
            let status = unsafe { self.d.cuFuncGetName(&raw mut text, function) };
            self.ok(status)?;
            append_name(&mut names, text);
        }
        Ok((wanted, names))
    }

    pub(super) fn library_load(
        &mut self,
        record: &LibraryLoad,
        mut tail: &[u8],
    ) -> Result<Answer<Nothing>, (Status, Vec<u8>)> {
        let plain = |status| (status, Vec::new());
        self.mint_owner("library", record.library).map_err(plain)?;
        self.enter(record.context).map_err(plain)?;
        let device = self.contexts.get(record.context).map_err(plain)?.device;
        let taken = self.blobs.take(record.blob).map_err(plain)?;
        let mut options = Options::read(&mut tail, record.options).map_err(plain)?;
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (name, value) in read_options(&mut tail, record.library_options).map_err(plain)? {
            // 0, a table of host functions, is the client's; 1: the image is kept, which it is.
            match name {
                0 => {}
                1 => {
                    names.push(name);
                    values.push(std::ptr::without_provenance_mut(value as usize));
                }
                _ => return Err(plain(INVALID_VALUE)),
            }
        }
        let mut raw = std::ptr::null_mut();
        let count = options.count();
        // SAFETY: as for a module; the image lives as long as the library.
        let status = unsafe {
            let (jit, jit_values) = (options.names.as_mut_ptr(), options.values.as_mut_ptr());
            let (own, own_values) = (names.as_mut_ptr(), values.as_mut_ptr());
            let own_count = names.len() as u32;
            self.d.cuLibraryLoadData(
                &raw mut raw,
                taken.image.wrapped(),
                jit,
                jit_values,
                count,
                own,
                own_values,
                own_count,
            )
        };
        let mut tail = options.logs();
        self.ok(status).map_err(|status| (status, tail.clone()))?;
        self.libraries.put(record.library, Library { raw, _image: Arc::clone(&taken.image) });
        self.blobs.keep(&taken);
        tail.extend(self.tell_kernels(record.library, &taken, device, options.alter));
        Ok(Answer::Now(Nothing {}, tail))
    }

    pub(super) fn library_unload(&mut self, handle: u64) -> Result<(), Status> {
        let library = self.libraries.take(handle)?;
        self.forget_functions(handle);
        let parts: Vec<u64> = self
            .modules
            .iter()
            .filter(|(_, module)| module.library == Some(handle))
            .map(|(part, _)| part)
            .collect();
        for part in parts {
            let _ = self.module_unload(part);
        }
        // SAFETY: ours, and named no more.
        let status = unsafe { self.d.cuLibraryUnload(library.raw) };
        self.ok(status)
    }

    pub(super) fn library_get_kernel(
        &mut self,
        record: &LibraryGetKernel,
        tail: &[u8],
    ) -> Result<Answer<KernelInfo>, Status> {
        let (raw, name) = self.find_kernel(record.function, record.library, record.context, tail)?;
        let device = self.contexts.get(record.context)?.device;
        let (info, parameters) = self.describe(raw, true, device);
        self.learn(record.library, raw, name.as_bytes(), info, &parameters);
        let tail = parameters.as_bytes().to_vec();
        self.add_function(record.function, raw, true, record.library, parameters);
        // Both answers have one layout.
        let reply = KernelInfo::read_from_bytes(info.as_bytes()).map_err(|_| INVALID_VALUE)?;
        Ok(Answer::Now(reply, tail))
    }

    /// The driver's kernel of the name in `tail`, to be called `handle`: launched as a function.
    pub(super) fn find_kernel(
        &mut self,
        handle: u64,
        library: u64,
        context: u64,
        tail: &[u8],
    ) -> Result<(CUfunction, CString), Status> {
        self.mint("function", handle, self.functions.has(handle))?;
        let name = owned_name(tail)?;
        let library = self.libraries.get(library)?.raw;
        self.enter(context)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a live library and a NUL-terminated name.
        let status = unsafe { self.d.cuLibraryGetKernel(&raw mut raw, library, name.as_ptr()) };
        self.ok(status)?;
        Ok((raw.cast(), name))
    }

    pub(super) fn library_get_global(
        &mut self,
        record: &LibraryGetGlobal,
        tail: &[u8],
    ) -> Result<LibraryGlobalReply, Status> {
        let name = owned_name(tail)?;
        let library = self.libraries.get(record.library)?.raw;
        self.enter(record.context)?;
        let (mut address, mut bytes) = (0, 0usize);
        // SAFETY: a live library and a NUL-terminated name.
        let status =
            unsafe { self.d.cuLibraryGetGlobal(&raw mut address, &raw mut bytes, library, name.as_ptr()) };
        self.ok(status)?;
        self.note_global(address, bytes as u64, record.library)?;
        Ok(LibraryGlobalReply { address, bytes: bytes as u64 })
    }

    pub(super) fn library_get_module(&mut self, record: &LibraryGetModule) -> Result<(), Status> {
        self.mint_owner("module", record.module)?;
        let library = self.libraries.get(record.library)?.raw;
        self.enter(record.context)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a live library.
        let status = unsafe { self.d.cuLibraryGetModule(&raw mut raw, library) };
        self.ok(status)?;
        self.modules
            .put(record.module, Module { raw, context: record.context, library: Some(record.library) });
        Ok(())
    }

    pub(super) fn library_names(&mut self, library: u64) -> Result<(u32, Vec<u8>), Status> {
        let raw = self.libraries.get(library)?.raw;
        let mut count = 0;
        // SAFETY: a live library and a live integer.
        let status = unsafe { self.d.cuLibraryGetKernelCount(&raw mut count, raw) };
        self.ok(status)?;
        let mut kernels = vec![std::ptr::null_mut(); count.min(MAX_NAMES) as usize];
        let wanted = kernels.len() as u32;
        // SAFETY: as many places as is said.
        let status = unsafe { self.d.cuLibraryEnumerateKernels(kernels.as_mut_ptr(), wanted, raw) };
        self.ok(status)?;
        let mut names = Vec::new();
        for kernel in kernels {
            let mut text = std::ptr::null();
            // SAFETY: a kernel that the driver has just named.
            let status = unsafe { self.d.cuKernelGetName(&raw mut text, kernel) };
            self.ok(status)?;
            append_name(&mut names, text);
        }
        Ok((wanted, names))
    }

    pub(super) fn func_get_attribute(&mut self, record: &FuncGetAttribute) -> Result<i32, Status> {
        let (raw, kernel) = self.function(record.function)?;
        self.enter(record.context)?;
        self.attribute_of(raw, kernel, record.attribute, record.device)
    }

    pub(super) fn func_set_attribute(&mut self, record: &FuncSetAttribute) -> Result<(), Status> {
        let (raw, kernel) = self.function(record.function)?;
        self.alter(record.function);
        self.enter(record.context)?;
        // SAFETY: a live function or kernel. The driver judges attribute and value.
        let status = unsafe {
            if kernel {
                self.d.cuKernelSetAttribute(record.attribute, record.value, raw.cast(), record.device)
            } else {
                self.d.cuFuncSetAttribute(raw, record.attribute, record.value)
            }
        };
        self.ok(status)
    }

    pub(super) fn func_set_cache_config(&mut self, record: &FuncSetCacheConfig) -> Result<(), Status> {
        if record.config > 3 {
            return Err(INVALID_VALUE);
        }
        let (raw, kernel) = self.function(record.function)?;
        self.alter(record.function);
        self.enter(record.context)?;
        // SAFETY: a live function or kernel and a checked number.
        let status = unsafe {
            if kernel {
                self.d.cuKernelSetCacheConfig(raw.cast(), record.config, record.device)
            } else {
                self.d.cuFuncSetCacheConfig(raw, record.config)
            }
        };
        self.ok(status)
    }

    pub(super) fn function(&self, handle: u64) -> Result<(CUfunction, bool), Status> {
        self.functions.get(handle).map(|function| (function.raw, function.kernel))
    }

    pub(super) fn link(
        &mut self,
        record: &Link,
        mut tail: &[u8],
    ) -> Result<Answer<Nothing>, (Status, Vec<u8>)> {
        let plain = |status| (status, Vec::new());
        self.enter(record.context).map_err(plain)?;
        if record.inputs > MAX_INPUTS {
            return Err(plain(INVALID_VALUE));
        }
        let mut options = Options::read(&mut tail, record.options).map_err(plain)?;
        let mut state = std::ptr::null_mut();
        let count = options.count();
        // SAFETY: options and values are as long as is said, and live until the state is destroyed.
        let status = unsafe {
            self.d.cuLinkCreate_v2(
                count,
                options.names.as_mut_ptr(),
                options.values.as_mut_ptr(),
                &raw mut state,
            )
        };
        self.ok(status).map_err(plain)?;
        let result = self.link_inputs(state, record.inputs, tail);
        // SAFETY: the state is ours and not used again; the image was copied.
        unsafe { self.d.cuLinkDestroy(state) };
        let mut reply = options.logs();
        match result {
            Ok(image) => {
                reply.extend_from_slice(&image);
                Ok(Answer::Now(Nothing {}, reply))
            }
            Err(status) => Err((status, reply)),
        }
    }

    fn link_inputs(
        &mut self,
        state: cudarc::driver::sys::CUlinkState,
        inputs: u32,
        mut tail: &[u8],
    ) -> Result<Vec<u8>, Status> {
        for _ in 0..inputs {
            let (input, rest) = LinkInput::read_from_prefix(tail).map_err(|_| INVALID_VALUE)?;
            let name_bytes = input.name_bytes as usize;
            let padded = name_bytes.checked_next_multiple_of(8).ok_or(INVALID_VALUE)?;
            let (name, rest) = rest.split_at_checked(padded).ok_or(INVALID_VALUE)?;
            tail = rest;
            let name = owned_name(name.get(..name_bytes).unwrap_or_default())?;
            // Cubin, PTX, fat binary, object, library; and NVVM.
            if input.kind > 5 {
                return Err(NOT_SUPPORTED);
            }
            let image = self.blobs.take(input.blob)?.image;
            let (data, bytes) = (image.contents().as_ptr(), image.contents().len());
            // PTX is given with the NUL that follows it.
            let bytes = if input.kind == 1 { bytes + 1 } else { bytes };
            // SAFETY: the data are live and that long, zeros included.
            let status = unsafe {
                self.d.cuLinkAddData_v2(
                    state,
                    input.kind,
                    data.cast_mut().cast(),
                    bytes,
                    name.as_ptr(),
                    0,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                )
            };
            self.ok(status)?;
        }
        let (mut image, mut bytes) = (std::ptr::null_mut(), 0usize);
        // SAFETY: the state is live.
        let status = unsafe { self.d.cuLinkComplete(state, &raw mut image, &raw mut bytes) };
        self.ok(status)?;
        if image.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the image lives until the state is destroyed.
        Ok(unsafe { std::slice::from_raw_parts(image.cast_const().cast::<u8>(), bytes) }.to_vec())
    }
}

fn append_name(names: &mut Vec<u8>, text: *const c_char) {
    if !text.is_null() {
        // SAFETY: the driver's text, NUL-terminated.
        names.extend_from_slice(unsafe { CStr::from_ptr(text) }.to_bytes());
    }
    names.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_where_their_padding_begins() {
        assert_eq!(owned_name(b"add\0\0\0\0\0").unwrap().as_bytes(), b"add");
        assert_eq!(owned_name(b"eightlen").unwrap().as_bytes(), b"eightlen");
    }
}
