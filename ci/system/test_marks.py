"""Where memory is shared and threads spin, the GPU itself tells a caller that his stream is finished. He learns no less
from that than from the server's reply, and nothing sooner than he may.
"""

from harness import run

# On two cores nobody spins unless told to.
SPINS = {"FUSEWIRE_SPIN_US": "100"}

HEAD = """
import ctypes, driver
from ctypes import byref, c_float, c_size_t, c_uint, c_uint64, c_void_p
context = driver.start()
add = driver.function(driver.module(), "add")
size = 4096
memory, stream = driver.alloc(size), driver.stream()
driver.call("cuMemsetD8Async", c_uint64(memory), 0, c_size_t(size), stream)
def count():
    driver.add(add, memory, 1, size // 4, on=stream)
    driver.synchronize(stream)
"""


def says_little(server, program):
    """The server says little of what the program does, as often as it is told: nothing for each time. But where a mark
    came too late, and acknowledgements now and then: on a machine that is busy with other things that may be so of many.
    """
    def messages(link):
        few, many = (run(link, program, str(times), env=SPINS) for times in (100, 500))
        return many.batches()["in"] - few.batches()["in"], many

    found = []
    while not found or (min(found) >= 200 and len(found) < 10):
        more, client = messages(server.local)
        found.append(more)
    assert min(found) < 200, found
    # Over a network there is no such memory. (Two answers may come in one batch.)
    assert messages(server.address)[0] >= 300
    return client


def test_the_server_says_nothing_of_a_stream_whose_mark_was_seen(server):
    program = HEAD + """
import sys
for _ in range(int(sys.argv[1])):
    count()
assert driver.from_device(memory, 4) == int(sys.argv[1]).to_bytes(4, "little")
"""
    assert says_little(server, program).stats()["cuStreamSynchronize"]["sync"] == 500


COPIES = HEAD + """
import sys
sizes = [4, 1000, 65536, 300_000, 1 << 20]
whole = driver.alloc(1 << 20)
pageable = (ctypes.c_ubyte * (1 << 20))()
def copied(size, value):
    driver.call("cuMemsetD8Async", c_uint64(whole), value, c_size_t(size), stream)
    driver.call("cuMemcpyDtoHAsync_v2", pageable, c_uint64(whole), c_size_t(size), stream)
    assert bytes(pageable[:size:997]) == bytes([value]) * len(pageable[:size:997]) and pageable[size - 1] == value, size
"""


def test_the_server_says_nothing_of_a_pageable_copy_whose_marks_were_seen(server):
    program = COPIES + """
for times in range(int(sys.argv[1])):
    copied(sizes[times % len(sizes)], 1 + times % 250)
"""
    says_little(server, program)


def test_a_pageable_copy_is_there_where_marks_are_refused(server):
    """While the legacy stream is held the worker refuses them; and when it is not any more it does not."""
    run(server.local, COPIES + """
word = driver.pinned(4)
ctypes.memset(word, 0, 4)
behind = driver.alloc(64)
for times in range(40):
    held = times % 4 == 1
    if held:
        # No stream is held up by it but the legacy one: `stream` does not block with that.
        driver.call("cuStreamWaitValue32_v2", None, c_uint64(ctypes.addressof(word)), c_uint(times), 0)
        driver.call("cuMemsetD8Async", c_uint64(behind), times, c_size_t(64), None)
    for size in sizes:
        copied(size, 1 + (times + size) % 250)
    ctypes.memmove(word, times.to_bytes(4, "little"), 4)
    if held:
        driver.synchronize(None)
        assert driver.from_device(behind, 64) == bytes([times]) * 64
""", env=SPINS)


def test_a_pageable_copy_that_is_refused_is_told_of_at_once(server):
    """And leaves everything as it was."""
    run(server.local, COPIES + """
copied(4, 7)
for size in sizes:
    assert driver.code_of(driver.call, "cuMemcpyDtoHAsync_v2", pageable, c_uint64(1 << 20), c_size_t(size), stream) == 1
    copied(size, 9)
""", env=SPINS)


