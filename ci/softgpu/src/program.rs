//! Programs: PTX text or machine code, its kernels as functions with attributes, and the variables it declares.
//!
//! A [`Loaded`] is one program loaded into one context: `module.rs` gives it to the program as a
//! module, `library.rs` makes one for each context in which a library is used.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use softgpu_ptx::{Global, Module, Param, Space};

use crate::attributes;
use crate::context::Context;
use crate::cubin::Cubins;
use crate::device;
use crate::errors::{Code, Res};
use crate::handles::{self, Registry};
use crate::image::{Image, Packed};
use crate::space::{self, Backing, Kind, Region};
use crate::sync::lock;

/// Function attributes that can be set, by their numbers.
const MAX_DYNAMIC_SHARED: u32 = 8;

static FUNCTIONS: Registry<Function> = Registry::new();

/// A program in a context, with memory for its variables.
pub(crate) struct Loaded {
    pub(crate) handle: u64,
    pub(crate) ctx: u64,
    pub(crate) program: Arc<Program>,
    /// Addresses of the variables, in the order of the module.
    pub(crate) globals: Vec<u64>,
    variables: Option<Arc<Region>>,
    functions: Mutex<BTreeMap<String, Arc<Function>>>,
}

/// A kernel of a loaded program: what a CUfunction means.
pub(crate) struct Function {
    pub(crate) handle: u64,
    pub(crate) name: CString,
    pub(crate) loaded: Weak<Loaded>,
    pub(crate) ctx: u64,
    program: Arc<Program>,
    pub(crate) globals: Vec<u64>,
    pub(crate) settings: Mutex<BTreeMap<u32, i32>>,
    /// The library kernel this is an instance of, or 0.
    pub(crate) kernel: u64,
    /// Not after a mere listing of its module.
    pub(crate) is_loaded: AtomicBool,
}

/// A kernel as those see it who launch it.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// In their order.
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: usize,
    pub(crate) static_shared: usize,
    pub(crate) local_bytes: usize,
    pub(crate) max_threads: u32,
    pub(crate) required_block: Option<[u32; 3]>,
    pub(crate) required_cluster: Option<[u32; 3]>,
    pub(crate) num_regs: u32,
}

/// What an image contains.
#[derive(Debug)]
pub(crate) enum Program {
    /// Code that can be interpreted.
    Ptx { module: Module, kernels: BTreeMap<String, Kernel> },
    /// Machine code, which is accepted but never run; opened when first asked for something.
    Machine { image: Vec<Packed>, cubins: OnceLock<Cubins> },
}

impl Program {
    /// Parses PTX; a complaint goes to `log`.
    pub(crate) fn new(image: Image, log: &mut String) -> Res<Program> {
        let ptx = match image {
            Image::Ptx(ptx) => ptx,
            Image::Machine(image) => return Ok(Program::Machine { image, cubins: OnceLock::new() }),
        };
        match Module::parse(&ptx) {
            Ok(module) => {
                let kernels = module.kernels().map(|kernel| (kernel.name.clone(), Kernel::from(kernel)));
                Ok(Program::Ptx { kernels: kernels.collect(), module })
            }
            Err(complaint) => {
                *log = complaint.to_string();
                Err(Code::INVALID_PTX)
            }
        }
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        match self {
            Program::Ptx { kernels, .. } => kernels.get(name),
            Program::Machine { .. } => self.cubins()?.kernel(name),
        }
    }

    /// The names of the kernels.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Program::Ptx { module, .. } => module.kernels().map(|kernel| kernel.name.as_str()).collect(),
            Program::Machine { .. } => self.cubins().map_or_else(Vec::new, |cubins| cubins.names().collect()),
        }
    }

    pub(crate) fn globals(&self) -> &[Global] {
        match self {
            Program::Ptx { module, .. } => module.globals(),
            Program::Machine { .. } => self.cubins().map_or(&[], Cubins::globals),
        }
    }

    fn target_sm(&self) -> u32 {
        match self {
            Program::Ptx { module, .. } => module.target_sm(),
            Program::Machine { .. } => (attributes::MAJOR * 10 + attributes::MINOR).cast_unsigned(),
        }
    }

    fn function_address(&self, name: &str) -> Option<u64> {
        match self {
            Program::Ptx { module, .. } => module.function_address(name),
            Program::Machine { .. } => None,
        }
    }

    fn cubins(&self) -> Option<&Cubins> {
        match self {
            Program::Ptx { .. } => None,
            Program::Machine { image, cubins } => {
                Some(cubins.get_or_init(|| Cubins::open(image.iter().filter_map(Packed::contents))))
            }
        }
    }
}

