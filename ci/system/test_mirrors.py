"""Host memory that kernels are given: what the program sees there, and when.

Over a link that shares no memory the server has a copy, which is brought up to date around the work that uses it.
"""

import pytest

from harness import run

START = """
import ctypes, time, driver
from ctypes import c_size_t, c_uint, c_uint64, c_void_p
driver.start()
add = driver.function(driver.module(), "add")
stream, other = driver.stream(), driver.stream()
word = driver.pinned(64)
numbers = (ctypes.c_uint * 16).from_address(ctypes.addressof(word))

def more(by=1, count=1):
    driver.launch(add, 1, count, c_uint64(ctypes.addressof(word)), c_uint(by), c_uint(count), on=stream)

class Copy2D(ctypes.Structure):
    _fields_ = [(end + name, kind) for end in ("src", "dst") for name, kind in (
        ("XInBytes", c_size_t), ("Y", c_size_t), ("MemoryType", c_uint), ("Host", c_void_p), ("Device", c_uint64),
        ("Array", c_void_p), ("Pitch", c_size_t))] + [("WidthInBytes", c_size_t), ("Height", c_size_t)]
"""

# Whatever tells the program that work is finished shows it what the work has written.
SEEN = START + """
device = driver.alloc(4096)
gate = driver.alloc(4096)
driver.call("cuMemsetD8_v2", c_uint64(gate), 0, c_size_t(64))
driver.call("cuCtxSynchronize")
at = 0
def after(what):
    global at
    at += 3
    for _ in range(3):
        more()
    what()
    assert numbers[0] == at, (what.__name__, numbers[0], at)

def synchronized(): driver.synchronize(stream)
def context(): driver.call("cuCtxSynchronize")
def event_synchronized():
    event = driver.event()
    driver.call("cuEventRecord", event, stream)
    driver.call("cuEventSynchronize", event)
def event_polled():
    event = driver.event()
    driver.call("cuEventRecord", event, stream)
    while driver.code_of(driver.call, "cuEventQuery", event): pass
def stream_polled():
    while driver.code_of(driver.call, "cuStreamQuery", stream): pass
def copied_from_the_device():
    driver.call("cuMemcpyDtoHAsync_v2", (ctypes.c_ubyte * 4)(), c_uint64(device), c_size_t(4), stream)
def other_stream_synchronized():
    event = driver.event()
    driver.call("cuEventRecord", event, stream)
    driver.call("cuStreamWaitEvent", other, event, 0)
    driver.synchronize(other)
def word_written():
    flag = driver.pinned(4)
    driver.call("cuStreamWriteValue32_v2", stream, c_uint64(ctypes.addressof(flag)), c_uint(1), 0)
    while flag[0] != 1: time.sleep(0)
def host_function():
    seen = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append(numbers[0]))
    driver.call("cuLaunchHostFunc", stream, function, None)
    driver.synchronize(stream)
    assert seen == [at], (seen, at)
def nothing_asked():
    end = time.monotonic() + 20
    while numbers[0] != at and time.monotonic() < end: time.sleep(0.001)
def destroyed():
    global stream
    driver.call("cuStreamDestroy_v2", stream)
    stream = driver.stream()
    nothing_asked()
def captured_next():
    driver.call("cuStreamBeginCapture_v2", stream, 2)
    graph = ctypes.c_void_p()
    driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
    nothing_asked()
def copied_to_the_device():
    driver.call("cuMemcpyHtoDAsync_v2", c_uint64(device), word, c_size_t(64), stream)
    back = (c_uint * 16)()
    driver.call("cuMemcpyDtoHAsync_v2", back, c_uint64(device), c_size_t(64), stream)
    assert back[0] == at, (back[0], at)

def seen_before_a_wait():
    # Nothing of what earlier work has written comes behind the wait: the program may have to see it to end it.
    driver.call("cuStreamWaitValue32_v2", stream, c_uint64(gate), c_uint(at), 0)
    nothing_asked()
    assert numbers[0] == at, (numbers[0], at)
    driver.call("cuStreamWriteValue32_v2", other, c_uint64(gate), c_uint(at), 0)
    driver.synchronize(stream)

for what in [seen_before_a_wait, synchronized, context, event_synchronized, event_polled, stream_polled, copied_from_the_device,
             other_stream_synchronized, word_written, host_function, nothing_asked, destroyed, captured_next,
             copied_to_the_device] * 3:
    after(what)
"""