def test_events_and_times_are_known_when_the_stream_has_been_synchronised(server):
    run(server.local, HEAD + """
events = []
for flags in (0, 2):
    event = c_void_p()
    driver.call("cuEventCreate", byref(event), flags)
    events.append(event)
timed = c_void_p()
driver.call("cuEventCreate", byref(timed), 0)
for _ in range(300):
    for event in events:
        driver.call("cuEventRecord", event, stream)
    driver.add(add, memory, 1, size // 4, on=stream)
    driver.call("cuEventRecord", timed, stream)
    driver.synchronize(stream)
    for event in [timed, *events]:
        driver.call("cuEventQuery", event)
    driver.call("cuStreamQuery", stream)
    took = c_float(-1)
    driver.call("cuEventElapsedTime", byref(took), events[0], timed)
    assert took.value >= 0
""", env=SPINS)


def test_data_that_this_process_puts_in_its_place_are_there(server):
    """Registered memory is mirrored on this link too: what kernels write there is brought back by the client."""
    run(server.local, HEAD + """
import mmap
pages = mmap.mmap(-1, 1 << 20)
words = (c_uint * (size // 4)).from_buffer(pages)
address = ctypes.addressof(words)
driver.call("cuMemHostRegister_v2", c_void_p(address), c_size_t(1 << 20), 2)
for times in range(1, 200):
    driver.add(add, address, 1, size // 4, on=stream)
    driver.synchronize(stream)
    assert words[0] == words[size // 4 - 1] == times
    driver.call("cuMemcpyDtoHAsync_v2", c_void_p(address + (512 << 10)), c_uint64(memory), c_size_t(size), stream)
    driver.synchronize(stream)
""", env=SPINS)


def test_other_streams_that_this_one_comes_behind_are_known_to_be_finished(server):
    """As after a reply: of their events, their times and their being finished."""
    for link in server.local, server.address:
        run(link, HEAD + """
blocking = c_void_p()
driver.call("cuStreamCreate", byref(blocking), 0)
start, end = driver.event(), driver.event()
took = c_float(-1)
def record(event, on):
    driver.call("cuEventRecord", event, on)
for times in range(200):
    # Behind an event.
    other = driver.stream() if times % 50 == 0 else other
    record(start, other)
    driver.add(add, memory, 1, size // 4, on=other)
    record(end, other)
    driver.code_of(driver.call, "cuStreamQuery", other)
    driver.call("cuStreamWaitEvent", stream, end, 0)
    count()
    for event in start, end:
        driver.call("cuEventQuery", event)
    driver.call("cuEventElapsedTime", byref(took), start, end)
    driver.call("cuStreamQuery", other)
    # The legacy stream comes behind those that block with it.
    record(start, blocking)
    driver.add(add, memory, 1, size // 4, on=blocking)
    record(end, blocking)
    driver.add(add, memory, 1, size // 4, on=None)
    driver.synchronize(None)
    driver.call("cuEventQuery", end)
    driver.call("cuEventElapsedTime", byref(took), start, end)
    driver.call("cuStreamQuery", blocking)
    # What came behind an event before the stream was put behind another one.
    earlier, middle = driver.event(), driver.event()
    driver.add(add, memory, 1, size // 4, on=other)
    record(earlier, other)
    driver.call("cuStreamWaitEvent", stream, earlier, 0)
    record(middle, stream)
    record(end, other)
    driver.call("cuStreamWaitEvent", stream, end, 0)
    driver.call("cuEventSynchronize", middle)
    driver.call("cuEventQuery", earlier)
    for event in earlier, middle:
        driver.call("cuEventDestroy_v2", event)
""", env=SPINS)


