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
    """How often the program waited for the server. Whether its last synchronisation has to depends on how far the
    GPU is by then."""
    stats = run(server, STEPS, steps, how).stats()
    return {name: row["sync"] for name, row in stats.items() if row["sync"] and name != "cuCtxSynchronize"}


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
    # Sent in batches: the last of them waited for.
    batches = client.batches()
    assert 0 < batches["out"] < sum(row["async"] + row["sync"] for row in stats.values()) and batches["in"] > 0


def test_the_statistics_as_text(server):
    client = run(server, STEPS, 2, "run", env={"FUSEWIRE_STATS": "1"})
    first, head, *rows = client.complaints()
    assert "driver calls" in first and "answered in the client" in first and first.endswith("batches sent"), first
    for column in ("function", "local", "async", "sync", "bytes out", "bytes in", "waited ms"):
        assert column in head
    launches = [row.split() for row in rows if "cuLaunchKernel" in row]
    assert launches[0][1:5] == ["cuLaunchKernel", "0", "80", "0"], launches


def test_no_statistics_unless_asked_for(server):
    assert run(server, STEPS, 1, "run", stats=False).errors == ""


POLLS = """
import ctypes, sys, time, driver
from ctypes import byref, c_size_t, c_uint, c_uint64, c_void_p
context = driver.start()
side = driver.stream()
flag = driver.alloc(4096)
driver.call("cuMemsetD32Async", c_uint64(flag), 0, c_size_t(1024), side)
driver.synchronize(side)
count = 0

def hold(stream):
    "Work that is not finished before `release`."
    global count
    count += 1
    driver.call("cuStreamWaitValue32_v2", stream, c_uint64(flag), c_uint(count), 0)

def release():
    driver.call("cuStreamWriteValue32_v2", side, c_uint64(flag), c_uint(count), 0)

def busy(stream, times=100):
    for _ in range(times):
        code = driver.lib.cuStreamQuery(stream)
        assert code == driver.NOT_READY, code

def poll(stream):
    end = time.monotonic() + 60
    while (code := driver.lib.cuStreamQuery(stream)) == driver.NOT_READY:
        assert time.monotonic() < end, "polled in vain"
    return code
"""


def polls(server, program, *arguments):
    return run(server, POLLS + program, *arguments).stats()


@pytest.mark.parametrize("stream", ["driver.stream()", "None", "c_void_p(2)"], ids=["created", "legacy", "per-thread"])
def test_a_stream_is_polled_with_one_round_trip(server, stream):
    """However long it takes; and once more for each time that the stream was given something new."""
    stats = polls(server, """
stream = eval(sys.argv[1])
for round in range(3):
    hold(stream)
    busy(stream)
    if round == 2:
        hold(stream)
        busy(stream)
    release()
    assert poll(stream) == 0
    driver.synchronize(stream)
""", stream)
    assert stats["cuStreamQuery"]["sync"] == 4, stats["cuStreamQuery"]
    assert stats["cuStreamQuery"]["local"] >= 399
    assert stats["cuStreamSynchronize"]["sync"] == 1, "each was known to be finished but the first, of the setup"


def test_polling_the_legacy_stream_puts_other_streams_in_no_order(server):
    """Here one blocking stream can go on only because of what is put on another one while the legacy one is polled."""
    polls(server, """
blocking, other = c_void_p(), c_void_p()
for made in blocking, other:
    driver.call("cuStreamCreate", byref(made), 0)
hold(blocking)
driver.lib.cuStreamQuery(None)
side = other
release()
driver.synchronize(blocking)
assert poll(None) == 0
""")


def test_a_poll_that_succeeds_comes_after_the_data(server):
    polls(server, """
stream, size = driver.stream(), 3 << 20
memory, out = driver.alloc(size), driver.pinned(size)
for round in range(1, 6):
    hold(stream)
    driver.call("cuMemsetD32Async", c_uint64(memory), round * 0x01010101, c_size_t(size // 4), stream)
    driver.call("cuMemcpyDtoHAsync_v2", out, c_uint64(memory), c_size_t(size), stream)
    busy(stream, 2)
    release()
    assert poll(stream) == 0
    assert bytes(out) == bytes([round]) * size
""")