# Both ends write, and neither undoes what the other wrote last.
BOTH = START + """
for turn in range(1, 200):
    # The kernel adds to the first word, the program writes the second, and asks for nothing in between.
    more()
    numbers[1] = turn
    more(count=2)
    driver.synchronize(stream)
    assert list(numbers[:2]) == [2 * turn, turn + 1], (turn, list(numbers[:2]))
"""

# What is brought back on one stream has not been written by the program on another.
APART = START + """
gate = driver.alloc(4096)
driver.call("cuMemsetD8_v2", c_uint64(gate), 0, c_size_t(64))
driver.call("cuCtxSynchronize")
for turn in range(1, 20):
    driver.call("cuStreamWaitValue32_v2", other, c_uint64(gate), c_uint(turn), 0)
    more()
    numbers[8] = turn
    driver.launch(add, 1, 1, c_uint64(ctypes.addressof(word)), c_uint(1), c_uint(1), on=other)
    driver.synchronize(stream)
    assert numbers[8] == turn, (turn, list(numbers))
    driver.call("cuStreamWriteValue32_v2", stream, c_uint64(gate), c_uint(turn), 0)
    driver.synchronize(other)
    assert (numbers[0], numbers[8]) == (2 * turn, turn), (turn, list(numbers))
"""

# What the program has written before a launch is there for its kernel, whatever another stream was sent it for.
THERE = START + """
gate, sums = driver.alloc(4096), driver.alloc(4096)
driver.call("cuMemsetD8_v2", c_uint64(gate), 0, c_size_t(64))
driver.call("cuCtxSynchronize")
for turn in range(1, 20):
    driver.call("cuStreamWaitValue32_v2", other, c_uint64(gate), c_uint(turn), 0)
    numbers[0], numbers[8] = 100 * turn, turn
    # Given the memory, and uses the third word alone.
    driver.launch(add, 1, 1, c_uint64(ctypes.addressof(word) + 8), c_uint(1), c_uint(1), on=other)
    more()
    driver.synchronize(stream)
    assert (numbers[0], numbers[8]) == (100 * turn + 1, turn), (turn, list(numbers))
    driver.call("cuStreamWriteValue32_v2", stream, c_uint64(gate), c_uint(turn), 0)
    driver.synchronize(other)
    assert list(numbers[:3]) == [100 * turn + 1, 0, turn], (turn, list(numbers))
    more()
    driver.synchronize(stream)
    assert list(numbers[:3]) == [100 * turn + 2, 0, turn], (turn, list(numbers))
"""

# Words that no kernel uses are the program's alone, however often it writes them between launches.
ALONE = START + """
gate = driver.alloc(4096)
driver.call("cuMemsetD8_v2", c_uint64(gate), 0, c_size_t(64))
driver.call("cuCtxSynchronize")
for turn in range(1, 20):
    driver.call("cuStreamWaitValue32_v2", stream, c_uint64(gate), c_uint(turn), 0)
    for n in range(30):
        numbers[8] += 1
        more()
        time.sleep(0.001)
    driver.call("cuStreamWriteValue32_v2", other, c_uint64(gate), c_uint(turn), 0)
    driver.synchronize(stream)
    assert (numbers[0], numbers[8]) == (30 * turn, 30 * turn), (turn, list(numbers))
"""


def test_the_program_sees_what_finished_work_has_written(server):
    run(server, SEEN)


def test_neither_end_undoes_what_the_other_wrote(server):
    run(server, BOTH)


def test_what_one_stream_brings_back_is_not_what_another_was_sent(server):
    run(server, APART)


