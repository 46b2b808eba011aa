"""What a session costs the server that does nothing: no processor, at either end, and little memory."""

import pathlib
import re
import time

import pytest

from harness import Client, Server

# Everything that takes memory: images of all sizes, copies of all kinds, many launches, and in the end work that
# nobody waits for. Then the program does nothing until it is asked for more.
BUSY = """
import ctypes, sys, driver
from ctypes import byref, c_char_p, c_size_t, c_uint64, c_void_p
driver.start()
for mib in 0, 1, 16, 40:
    image = driver.KERNELS.encode() + b"//" + b"x" * (mib << 20)
    library, kernel, module = c_void_p(), c_void_p(), c_void_p()
    driver.call("cuLibraryLoadData", byref(library), c_char_p(image), None, None, 0, None, None, 0)
    driver.call("cuLibraryGetKernel", byref(kernel), library, b"add")
    driver.call("cuLibraryUnload", library)
    driver.call("cuModuleLoadData", byref(module), c_char_p(image))
    driver.call("cuModuleUnload", module)
add = driver.function(driver.module(), "add")
most = 64 << 20
memory, stream, pinned = driver.alloc(most), driver.stream(), driver.pinned(most)
def again():
    for size in 1024, 60_000, 1 << 20, most:
        driver.to_device(memory, bytes(size))
        assert driver.from_device(memory, size) == bytes(size)
    for copy in "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2":
        ends = [c_uint64(memory), pinned]
        driver.call(copy, *(ends if "HtoD" in copy else ends[::-1]), c_size_t(most), stream)
    for n in range(3000):
        driver.add(add, memory, 1, 1000, on=stream)
        if n % 100 == 0:
            driver.call("cuEventRecord", driver.event(), stream)
    driver.synchronize(stream)
    assert driver.from_device(memory, 4) == (3000).to_bytes(4, "little")
    driver.add(add, memory, 1, 1000)
    driver.call("cuEventRecord", driver.event(), stream)
again()
print("done", flush=True)
for line in sys.stdin:
    again()
    print("done", flush=True)
"""

SLOT = 256 << 10
# Towards the GPU, and back.
SLOTS = 64, 32


@pytest.fixture
def busy_server(tmp_path):
    with Server("--image-cache", tmp_path, "--slot-bytes", str(SLOT), "--staging-slots", "%d,%d" % SLOTS) as server:
        yield server


@pytest.fixture
def clients(busy_server):
    """A client over TCP and one over shared memory, which have worked and do nothing now."""
    with Client(busy_server.address, BUSY) as remote, Client(busy_server.local, BUSY) as local:
        for client in remote, local:
            assert client.hear() == "done"
        yield {"tcp": remote, "shared memory": local}


def ticks(pid):
    """Processor time of a process so far, in ticks of the clock: hundredths of a second."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def mappings(pid):
    """What a process has mapped: name, length, and how much of it is in memory, in bytes."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if begin := re.match(r"([0-9a-f]+)-([0-9a-f]+) (?:\S+ ){3}\S+ *(.*)", line):
            found.append([begin[3], int(begin[2], 16) - int(begin[1], 16), 0])
        elif line.startswith("Rss:"):
            found[-1][2] = int(line.split()[1]) << 10
    return found


def test_idle_sessions_use_no_processor(busy_server, clients):
    """For 10 s nobody does anything: clients, workers and daemon. One tick may fall on anything."""
    processes = {"daemon": busy_server.process.pid}
    for link, client in clients.items():
        processes |= {f"client, {link}": client.pid, f"worker, {link}": busy_server.worker_of(client)}
    # What has just been done has to end first.
    time.sleep(1)
    before = {name: ticks(pid) for name, pid in processes.items()}
    time.sleep(10)
    used = {name: ticks(pid) - before[name] for name, pid in processes.items()}
    assert max(used.values()) <= 1, used
    for client in clients.values():
        assert client.ask("again") == "done"


@pytest.mark.parametrize("link", ["tcp", "shared memory"])
def test_a_session_adds_64_mib_at_most(busy_server, clients, link):
    """To staging, to what the driver needs (here: the software GPU's memory), and to the program's own pinned memory.

    All else counts: code, heap, stacks, lanes, and what the software GPU has on the heap.
    """
    assert clients[link].ask("again") == "done"
    found = mappings(busy_server.worker_of(clients[link]))
    words = 128 << 10
    staging = [row for row in found if row[0] == "" and row[1] == sum(SLOTS) * SLOT + words]
    assert len(staging) == 1, found
    rest = [row for row in found if row not in staging and not re.match("/memfd:(softgpu|fusewire-pinned)", row[0])]
    assert len(found) - len(rest) > 1, "the software GPU's memory is not called what it was"
    total = sum(row[2] for row in rest)
    assert total <= 64 << 20, f"{total} bytes: {sorted(rest, key=lambda row: -row[2])[:10]}"