def test_a_word_that_the_stream_has_written_is_there(server):
    """Registered memory again: the client is told of what is written there."""
    run(server.local, HEAD + """
import mmap
pages = mmap.mmap(-1, 8192)
words = (c_uint * 2048).from_buffer(pages)
address = ctypes.addressof(words)
driver.call("cuMemHostRegister_v2", c_void_p(address), c_size_t(8192), 2)
other = driver.stream()
for times in range(1, 200):
    driver.call("cuStreamWriteValue32_v2", stream, c_uint64(address), c_uint(times), 0)
    driver.synchronize(stream)
    assert words[0] == times, (times, words[0])
    event = driver.event()
    driver.call("cuStreamWriteValue32_v2", other, c_uint64(address + 8), c_uint(times), 0)
    driver.call("cuEventRecord", event, other)
    driver.call("cuStreamWaitEvent", stream, event, 0)
    count()
    assert words[2] == times, (times, words[2])
    driver.call("cuEventDestroy_v2", event)
""", env=SPINS)


def test_errors_are_reported_by_the_synchronisation(server):
    run(server.local, HEAD + """
for _ in range(50):
    count()
poke = driver.function(driver.module(), "poke")
driver.launch(poke, 1, 1, c_uint64(4096), on=stream)
assert driver.code_of(driver.synchronize, stream) == driver.ILLEGAL_ADDRESS
assert driver.code_of(driver.synchronize, stream) == driver.ILLEGAL_ADDRESS
""", env=SPINS)


def test_a_stream_that_is_busy_for_longer_is_asked_for(server):
    run(server.local, HEAD + """
import threading
flag = driver.pinned(8)
word = c_uint.from_buffer(flag)
for _ in range(3):
    word.value = 0
    driver.call("cuStreamWaitValue32_v2", stream, c_uint64(ctypes.addressof(flag)), c_uint(1), 0)
    # Longer than callers look for their mark.
    timer = threading.Timer(0.2, lambda: setattr(word, "value", 1))
    timer.start()
    count()
    assert word.value == 1
    timer.join()
    count()
assert driver.from_device(memory, 4) == (6).to_bytes(4, "little")
""", env=SPINS)


def test_many_threads_wait_for_streams_of_their_own(server):
    run(server.local, HEAD + """
import threading
failures = []
def work():
    try:
        driver.call("cuCtxSetCurrent", context)
        own, mine = driver.stream(), driver.alloc(size)
        driver.call("cuMemsetD8Async", c_uint64(mine), 0, c_size_t(size), own)
        for times in range(1, 60):
            driver.add(add, mine, 1, size // 4, on=own)
            driver.synchronize(own)
            if times % 20 == 0:
                assert driver.from_device(mine, 4) == times.to_bytes(4, "little")
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=work) for _ in range(80)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
""", env=SPINS)


def test_what_a_kernel_prints_is_there_before_its_synchronisation_returns(server):
    client = run(server.local, HEAD + """
import os
PRINTS = '''
.version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 done) vprintf (.param .b64 format, .param .b64 arguments);
.global .align 1 .b8 text[7] = {107, 101, 114, 110, 101, 108, 10};
.global .align 1 .b8 ended[1] = {0};
.visible .entry says()
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<2>;
    mov.u64 %rd1, text;
    cvta.global.u64 %rd2, %rd1;
    mov.u64 %rd3, 0;
    {
    .param .b64 p0;
    st.param.b64 [p0], %rd2;
    .param .b64 p1;
    st.param.b64 [p1], %rd3;
    .param .b32 back;
    call.uni (back), vprintf, (p0, p1);
    ld.param.b32 %r1, [back];
    }
    ret;
}
'''
count()
says = driver.function(driver.module(PRINTS.replace("[7]", "[8]").replace("10}", "10, 0}")), "says")
for n in range(20):
    driver.launch(says, 1, 1, on=stream)
    driver.synchronize(stream)
    os.write(1, b"program\\n")
""", env=SPINS)
    assert client.out.split() == ["kernel", "program"] * 20


REGISTERED = HEAD + """
import mmap
def register(size):
    pages = (ctypes.c_ubyte * size).from_buffer(mmap.mmap(-1, size))
    driver.call("cuMemHostRegister_v2", pages, c_size_t(size), 2)
    return pages
"""