def test_a_kernel_sees_what_was_written_before_its_launch_whatever_other_streams_do(server):
    run(server, THERE)


def test_words_of_the_programs_own_stay_as_they_are(server):
    run(server, ALONE)


TOGETHER = START + """
import threading
context = ctypes.c_void_p()
driver.call("cuCtxGetCurrent", ctypes.byref(context))
wrong = []
def work(mine, on):
    driver.call("cuCtxSetCurrent", context)
    for turn in range(1, 150):
        numbers[mine + 1] = turn
        at = c_uint64(ctypes.addressof(word) + 4 * mine)
        driver.launch(add, 1, 2, at, c_uint(1), c_uint(2), on=on)
        driver.synchronize(on)
        if (numbers[mine], numbers[mine + 1]) != (turn, turn + 1):
            wrong.append((mine, turn, list(numbers)))
            return
threads = [threading.Thread(target=work, args=(4 * n, on)) for n, on in enumerate([stream, other, driver.stream()])]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong, wrong
"""


def test_threads_share_memory_that_kernels_use_on_streams_of_their_own(server):
    run(server, TOGETHER)


FREED = """
import ctypes, threading, time, driver
from ctypes import c_size_t, c_uint, c_uint64
driver.start()
gate, source = driver.alloc(4096), driver.alloc(1 << 20)
driver.call("cuMemsetD8_v2", c_uint64(gate), 0, c_size_t(64))
driver.call("cuMemsetD8_v2", c_uint64(source), 7, c_size_t(1 << 20))
driver.call("cuCtxSynchronize")
context = ctypes.c_void_p()
driver.call("cuCtxGetCurrent", ctypes.byref(context))
other = driver.stream()
for turn in range(1, 4):
    stream, word = driver.stream(), ctypes.c_void_p()
    driver.call("cuMemHostAlloc", ctypes.byref(word), c_size_t(1 << 20), 0)
    driver.call("cuStreamWaitValue32_v2", stream, c_uint64(gate), c_uint(turn), 0)
    driver.call("cuMemcpyDtoHAsync_v2", word, c_uint64(source), c_size_t(1 << 20), stream)
    driver.call("cuStreamDestroy_v2", stream)
    def open_gate():
        time.sleep(0.2)
        driver.call("cuCtxSetCurrent", context)
        driver.call("cuStreamWriteValue32_v2", other, c_uint64(gate), c_uint(turn), 0)
    opening = threading.Thread(target=open_gate)
    opening.start()
    driver.call("cuMemFreeHost", word)
    opening.join()
    driver.call("cuCtxSynchronize")
"""


def test_memory_that_a_stream_which_is_gone_still_writes_is_not_freed_before(server):
    run(server, FREED)

