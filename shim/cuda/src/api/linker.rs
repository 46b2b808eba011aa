//! The linker: inputs gather here, and are linked on the server when they are complete.

use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex, OnceLock};

use fusewire_wire::ops::table::{JitOption, Link, LinkInput};
use zerocopy::IntoBytes;

use crate::abi::result::{CUDA_ERROR_FILE_NOT_FOUND, CUDA_ERROR_INVALID_VALUE};
use crate::abi::types::{CUlinkState, CUresult};
use crate::runtime::handles::{self, Object};
use crate::runtime::images::{self, Options};
use crate::runtime::objects::LinkState;
use crate::runtime::session::lock;
use crate::runtime::stats::counter;
use crate::runtime::{self, current};

use super::arguments::{give, name, need, offer};

/// `options` and `values`: `count` elements, which must live until the state is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkCreate_v2(
    count: u32,
    options: *const u32,
    values: *mut *mut c_void,
    state: *mut CUlinkState,
) -> CUresult {
    runtime::call(counter!("cuLinkCreate_v2"), |_| {
        need(state)?;
        current::sound_context()?;
        // SAFETY: the program's arrays of `count` elements.
        let options = unsafe { Options::read(count, options, values) }?;
        let handle = handles::mint()?;
        let made = LinkState {
            inputs: Mutex::default(),
            options: Mutex::new(options.send.iter().map(|o| (o.option, o.value)).collect()),
            image: OnceLock::new(),
            logs: Mutex::new(options.logs),
        };
        handles::fill(handle, Object::Link(Arc::new(made)));
        // SAFETY: the program's pointer, for one value.
        unsafe { give(state, handles::pointer(handle)) }
    })
}

/// `data`: `bytes` bytes. Options of one input are not carried: those of the whole link are.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface's own")]
pub unsafe extern "C" fn cuLinkAddData_v2(
    state: CUlinkState,
    kind: u32,
    data: *mut c_void,
    bytes: usize,
    label: *const c_char,
    _count: u32,
    _options: *const u32,
    _values: *mut *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuLinkAddData_v2"), |_| {
        need(data)?;
        let state = handles::link(state)?;
        // SAFETY: the program's data.
        let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), bytes) }.to_vec();
        let label = if label.is_null() {
            CString::default()
        } else {
            // SAFETY: the program's C string.
            unsafe { name(label) }?.to_owned()
        };
        lock(&state.inputs).push((kind, data, label));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkAddFile_v2(
    state: CUlinkState,
    kind: u32,
    path: *const c_char,
    _count: u32,
    _options: *const u32,
    _values: *mut *mut c_void,
) -> CUresult {
    runtime::call(counter!("cuLinkAddFile_v2"), |_| {
        let state = handles::link(state)?;
        // SAFETY: the program's C string.
        let data = unsafe { images::read_file(path) }.map_err(|_| CUDA_ERROR_FILE_NOT_FOUND)?;
        // SAFETY: as above.
        let label = unsafe { name(path) }?.to_owned();
        lock(&state.inputs).push((kind, data, label));
        Ok(())
    })
}

/// The image lives until the state is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkComplete(
    state: CUlinkState,
    image: *mut *mut c_void,
    bytes: *mut usize,
) -> CUresult {
    runtime::call(counter!("cuLinkComplete"), |runtime| {
        need(image)?;
        let state = handles::link(state)?;
        let context = current::sound_context()?;
        let inputs = std::mem::take(&mut *lock(&state.inputs));
        if inputs.is_empty() {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let options: Vec<JitOption> = lock(&state.options)
            .iter()
            .map(|&(option, value)| JitOption { option, reserved: 0, value })
            .collect();
        let mut tail = options.as_bytes().to_vec();
        let mut blobs = Vec::new();
        for (kind, data, label) in &inputs {
            let blob = images::send_whole(runtime, data)?;
            blobs.push(blob);
            let label = label.to_bytes();
            let name_bytes = u32::try_from(label.len()).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
            tail.extend_from_slice(LinkInput { blob, kind: *kind, name_bytes }.as_bytes());
            tail.extend_from_slice(label);
            tail.resize(tail.len().next_multiple_of(8), 0);
        }
        let record = Link {
            context: context.handle,
            options: u32::try_from(options.len()).unwrap_or(0),
            inputs: u32::try_from(inputs.len()).unwrap_or(0),
        };
        let answer = runtime.session.call(&record, &[&tail]);
        for blob in blobs {
            handles::end(blob);
        }
        let (_, tail) = answer?;
        let logs = *lock(&state.logs);
        // SAFETY: the program described its log buffers in the options.
        let linked = unsafe { images::give_logs(&logs, &tail) };
        let kept = state.image.get_or_init(|| linked.to_vec());
        // SAFETY: the program's pointers, for one value each.
        unsafe {
            offer(bytes, kept.len());
            give(image, kept.as_ptr().cast_mut().cast())
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLinkDestroy(state: CUlinkState) -> CUresult {
    runtime::call(counter!("cuLinkDestroy"), |_| {
        handles::link(state)?;
        handles::end(handles::number(state));
        Ok(())
    })
}

crate::abi::variants!("linker.rs");
