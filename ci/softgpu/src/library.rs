//! Libraries: programs that belong to no context, and are loaded into each in which they are used.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex, Weak};

use crate::abi::{In, Out, text};
use crate::context::{self, Context};
use crate::device;
use crate::entry::api;
use crate::errors::{Code, Res};
use crate::handles::{self, Registry};
use crate::image::{self, Image};
use crate::jit::Options;
use crate::module::{self, read_file};
use crate::program::{self, Function, Loaded, Program, attribute_of, set_attribute_of};
use crate::sync::lock;

static LIBRARIES: Registry<Library> = Registry::new();
static KERNELS: Registry<Kernel> = Registry::new();

struct Library {
    handle: u64,
    program: Arc<Program>,
    /// By context.
    loaded: Mutex<BTreeMap<u64, Arc<Loaded>>>,
    kernels: Mutex<BTreeMap<String, Arc<Kernel>>>,
}

/// A kernel of a library: what a CUkernel means.
struct Kernel {
    handle: u64,
    name: CString,
    library: Weak<Library>,
    /// Attributes that were set, by device.
    settings: Mutex<BTreeMap<u32, BTreeMap<u32, i32>>>,
}

impl Library {
    fn kernel(self: &Arc<Self>, name: &str) -> Res<Arc<Kernel>> {
        self.program.kernel(name).ok_or(Code::NOT_FOUND)?;
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(Kernel {
            handle: handles::mint(),
            name: CString::new(name).map_err(|_| Code::NOT_FOUND)?,
            library: Arc::downgrade(self),
            settings: Mutex::default(),
        });
        KERNELS.insert(kernel.handle, kernel.clone());
        kernels.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    }

    /// The library in a context, loaded when it is first needed there.
    fn within(&self, ctx: &Context) -> Res<Arc<Loaded>> {
        let mut all = lock(&self.loaded);
        if let Some(loaded) = all.get(&ctx.handle) {
            return Ok(loaded.clone());
        }
        let loaded = Loaded::new(ctx, self.program.clone())?;
        module::register(loaded.clone());
        all.insert(ctx.handle, loaded.clone());
        Ok(loaded)
    }
}

impl Kernel {
    fn library(&self) -> Res<Arc<Library>> {
        self.library.upgrade().ok_or(Code::INVALID_HANDLE)
    }

    fn function(&self, ctx: &Context) -> Res<Arc<Function>> {
        let loaded = self.library()?.within(ctx)?;
        let function = loaded.function(self.name.to_str().unwrap_or(""), self.handle)?;
        // What was set on the kernel holds for its instances.
        if let Some(settings) = lock(&self.settings).get(&ctx.device) {
            lock(&function.settings).extend(settings.iter().map(|(attribute, value)| (*attribute, *value)));
        }
        Ok(function)
    }
}

/// The context ends.
pub(crate) fn forget(ctx: u64) {
    LIBRARIES.any(|library| {
        lock(&library.loaded).remove(&ctx);
        false
    });
}

/// The function of a handle that is a CUfunction or a CUkernel.
pub(crate) fn function(ctx: &Context, handle: u64) -> Res<Arc<Function>> {
    match program::find(handle) {
        Some(function) => Ok(function),
        None => KERNELS.get(handle)?.function(ctx),
    }
}

fn load(out: Out<u64>, image: Res<Image>, options: Options) -> Res {
    let mut log = String::new();
    let program = image.and_then(|image| Program::new(image, &mut log));
    options.report(&log)?;
    let library = Library {
        handle: handles::mint(),
        program: Arc::new(program?),
        loaded: Mutex::default(),
        kernels: Mutex::default(),
    };
    let handle = library.handle;
    LIBRARIES.insert(handle, Arc::new(library));
    out.set(handle)
}

fn unload(library: &Library) {
    for kernel in std::mem::take(&mut *lock(&library.kernels)).into_values() {
        let _ = KERNELS.remove(kernel.handle);
    }
    for loaded in std::mem::take(&mut *lock(&library.loaded)).into_values() {
        if let Ok(ctx) = context::get(loaded.ctx) {
            let _ = ctx.synchronize();
        }
        let _ = module::unregister(loaded.handle);
    }
}