# Work that reads mirrored memory comes behind what is still on its way there when it is published.
BEHIND = START + """
import sys, threading
gate, source = driver.alloc(4096), driver.alloc(4096)
blocking = [c_void_p() for _ in range(2)]
for made in blocking: driver.call("cuStreamCreate", ctypes.byref(made), 0)
legacy, event = None, driver.event()

def wait(second, first):
    driver.call("cuEventRecord", event, first)
    driver.call("cuStreamWaitEvent", second, event, 0)

def something():
    driver.call("cuMemsetD8Async", c_uint64(gate + 64), 0, c_size_t(1), legacy)

def written():
    driver.call("cuStreamWriteValue32_v2", stream, c_uint64(gate + 8), c_uint(turn), 0)
    driver.call("cuStreamWaitValue32_v2", other, c_uint64(gate + 8), c_uint(turn), 0)

# The stream of what is on its way, that of the kernel, and what puts the one behind the other.
FIRST, SECOND, order = {
    "same": (stream, stream, lambda: None),
    "event": (stream, other, lambda: wait(other, stream)),
    "from_legacy": (legacy, blocking[0], lambda: None),
    "to_legacy": (blocking[0], legacy, lambda: None),
    "through_legacy": (blocking[0], blocking[1], something),
    "all_the_way": (stream, other, lambda: (wait(blocking[0], stream), something(), wait(other, blocking[1]))),
    "word": (stream, other, written),
}[sys.argv[1]]

go = threading.Event()
def write(_):
    assert go.wait(30)
    numbers[0] = numbers[4] = 100 * turn
function = ctypes.CFUNCTYPE(None, c_void_p)(write)
at = ctypes.addressof(word)
rows = Copy2D(srcMemoryType=2, srcDevice=source, srcPitch=16, dstMemoryType=1, dstHost=at, dstPitch=16, WidthInBytes=4, Height=2)
ON_THEIR_WAY = [
    lambda: driver.call("cuMemcpyDtoHAsync_v2", word, c_uint64(source), c_size_t(32), FIRST),
    lambda: driver.call("cuMemcpy2DAsync_v2", ctypes.byref(rows), FIRST),
    lambda: driver.call("cuLaunchHostFunc", FIRST, function, None),
]

driver.call("cuMemsetD8_v2", c_uint64(gate), 0, c_size_t(4096))
more()
driver.call("cuCtxSynchronize")
opener = driver.stream()
for turn in range(1, 31):
    for n in range(8): numbers[n] = 7
    driver.call("cuMemsetD32Async", c_uint64(source), c_uint(100 * turn), c_size_t(16), FIRST)
    # The caller opens the gate when all has been published: it must not be held up by what is behind it.
    driver.call("cuStreamWaitValue32_v2", FIRST, c_uint64(gate), c_uint(turn), 0)
    ON_THEIR_WAY[turn % 3]()
    order()
    for by in (1, 2):
        driver.launch(add, 1, 5, c_uint64(at), c_uint(by), c_uint(5), on=SECOND)
    driver.call("cuStreamWriteValue32_v2", opener, c_uint64(gate), c_uint(turn), 0)
    go.set()
    driver.synchronize(SECOND)
    go.clear()
    left = 100 * turn if turn % 3 == 0 else 7
    expected = [100 * turn + 3, *[left + 3] * 3, 100 * turn + 3, *[left] * 3]
    assert list(numbers[:8]) == expected, (turn, list(numbers[:8]), expected)
"""


@pytest.mark.parametrize("how", ["same", "event", "from_legacy", "to_legacy", "through_legacy", "all_the_way", "word"])
def test_a_kernel_sees_what_was_still_on_its_way(server, how):
    run(server, BEHIND, how, limit=60)


# What a stream does not come behind holds it up no more than natively.
BESIDE = START + """
import threading
go = threading.Event()
function = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: go.wait(30))
gate = driver.alloc(4096)
driver.call("cuMemsetD8_v2", c_uint64(gate), 0, c_size_t(64))
third = driver.stream()
# The first launch of a kernel may wait for all that the GPU does.
more(0)
driver.call("cuCtxSynchronize")
for turn in range(1, 20):
    # One stream stands at a copy into the memory, another at a host function; the third one has work of its own there.
    driver.call("cuStreamWaitValue32_v2", other, c_uint64(gate), c_uint(turn), 0)
    driver.call("cuMemcpyDtoHAsync_v2", ctypes.byref(numbers, 32), c_uint64(gate), c_size_t(4), other)
    driver.call("cuLaunchHostFunc", third, function, None)
    event = driver.event()
    driver.call("cuEventRecord", event, stream)
    driver.call("cuStreamWaitEvent", stream, event, 0)
    more()
    driver.synchronize(stream)
    assert numbers[0] == turn, (turn, list(numbers))
    driver.call("cuStreamWriteValue32_v2", stream, c_uint64(gate), c_uint(turn), 0)
    go.set()
    driver.synchronize(other)
    driver.synchronize(third)
    go.clear()
    assert numbers[8] == turn, (turn, list(numbers))
"""


def test_a_kernel_does_not_wait_for_what_its_stream_does_not_come_behind(server):
    run(server, BESIDE, limit=60)


