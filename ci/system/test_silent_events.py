"""Events that only order streams: the server says nothing of them, until the program asks for one."""

import pytest

from harness import run
from test_steady import POLLS

EVENTS = POLLS + """
ORDERING = 2                                          # CU_EVENT_DISABLE_TIMING

def ordering(stream, records=5):
    "An event that has been recorded so often, and never asked for, that nobody expects it to be."
    made = c_void_p()
    driver.call("cuEventCreate", byref(made), ORDERING)
    for _ in range(records):
        driver.call("cuEventRecord", made, stream)
    return made

def query(event):
    return driver.lib.cuEventQuery(event)

def poll_event(event):
    end = time.monotonic() + 60
    while (code := query(event)) == driver.NOT_READY:
        assert time.monotonic() < end, "polled in vain"
    return code
"""


def events(server, program):
    return run(server, EVENTS + program).stats()


def test_an_event_is_asked_for_with_one_round_trip(server):
    """And told of from then on."""
    stats = events(server, """
stream = driver.stream()
event = ordering(stream)
hold(stream)
driver.call("cuEventRecord", event, stream)
for _ in range(100):
    assert query(event) == driver.NOT_READY
release()
assert poll_event(event) == 0
for _ in range(10):
    hold(stream)
    driver.call("cuEventRecord", event, stream)
    assert query(event) == driver.NOT_READY
    release()
    assert poll_event(event) == 0
""")
    assert stats["cuEventQuery"]["sync"] == 1, stats["cuEventQuery"]


def test_who_knows_that_a_stream_is_finished_finds_its_event_reached(server):
    """Whichever of the two the server looks at first."""
    events(server, """
stream = driver.stream()
for round in range(1000):
    event = ordering(stream, records=round % 6)
    hold(stream)
    driver.call("cuEventRecord", event, stream)
    assert query(event) == driver.NOT_READY
    release()
    driver.synchronize(stream)
    assert query(event) == 0, round
    driver.call("cuEventDestroy_v2", event)
""")


def test_threads_that_record_and_wait_at_the_same_time_both_go_on(server):
    events(server, """
import threading
stream = driver.stream()

def each(work):
    driver.call("cuCtxSetCurrent", context)
    work()

def record(event):
    for _ in range(50):
        driver.call("cuEventRecord", event, stream)

for round in range(100):
    event = ordering(stream, records=round % 5)
    waits = lambda: driver.call("cuEventSynchronize", event)
    threads = [threading.Thread(target=each, args=(work,)) for work in (lambda: record(event), waits, waits)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    driver.call("cuEventSynchronize", event)
    assert query(event) == 0
""")


def test_who_waits_for_an_event_waits_for_nothing_behind_it(server):
    """The stream behind the event goes on only because of what the program does after it has waited."""
    events(server, """
stream = driver.stream()
event = ordering(stream)
hold(stream)
driver.call("cuEventRecord", event, stream)
release()
held = count
count += 1
driver.call("cuStreamWaitValue32_v2", stream, c_uint64(flag), c_uint(count), 0)
driver.call("cuEventSynchronize", event)
assert query(event) == 0
assert driver.lib.cuStreamQuery(stream) == driver.NOT_READY
release()
driver.synchronize(stream)
""")


def test_of_a_stream_that_is_known_to_be_finished_nobody_is_asked(server):
    stats = events(server, """
stream = driver.stream()
event = ordering(stream)
driver.synchronize(stream)
assert query(event) == 0
driver.call("cuEventSynchronize", event)
""")
    assert stats["cuEventQuery"]["sync"] == 0, stats["cuEventQuery"]
    assert stats["cuEventSynchronize"]["sync"] == 0, stats["cuEventSynchronize"]


@pytest.mark.parametrize("ask", ["query(event)", "poll_event(event)", 'driver.lib.cuEventSynchronize(event)'])
def test_what_the_stream_brought_is_there_before_its_event(server, ask):
    events(server, f"""
stream = driver.stream()
size = 3 << 20
source, target = driver.alloc(size), driver.pinned(size)
for value in range(1, 30):
    event = ordering(stream, records=value % 7)
    driver.call("cuMemsetD8Async", c_uint64(source), ctypes.c_ubyte(value), c_size_t(size), stream)
    driver.call("cuMemcpyDtoHAsync_v2", target, c_uint64(source), c_size_t(size), stream)
    driver.call("cuEventRecord", event, stream)
    if {ask} == 0:
        assert bytes(target) == bytes([value]) * size, value
    driver.synchronize(stream)
""")


def test_streams_are_ordered_by_events_that_nobody_asks_for(server):
    events(server, """
first, second = driver.stream(), driver.stream()
size = 1 << 20
memory, seen = driver.alloc(size), driver.pinned(size)
there, back = ordering(first), ordering(second)
for value in range(1, 100):
    driver.call("cuMemsetD8Async", c_uint64(memory), ctypes.c_ubyte(value), c_size_t(size), first)
    driver.call("cuEventRecord", there, first)
    driver.call("cuStreamWaitEvent", second, there, 0)
    driver.call("cuMemcpyDtoHAsync_v2", seen, c_uint64(memory), c_size_t(size), second)
    driver.call("cuEventRecord", back, second)
    driver.call("cuStreamWaitEvent", first, back, 0)
    if value % 9 == 0:
        driver.synchronize(second)
        assert bytes(seen) == bytes([value]) * size
""")


def test_a_fault_is_learned_of_by_who_asks(server):
    events(server, """
stream = driver.stream()
poke = driver.function(driver.module(), "poke")
event = ordering(stream)
hold(stream)
driver.launch(poke, 1, 1, c_uint64(0xdead0000), on=stream)
driver.call("cuEventRecord", event, stream)
assert query(event) == driver.NOT_READY
release()
assert poll_event(event) == driver.ILLEGAL_ADDRESS
assert driver.lib.cuEventSynchronize(event) == driver.ILLEGAL_ADDRESS
""")


def test_an_event_that_is_destroyed_keeps_nobody_waiting(server):
    events(server, """
stream = driver.stream()
event = ordering(stream)
hold(stream)
driver.call("cuEventRecord", event, stream)
assert query(event) == driver.NOT_READY
driver.call("cuEventDestroy_v2", event)
release()
driver.synchronize(stream)
""")