impl From<&softgpu_ptx::Kernel> for Kernel {
    fn from(kernel: &softgpu_ptx::Kernel) -> Kernel {
        Kernel {
            params: kernel.params.clone(),
            param_bytes: kernel.param_bytes,
            static_shared: kernel.static_shared,
            local_bytes: kernel.local_bytes,
            max_threads: kernel.max_threads,
            required_block: kernel.required_block,
            required_cluster: kernel.required_cluster,
            num_regs: kernel.num_regs,
        }
    }
}

impl Loaded {
    /// Places the variables of a module in device memory and fills them.
    pub(crate) fn new(ctx: &Context, program: Arc<Program>) -> Res<Arc<Loaded>> {
        let mut offsets = Vec::new();
        let mut end = 0usize;
        for global in program.globals() {
            // Apart by at least a little, so that running off one of them does not land in the next.
            end = end.checked_next_multiple_of(global.align.max(16)).ok_or(Code::OUT_OF_MEMORY)?;
            offsets.push(end as u64);
            end = end.checked_add(global.size).ok_or(Code::OUT_OF_MEMORY)?;
        }
        let (variables, globals) = if end == 0 {
            (None, vec![0; offsets.len()])
        } else {
            let charge = device::get(ctx.device.cast_signed())?.take(end as u64)?;
            let base = space::new_pages(end as u64)?;
            let region = Region::new(base, end as u64, Kind::Module, ctx.device, ctx.handle, Backing::Pages);
            let region = space::insert(region.charged(charge))?;
            (Some(region), offsets.iter().map(|offset| base + offset).collect())
        };
        initialise(&program, &globals)?;
        Ok(Arc::new(Loaded {
            handle: handles::mint(),
            ctx: ctx.handle,
            program,
            globals,
            variables,
            functions: Mutex::default(),
        }))
    }

    pub(crate) fn function(self: &Arc<Self>, name: &str, kernel: u64) -> Res<Arc<Function>> {
        self.program.kernel(name).ok_or(Code::NOT_FOUND)?;
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function = Arc::new(Function {
            handle: handles::mint(),
            name: CString::new(name).map_err(|_| Code::NOT_FOUND)?,
            loaded: Arc::downgrade(self),
            ctx: self.ctx,
            program: self.program.clone(),
            globals: self.globals.clone(),
            settings: Mutex::default(),
            kernel,
            is_loaded: AtomicBool::new(false),
        });
        FUNCTIONS.insert(function.handle, function.clone());
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }

    /// Address and size of a variable.
    pub(crate) fn global(&self, name: &str) -> Res<(u64, usize)> {
        let globals = self.program.globals();
        let index = globals.iter().position(|global| global.name == name).ok_or(Code::NOT_FOUND)?;
        Ok((self.globals.get(index).copied().ok_or(Code::NOT_FOUND)?, globals[index].size))
    }

    /// Takes its functions and variables away; work that runs keeps what it uses.
    pub(crate) fn unload(&self) {
        for function in std::mem::take(&mut *lock(&self.functions)).into_values() {
            let _ = FUNCTIONS.remove(function.handle);
        }
        if let Some(variables) = &self.variables {
            space::remove_at(variables.base, |region| region.id == variables.id);
        }
    }
}