api! {
    fn cuLibraryLoadData(
        out: Out<u64>, image: u64, names: In<u32>, values: *mut *mut c_void, count: u32,
        library_names: In<u32>, library_values: *mut *mut c_void, library_count: u32,
    ) [init] {
        let _ = (library_names, library_values, library_count);
        load(out, image::at(image), Options { count, names, values })
    }

    fn cuLibraryLoadFromFile(
        out: Out<u64>, path: In<c_char>, names: In<u32>, values: *mut *mut c_void, count: u32,
        library_names: In<u32>, library_values: *mut *mut c_void, library_count: u32,
    ) [init] {
        let _ = (library_names, library_values, library_count);
        load(out, read_file(path), Options { count, names, values })
    }

    fn cuLibraryUnload(library: u64) [init] {
        unload(&*LIBRARIES.remove(library)?);
        Ok(())
    }

    fn cuLibraryGetKernel(out: Out<u64>, library: u64, name: In<c_char>) [init] {
        out.set(LIBRARIES.get(library)?.kernel(&text(name)?)?.handle)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: u64) [init] {
        count.set(u32::try_from(LIBRARIES.get(library)?.program.names().len()).unwrap_or(u32::MAX))
    }

    fn cuLibraryEnumerateKernels(out: Out<u64>, room: u32, library: u64) [init] {
        let library = LIBRARIES.get(library)?;
        let kernels: Res<Vec<u64>> =
            library.program.names().into_iter().map(|name| library.kernel(name).map(|kernel| kernel.handle)).collect();
        out.set_all(kernels?, room as usize)
    }

    fn cuLibraryGetModule(out: Out<u64>, library: u64) [ctx context] {
        out.set(LIBRARIES.get(library)?.within(context)?.handle)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, len: Out<usize>, library: u64, name: In<c_char>) [ctx context] {
        let (base, size) = LIBRARIES.get(library)?.within(context)?.global(&text(name)?)?;
        address.set_if_wanted(base);
        len.set_if_wanted(size);
        Ok(())
    }

    fn cuLibraryGetManaged(address: Out<u64>, len: Out<usize>, library: u64, name: In<c_char>) [ctx _] {
        let _ = (address, len, LIBRARIES.get(library)?, name);
        Err(Code::NOT_FOUND)
    }

    fn cuKernelGetFunction(out: Out<u64>, kernel: u64) [ctx context] {
        out.set(KERNELS.get(kernel)?.function(context)?.handle)
    }

    fn cuKernelGetLibrary(out: Out<u64>, kernel: u64) [init] {
        out.set(KERNELS.get(kernel)?.library()?.handle)
    }

    fn cuKernelGetName(out: Out<*const c_char>, kernel: u64) [init] {
        // The kernel keeps the text until the library is unloaded.
        out.set(KERNELS.get(kernel)?.name.as_ptr())
    }

    fn cuKernelGetParamInfo(kernel: u64, index: usize, offset: Out<usize>, len: Out<usize>) [init] {
        let kernel = KERNELS.get(kernel)?;
        let library = kernel.library()?;
        let parsed = library.program.kernel(kernel.name.to_str().unwrap_or("")).ok_or(Code::INVALID_HANDLE)?;
        let param = parsed.params.get(index).ok_or(Code::INVALID_VALUE)?;
        offset.set(param.offset)?;
        len.set_if_wanted(param.size);
        Ok(())
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: u64, device: i32) [init] {
        let device = device::get(device)?.ordinal;
        let kernel = KERNELS.get(kernel)?;
        let library = kernel.library()?;
        let parsed = library.program.kernel(kernel.name.to_str().unwrap_or("")).ok_or(Code::INVALID_HANDLE)?;
        let settings = lock(&kernel.settings).get(&device).cloned().unwrap_or_default();
        value.set(attribute_of(&library.program, parsed, &settings, attribute)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: u64, device: i32) [init] {
        let device = device::get(device)?.ordinal;
        let kernel = KERNELS.get(kernel)?;
        let library = kernel.library()?;
        let parsed = library.program.kernel(kernel.name.to_str().unwrap_or("")).ok_or(Code::INVALID_HANDLE)?;
        set_attribute_of(parsed, lock(&kernel.settings).entry(device).or_default(), attribute, value)
    }

    fn cuKernelSetCacheConfig(kernel: u64, config: u32, device: i32) [init] {
        device::get(device)?;
        KERNELS.get(kernel)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }
}
