"""What the GPU or its driver gets wrong reaches the program as CUDA's own error, and stays with that session."""

import time

import pytest

from harness import Bystander, Client, Server, alive, run, until


def test_out_of_memory(server, bystander):
    """At once, with the code; what was there before still works, and smaller pieces still fit."""
    run(server, """
import driver
worked = driver.Worked()
assert driver.code_of(driver.alloc, 1 << 40) == driver.OUT_OF_MEMORY
assert driver.code_of(driver.alloc, (1 << 64) - 1) == driver.OUT_OF_MEMORY
assert driver.code_of(driver.alloc, 0) == driver.INVALID_VALUE
taken = []
while True:
    try:
        taken.append(driver.alloc(256 << 20))
    except driver.CudaError as error:
        assert error.code == driver.OUT_OF_MEMORY
        break
assert 4 <= len(taken) <= 8, len(taken)
worked.again()
driver.free(taken.pop())
driver.alloc(128 << 20)
worked.again()
""")


def test_out_of_memory_by_order():
    with Server(env={"SOFTGPU_OOM_AFTER": "16M"}) as server:
        run(server, """
import driver
driver.start()
first = driver.alloc(8 << 20)
assert driver.code_of(driver.alloc, 64 << 20) == driver.OUT_OF_MEMORY
driver.to_device(first, b"x" * 100)
assert driver.from_device(first, 100) == b"x" * 100
""")


def test_an_illegal_address(server, bystander):
    """The launch succeeds, the synchronisation does not, and from then on nothing does: CUDA's sticky error."""
    client = run(server, """
import ctypes, driver
worked = driver.Worked()
poke = driver.function(driver.module(), "poke")
driver.launch(poke, 1, 1, ctypes.c_uint64(0xdead0000))
for what in [driver.synchronize, lambda: driver.alloc(100), worked.again, driver.stream]:
    print(driver.code_of(what))
""")
    assert client.out.split()[0] == "700"
    assert set(client.out.split()) == {"700"}, client.out


def test_an_illegal_address_is_seen_by_polling(server, bystander):
    """A program that never waits, only asks, learns of the fault too."""
    run(server, """
import ctypes, time, driver
driver.start()
poke = driver.function(driver.module(), "poke")
event = driver.event()
driver.launch(poke, 1, 1, ctypes.c_uint64(0xdead0000))
driver.lib.cuEventRecord(event, None)
end = time.monotonic() + 10
while True:
    code = driver.lib.cuEventQuery(event)
    if code not in (0, driver.NOT_READY):
        break
    assert time.monotonic() < end, code
    time.sleep(0.001)
assert code == driver.ILLEGAL_ADDRESS, code
""")


@pytest.mark.parametrize("fault, code", [("illegal_address", 700), ("misaligned_address", 716),
                                         ("illegal_instruction", 715), ("launch_failed", 719), ("assert", 710),
                                         ("ecc", 214)])
def test_faults_by_order(fault, code):
    with Server(env={"SOFTGPU_FAULT": f"poke:{fault}"}) as server:
        bystander = Bystander(server)
        client = run(server, """
import ctypes, driver
driver.start()
memory = driver.alloc(4096)
driver.launch(driver.function(driver.module(), "poke"), 1, 1, ctypes.c_uint64(memory))
print(driver.code_of(driver.synchronize))
""")
        assert client.out == f"{code}\n"
        bystander.done()


