"""Pinned memory that comes and goes while the GPU is busy with something else."""

from harness import run

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
