"""Works a little on the bare driver, then does nothing, until it is told to do the same again.

It needs nothing but Python, so that its memory is the driver's and little else. For each line on stdin it works
once and says so, with the addresses and sizes of the host memory that is its own; the first time it loads the
driver before. Whoever started it looks at its memory and its processor time meanwhile. It ends with stdin.
"""

import ctypes
import json
import mmap
import os
import sys
from ctypes import byref, c_char_p, c_size_t, c_uint, c_uint64, c_void_p

DONE = "FIGURES "
MOST = 64 << 20
SIZES = (1024, 60_000, 1 << 20, MOST)
LAUNCHES = 3000
COUNT = 1000
NON_BLOCKING = 1
KERNEL = b"""
.version 7.0
.target sm_75
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
"""

libc = ctypes.CDLL(None)
libc.memcmp.argtypes = [c_void_p, c_void_p, c_size_t]


def buffer():
    """Ordinary memory of the largest size, in a mapping of its own: it can be told from the driver's."""
    mapped = mmap.mmap(-1, MOST, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return (ctypes.c_ubyte * MOST).from_buffer(mapped)


class Work:
    def __init__(self, driver):
        self.lib = ctypes.CDLL(driver)
        self.call("cuInit", 0)
        context, module = c_void_p(), c_void_p()
        self.add, self.stream, self.pinned, self.memory = c_void_p(), c_void_p(), c_void_p(), c_uint64()
        self.call("cuDevicePrimaryCtxRetain", byref(context), 0)
        self.call("cuCtxSetCurrent", context)
        self.call("cuModuleLoadData", byref(module), c_char_p(KERNEL + b"\0"))
        self.call("cuModuleGetFunction", byref(self.add), module, b"add")
        self.call("cuMemAlloc_v2", byref(self.memory), c_size_t(MOST))
        self.call("cuStreamCreate", byref(self.stream), NON_BLOCKING)
        self.call("cuMemHostAlloc", byref(self.pinned), c_size_t(MOST), 0)
        self.source, self.target = buffer(), buffer()
        noise = os.urandom(1 << 20)
        for offset in range(0, MOST, len(noise)):
            ctypes.memmove(ctypes.addressof(self.source) + offset, noise, len(noise))
        ctypes.memmove(self.pinned, self.source, MOST)

    def call(self, name, *arguments):
        code = getattr(self.lib, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} = {code}")

    def launch(self, stream):
        values = [self.memory, c_uint(1), c_uint(COUNT)]
        pointers = (c_void_p * 3)(*(ctypes.addressof(value) for value in values))
        self.call("cuLaunchKernel", self.add, (COUNT + 127) // 128, 1, 1, 128, 1, 1, 0, stream, pointers, None)

    def record(self, stream):
        event = c_void_p()
        self.call("cuEventCreate", byref(event), 0)
        self.call("cuEventRecord", event, stream)

    def word(self):
        found = c_uint()
        self.call("cuMemcpyDtoH_v2", byref(found), self.memory, c_size_t(4))
        return found.value

    def once(self):
        for size in SIZES:
            ctypes.memset(self.target, 0, size)
            self.call("cuMemcpyHtoD_v2", self.memory, self.source, c_size_t(size))
            self.call("cuMemcpyDtoH_v2", self.target, self.memory, c_size_t(size))
            if libc.memcmp(self.source, self.target, size):
                raise RuntimeError(f"{size} bytes came back as others")
        self.call("cuMemcpyHtoDAsync_v2", self.memory, self.pinned, c_size_t(MOST), self.stream)
        self.call("cuMemcpyDtoHAsync_v2", self.pinned, self.memory, c_size_t(MOST), self.stream)
        self.call("cuStreamSynchronize", self.stream)
        before = self.word()
        for n in range(LAUNCHES):
            self.launch(self.stream)
            if n % 100 == 0:
                self.record(self.stream)
        self.call("cuStreamSynchronize", self.stream)
        added = (self.word() - before) % (1 << 32)
        if added != LAUNCHES:
            raise RuntimeError(f"{LAUNCHES} launches added {added}")
        # Last, work that nobody waits for: its end must not keep anybody awake either.
        self.launch(None)
        self.record(None)

    def own(self):
        """[(address, bytes)] of the host memory that is not the driver's."""
        return [(ctypes.addressof(self.source), MOST), (ctypes.addressof(self.target), MOST), (self.pinned.value, MOST)]


def main():
    driver = sys.argv[1] if len(sys.argv) > 1 else "libcuda.so.1"
    work = None
    print(DONE + "{}", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        work = work or Work(driver)
        work.once()
        print(DONE + json.dumps({"own": work.own()}), flush=True)


main()