def test_a_kernel_that_never_ends(server, bystander):
    """Everything that needs not wait for it goes on: another stream, queries, other sessions."""
    with Client(server, """
import ctypes, sys, driver
context = driver.start()
kernels = driver.module()
stuck, free = driver.stream(), driver.stream()
event = driver.event()
memory = driver.alloc(4096)
driver.launch(driver.function(kernels, "spin"), 1, 1, on=stuck)
driver.call("cuEventRecord", event, stuck)
assert driver.lib.cuStreamQuery(stuck) == driver.NOT_READY
assert driver.lib.cuEventQuery(event) == driver.NOT_READY
add = driver.function(kernels, "add")
driver.call("cuMemsetD32Async", ctypes.c_uint64(memory), 5, ctypes.c_size_t(1024), free)
driver.add(add, memory, 2, 1024, on=free)
back = (ctypes.c_uint * 1024)()
driver.call("cuMemcpyDtoHAsync_v2", back, ctypes.c_uint64(memory), ctypes.c_size_t(4096), free)
driver.synchronize(free)
assert list(back) == [7] * 1024
assert driver.lib.cuStreamQuery(stuck) == driver.NOT_READY
print("right", flush=True)
driver.synchronize(stuck)
""") as client:
        worker = server.worker_of(client)
        assert client.hear() == "right"
        time.sleep(0.5)
        assert client.process.poll() is None, "the synchronisation returned"
        bystander.check()
        client.kill()
        until(lambda: not alive(worker), "the worker is gone, kernel and all", 10)


@pytest.mark.parametrize("call", ["cuLaunchKernel", "cuMemcpyHtoDAsync_v2", "cuMemAddressReserve", "cuModuleLoadData",
                                  "cuStreamCreate", "cuStreamQuery", "cuEventQuery"])
def test_a_driver_call_that_is_slow(call):
    """It costs time, and neither rightness nor another session's speed."""
    with Server(env={"SOFTGPU_SLOW": f"{call}:100"}) as server:
        run(server, "import driver\nworked = driver.Worked()\nfor _ in range(3): worked.again()")


def test_a_slow_session_does_not_slow_others(server, bystander):
    """One session computes without end, another is answered in good time."""
    with Client(server, """
import driver
driver.start()
memory = driver.alloc(1 << 20)
add = driver.function(driver.module(), "add")
print("busy", flush=True)
while True:
    for _ in range(100):
        driver.add(add, memory, 1, 1 << 18)
    driver.synchronize()
""") as client:
        assert client.hear() == "busy"
        before = time.monotonic()
        for _ in range(10):
            bystander.check()
        assert time.monotonic() - before < 10


# Errors that the driver gives at once must come at once, from what the client knows.
AT_ONCE = """
import ctypes, driver
from ctypes import byref, c_size_t, c_uint64, c_void_p
assert driver.code_of(driver.alloc, 10) == driver.NOT_INITIALIZED
driver.start()
kernels = driver.module()
add = driver.function(kernels, "add")
memory = driver.alloc(4096)
host = (ctypes.c_ubyte * 64)()
cases = [
    ("a block too large", 1, lambda: driver.launch(add, 1, 4096, c_uint64(memory), ctypes.c_uint(0), ctypes.c_uint(0))),
    ("no threads", 1, lambda: driver.launch(add, 1, 0, c_uint64(memory), ctypes.c_uint(0), ctypes.c_uint(0))),
    ("no such kernel", 500, lambda: driver.function(kernels, "nothing")),
    ("a stream that is none", 400, lambda: driver.synchronize(c_void_p(0xdeadbeef00))),
    ("an event that is none", 400, lambda: driver.call("cuEventQuery", c_void_p(0xdeadbeef00))),
    ("a copy to nowhere", 1, lambda: driver.call("cuMemcpyHtoD_v2", c_uint64(0x1234), host, c_size_t(64))),
    ("a copy past the end", 1, lambda: driver.call("cuMemcpyHtoD_v2", c_uint64(memory + (1 << 30)), host, c_size_t(64))),
    ("free of nothing", 1, lambda: driver.free(0x1234)),
    ("a device that is not there", 101, lambda: driver.call("cuDeviceGet", byref(ctypes.c_int()), 7)),
]
for what, expected, action in cases:
    code = driver.code_of(action)
    assert code == expected, (what, code, expected)
driver.synchronize()
print("right")
"""


def test_what_the_driver_refuses_at_once(server):
    assert run(server, AT_ONCE).out == "right\n"


def test_a_stale_stream_is_refused(server):
    run(server, """
import driver
driver.start()
stream = driver.stream()
driver.call("cuStreamDestroy_v2", stream)
assert driver.code_of(driver.synchronize, stream) == driver.INVALID_HANDLE
""")
