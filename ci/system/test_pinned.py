"""Pinned memory that comes and goes while the GPU is busy with something else, and is set."""

from harness import LINK, Client, run

COMES_AND_GOES = """
import ctypes, driver
from ctypes import c_size_t, c_uint64
driver.start()
at = ctypes.addressof
busy, other = driver.stream(), driver.stream()

# Registered memory: the program has it at the same address each time.
mine = (ctypes.c_ubyte * 8192)()
for turn in range(1, 5):
    driver.call("cuMemHostRegister_v2", mine, c_size_t(8192), 0)
    driver.call("cuMemsetD32Async", c_uint64(at(mine)), turn, c_size_t(2048), other)
    driver.synchronize(other)
    assert bytes(mine) == turn.to_bytes(4, "little") * 2048
    driver.call("cuMemHostUnregister", mine)

# From here on, nothing that is freed can be given back.
driver.launch(driver.function(driver.module(), "spin"), 1, 1, on=busy)
for turn in range(1, 20):
    word = driver.pinned(4)
    driver.call("cuMemsetD32Async", c_uint64(at(word)), turn, c_size_t(1), other)
    driver.synchronize(other)
    assert bytes(word) == turn.to_bytes(4, "little"), (turn, bytes(word))
    driver.call("cuMemFreeHost", word)
"""


def test_addresses_are_used_again_only_when_the_server_has_left_them(server):
    run(server, COMES_AND_GOES)


SET = """
import ctypes, driver, time
from ctypes import c_size_t, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p
driver.start()
at = ctypes.addressof
Function = ctypes.CFUNCTYPE(None, c_void_p)
busy = Function(lambda _: time.sleep(0.3))
registered = (c_ubyte * 4096)()
driver.call("cuMemHostRegister_v2", registered, c_size_t(4096), 0)
forms = {
    "cuMemsetD8_v2": (c_ubyte(1), c_size_t(64)),
    "cuMemsetD16_v2": (c_ushort(0x202), c_size_t(32)),
    "cuMemsetD32_v2": (c_uint(0x3030303), c_size_t(16)),
    "cuMemsetD2D8_v2": (c_size_t(32), c_ubyte(4), c_size_t(32), c_size_t(2)),
    "cuMemsetD2D16_v2": (c_size_t(32), c_ushort(0x505), c_size_t(16), c_size_t(2)),
    "cuMemsetD2D32_v2": (c_size_t(32), c_uint(0x6060606), c_size_t(8), c_size_t(2)),
}
for memory in (driver.pinned(4096), registered):
    for number, (name, how) in enumerate(forms.items()):
        # The default stream gets to the memset late.
        driver.call("cuLaunchHostFunc", None, busy, None)
        driver.call(name, c_uint64(at(memory)), *how)
        assert bytes(memory)[:64] == bytes([number + 1]) * 64, (name, bytes(memory)[:64])

# A captured one happens at every replay.
stream, graph, exe = driver.stream(), c_void_p(), c_void_p()
memory = driver.pinned(64)
driver.call("cuStreamBeginCapture_v2", stream, 2)
driver.call("cuMemsetD8Async", c_uint64(at(memory)), c_ubyte(9), c_size_t(64), stream)
driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
driver.call("cuGraphInstantiateWithFlags", ctypes.byref(exe), graph, c_uint64(0))
for turn in range(2):
    ctypes.memset(memory, 0, 64)
    driver.call("cuGraphLaunch", exe, stream)
    driver.synchronize(stream)
    assert bytes(memory) == bytes([9]) * 64, (turn, bytes(memory))
"""


def test_a_synchronous_memset_of_host_memory_is_done_when_it_returns(server):
    run(server, SET)


WORDS = """
import ctypes, driver
from ctypes import c_uint, c_uint64
driver.start()
stream, memory = driver.stream(), driver.pinned(64)
at = ctypes.addressof(memory)
calls = {"cuStreamWaitValue32_v2": 4, "cuStreamWriteValue32_v2": 4,
         "cuStreamWaitValue64_v2": 8, "cuStreamWriteValue64_v2": 8}
def code(name, address, value, flags=0):
    value = (c_uint if calls[name] == 4 else c_uint64)(value)
    return driver.code_of(driver.call, name, stream, c_uint64(address), value, c_uint(flags))
for name, size in calls.items():
    assert code(name, at, 1, flags=8) == driver.INVALID_VALUE
    assert code(name, at + size // 2, 1) == driver.INVALID_VALUE
    assert code(name, 1 << 40, 1) == driver.INVALID_VALUE
print("refused", flush=True)
input()
for name, size in calls.items():
    if "Write" in name:
        assert code(name, at + 8, 5) == 0
        assert code(name.replace("Write", "Wait"), at + 8, 5) == 0
        driver.synchronize(stream)
        assert bytes(memory)[8:16] == (5).to_bytes(8, "little"), bytes(memory)
        memory[8] = 0
"""


def test_a_word_that_a_stream_must_not_use_is_refused_before_anything_is_done_for_it(server):
    with Client(server, WORDS, env={"FUSEWIRE_LOG": "trace"}) as client:
        assert client.hear() == "refused"
        assert "are mirrored" not in client.errors
        client.say("go on")
        code, out = client.finish()
        assert code == 0, out + client.errors
        # Shared memory needs no mirror.
        assert ("are mirrored" in client.errors) == (LINK == "tcp")