def test_what_kernels_did_to_registered_memory_is_there_after_a_pageable_copy(server):
    """It is mirrored, and brought back by the client; and the copy comes behind the kernel."""
    run(server.local, REGISTERED + """
pages = register(1 << 20)
words = (c_uint * (size // 4)).from_buffer(pages)
out = (ctypes.c_ubyte * (1 << 20))()
big = driver.alloc(1 << 20)
times = 0
for bytes in (64, 4096, 32768, 1 << 20):
    for _ in range(40):
        times += 1
        driver.add(add, ctypes.addressof(pages), 1, size // 4, on=stream)
        driver.call("cuMemcpyDtoHAsync_v2", out, c_uint64(big), c_size_t(bytes), stream)
        assert words[0] == words[size // 4 - 1] == times, (bytes, times, words[0])
""", env=SPINS)


def test_a_stream_is_not_finished_before_the_data_of_another_threads_copy_are_there(server):
    """However often this one is told by marks that all of it is finished."""
    for how in "copies", "synchronises":
        run(server.local, REGISTERED + """
import sys, threading, time
sys.setswitchinterval(1e-5)
whole = 8 << 20
there, here = driver.alloc(whole), register(whole)
over = False
def other():
    driver.call("cuCtxSetCurrent", context)
    out = (ctypes.c_ubyte * 64)()
    while not over:
        if sys.argv[1] == "synchronises":
            driver.call("cuMemsetD8Async", c_uint64(memory), 0, c_size_t(64), stream)
            driver.synchronize(stream)
        else:
            driver.call("cuMemcpyDtoHAsync_v2", out, c_uint64(memory), c_size_t(64), stream)
thread = threading.Thread(target=other)
thread.start()
times, late, end = 0, 0, time.monotonic() + 3
while time.monotonic() < end:
    value = times % 251 + 1
    times += 1
    driver.call("cuMemsetD8Async", c_uint64(there), value, c_size_t(whole), stream)
    driver.call("cuMemcpyDtoHAsync_v2", here, c_uint64(there), c_size_t(whole), stream)
    while driver.code_of(driver.call, "cuStreamQuery", stream):
        pass
    late += not here[0] == here[whole // 2] == here[whole - 1] == value
over = True
thread.join()
assert not late, (late, times)
""", how, env=SPINS)


def test_what_a_stream_comes_behind_by_the_legacy_stream_is_known_to_be_finished(server):
    """Events, times and streams, after a synchronisation and after a pageable copy."""
    run(server.local, HEAD + """
def blocking():
    made = c_void_p()
    driver.call("cuStreamCreate", byref(made), 0)
    return made
first, second = blocking(), blocking()
start, event = driver.event(), driver.event()
out, took = (ctypes.c_ubyte * size)(), c_float(-1)
for times in range(400):
    driver.call("cuEventRecord", start, first)
    driver.add(add, memory, 1, size // 4, on=first)
    driver.call("cuEventRecord", event, first)
    driver.code_of(driver.call, "cuStreamQuery", first)
    driver.add(add, memory, 1, size // 4, on=None)
    driver.add(add, memory, 1, size // 4, on=second)
    if times % 2:
        driver.synchronize(second)
    else:
        driver.call("cuMemcpyDtoHAsync_v2", out, c_uint64(memory), c_size_t(size), second)
    if times % 3 == 0:
        driver.call("cuEventQuery", event)
    elif times % 3 == 1:
        driver.call("cuEventElapsedTime", byref(took), start, event)
    else:
        driver.call("cuStreamQuery", first)
""", env=SPINS)


def test_many_streams_that_this_one_comes_behind_are_known_to_be_finished(server):
    for link in server.local, server.address:
        run(link, HEAD + """
others = [(driver.stream(), driver.event(), driver.alloc(size)) for _ in range(24)]
out = (ctypes.c_ubyte * size)()
for times in range(100):
    for on, event, mine in others:
        driver.add(add, mine, 1, size // 4, on=on)
        driver.call("cuEventRecord", event, on)
    for _, event, _ in others:
        driver.call("cuStreamWaitEvent", stream, event, 0)
    driver.add(add, memory, 1, size // 4, on=stream)
    if times % 2:
        driver.synchronize(stream)
    else:
        driver.call("cuMemcpyDtoHAsync_v2", out, c_uint64(memory), c_size_t(size), stream)
    for _, event, _ in others:
        driver.call("cuEventQuery", event)
""", env=SPINS)


