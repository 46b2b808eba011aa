"""The CUDA driver interface, as far as the test programs need it, over ctypes.

It is for programs that run under `fusewire run`: it loads libcuda.so.1 by name, as every program does, and has
no idea that the library is a stand-in. Every failure is a `CudaError` with the code; nothing is retried.
"""

import ctypes
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p

lib = ctypes.CDLL("libcuda.so.1")

# CUresult
INVALID_VALUE = 1
OUT_OF_MEMORY = 2
NOT_INITIALIZED = 3
NO_DEVICE = 100
INVALID_CONTEXT = 201
DEVICE_UNAVAILABLE = 46
INVALID_HANDLE = 400
NOT_READY = 600
ILLEGAL_ADDRESS = 700
NON_BLOCKING = 1

KERNELS = """
.version 8.0
.target sm_80
.address_size 64

// a[i] += b, for the first n elements.
.visible .entry add(.param .u64 a, .param .u32 b, .param .u32 n)
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<7>;
    .reg .pred %p;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [n];
    setp.ge.u32 %p, %r4, %r5;
    @%p ret;
    ld.param.u64 %rd1, [a];
    mul.wide.u32 %rd2, %r4, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r6, [%rd3];
    ld.param.u32 %r5, [b];
    add.u32 %r6, %r6, %r5;
    st.global.u32 [%rd3], %r6;
    ret;
}

// Never ends.
.visible .entry spin()
{
again:
    bra.uni again;
}

// Writes one word to an address of the caller's choice.
.visible .entry poke(.param .u64 a)
{
    .reg .b64 %rd1;
    .reg .b32 %r1;
    ld.param.u64 %rd1, [a];
    mov.u32 %r1, 7;
    st.global.u32 [%rd1], %r1;
    ret;
}
"""


class CudaError(Exception):
    def __init__(self, name, code):
        super().__init__(f"{name} = {code}")
        self.code = code


def call(name, *arguments):
    """Calls a driver function that returns a CUresult; raises unless it is 0."""
    code = getattr(lib, name)(*arguments)
    if code != 0:
        raise CudaError(name, code)


def code_of(action, *arguments):
    """The code that `action` fails with; 0 if it does not."""
    try:
        action(*arguments)
    except CudaError as error:
        return error.code
    return 0


def start(device=0):
    """cuInit, and the primary context of a device made current. Gives the context."""
    call("cuInit", 0)
    context = c_void_p()
    call("cuDevicePrimaryCtxRetain", byref(context), device)
    call("cuCtxSetCurrent", context)
    return context


def alloc(size):
    address = c_uint64()
    call("cuMemAlloc_v2", byref(address), c_size_t(size))
    return address.value


def free(address):
    call("cuMemFree_v2", c_uint64(address))


def pinned(size):
    """Page-locked host memory as a ctypes array."""
    address = c_void_p()
    call("cuMemHostAlloc", byref(address), c_size_t(size), 0)
    return (ctypes.c_ubyte * size).from_address(address.value)


def to_device(address, data):
    call("cuMemcpyHtoD_v2", c_uint64(address), bytes(data), c_size_t(len(data)))


def from_device(address, size):
    out = (ctypes.c_ubyte * size)()
    call("cuMemcpyDtoH_v2", out, c_uint64(address), c_size_t(size))
    return bytes(out)


def stream():
    made = c_void_p()
    call("cuStreamCreate", byref(made), NON_BLOCKING)
    return made


def event():
    made = c_void_p()
    call("cuEventCreate", byref(made), 0)
    return made


def synchronize(of=None):
    """Waits for a stream, or for everything."""
    if of is None:
        call("cuCtxSynchronize")
    else:
        call("cuStreamSynchronize", of)


def module(image=KERNELS):
    made = c_void_p()
    call("cuModuleLoadData", byref(made), c_char_p(image.encode() + b"\0"))
    return made


def function(of, name):
    found = c_void_p()
    call("cuModuleGetFunction", byref(found), of, name.encode())
    return found


def launch(kernel, blocks, threads, *parameters, on=None):
    """cuLaunchKernel; parameters are ctypes values."""
    pointers = (c_void_p * len(parameters))(*(ctypes.addressof(p) for p in parameters))
    call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, on, pointers, None)


def add(kernel, address, value, count, on=None):
    launch(kernel, (count + 127) // 128, 128, c_uint64(address), c_uint(value), c_uint(count), on=on)


def elapsed(first, last):
    milliseconds = c_float()
    call("cuEventElapsedTime", byref(milliseconds), first, last)
    return milliseconds.value


def device_count():
    count = c_int()
    call("cuDeviceGetCount", byref(count))
    return count.value


def mem_info():
    available, total = c_size_t(), c_size_t()
    call("cuMemGetInfo_v2", byref(available), byref(total))
    return available.value, total.value


class Worked:
    """One small thing done right over and over: copy in, add, copy out, compare."""

    COUNT = 1000

    def __init__(self):
        self.context = start()
        self.add = function(module(), "add")
        self.memory = alloc(4 * self.COUNT)
        self.rounds = 0

    def again(self):
        self.rounds += 1
        numbers = (c_uint * self.COUNT)(*range(self.COUNT))
        to_device(self.memory, bytes(numbers))
        add(self.add, self.memory, self.rounds, self.COUNT)
        back = (c_uint * self.COUNT).from_buffer_copy(from_device(self.memory, 4 * self.COUNT))
        assert list(back) == [n + self.rounds for n in range(self.COUNT)], f"wrong in round {self.rounds}"
