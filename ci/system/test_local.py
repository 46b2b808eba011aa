"""Programs on the GPU host itself: over a UNIX socket, with lanes in shared memory.

The rest of the suite holds over this link too: FUSEWIRE_TEST_LINK=unix.
"""

import os
import pathlib
import signal
import socket
import stat
import subprocess
import tempfile

import pytest

from harness import FUSEWIRE, SOFTGPU, Client, Server, alive, environment, run, until

IDLE = """
import sys, driver
worked = driver.Worked()
print("ready", flush=True)
for line in sys.stdin:
    worked.again()
    print("right", flush=True)
"""

# Large pageable copies both ways, small ones, launches, and what comes back is right.
COPIES = """
import driver, os
driver.start()
add = driver.function(driver.module(), "add")
for size in (4, 4096, 100_000, 3 << 20, 40 << 20):
    data = os.urandom(size)
    memory = driver.alloc(size)
    driver.to_device(memory, data)
    assert driver.from_device(memory, size) == data, size
    driver.call("cuMemsetD8_v2", driver.c_uint64(memory), 0, driver.c_size_t(size))
    driver.add(add, memory, 3, size // 4)
    assert driver.from_device(memory, size) == (3).to_bytes(4, "little") * (size // 4)
    driver.free(memory)
"""


def shares(pid):
    """Whether a process has lanes in shared memory."""
    return "memfd:fusewire-link" in pathlib.Path(f"/proc/{pid}/maps").read_text()


def test_lanes_are_in_shared_memory_and_copies_come_back_as_they_went(server):
    with Client(server.local, IDLE) as client:
        assert client.hear() == "ready"
        assert shares(client.pid) and shares(server.worker_of(client))
    with Client(server.address, IDLE) as client:
        assert client.hear() == "ready"
        assert not shares(client.pid) and not shares(server.worker_of(client))
    run(server.local, COPIES)


# More pageable data than there are slots, all of it for a stream that waits for what the program does next.
CROWDED = """
import ctypes, os, driver
from ctypes import c_size_t, c_uint, c_uint64
driver.start()
gate, stream, other = driver.pinned(4), driver.stream(), driver.stream()
word = ctypes.cast(gate, ctypes.POINTER(c_uint))
size = 200_000
memory = [driver.alloc(size) for _ in range(100)]
data = [os.urandom(size) for _ in memory]
driver.call("cuStreamWaitValue32_v2", stream, c_uint64(ctypes.addressof(gate)), c_uint(1), c_uint(0))
for to, source in zip(memory, data):
    driver.call("cuMemcpyHtoDAsync_v2", c_uint64(to), source, c_size_t(size), stream)
large = os.urandom(8 << 20)
elsewhere = driver.alloc(len(large))
driver.call("cuMemcpyHtoDAsync_v2", c_uint64(elsewhere), large, c_size_t(len(large)), other)
back = (ctypes.c_ubyte * len(large))()
driver.call("cuMemcpyDtoHAsync_v2", back, c_uint64(elsewhere), c_size_t(len(large)), other)
assert bytes(back) == large
word[0] = 1
driver.synchronize(stream)
assert all(driver.from_device(at, size) == sent for at, sent in zip(memory, data))
"""


def test_pageable_copies_do_not_wait_for_each_other_without_end(server):
    run(server.local, CROWDED)


def test_many_threads_copy_pageable_memory(server):
    run(server.local, """
import os, threading, driver
context = driver.start()
failed = []
def work(seed):
    try:
        driver.call("cuCtxSetCurrent", context)
        for size in (70_000, 3_000_000, 9_000_000):
            data = os.urandom(size)
            memory = driver.alloc(size)
            for _ in range(5):
                driver.to_device(memory, data)
                assert driver.from_device(memory, size) == data
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failed, failed
""")


def test_each_end_notices_the_others_death_within_a_second(server):
    with Client(server.local, IDLE) as client:
        assert client.hear() == "ready"
        worker = server.worker_of(client)
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
        until(lambda: not alive(worker), "the worker is gone", 1)
    program = """
import sys, time, driver
worked = driver.Worked()
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + 1
while driver.code_of(driver.synchronize) == 0 and time.monotonic() < end:
    time.sleep(0.01)
print(driver.code_of(worked.again), flush=True)
"""
    with Client(server.local, program) as client:
        assert client.hear() == "ready"
        os.kill(server.worker_of(client), signal.SIGKILL)
        assert client.ask("go") == "46"
        assert client.complaints(), "one line says why"


