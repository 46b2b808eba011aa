//! Modules: programs loaded into one context by hand.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::abi::{In, Out, text};
use crate::context::Context;
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::faults;
use crate::handles::Registry;
use crate::image::{self, Image};
use crate::jit::Options;
use crate::library;
use crate::program::{Loaded, Program};

static MODULES: Registry<Loaded> = Registry::new();

pub(crate) fn register(loaded: Arc<Loaded>) {
    MODULES.insert(loaded.handle, loaded);
}

pub(crate) fn get(handle: u64) -> Res<Arc<Loaded>> {
    MODULES.get(handle)
}

pub(crate) fn unregister(handle: u64) -> Res {
    MODULES.remove(handle).map(|loaded| loaded.unload())
}

/// The context ends.
pub(crate) fn forget(ctx: u64) {
    library::forget(ctx);
    for loaded in MODULES.remove_where(|loaded| loaded.ctx == ctx) {
        loaded.unload();
    }
}

fn load(ctx: &Context, out: Out<u64>, image: Res<Image>, options: Options) -> Res {
    let mut log = String::new();
    let program = image.and_then(|image| Program::new(image, &mut log));
    options.report(&log)?;
    let loaded = Loaded::new(ctx, Arc::new(program?))?;
    let handle = loaded.handle;
    register(loaded);
    out.set(handle)
}

/// Reads a file that holds an image.
pub(crate) fn read_file(path: In<c_char>) -> Res<Image> {
    let bytes = std::fs::read(text(path)?).map_err(|_| Code::FILE_NOT_FOUND)?;
    image::of_file(bytes)
}

api! {
    fn cuModuleLoad(out: Out<u64>, path: In<c_char>) [ctx context] {
        load(context, out, read_file(path), Options::none())
    }

    fn cuModuleLoadData(out: Out<u64>, image: u64) [ctx context] {
        load(context, out, image::bare_at(image), Options::none())
    }

    fn cuModuleLoadDataEx(
        out: Out<u64>, image: u64, count: u32, names: In<u32>, values: *mut *mut c_void,
    ) [ctx context] {
        load(context, out, image::bare_at(image), Options { count, names, values })
    }

    fn cuModuleLoadFatBinary(out: Out<u64>, image: u64) [ctx context] {
        load(context, out, image::bare_at(image), Options::none())
    }

    fn cuModuleUnload(module: u64) [ctx context] {
        get(module)?;
        context.synchronize()?;
        unregister(module)
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) [any] {
        // Eager: everything is parsed when it is loaded. Except machine code.
        mode.set(if faults::config().machine_code { 2 } else { 1 })
    }

    fn cuModuleGetFunction(out: Out<u64>, module: u64, name: In<c_char>) [ctx _] {
        let loaded = get(module)?;
        let function = loaded.function(&text(name)?, 0)?;
        function.is_loaded.store(true, Relaxed);
        out.set(function.handle)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: u64) [ctx _] {
        count.set(u32::try_from(get(module)?.program.names().len()).unwrap_or(u32::MAX))
    }

    fn cuModuleEnumerateFunctions(out: Out<u64>, room: u32, module: u64) [ctx _] {
        let loaded = get(module)?;
        let functions: Res<Vec<u64>> = loaded
            .program
            .names()
            .into_iter()
            .map(|name| loaded.function(name, 0).map(|function| function.handle))
            .collect();
        out.set_all(functions?, room as usize)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, len: Out<usize>, module: u64, name: In<c_char>) [ctx _] {
        let (base, size) = get(module)?.global(&text(name)?)?;
        address.set_if_wanted(base);
        len.set_if_wanted(size);
        Ok(())
    }

    fn cuModuleGetTexRef(out: Out<u64>, module: u64, name: In<c_char>) [ctx _] {
        let _ = (out, get(module)?, name);
        Err(Code::NOT_FOUND)
    }

    fn cuModuleGetSurfRef(out: Out<u64>, module: u64, name: In<c_char>) [ctx _] {
        let _ = (out, get(module)?, name);
        Err(Code::NOT_FOUND)
    }
}
