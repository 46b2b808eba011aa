"""What the second stream of a program comes after: the copies that the program was told of, and nothing else."""

import pytest

from harness import run

HEAD = """
import ctypes, sys, driver
from ctypes import byref, c_size_t, c_uint, c_uint64, c_void_p
how, size = sys.argv[1], int(sys.argv[2])
driver.start()
flag, data = driver.alloc(4096), driver.alloc(size)

class Copy2D(ctypes.Structure):
    _fields_ = [(end + name, kind) for end in ("src", "dst") for name, kind in (
        ("XInBytes", c_size_t), ("Y", c_size_t), ("MemoryType", c_uint), ("Host", c_void_p), ("Device", c_uint64),
        ("Array", c_void_p), ("Pitch", c_size_t))] + [("WidthInBytes", c_size_t), ("Height", c_size_t)]

def copy(value):
    "One that need not wait: the source is read when it returns."
    source = bytes([value]) * size
    if how == "synchronous":
        driver.to_device(data, source)
    elif how == "pitched":
        kept = ctypes.create_string_buffer(source, size)
        half = size // 2
        driver.call("cuMemcpy2D_v2", byref(Copy2D(
            srcMemoryType=1, srcHost=ctypes.addressof(kept), srcPitch=half, dstMemoryType=2, dstDevice=data,
            dstPitch=half, WidthInBytes=half, Height=2)))
    else:
        driver.call("cuMemcpyHtoDAsync_v2", c_uint64(data), source, c_size_t(size), None)

def read(stream):
    out = (ctypes.c_ubyte * size)()
    driver.call("cuMemcpyDtoHAsync_v2", out, c_uint64(data), c_size_t(size), stream)
    return set(out)

def hold():
    driver.call("cuStreamWaitValue32_v2", None, c_uint64(flag), c_uint(1), 0)

def release(stream):
    driver.call("cuStreamWriteValue32_v2", stream, c_uint64(flag), c_uint(1), 0)

driver.to_device(flag, bytes(4))
"""

# In a batch, in memory of the client's own or in shared memory, in chunks.
SIZES = [64, 100 << 10, 2 << 20]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["synchronous", "synchronised", "pitched"])
def test_a_second_stream_is_made_while_the_first_waits_for_it(server, how, size):
    for link in (server.address, server.local):
        run(link, HEAD + """
copy(1)
if how == "synchronised":
    driver.synchronize(c_void_p(1))
hold()
side = driver.stream()
assert read(side) == {1}, "told of, and not there"
release(side)
driver.synchronize()
""", how, size, limit=60)


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_that_the_program_was_not_told_of_holds_no_stream_up(server, size):
    for link in (server.address, server.local):
        run(link, HEAD + """
copy(1)
driver.synchronize()
hold()
copy(2)
side = driver.stream()
assert read(side) == {1}
release(side)
driver.synchronize(c_void_p(1))
assert read(side) == {2}, "now told of, and not there"
""", "asynchronous", size, limit=60)


@pytest.mark.parametrize("streams", [1, 2])
def test_copies_into_the_same_memory_come_in_order(server, streams):
    """However they travel: the short ones with the answers, the long ones on several connections at once."""
    run(server, """
import ctypes, random, sys, driver
from ctypes import byref, c_size_t, c_uint64, c_ubyte, c_void_p
driver.start()
streams = [driver.stream() for _ in range(int(sys.argv[1]))]
event = c_void_p()
driver.call("cuEventCreate", byref(event), 2)
size = 3 << 20
memory, seen = driver.alloc(size), driver.pinned(size)
expected = bytearray(size)
random.seed(7)
for value in range(1, 200):
    stream = streams[value % len(streams)]
    driver.call("cuStreamWaitEvent", stream, event, 0)
    length = random.choice([4, 4096, 60_000, 70_000, 200_000, 1 << 20, size])
    offset = random.randrange(size - length + 1)
    driver.call("cuMemsetD8Async", c_uint64(memory), c_ubyte(value), c_size_t(length), stream)
    to = ctypes.addressof(seen) + offset
    driver.call("cuMemcpyDtoHAsync_v2", c_void_p(to), c_uint64(memory), c_size_t(length), stream)
    driver.call("cuEventRecord", event, stream)
    expected[offset:offset + length] = bytes([value]) * length
    if random.random() < 0.1:
        driver.synchronize(stream)
        assert bytes(seen) == expected, value
driver.call("cuCtxSynchronize")
assert bytes(seen) == expected
""", str(streams))


def test_full_queues_are_looked_at_behind_a_stream_that_stands_still(server):
    """Its work has tickets, that of the others has none: they are finished, and there is room, as natively."""
    run(server, """
import ctypes, driver
from ctypes import c_size_t, c_uint, c_uint64, c_ubyte
driver.start()
memory, flag = driver.alloc(4096), driver.alloc(4096)
stuck, side = driver.stream(), driver.stream()
driver.call("cuMemsetD32Async", c_uint64(flag), 0, c_size_t(1024), side)
driver.synchronize(side)
driver.call("cuStreamWaitValue32_v2", stuck, c_uint64(flag), c_uint(1), 0)
for _ in range(64):
    driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory), bytes(64), c_size_t(64), stuck)
for stream in [driver.stream() for _ in range(16)]:
    for _ in range(60):
        driver.call("cuMemsetD8Async", c_uint64(memory), c_ubyte(1), c_size_t(64), stream)
driver.call("cuStreamWriteValue32_v2", side, c_uint64(flag), c_uint(1), 0)
driver.call("cuCtxSynchronize")
""", limit=60)
