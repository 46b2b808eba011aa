"""Device memory that is allocated and freed over and over: no round trip in the steady state, and nothing that a
program can tell from memory that is really given back.
"""

import time

import pytest

from harness import Client, Server, run

HEAD = """
import ctypes, sys, time, driver
from ctypes import byref, c_size_t, c_uint, c_uint64, c_void_p
MIB = 1 << 20
def fill(address, size, value, on=None):
    driver.call("cuMemsetD8Async", c_uint64(address), value, c_size_t(size), on)
def range_of(address):
    base, size = c_uint64(), c_size_t()
    code = driver.lib.cuMemGetAddressRange_v2(byref(base), byref(size), c_uint64(address))
    return (base.value, size.value) if code == 0 else code
"""

# The last size is cut from a shared block, the others have blocks of their own.
STEPS = HEAD + """
steps, how, waits = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "waits"
SIZES = [8 * MIB + 1, 3 * MIB, 3 * MIB, 20 * MIB, 2 * MIB, 1 * MIB, 700 << 10]
driver.start()
stream, side = driver.stream(), driver.stream()
def alloc(size):
    if how == "plain":
        return driver.alloc(size)
    made = c_uint64()
    driver.call("cuMemAllocAsync", byref(made), c_size_t(size), stream)
    return made.value
def free(address):
    if how == "plain":
        driver.free(address)
    else:
        driver.call("cuMemFreeAsync", c_uint64(address), stream)
expected = 0
for step in range(steps):
    made = [alloc(size) for size in SIZES]
    assert len(set(made)) == len(SIZES)
    for n, (address, size) in enumerate(zip(made, SIZES)):
        assert range_of(address) == (address, size)
        fill(address, size, (step + n) % 251, stream)
    if waits:
        driver.synchronize(stream)
        for n, address in enumerate(made):
            assert driver.from_device(address + SIZES[n] - 4, 4) == bytes([(step + n) % 251]) * 4
    for address in made:
        free(address)
    driver.synchronize(stream)
"""


def waits(server, *arguments):
    stats = run(server, STEPS, *arguments).stats()
    return {name: row["sync"] for name, row in stats.items() if name.startswith(("cuMemAlloc", "cuMemFree"))}


@pytest.mark.parametrize("when", ["waits", "does not wait"])
@pytest.mark.parametrize("how", ["plain", "in order"])
def test_a_step_that_allocates_and_frees_asks_nobody(server, how, when):
    few, many = waits(server, 6, how, when), waits(server, 36, how, when)
    assert few == many, (few, many)
    # Every size once, and what the small one needs beside its first block while some are on their way back.
    assert 7 <= sum(few.values()) <= 10, few


def test_memory_is_used_again_when_the_work_before_its_free_is_finished(server):
    client = run(server, HEAD + """
driver.start()
stream, side = driver.stream(), driver.stream()
flag = driver.alloc(4096)
driver.call("cuMemsetD32Async", c_uint64(flag), 0, c_size_t(1), side)
driver.synchronize(side)
size = 5 * MIB
first = driver.alloc(size)
driver.call("cuStreamWaitValue32_v2", stream, c_uint64(flag), c_uint(1), 0)
fill(first, size, 1, stream)
driver.free(first)
second = driver.alloc(size)
assert second != first, "its old contents are still to be written"
fill(second, size, 2, side)
driver.synchronize(side)
driver.call("cuStreamWriteValue32_v2", side, c_uint64(flag), c_uint(1), 0)
driver.synchronize(stream)
assert set(driver.from_device(second, size)) == {2}
assert driver.alloc(size) == first, "and used again now"
assert set(driver.from_device(second, size)) == {2}
driver.synchronize()
driver.free(second)
assert driver.alloc(size) == second, "at once, when all is known to be finished"
""")
    assert client.stats()["cuMemAlloc_v2"]["sync"] == 3


