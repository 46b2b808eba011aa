//! The driver's result codes: number, name and one line of our own about each.
//!
//! Everything inside the library returns [`Res`]; `entry.rs` turns it into the number that C sees.

use std::ffi::CStr;

use crate::abi::Out;
use crate::entry::api;

/// A result code other than success, except where a table names success too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub u32);

pub(crate) type Res<T = ()> = Result<T, Code>;

macro_rules! codes {
    ($($name:ident = $number:literal, $words:literal;)*) => {
        #[allow(dead_code, reason = "the table is complete, the library does not need every entry")]
        impl Code { $(pub(crate) const $name: Code = Code($number);)* }

        /// Name and explanation of a code, for `cuGetErrorName` and `cuGetErrorString`.
        fn texts(code: u32) -> Option<(&'static CStr, &'static CStr)> {
            // The two halves of a name differ only for success, which has no ERROR in it.
            match code {
                0 => Some((c"CUDA_SUCCESS", c"no error")),
                $($number => Some((cstr(concat!("CUDA_ERROR_", stringify!($name), "\0")), cstr(concat!($words, "\0")))),)*
                _ => None,
            }
        }
    };
}

/// A literal that ends in NUL, as a C string.
fn cstr(text: &'static str) -> &'static CStr {
    CStr::from_bytes_until_nul(text.as_bytes()).unwrap_or(c"")
}

codes! {
    INVALID_VALUE = 1, "an argument is not valid";
    OUT_OF_MEMORY = 2, "the device has no memory left for this";
    NOT_INITIALIZED = 3, "cuInit has not been called";
    DEINITIALIZED = 4, "the driver is shutting down";
    PROFILER_DISABLED = 5, "profiler disabled";
    PROFILER_NOT_INITIALIZED = 6, "profiler not initialized";
    PROFILER_ALREADY_STARTED = 7, "profiler already started";
    PROFILER_ALREADY_STOPPED = 8, "profiler already stopped";
    STUB_LIBRARY = 34, "this library is only a stub of the driver";
    CALL_REQUIRES_NEWER_DRIVER = 36, "call requires newer driver";
    DEVICE_UNAVAILABLE = 46, "device unavailable";
    NO_DEVICE = 100, "there is no device";
    INVALID_DEVICE = 101, "no device has this number";
    DEVICE_NOT_LICENSED = 102, "device not licensed";
    INVALID_IMAGE = 200, "the image is not a kernel image";
    INVALID_CONTEXT = 201, "no context is current, or the context is not valid";
    CONTEXT_ALREADY_CURRENT = 202, "context already current";
    MAP_FAILED = 205, "map failed";
    UNMAP_FAILED = 206, "unmap failed";
    ARRAY_IS_MAPPED = 207, "array is mapped";
    ALREADY_MAPPED = 208, "already mapped";
    NO_BINARY_FOR_GPU = 209, "the image holds no code this device can run";
    ALREADY_ACQUIRED = 210, "already acquired";
    NOT_MAPPED = 211, "not mapped";
    NOT_MAPPED_AS_ARRAY = 212, "not mapped as array";
    NOT_MAPPED_AS_POINTER = 213, "not mapped as pointer";
    ECC_UNCORRECTABLE = 214, "ecc uncorrectable";
    UNSUPPORTED_LIMIT = 215, "unsupported limit";
    CONTEXT_ALREADY_IN_USE = 216, "context already in use";
    PEER_ACCESS_UNSUPPORTED = 217, "peer access unsupported";
    INVALID_PTX = 218, "the PTX could not be parsed";
    INVALID_GRAPHICS_CONTEXT = 219, "invalid graphics context";
    NVLINK_UNCORRECTABLE = 220, "nvlink uncorrectable";
    JIT_COMPILER_NOT_FOUND = 221, "jit compiler not found";
    UNSUPPORTED_PTX_VERSION = 222, "unsupported ptx version";
    JIT_COMPILATION_DISABLED = 223, "jit compilation disabled";
    UNSUPPORTED_EXEC_AFFINITY = 224, "unsupported exec affinity";
    UNSUPPORTED_DEVSIDE_SYNC = 225, "unsupported devside sync";
    CONTAINED = 226, "contained";
    INVALID_SOURCE = 300, "the source is not valid";
    FILE_NOT_FOUND = 301, "the file does not exist";
    SHARED_OBJECT_SYMBOL_NOT_FOUND = 302, "shared object symbol not found";
    SHARED_OBJECT_INIT_FAILED = 303, "shared object init failed";
    OPERATING_SYSTEM = 304, "operating system";
    INVALID_HANDLE = 400, "the handle is not valid";
    ILLEGAL_STATE = 401, "the object is in a state that does not allow this";
    LOSSY_QUERY = 402, "lossy query";
    NOT_FOUND = 500, "nothing has this name";
    NOT_READY = 600, "the work has not finished";
    ILLEGAL_ADDRESS = 700, "a kernel touched an address that is not allocated";
    LAUNCH_OUT_OF_RESOURCES = 701, "the launch asks for more than the device has";
    LAUNCH_TIMEOUT = 702, "launch timeout";
    LAUNCH_INCOMPATIBLE_TEXTURING = 703, "launch incompatible texturing";
    PEER_ACCESS_ALREADY_ENABLED = 704, "peer access is already enabled";
    PEER_ACCESS_NOT_ENABLED = 705, "peer access is not enabled";
    PRIMARY_CONTEXT_ACTIVE = 708, "the primary context is already active";
    CONTEXT_IS_DESTROYED = 709, "the context has been destroyed";
    ASSERT = 710, "an assertion failed on the device";
    TOO_MANY_PEERS = 711, "too many peers";
    HOST_MEMORY_ALREADY_REGISTERED = 712, "the host memory is already registered";
    HOST_MEMORY_NOT_REGISTERED = 713, "the host memory is not registered";
    HARDWARE_STACK_ERROR = 714, "hardware stack error";
    ILLEGAL_INSTRUCTION = 715, "a kernel executed an illegal instruction";
    MISALIGNED_ADDRESS = 716, "a kernel made a misaligned access";
    INVALID_ADDRESS_SPACE = 717, "a kernel used an address of the wrong space";
    INVALID_PC = 718, "a kernel's program counter left the program";
    LAUNCH_FAILED = 719, "a kernel failed";
    COOPERATIVE_LAUNCH_TOO_LARGE = 720, "a cooperative launch has more blocks than fit on the device";
    TENSOR_MEMORY_LEAK = 721, "tensor memory leak";
    NOT_PERMITTED = 800, "the operation is not permitted";
    NOT_SUPPORTED = 801, "the operation is not supported";
    SYSTEM_NOT_READY = 802, "system not ready";
    SYSTEM_DRIVER_MISMATCH = 803, "system driver mismatch";
    COMPAT_NOT_SUPPORTED_ON_DEVICE = 804, "compat not supported on device";
    MPS_CONNECTION_FAILED = 805, "mps connection failed";
    MPS_RPC_FAILURE = 806, "mps rpc failure";
    MPS_SERVER_NOT_READY = 807, "mps server not ready";
    MPS_MAX_CLIENTS_REACHED = 808, "mps max clients reached";
    MPS_MAX_CONNECTIONS_REACHED = 809, "mps max connections reached";
    MPS_CLIENT_TERMINATED = 810, "mps client terminated";
    CDP_NOT_SUPPORTED = 811, "cdp not supported";
    CDP_VERSION_MISMATCH = 812, "cdp version mismatch";
    STREAM_CAPTURE_UNSUPPORTED = 900, "the operation is not permitted while a stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, "the capture was invalidated by an earlier error";
    STREAM_CAPTURE_MERGE = 902, "the operation would merge two captures";
    STREAM_CAPTURE_UNMATCHED = 903, "the stream is not the one that began the capture";
    STREAM_CAPTURE_UNJOINED = 904, "the capture has a stream that was not joined to its origin";
    STREAM_CAPTURE_ISOLATION = 905, "the operation would make the capture depend on work outside it";
    STREAM_CAPTURE_IMPLICIT = 906, "the operation would make the capture depend on the legacy stream";
    CAPTURED_EVENT = 907, "the event was last recorded in a capture";
    STREAM_CAPTURE_WRONG_THREAD = 908, "the capture was begun by another thread";
    TIMEOUT = 909, "timeout";
    GRAPH_EXEC_UPDATE_FAILURE = 910, "the graph does not match the executable graph";
    EXTERNAL_DEVICE = 911, "an external device failed";
    INVALID_CLUSTER_SIZE = 912, "the cluster size is not valid";
    FUNCTION_NOT_LOADED = 913, "function not loaded";
    INVALID_RESOURCE_TYPE = 914, "invalid resource type";
    INVALID_RESOURCE_CONFIGURATION = 915, "invalid resource configuration";
    KEY_ROTATION = 916, "key rotation";
    UNKNOWN = 999, "unknown error";
}

api! {
    fn cuGetErrorName(code: u32, text: Out<*const std::ffi::c_char>) [any] {
        let (name, _) = texts(code).ok_or_else(|| { text.set_if_wanted(std::ptr::null()); Code::INVALID_VALUE })?;
        text.set(name.as_ptr())
    }

    fn cuGetErrorString(code: u32, text: Out<*const std::ffi::c_char>) [any] {
        let (_, words) = texts(code).ok_or_else(|| { text.set_if_wanted(std::ptr::null()); Code::INVALID_VALUE })?;
        text.set(words.as_ptr())
    }
}
