"""Host memory that kernels are given: what the program sees there, and when.

Over a link that shares no memory the server has a copy, which is brought up to date around the work that uses it.
"""

from harness import run

START = """
import ctypes, time, driver
from ctypes import c_size_t, c_uint, c_uint64
driver.start()
add = driver.function(driver.module(), "add")
stream, other = driver.stream(), driver.stream()
word = driver.pinned(64)
numbers = (ctypes.c_uint * 16).from_address(ctypes.addressof(word))

def more(by=1, count=1):
    driver.launch(add, 1, count, c_uint64(ctypes.addressof(word)), c_uint(by), c_uint(count), on=stream)
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