def test_the_file_decides_who_may_connect_and_a_token_counts_all_the_same():
    with tempfile.TemporaryDirectory() as folder:
        token = pathlib.Path(folder, "token")
        token.write_text("s3cret\n")
        with Server("--token-file", token, "--socket-mode", "600") as server:
            path = server.local.removeprefix("unix:")
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            run(server.local, "import driver; driver.start()", env={"FUSEWIRE_TOKEN": "s3cret"})
            refused = run(server.local, "import driver; assert driver.code_of(driver.start) == 100", stats=False)
            assert "token" in refused.errors, refused.errors
            # The kernel says who it was.
            assert server.lines(f"process {refused.pid} of user {os.getuid()}"), server.log()
        assert not os.path.exists(path), "the socket's file outlives its server"


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(server):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        with Server("--listen", f"unix:{path}") as other:
            other.wait_line(f"listening on unix:{path}")
            run(f"unix:{path}", "import driver; driver.start()")
        path = pathlib.Path(folder, "file")
        path.write_text("mine")
        for taken, why in ((server.local, "in use"), (f"unix:{path}", "something else")):
            done = subprocess.run([FUSEWIRE, "serve", "--listen", taken, "--driver", SOFTGPU], env=environment(),
                                  capture_output=True, text=True, timeout=60)
            assert done.returncode == 1 and why in done.stderr and taken in done.stderr, done.stderr
        assert path.read_text() == "mine"


def test_a_server_that_is_not_there():
    done = run("unix:/nonexistent/socket", "import driver; assert driver.code_of(driver.start) == 100", stats=False)
    assert "unix:/nonexistent/socket" in done.errors and len(done.complaints()) == 1, done.errors


# Pinned memory in all the ways that it is used; `data` is what must be there at each point.
PINNED = """
import ctypes, driver, os
from ctypes import c_size_t, c_uint, c_uint64, c_void_p
driver.start()
add = driver.function(driver.module(), "add")
at = ctypes.addressof
for size in (4, 1000, 100_000, 1 << 20, 3 << 20):
    words = size // 4
    a, b = driver.pinned(size), driver.pinned(size)
    memory, stream = driver.alloc(size), driver.stream()
    data = os.urandom(size)
    ctypes.memmove(a, data, size)
    # Synchronous both ways.
    driver.call("cuMemcpyHtoD_v2", c_uint64(memory), a, c_size_t(size))
    driver.call("cuMemcpyDtoH_v2", b, c_uint64(memory), c_size_t(size))
    assert bytes(b) == data, size
    # The source is the program's again when a synchronous copy returns.
    ctypes.memset(a, 7, size)
    assert driver.from_device(memory, size) == data
    # Asynchronous, in the order of the stream, the source being written by the stream itself.
    driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory), a, c_size_t(size), stream)
    driver.add(add, memory, 1, words, on=stream)
    driver.call("cuMemcpyDtoHAsync_v2", a, c_uint64(memory), c_size_t(size), stream)
    driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory), a, c_size_t(size), stream)
    driver.call("cuMemcpyDtoHAsync_v2", b, c_uint64(memory), c_size_t(size), stream)
    driver.synchronize(stream)
    assert bytes(b) == (0x07070708).to_bytes(4, "little") * words, size
    # From host to host, shared and pageable.
    c = (ctypes.c_ubyte * size)()
    driver.call("cuMemcpy", c_uint64(at(c)), c_uint64(at(b)), c_size_t(size))
    assert bytes(c) == bytes(b)
    driver.call("cuMemcpy", c_uint64(at(a)), c_uint64(at(b)), c_size_t(size))
    assert bytes(a) == bytes(b)
    driver.call("cuMemsetD8_v2", c_uint64(at(a)), 9, c_size_t(size))
    driver.synchronize()
    assert bytes(a) == bytes([9]) * size
    # A kernel writes it, and sees what the program has written.
    driver.add(add, at(a), 1, words)
    driver.synchronize()
    ctypes.memset(b, 0, size)
    driver.add(add, at(b), 5, words)
    driver.synchronize()
    assert bytes(a) == (0x0909090a).to_bytes(4, "little") * words
    assert bytes(b) == (5).to_bytes(4, "little") * words
    # Freed while a copy into it is under way; the next block may lie there.
    ctypes.memset(a, 3, size)
    driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory), a, c_size_t(size), stream)
    for _ in range(5):
        driver.call("cuMemcpyDtoHAsync_v2", b, c_uint64(memory), c_size_t(size), stream)
    driver.call("cuMemFreeHost", b)
    driver.call("cuMemFreeHost", a)
    after = driver.pinned(size)
    ctypes.memset(after, 1, size)
    driver.synchronize(stream)
    assert bytes(after) == bytes([1]) * size, size
    assert driver.from_device(memory, size) == bytes([3]) * size
    driver.call("cuMemFreeHost", after)
    driver.free(memory)
"""