def test_freed_memory_is_refused_and_comes_back_as_a_new_allocation(server):
    run(server, HEAD + """
driver.start()
def identity(address):
    number = c_uint64()
    code = driver.lib.cuPointerGetAttribute(byref(number), 7, c_uint64(address))  # BUFFER_ID
    return number.value if code == 0 else None
first = driver.alloc(7 * MIB)
before = identity(first)
driver.free(first)
assert driver.code_of(driver.free, first) == driver.INVALID_VALUE
assert driver.code_of(driver.from_device, first, 4) == driver.INVALID_VALUE
assert driver.code_of(fill, first, 4, 1) == driver.INVALID_VALUE
assert isinstance(range_of(first), int) and identity(first) is None
second = driver.alloc(6 * MIB + 3)
assert second == first
assert range_of(second + 100) == (first, 6 * MIB + 3) and identity(second) not in (None, before)
assert driver.code_of(driver.from_device, second + 6 * MIB, 4) == driver.INVALID_VALUE
assert len(driver.from_device(second + 6 * MIB, 3)) == 3
""")


def test_what_is_kept_counts_as_free_and_goes_before_anything_fails(server):
    """Where 2 GiB are there, at most 128 MiB are kept."""
    run(server, HEAD + """
context = driver.start()
driver.alloc(100)
start = driver.mem_info()
def left():
    return driver.mem_info()[0] // MIB
most = left()
kept = [driver.alloc(size * MIB) for size in (64, 32, 16)]
assert left() == most - 112
for address in kept:
    driver.free(address)
assert driver.mem_info() == start
# All there is in one piece, which kept memory is in the way of.
whole = driver.alloc(most // 2 * 2 * MIB)
assert left() <= 1
assert driver.code_of(driver.alloc, 4 * MIB) == driver.OUT_OF_MEMORY
driver.free(whole)
assert driver.mem_info() == start
kept = driver.alloc(64 * MIB)
driver.free(kept)
assert driver.code_of(driver.alloc, (most + 2) * MIB) == driver.OUT_OF_MEMORY
assert driver.mem_info() == start
# So for memory that the program maps itself, and for a small allocation.
class Properties(ctypes.Structure):
    _fields_ = [(name, c_uint) for name in ("kind", "handles", "location", "device")] + [("rest", c_uint64 * 2)]
properties = Properties(1, 0, 1, 0)
def create(size):
    handle = c_uint64()
    driver.call("cuMemCreate", byref(handle), c_size_t(size), byref(properties), c_uint64(0))
    return handle
driver.free(driver.alloc(64 * MIB))
assert driver.code_of(create, (most + 2) * MIB) == driver.OUT_OF_MEMORY
driver.free(driver.alloc(64 * MIB))
handle = create(most // 2 * 2 * MIB)
assert left() <= 1
driver.call("cuMemRelease", handle)
assert driver.mem_info() == start
kept = driver.alloc(8 * MIB)
rest = driver.alloc((left() // 2 * 2) * MIB)
driver.free(kept)
small = [driver.alloc(900 << 10) for _ in range(8)]
assert len(set(small)) == 8 and left() <= 8
""")


def test_what_is_kept_goes_with_its_context(server):
    run(server, HEAD + """
driver.start()
start = driver.mem_info()
for round in range(3):
    address = driver.alloc(64 * MIB)
    fill(address, 64 * MIB, 1)
    driver.free(address)
    if round == 1:
        driver.synchronize()
        driver.call("cuDevicePrimaryCtxRelease_v2", 0)
    else:
        driver.call("cuDevicePrimaryCtxReset_v2", 0)
    driver.start()
    assert driver.mem_info() == start
    whole = driver.alloc(start[0] // (2 * MIB) * 2 * MIB)
    driver.free(whole)
context = c_void_p()
driver.call("cuCtxCreate_v2", byref(context), 0, 0)
before = driver.mem_info()
address = driver.alloc(64 * MIB)
driver.free(address)
driver.call("cuCtxDestroy_v2", context)
driver.start()
again = driver.alloc(64 * MIB)
fill(again, 64 * MIB, 3)
assert set(driver.from_device(again, 64 * MIB)) == {3}
""")


