//! What a parsed module holds: kernels, global variables, device functions.
//!
//! A [`Module`] is immutable and can be shared between threads. Where its
//! globals lie in device memory is the caller's business and comes with each
//! launch, so one parse serves any number of loads.

use crate::decode::Function;
use crate::inst::Op;
use rustc_hash::FxHashMap;

/// Why a text is not a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    pub line: u32,
    pub message: String,
}

/// Which memory a module-scope variable lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Const,
}

/// A module-scope `.global` or `.const` variable.
#[derive(Clone, Debug)]
pub struct Global {
    pub name: String,
    /// Size in bytes; 0 for an `.extern` array of unknown size.
    pub size: usize,
    pub align: usize,
    pub space: Space,
    /// The first bytes; whatever follows up to `size` is zero. Never longer
    /// than `size`.
    pub init: Vec<u8>,
    /// Eight-byte words to be filled with the address of another symbol:
    /// offset, symbol, addend. For a symbol that is a function, use
    /// [`Module::function_address`].
    pub relocs: Vec<(usize, String, i64)>,
    /// Declared `.visible`: may be looked up by name from the host.
    pub visible: bool,
    /// Declared `.extern`: defined elsewhere.
    pub external: bool,
    /// Declared with `.attribute(.managed)`.
    pub managed: bool,
}

/// A parameter of a kernel, as laid out in the parameter buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: usize,
    pub size: usize,
    pub align: usize,
}

/// A `.entry` function.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Size of the parameter buffer.
    pub param_bytes: usize,
    /// Bytes of statically declared shared memory.
    pub static_shared: usize,
    /// Bytes of local memory each thread needs, calls not counted.
    pub local_bytes: usize,
    /// From `.maxntid` or `.reqntid`, else 1024.
    pub max_threads: u32,
    /// `.reqntid`, where given.
    pub required_block: Option<[u32; 3]>,
    /// `.reqnctapercluster`, where given.
    pub required_cluster: Option<[u32; 3]>,
    /// Registers per thread, as an occupancy calculation would want them.
    pub num_regs: u32,
    /// Where the dynamic shared memory starts.
    pub(crate) dynamic_shared_offset: usize,
    pub(crate) function: usize,
    /// Functions that may run in this kernel.
    pub(crate) reachable: Vec<usize>,
    /// Offsets of shared symbols, by index.
    pub(crate) shared_offsets: FxHashMap<usize, usize>,
}

/// A parsed module.
#[derive(Debug)]
pub struct Module {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) by_name: FxHashMap<String, usize>,
    pub(crate) globals: Vec<Global>,
    pub(crate) functions: Vec<Function>,
    pub(crate) function_names: FxHashMap<String, usize>,
    pub(crate) target_sm: u32,
    pub(crate) uses_printf: bool,
}

/// Function pointers live in a window of their own, so that a jump to data
/// is told apart from a jump to code.
pub(crate) const FUNCTION_BASE: u64 = 0x0400_0000_0000_0000;

impl Module {
    /// Parses a whole module. A trailing NUL, as C strings have, ends it.
    pub fn parse(src: &str) -> Result<Module, ParseError> {
        crate::parse::parse(src)
    }

    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }

    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.by_name.get(name).and_then(|i| self.kernels.get(*i))
    }

    /// All `.global` and `.const` variables of module scope.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// The number in `.target sm_NN`, 0 where it names none.
    pub fn target_sm(&self) -> u32 {
        self.target_sm
    }

    /// Whether any kernel may print or assert.
    pub fn uses_printf(&self) -> bool {
        self.uses_printf
    }

    /// The instructions that will fault when reached, with the function they
    /// are in: what a program needs that this interpreter lacks.
    pub fn unsupported(&self) -> impl Iterator<Item = (&str, &str)> {
        self.functions.iter().flat_map(|f| {
            f.insts.iter().filter_map(|i| match &i.op {
                Op::Illegal(what) => Some((f.name.as_str(), &**what)),
                _ => None,
            })
        })
    }

    /// The value of a pointer to the device function `name`, for relocations
    /// in global initialisers.
    pub fn function_address(&self, name: &str) -> Option<u64> {
        self.function_names.get(name).map(|i| FUNCTION_BASE + 16 * (*i as u64 + 1))
    }
}