# Words that both poll, and copies in a graph, which happen at every launch of it.
WATCHED = """
import ctypes, time, driver
from ctypes import byref, c_size_t, c_uint, c_uint64, c_void_p
driver.start()
word = driver.pinned(8)
view = ctypes.cast(word, ctypes.POINTER(c_uint))
stream = driver.stream()
at = ctypes.addressof(word)
# The stream waits for the program to write the word, and the program for the stream.
driver.call("cuStreamWaitValue32_v2", stream, c_uint64(at), c_uint(5), c_uint(0))
driver.call("cuStreamWriteValue32_v2", stream, c_uint64(at + 4), c_uint(6), c_uint(0))
time.sleep(0.05)
assert view[1] == 0
view[0] = 5
end = time.monotonic() + 20
while view[1] != 6:
    assert time.monotonic() < end, "the stream's write is not seen"
source, target = driver.pinned(1 << 20), driver.pinned(1 << 20)
memory, graph, made = driver.alloc(1 << 20), c_void_p(), c_void_p()
driver.call("cuStreamBeginCapture_v2", stream, 0)
driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory), source, c_size_t(1 << 20), stream)
driver.call("cuMemcpyDtoHAsync_v2", target, c_uint64(memory), c_size_t(1 << 20), stream)
driver.call("cuStreamEndCapture", stream, byref(graph))
driver.call("cuGraphInstantiateWithFlags", byref(made), graph, c_uint64(0))
for value in range(1, 6):
    ctypes.memset(source, value, 1 << 20)
    driver.call("cuGraphLaunch", made, stream)
    driver.synchronize(stream)
    assert bytes(target) == bytes([value]) * (1 << 20), value
"""


def shares_pinned(pid):
    """Bytes of pinned memory that a process shares with the other end."""
    spans = [line.split()[0].split("-") for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
             if "memfd:fusewire-pinned" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


@pytest.mark.parametrize("link", ["unix", "tcp"])
def test_pinned_memory_in_all_its_uses(server, link):
    address = server.local if link == "unix" else server.address
    client = run(address, PINNED)
    moved = sum(row["bytes_out"] + row["bytes_in"] for name, row in client.stats().items()
                if "HtoDAsync" in name or "DtoHAsync" in name)
    # The GPU's own engine moves it where the link can have it so; only records go over.
    assert moved < 10_000 if link == "unix" else moved > 4 << 20, moved


def test_a_word_of_shared_memory_is_watched_from_both_sides_and_graphs_copy_what_is_there(server):
    run(server.local, WATCHED)


def test_pinned_memory_comes_and_goes(server):
    with Client(server.local, """
import sys, driver
driver.start()
blocks = []
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "take":
        blocks.append(driver.pinned(8 << 20))
    else:
        driver.call("cuMemFreeHost", blocks.pop())
        driver.synchronize()
    print("done", flush=True)
""") as client:
        worker = server.worker_of(client)
        assert client.hear() == "ready"
        memory = [fd for fd in pathlib.Path(f"/proc/{client.pid}/fd").iterdir()
                  if "memfd:fusewire-pinned" in os.readlink(fd)]
        # Where threads spin there is a page of marks.
        first, blocks = shares_pinned(client.pid), os.stat(memory[0]).st_blocks
        assert first <= 4096 and blocks * 512 == first
        for size in (8 << 20, 16 << 20):
            assert client.ask("take") == "done"
            assert shares_pinned(client.pid) == shares_pinned(worker) == first + size
        for size in (8 << 20, 0):
            assert client.ask("give") == "done"
            assert shares_pinned(client.pid) == first + size
            until(lambda: shares_pinned(worker) == first + size, "the worker has unmapped it", 5)
        # The pages are the system's again, too, although the memory is still there for the next block.
        until(lambda: os.stat(memory[0]).st_blocks == blocks, "the pages are given back", 5)


@pytest.mark.parametrize("limit, lanes", [(64 << 20, True), (4 << 20, False)])
def test_without_memory_to_share_programs_run_all_the_same(limit, lanes):
    """The limit is on the size of files; what cannot be shared goes over the link, and lanes over the socket."""
    # The software GPU's memory is such a file, too.
    with Server(under=["sh", "-c", f'ulimit -f {limit // 512}; exec "$@"', "sh"]) as server:
        with Client(server.local, IDLE) as client:
            assert client.hear() == "ready"
            assert shares(client.pid) == lanes and shares_pinned(client.pid) == 0
            assert client.ask("again") == "right"
        for program in (PINNED, COPIES) if lanes else ():
            run(server.local, program)