def test_a_device_is_used_again_after_its_reset(server):
    run(server, HEAD + """
for round in range(3):
    driver.Worked().again()
    driver.call("cuDevicePrimaryCtxReset_v2", 0)
""")


def test_small_memory_goes_with_its_own_context_alone(server):
    run(server, HEAD + """
first = driver.start()
before = driver.alloc(4096)
driver.to_device(before, b"a" * 100)
other = c_void_p()
driver.call("cuCtxCreate_v2", byref(other), 0, 0)
theirs = [driver.alloc(4096), driver.alloc(4096)]
driver.free(theirs[0])
driver.call("cuCtxDestroy_v2", other)
driver.call("cuCtxSetCurrent", first)
assert driver.code_of(driver.from_device, theirs[1], 4) == driver.INVALID_VALUE
for _ in range(2000):
    address = driver.alloc(4096)
    driver.to_device(address, b"b" * 100)
    assert driver.from_device(address, 100) == b"b" * 100
assert driver.from_device(before, 100) == b"a" * 100
""")


def test_work_of_other_contexts_is_waited_for_too(server):
    run(server, HEAD + """
first = driver.start()
flag, stream, other = driver.alloc(4096), c_void_p(), c_void_p()
driver.to_device(flag, bytes(4))
driver.call("cuCtxCreate_v2", byref(other), 0, 0)
stream = driver.stream()
driver.call("cuCtxSetCurrent", first)
size = 4 * MIB
memory = driver.alloc(size)
driver.call("cuStreamWaitValue32_v2", stream, c_uint64(flag), c_uint(1), 0)
fill(memory, size, 1, stream)
driver.free(memory)
assert driver.alloc(size) != memory
driver.to_device(flag, b"\\1\\0\\0\\0")
driver.synchronize(stream)
driver.to_device(flag, b"\\1\\0\\0\\0")
assert driver.alloc(size) == memory
""")


def test_what_nobody_wants_is_given_back(server):
    with Client(server, HEAD + """
driver.start()
for _ in range(3):
    driver.free(driver.alloc(16 * MIB))
print("kept", flush=True)
sys.stdin.readline()
driver.free(driver.alloc(16 * MIB))
""") as client:
        assert client.hear() == "kept"
        time.sleep(7)
        client.say("go on")
        code, _ = client.finish()
        assert code == 0, client.errors
        assert client.stats()["cuMemAlloc_v2"]["sync"] == 2, client.stats()["cuMemAlloc_v2"]


def test_a_program_that_is_far_ahead_of_the_gpu_waits_rather_than_take_all_memory():
    """As it would in each free: what it has in use stays within what may be kept, 16 MiB here."""
    with Server(env={"SOFTGPU_MEMORY": "256M"}) as server:
        run(server, HEAD + """
driver.start()
stream, side = driver.stream(), driver.stream()
add = driver.function(driver.module(), "add")
addresses = set()
for step in range(60):
    address = driver.alloc(4 * MIB)
    addresses.add(address)
    driver.add(add, address, 1, 1 << 14, on=stream)
    driver.free(address)
assert len(addresses) <= 5, len(addresses)
""")


def test_addresses_of_a_context_that_goes_are_not_used_before_the_server_hears_of_it(server):
    """Two threads: one destroys contexts full of memory, the other allocates where that was."""
    run(server, HEAD + """
import threading
home = driver.start()
def fill_up(size):
    made = c_void_p()
    driver.call("cuCtxCreate_v2", byref(made), 0, 0)
    for _ in range(60):
        driver.alloc(size)
    return made
def allocate():
    driver.call("cuCtxSetCurrent", home)
    while not over.is_set():
        for _ in range(20):
            address = c_uint64()
            code = driver.lib.cuMemAlloc_v2(byref(address), c_size_t(size))
            if code != 0:
                codes.append(code)
            else:
                made.append(address)
        while made:
            driver.lib.cuMemFree_v2(made.pop())
codes, made = [], []
for turn in range(120):
    # Not what is kept from the turn before.
    size = (2 + turn % 8) * MIB
    context = fill_up(size)
    over = threading.Event()
    thread = threading.Thread(target=allocate)
    thread.start()
    time.sleep(0.002 * (turn % 5))
    driver.call("cuCtxDestroy_v2", context)
    over.set()
    thread.join()
assert not codes, codes
""")