# A host function sees what streams have brought that its own comes behind, also what is to be unpacked here.
SEEN_BY_FUNCTIONS = START + """
source, target = driver.alloc(4096), driver.pinned(4096)
rows = Copy2D(srcMemoryType=2, srcDevice=source, srcPitch=64, dstMemoryType=1, dstHost=ctypes.addressof(target),
              dstPitch=64, WidthInBytes=4, Height=2)
seen = []
function = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: seen.append((target[64], numbers[0])))
event = driver.event()
for turn in range(1, 200):
    driver.call("cuMemsetD8Async", c_uint64(source), turn, c_size_t(4096), stream)
    driver.call("cuMemcpy2DAsync_v2", ctypes.byref(rows), stream)
    more()
    driver.call("cuEventRecord", event, stream)
    driver.call("cuStreamWaitEvent", other, event, 0)
    driver.call("cuLaunchHostFunc", other, function, None)
    driver.synchronize(other)
    assert seen == [(turn, turn)], (turn, seen)
    seen.clear()
"""


def test_a_host_function_sees_what_its_stream_comes_behind(server):
    run(server, SEEN_BY_FUNCTIONS)


# What is as it was before two kernels, of which the second undoes what the first did, is told all the same.
UNDONE = START + """
event = driver.event()
for memory, turns in (word, 200), (driver.pinned(3 << 20), 20):
    at = c_uint64(ctypes.addressof(memory))
    for on in (other, stream):
        for turn in range(turns):
            driver.launch(add, 1, 1, at, c_uint(1), c_uint(1), on=stream)
            driver.call("cuEventRecord", event, stream)
            driver.call("cuStreamWaitEvent", on, event, 0)
            driver.launch(add, 1, 1, at, c_uint(0xffffffff), c_uint(1), on=on)
            driver.synchronize(on)
            assert memory[0] == 0, (len(memory), turn)
"""


def test_what_a_later_kernel_undoes_is_undone(server):
    run(server, UNDONE)


# A copy lies on top of what a kernel has written that it comes behind, also through the legacy stream, where nothing of
# that is told.
ON_TOP = START + """
blocking = [c_void_p() for _ in range(2)]
for made in blocking: driver.call("cuStreamCreate", ctypes.byref(made), 0)
source = driver.alloc(4096)
driver.call("cuMemsetD32Async", c_uint64(source), c_uint(5), c_size_t(1024), None)
for turn in range(1, 300):
    driver.launch(add, 1, 4, c_uint64(ctypes.addressof(word)), c_uint(turn), c_uint(4), on=blocking[0])
    driver.call("cuMemsetD8Async", c_uint64(source + 64), 0, c_size_t(1), None)
    driver.call("cuMemcpyDtoHAsync_v2", word, c_uint64(source), c_size_t(8), blocking[1])
    driver.call("cuCtxSynchronize")
    assert list(numbers[:2]) == [5, 5] and numbers[2] == turn * (turn + 1) // 2, (turn, list(numbers))
"""


def test_a_copy_lies_on_top_of_what_it_comes_behind(server):
    run(server, ON_TOP)


# A word that a graph writes, captured while a host function was still to be run that may write there as well.
CAPTURED = START + """
FUNCTION = ctypes.CFUNCTYPE(None, c_void_p)
graph, executable = c_void_p(), c_void_p()
wait = FUNCTION(lambda _: time.sleep(0.05))
more()
driver.call("cuLaunchHostFunc", stream, wait, None)
driver.call("cuStreamBeginCapture_v2", stream, 2)
driver.call("cuStreamWriteValue32_v2", stream, c_uint64(ctypes.addressof(word) + 4), c_uint(9), 0)
driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, c_uint64(0))
for turn in range(4):
    numbers[1] = turn
    driver.call("cuGraphLaunch", executable, stream)
    driver.synchronize(stream)
    assert list(numbers[:2]) == [1, 9], (turn, list(numbers[:2]))
"""


def test_a_word_that_a_graph_writes(server):
    run(server, CAPTURED)
