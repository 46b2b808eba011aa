//! Kernel parameters: from the program's pointers to one buffer, by the layout that came with the function.

use std::ffi::c_void;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES};
use crate::abi::types::CUresult;

use super::objects::Function;

/// The driver's limit: 32,764 bytes of parameters.
const MOST: usize = 32 * 1024;

/// Room for parameters on the stack: launches allocate nothing. It holds nothing but bytes that are not
/// initialised, since with any other field the compiler would zero all of it for every launch.
pub(crate) struct Packed {
    bytes: [std::mem::MaybeUninit<u8>; MOST],
}

impl Packed {
    pub(crate) fn new() -> Self {
        Self { bytes: [std::mem::MaybeUninit::uninit(); MOST] }
    }

    /// # Safety
    /// The first `length` bytes are initialised.
    #[inline]
    unsafe fn filled(&self, length: usize) -> &[u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), length) }
    }

    /// The parameter buffer, made from `parameters` (a pointer to each value) or `extra` (a whole buffer).
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` when both or neither are given, or something is missing.
    ///
    /// # Safety
    /// The pointers are what the launch functions of the driver take for this function.
    #[inline]
    pub(crate) unsafe fn pack(
        &mut self,
        function: &Function,
        parameters: *const *mut c_void,
        extra: *const *mut c_void,
    ) -> Result<&[u8], CUresult> {
        if !extra.is_null() {
            if !parameters.is_null() {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
            // SAFETY: the caller's promise.
            return unsafe { self.copy_extra(extra) };
        }
        let length = function.parameter_bytes;
        if length == 0 {
            return Ok(&[]);
        }
        if parameters.is_null() || length > MOST {
            return Err(if parameters.is_null() {
                CUDA_ERROR_INVALID_VALUE
            } else {
                CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
            });
        }
        let target = self.bytes.as_mut_ptr().cast::<u8>();
        let mut filled = 0;
        for (n, parameter) in function.parameters.iter().enumerate() {
            let (offset, bytes) = (parameter.offset as usize, parameter.bytes as usize);
            if offset < filled || offset + bytes > length {
                return Err(CUDA_ERROR_INVALID_VALUE);
            }
            // SAFETY: the program gives one pointer for each parameter, to a value of its size; the range in
            // the buffer was checked, and gaps are zeroed.
            unsafe {
                let source = *parameters.add(n);
                if source.is_null() {
                    return Err(CUDA_ERROR_INVALID_VALUE);
                }
                if offset != filled {
                    target.add(filled).write_bytes(0, offset - filled);
                }
                // Sizes known to the compiler need no call: most parameters are a pointer or an int.
                match bytes {
                    8 => std::ptr::copy_nonoverlapping(source.cast::<u8>(), target.add(offset), 8),
                    4 => std::ptr::copy_nonoverlapping(source.cast::<u8>(), target.add(offset), 4),
                    _ => std::ptr::copy_nonoverlapping(source.cast::<u8>(), target.add(offset), bytes),
                }
            }
            filled = offset + bytes;
        }
        if filled != length {
            // SAFETY: `filled <= length <= MOST`.
            unsafe { target.add(filled).write_bytes(0, length - filled) };
        }
        // SAFETY: every byte below `length` has just been written.
        Ok(unsafe { self.filled(length) })
    }

    /// `CU_LAUNCH_PARAM_*`: pairs of a name and a value, ended by NULL.
    unsafe fn copy_extra(&mut self, extra: *const *mut c_void) -> Result<&[u8], CUresult> {
        const POINTER: usize = 1;
        const SIZE: usize = 2;
        let mut source: *const u8 = std::ptr::null();
        let mut length = 0;
        let mut at = extra;
        loop {
            // SAFETY: the list ends with CU_LAUNCH_PARAM_END, by the driver's manual.
            let name = unsafe { *at }.addr();
            if name == 0 {
                break;
            }
            // SAFETY: a name is followed by its value.
            let value = unsafe { *at.add(1) };
            match name {
                POINTER => source = value.cast(),
                // SAFETY: the value is a pointer to the size.
                SIZE if !value.is_null() => length = unsafe { value.cast::<usize>().read() },
                _ => return Err(CUDA_ERROR_INVALID_VALUE),
            }
            // SAFETY: as above.
            at = unsafe { at.add(2) };
        }
        if length > MOST || (source.is_null() && length != 0) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        if length != 0 {
            // SAFETY: the program's buffer of `length` bytes; ours is larger.
            unsafe { std::ptr::copy_nonoverlapping(source, self.bytes.as_mut_ptr().cast::<u8>(), length) };
        }
        // SAFETY: every byte below `length` has just been written.
        Ok(unsafe { self.filled(length) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fusewire_wire::ops::table::ParameterInfo;

    use super::*;
    use crate::runtime::objects::{Library, Owner};

    fn function(layout: &[(u32, u32)], bytes: usize) -> Function {
        let library = Library {
            known: Default::default(),
            handle: 0,
            kernels: Default::default(),
            names: Default::default(),
            modules: Default::default(),
            globals: Default::default(),
        };
        Function {
            handle: 0,
            name: c"f".to_owned(),
            owner: Owner::Library(Arc::new(library)),
            parameters: layout.iter().map(|&(offset, bytes)| ParameterInfo { offset, bytes }).collect(),
            parameter_bytes: bytes,
            attributes: Default::default(),
            max_threads: 1024,
            static_shared: 0,
            max_dynamic_shared: Default::default(),
            occupancy: Default::default(),
        }
    }

    #[test]
    fn values_land_at_their_offsets_and_gaps_are_zero() {
        let function = function(&[(0, 4), (8, 8)], 16);
        let (a, b) = (0x0102_0304u32, 5u64);
        let pointers = [(&raw const a).cast_mut().cast::<c_void>(), (&raw const b).cast_mut().cast()];
        let mut packed = Packed::new();
        // SAFETY: two pointers for two parameters of these sizes.
        let bytes = unsafe { packed.pack(&function, pointers.as_ptr(), std::ptr::null()) }.unwrap();
        assert_eq!(bytes, [4, 3, 2, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_extra_form_is_a_buffer_and_excludes_the_other() {
        let function = function(&[(0, 4)], 4);
        let buffer = [7u8, 8, 9, 10];
        let length = 4usize;
        let extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            buffer.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw const length).cast_mut().cast(),
            std::ptr::null_mut(),
        ];
        let mut packed = Packed::new();
        // SAFETY: a well-formed list.
        let bytes = unsafe { packed.pack(&function, std::ptr::null(), extra.as_ptr()) }.unwrap();
        assert_eq!(bytes, buffer);
        // SAFETY: as above; refused before anything is read.
        let both = unsafe { packed.pack(&function, extra.as_ptr(), extra.as_ptr()) };
        assert_eq!(both, Err(CUDA_ERROR_INVALID_VALUE));
        // SAFETY: nothing is read.
        let neither = unsafe { packed.pack(&function, std::ptr::null(), std::ptr::null()) };
        assert_eq!(neither, Err(CUDA_ERROR_INVALID_VALUE));
    }
}
