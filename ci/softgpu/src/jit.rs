//! The options of the functions that load code: of all of them, only the two logs matter here.

use std::ffi::c_void;

use crate::abi::In;
use crate::errors::Res;

const INFO_LOG: u32 = 3;
const INFO_LOG_SIZE: u32 = 4;
const ERROR_LOG: u32 = 5;
const ERROR_LOG_SIZE: u32 = 6;

/// Where the program wants to read what went wrong.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) count: u32,
    pub(crate) names: In<u32>,
    pub(crate) values: *mut *mut c_void,
}

impl Options {
    pub(crate) fn none() -> Options {
        Options { count: 0, names: In::null(), values: std::ptr::null_mut() }
    }

    /// Writes the error log, and how much was written to either log.
    pub(crate) fn report(&self, log: &str) -> Res {
        if self.names.is_null() || self.values.is_null() {
            return Ok(());
        }
        let mut buffers = [(ERROR_LOG, ERROR_LOG_SIZE, log), (INFO_LOG, INFO_LOG_SIZE, "")];
        for (buffer, size, text) in &mut buffers {
            let (mut place, mut room) = (None, None);
            for index in 0..self.count as usize {
                let name = self.names.at(index)?;
                // SAFETY: the program says that there are `count` values.
                let value = unsafe { self.values.add(index) };
                if name == *buffer {
                    place = Some(value);
                } else if name == *size {
                    room = Some(value);
                }
            }
            let (Some(place), Some(room)) = (place, room) else { continue };
            // SAFETY: the buffer's size is in the value of the other option, whose first word is also
            // where the length goes, as cuda.h has it.
            unsafe {
                let (buffer, size) = ((*place).cast::<u8>(), *room as usize);
                let len = text.len().min(size.saturating_sub(1));
                if !buffer.is_null() && size > 0 {
                    std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, len);
                    buffer.add(len).write(0);
                }
                *room = len as *mut c_void;
            }
        }
        Ok(())
    }
}
