//! The linker functions, for PTX: the parts are put one after another and come out as text again.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex};

use crate::abi::{In, Out, text};
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::handles::{self, Registry};
use crate::image::{self, Image};
use crate::jit::Options;
use crate::program::Program;
use crate::sync::lock;

const PTX: u32 = 1;
const FATBINARY: u32 = 2;

static LINKERS: Registry<Linker> = Registry::new();

#[derive(Default)]
struct Linker {
    ptx: Mutex<String>,
    /// What was handed out, kept until the linker is destroyed.
    done: Mutex<Option<Arc<[u8]>>>,
}

/// Appends a part; only the first keeps the lines that may stand but once.
fn append(linker: &Linker, part: &str) {
    let mut all = lock(&linker.ptx);
    let first = all.is_empty();
    for line in part.lines() {
        let word = line.trim_start();
        let once =
            [".version", ".target", ".address_size"].iter().any(|directive| word.starts_with(directive));
        if first || !once {
            all.push_str(line);
            all.push('\n');
        }
    }
}

fn add(state: u64, kind: u32, bytes: Vec<u8>, options: Options) -> Res {
    let linker = LINKERS.get(state)?;
    if !matches!(kind, PTX | FATBINARY) {
        return Err(Code::NO_BINARY_FOR_GPU);
    }
    let Image::Ptx(part) = image::of_file(bytes)? else { return Err(Code::NO_BINARY_FOR_GPU) };
    let mut log = String::new();
    let parsed = Program::new(Image::Ptx(part.clone()), &mut log);
    options.report(&log)?;
    parsed?;
    append(&linker, &part);
    Ok(())
}

api! {
    fn cuLinkCreate_v2(count: u32, names: In<u32>, values: *mut *mut c_void, out: Out<u64>) [ctx _] {
        Options { count, names, values }.report("")?;
        let handle = handles::mint();
        LINKERS.insert(handle, Arc::default());
        out.set(handle)
    }

    fn cuLinkAddData_v2(
        state: u64, kind: u32, data: In<u8>, len: usize, name: In<c_char>, count: u32, names: In<u32>,
        values: *mut *mut c_void,
    ) [ctx _] {
        let _ = name;
        add(state, kind, data.list(len)?, Options { count, names, values })
    }

    fn cuLinkAddFile_v2(
        state: u64, kind: u32, path: In<c_char>, count: u32, names: In<u32>, values: *mut *mut c_void,
    ) [ctx _] {
        let bytes = std::fs::read(text(path)?).map_err(|_| Code::FILE_NOT_FOUND)?;
        add(state, kind, bytes, Options { count, names, values })
    }

    fn cuLinkComplete(state: u64, out: Out<*const c_void>, len: Out<usize>) [ctx _] {
        let linker = LINKERS.get(state)?;
        let mut bytes = lock(&linker.ptx).clone().into_bytes();
        bytes.push(0);
        let bytes: Arc<[u8]> = bytes.into();
        len.set_if_wanted(bytes.len());
        out.set(bytes.as_ptr().cast())?;
        *lock(&linker.done) = Some(bytes);
        Ok(())
    }

    fn cuLinkDestroy(state: u64) [init] {
        LINKERS.remove(state).map(drop)
    }
}