def test_memory_that_could_be_shared_is_had_and_not_shared(server):
    """As PyTorch's expandable segments ask for it; sharing itself is not carried."""
    run(server, HEAD + """
driver.start()
class Properties(ctypes.Structure):
    _fields_ = [(name, c_uint) for name in ("kind", "handles", "location", "device")] + [("rest", c_uint64 * 2)]
class Access(ctypes.Structure):
    _fields_ = [(name, c_uint) for name in ("kind", "device", "flags")]
size = 20 * MIB
base, handle, shared = c_uint64(), c_uint64(), ctypes.c_int(-1)
driver.call("cuMemAddressReserve", byref(base), c_size_t(4 * size), c_size_t(0), c_uint64(0), c_uint64(0))
POSIX, FABRIC = 1, 8
def create(handles):
    driver.call("cuMemCreate", byref(handle), c_size_t(size), byref(Properties(1, handles, 1, 0)), c_uint64(0))
assert driver.code_of(create, FABRIC) == 801
for part in range(4):
    create(POSIX)
    driver.call("cuMemMap", c_uint64(base.value + part * size), c_size_t(size), c_size_t(0), handle, c_uint64(0))
    assert driver.code_of(driver.call, "cuMemExportToShareableHandle", byref(shared), handle, POSIX, c_uint64(0)) == 801
    assert shared.value == -1
    driver.call("cuMemRelease", handle)
driver.call("cuMemSetAccess", base, c_size_t(4 * size), byref(Access(1, 0, 3)), c_size_t(1))
fill(base.value, 4 * size, 5)
assert driver.from_device(base.value + size - 4, 8) == bytes([5]) * 8
driver.call("cuMemUnmap", base, c_size_t(4 * size))
driver.call("cuMemAddressFree", base, c_size_t(4 * size))
""")


def test_addresses_are_reserved_for_far_more_memory_than_there_is(server):
    """PyTorch's expandable segments reserve an eighth more than all of the GPU's memory, for each stream and size."""
    run(server, HEAD + """
driver.start()
size = 180 << 30
reserved = []
for _ in range(64):
    base = c_uint64()
    driver.call("cuMemAddressReserve", byref(base), c_size_t(size), c_size_t(0), c_uint64(0), c_uint64(0))
    reserved.append(base.value)
reserved.sort()
assert all(low + size <= high for low, high in zip(reserved, reserved[1:]))
for base in reserved:
    driver.call("cuMemAddressFree", c_uint64(base), c_size_t(size))
""")


@pytest.mark.parametrize("how", ["limited", "used"])
def test_fewer_addresses_do_where_there_is_no_room_for_all(server, how):
    """Under a limit on the address space; or where the program has some of them, which stay its own."""
    run(server, HEAD + """
import mmap, resource
size = 1 << 20
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (4 << 40, 4 << 40))
    pages = (ctypes.c_ubyte * size)()
else:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = c_void_p
    libc.mmap.argtypes = [c_void_p, c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    place = 0x1800_0000_0000
    how = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
    assert libc.mmap(place, size, mmap.PROT_READ | mmap.PROT_WRITE, how, -1, 0) == place
    pages = (ctypes.c_ubyte * size).from_address(place)
driver.start()
there = driver.alloc(size)
fill(there, size, 7)
driver.call("cuMemcpyDtoH_v2", pages, c_uint64(there), c_size_t(size))
assert pages[0] == pages[size - 1] == 7
base = c_uint64()
driver.call("cuMemAddressReserve", byref(base), c_size_t(512 << 30), c_size_t(0), c_uint64(0), c_uint64(0))
""", how)
