"""The promise of the steady state: a step of launches, copies and events waits for the server not once, and once
when it reads a result. Counted, not timed, from what FUSEWIRE_STATS says.
"""

import pytest

from harness import LINK, run

STEPS = """
import ctypes, sys, driver
from ctypes import c_size_t, c_uint64
steps, reads = int(sys.argv[1]), sys.argv[2] == "read"
driver.start()
stream, side = driver.stream(), driver.stream()
start, end = driver.event(), driver.event()
add = driver.function(driver.module(), "add")
size = 1 << 18
memory, result = driver.alloc(size), driver.alloc(4)
batch, out = driver.pinned(size), driver.pinned(size)
loss = (ctypes.c_uint * 1)()
for step in range(steps):
    # The next batch goes over on a stream of its own, as a data loader does it, once the last is used up.
    driver.call("cuStreamWaitEvent", side, end, 0)
    driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory), batch, c_size_t(size), side)
    driver.call("cuEventRecord", start, side)
    driver.call("cuStreamWaitEvent", stream, start, 0)
    driver.call("cuMemsetD32Async", c_uint64(result), 3, c_size_t(1), stream)
    for layer in range(20):
        driver.add(add, memory, 1, 64, on=stream)
        driver.add(add, result, 1, 1, on=stream)
    driver.call("cuMemcpyDtoDAsync_v2", c_uint64(memory + 4096), c_uint64(memory), c_size_t(4096), stream)
    driver.call("cuMemcpyDtoHAsync_v2", out, c_uint64(memory), c_size_t(size), stream)
    driver.call("cuEventRecord", end, stream)
    driver.lib.cuEventQuery(end)
    if reads:  # as .item() does: a copy, and a wait for the stream
        driver.call("cuMemcpyDtoHAsync_v2", loss, c_uint64(result), c_size_t(4), stream)
        driver.synchronize(stream)
        assert loss[0] == 23, loss[0]
driver.synchronize()
assert out[0] == out[4096] == 20, (out[0], out[4096])
"""


def waits(server, steps, how):
    """How often the program waited for the server."""
    return {name: row["sync"] for name, row in run(server, STEPS, steps, how).stats().items() if row["sync"]}


@pytest.mark.parametrize("how, a_step", [("run", 0), ("read", 1)])
def test_the_steady_state(server, how, a_step):
    few, many = waits(server, 5, how), waits(server, 25, how)
    extra = sum(many.values()) - sum(few.values())
    assert extra == 20 * a_step, (few, many)


def test_the_statistics(server):
    """Each call is counted once, as what it was, with its bytes."""
    client = run(server, STEPS, 10, "run")
    stats = client.stats()
    assert stats["cuLaunchKernel"]["async"] == 10 * 40 and stats["cuLaunchKernel"]["sync"] == 0
    moved = stats["cuMemcpyHtoDAsync_v2"]["bytes_out"], stats["cuMemcpyDtoHAsync_v2"]["bytes_in"]
    if LINK == "unix":  # the GPU copies pinned memory itself: a record goes over, and no data
        assert max(moved) < 10 << 10, moved
    else:
        assert min(moved) >= 10 << 18, moved
    assert stats["cuMemAlloc_v2"]["local"] + stats["cuMemAlloc_v2"]["sync"] == 2
    assert stats["cuEventQuery"]["local"] == 10
    assert sum(row["sync"] for row in stats.values()) < 20


def test_the_statistics_as_text(server):
    client = run(server, STEPS, 2, "run", env={"FUSEWIRE_STATS": "1"})
    first, head, *rows = client.complaints()
    assert "driver calls" in first and "answered in the client" in first, first
    for column in ("function", "local", "async", "sync", "bytes out", "bytes in", "waited ms"):
        assert column in head
    launches = [row.split() for row in rows if "cuLaunchKernel" in row]
    assert launches[0][1:5] == ["cuLaunchKernel", "0", "80", "0"], launches


def test_no_statistics_unless_asked_for(server):
    assert run(server, STEPS, 1, "run", stats=False).errors == ""