def test_an_event_that_is_reached_by_another_way_says_nothing_of_the_stream_it_was_recorded_on(server):
    """A graph records it as well; and another thread may, while it is asked for."""
    run(server.local, HEAD + """
import sys, threading
sys.setswitchinterval(1e-5)
word, held, free, event = driver.pinned(4), driver.stream(), driver.stream(), driver.event()
graph, node, replay = c_void_p(), c_void_p(), c_void_p()
driver.call("cuGraphCreate", byref(graph), 0)
driver.call("cuGraphAddEventRecordNode", byref(node), graph, None, c_size_t(0), event)
driver.call("cuGraphInstantiateWithFlags", byref(replay), graph, c_uint64(0))
def record():
    driver.call("cuCtxSetCurrent", context)
    driver.call("cuEventRecord", event, free)
for times in range(300):
    ctypes.memset(word, 0, 4)
    driver.call("cuStreamWaitValue32_v2", held, c_uint64(ctypes.addressof(word)), c_uint(1), 0)
    driver.call("cuEventRecord", event, held)
    driver.code_of(driver.call, "cuEventQuery", event)
    count()
    if times % 3 == 0:
        driver.call("cuGraphLaunch", replay, free)
        driver.synchronize(free)
        driver.code_of(driver.call, "cuEventQuery", event)
    else:
        thread = threading.Thread(target=record)
        thread.start()
        while driver.code_of(driver.call, "cuEventQuery", event):
            pass
        thread.join()
    assert driver.code_of(driver.call, "cuStreamQuery", held) == driver.NOT_READY, times
    ctypes.memmove(word, (1).to_bytes(4, "little"), 4)
    driver.synchronize(held)
""", env=SPINS)


def test_what_another_context_comes_behind_is_known_to_be_finished(server):
    """After a synchronisation of all of it, and after one of an event that many come before."""
    for link in server.local, server.address:
        run(link, HEAD + """
import sys
others = [(driver.stream(), driver.event()) for _ in range(24)]
behind = c_void_p()
driver.call("cuCtxCreate_v2", byref(behind), 0, 0)
last, end, there = driver.stream(), driver.event(), driver.alloc(size)
for times in range(200):
    driver.call("cuCtxSetCurrent", context)
    for on, event in others:
        driver.call("cuMemsetD8Async", c_uint64(memory), 0, c_size_t(64), on)
        driver.call("cuEventRecord", event, on)
    driver.call("cuCtxSetCurrent", behind)
    for _, event in others:
        driver.call("cuStreamWaitEvent", last, event, 0)
    driver.call("cuMemsetD8Async", c_uint64(there), 0, c_size_t(64), last)
    if times % 2:
        driver.call("cuCtxSynchronize")
    else:
        driver.call("cuEventRecord", end, last)
        driver.call("cuEventSynchronize", end)
    for _, event in others:
        driver.call("cuEventQuery", event)
""", env=SPINS)


def test_an_event_that_is_not_reached_is_asked_for_once_after_a_synchronisation(server):
    """Not at each query: one that polls for it would ask each time."""
    client = run(server.local, HEAD + """
word, event, held = driver.pinned(4), driver.event(), driver.stream()
ctypes.memset(word, 0, 4)
driver.call("cuStreamWaitValue32_v2", held, c_uint64(ctypes.addressof(word)), c_uint(1), 0)
driver.call("cuEventRecord", event, held)
for _ in range(3):
    count()
    for _ in range(100):
        assert driver.code_of(driver.call, "cuEventQuery", event) == driver.NOT_READY
ctypes.memmove(word, (1).to_bytes(4, "little"), 4)
driver.call("cuEventSynchronize", event)
""", env=SPINS)
    assert client.stats()["cuEventQuery"]["sync"] == 3, client.stats()["cuEventQuery"]