def test_polling_a_stream_that_is_being_captured_is_still_an_error(server):
    polls(server, """
stream, graph = driver.stream(), c_void_p()
hold(stream)
busy(stream)
driver.call("cuStreamBeginCapture_v2", stream, 2)
assert driver.lib.cuStreamQuery(stream) == 900
assert driver.lib.cuStreamEndCapture(stream, byref(graph)) == 901
busy(stream)
release()
assert poll(stream) == 0
""")


def test_a_context_whose_streams_are_finished_is_synchronised_in_the_client(server):
    stats = polls(server, """
streams = [None] + [driver.stream() for _ in range(3)]
add, memory = driver.function(driver.module(), "add"), driver.alloc(4096)
driver.synchronize()                                  # none: the setup has waited for all there was
for _ in range(10):
    events = [driver.event() for _ in streams]
    for stream, event in zip(streams, events):
        driver.add(add, memory, 1, 64, on=stream)
        driver.call("cuEventRecord", event, stream)
    for event in events:
        driver.call("cuEventSynchronize", event)
    driver.synchronize()
    for stream in streams:
        driver.synchronize(stream)
gone = driver.stream()
driver.add(add, memory, 1, 64, on=gone)
driver.call("cuStreamDestroy_v2", gone)
driver.synchronize()                                  # one: nothing has told when that was finished
driver.synchronize()
driver.add(add, memory, 1, 64, on=streams[1])
driver.synchronize()                                  # two
driver.synchronize()
""")
    assert stats["cuCtxSynchronize"]["sync"] == 2, stats["cuCtxSynchronize"]
    assert stats["cuStreamSynchronize"]["sync"] == 1, "of the setup"


def test_a_time_between_events_is_asked_for_once(server):
    stats = polls(server, """
stream = driver.stream()
start, end = driver.event(), driver.event()
def measured():
    driver.call("cuEventRecord", start, stream)
    driver.call("cuEventSynchronize", start)
    time.sleep(0.01)
    driver.call("cuEventRecord", end, stream)
    driver.call("cuEventSynchronize", end)
    first = driver.elapsed(start, end)
    assert first >= 10 and all(driver.elapsed(start, end) == first for _ in range(10)), first
    return first
first, before = measured(), measured()
hold(stream)
driver.call("cuEventRecord", start, stream)           # only the first again: the old answer does not hold
driver.call("cuEventRecord", end, stream)
assert driver.code_of(driver.elapsed, start, end) == driver.NOT_READY
release()
driver.synchronize(stream)
assert driver.elapsed(start, end) not in (before, first)
""")
    assert stats["cuEventElapsedTime"]["sync"] == 3, stats["cuEventElapsedTime"]


def test_polling_a_stream_learns_of_a_fault(server):
    """By the push, not by asking again."""
    stats = polls(server, """
stream = driver.stream()
poke = driver.function(driver.module(), "poke")
hold(stream)
driver.launch(poke, 1, 1, c_uint64(0xdead0000), on=stream)
busy(stream)
release()
assert poll(stream) == driver.ILLEGAL_ADDRESS
assert driver.lib.cuStreamQuery(side) == driver.ILLEGAL_ADDRESS
assert driver.code_of(driver.synchronize) == driver.ILLEGAL_ADDRESS
""")
    assert stats["cuStreamQuery"]["sync"] == 1, stats["cuStreamQuery"]


def test_polling_a_stream_learns_that_the_session_is_lost(server):
    import os
    import signal
    from harness import Client
    with Client(server, POLLS + """
stream = driver.stream()
hold(stream)
busy(stream)
print("busy", flush=True)
print(poll(stream), flush=True)
""") as client:
        assert client.hear() == "busy"
        os.kill(server.worker_of(client), signal.SIGKILL)
        assert client.hear() == "46"