fn initialise(program: &Program, addresses: &[u64]) -> Res {
    let symbol = |name: &str| {
        let place = program.globals().iter().position(|global| global.name == name);
        place.and_then(|index| addresses.get(index).copied()).or_else(|| program.function_address(name))
    };
    for (global, address) in program.globals().iter().zip(addresses) {
        if global.external && global.space == Space::Global && global.size == 0 {
            continue;
        }
        let mut bytes = global.init.clone();
        bytes.truncate(global.size);
        for (offset, name, addend) in &global.relocs {
            let value = symbol(name).ok_or(Code::INVALID_PTX)?.wrapping_add_signed(*addend);
            let end = offset.checked_add(8).filter(|end| *end <= global.size).ok_or(Code::INVALID_PTX)?;
            bytes.resize(bytes.len().max(end), 0);
            bytes[*offset..end].copy_from_slice(&value.to_le_bytes());
        }
        // SAFETY: `Loaded::new` has taken `global.size` bytes at this address, and nothing runs yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), *address as *mut u8, bytes.len()) };
    }
    Ok(())
}

impl Function {
    pub(crate) fn kernel(&self) -> Res<&Kernel> {
        self.program.kernel(self.name()).ok_or(Code::INVALID_HANDLE)
    }

    /// What to give to the interpreter, if it is for that.
    pub(crate) fn interpreted(&self) -> Option<(&Module, &softgpu_ptx::Kernel)> {
        match &*self.program {
            Program::Ptx { module, .. } => Some((module, module.kernel(self.name())?)),
            Program::Machine { .. } => None,
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.name.to_str().unwrap_or("")
    }

    pub(crate) fn attribute(&self, attribute: u32) -> Res<i32> {
        attribute_of(&self.program, self.kernel()?, &lock(&self.settings), attribute)
    }

    pub(crate) fn set_attribute(&self, attribute: u32, value: i32) -> Res {
        set_attribute_of(self.kernel()?, &mut lock(&self.settings), attribute, value)
    }

    /// How much dynamic shared memory a launch may ask for.
    pub(crate) fn dynamic_shared_limit(&self) -> Res<u32> {
        self.attribute(MAX_DYNAMIC_SHARED).map(i32::cast_unsigned)
    }
}

/// A function attribute: what was set, or what follows from the program.
pub(crate) fn attribute_of(
    program: &Program,
    kernel: &Kernel,
    set: &BTreeMap<u32, i32>,
    attribute: u32,
) -> Res<i32> {
    if let Some(value) = set.get(&attribute) {
        return Ok(*value);
    }
    let small = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    let cluster = |axis: usize| kernel.required_cluster.map_or(0, |size| size[axis].cast_signed());
    Ok(match attribute {
        0 => kernel.max_threads.min(attributes::MAX_THREADS_PER_BLOCK).cast_signed(),
        1 => small(kernel.static_shared),
        2 => {
            let constants = program.globals().iter().filter(|global| global.space == Space::Const);
            small(constants.map(|global| global.size).sum())
        }
        3 => small(kernel.local_bytes),
        4 => kernel.num_regs.clamp(1, 255).cast_signed(),
        5 => program.target_sm().cast_signed(),
        6 => attributes::MAJOR * 10 + attributes::MINOR,
        7 => 0,
        MAX_DYNAMIC_SHARED => {
            small((attributes::SHARED_PER_BLOCK as usize).saturating_sub(kernel.static_shared))
        }
        9 => -1,
        10 => i32::from(kernel.required_cluster.is_some()),
        11..=13 => cluster(attribute as usize - 11),
        14 | 15 => 0,
        _ => return Err(Code::INVALID_VALUE),
    })
}

/// Sets one of the attributes that can be set.
pub(crate) fn set_attribute_of(
    kernel: &Kernel,
    set: &mut BTreeMap<u32, i32>,
    attribute: u32,
    value: i32,
) -> Res {
    let sound = match attribute {
        MAX_DYNAMIC_SHARED => {
            let most = (attributes::SHARED_PER_BLOCK_OPTIN as usize).saturating_sub(kernel.static_shared);
            usize::try_from(value).is_ok_and(|value| value <= most)
        }
        9 => (-1..=100).contains(&value),
        11..=13 => value >= 0,
        14 => matches!(value, 0 | 1),
        15 => (0..=2).contains(&value),
        _ => false,
    };
    if !sound {
        return Err(Code::INVALID_VALUE);
    }
    set.insert(attribute, value);
    Ok(())
}

/// The function of a handle that is a CUfunction.
pub(crate) fn find(handle: u64) -> Option<Arc<Function>> {
    FUNCTIONS.find(handle)
}
