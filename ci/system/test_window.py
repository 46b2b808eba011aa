"""A server that does not keep up: callers wait, and nothing is lost or kept without bound."""

import os
import signal
import time

from harness import Client

# 20,000 copies of 4 KiB, each to its place; the server may owe acknowledgements of 32 MiB.
COPIES, BYTES, WINDOW = 20_000, 4096, 32 << 20
PROGRAM = f"""
import ctypes, sys, threading, driver
from ctypes import c_size_t, c_uint64
context = driver.start()
memory, stream = driver.alloc({COPIES * BYTES}), driver.stream()
driver.synchronize(stream)
published = 0
def publish():
    global published
    driver.call("cuCtxSetCurrent", context)
    for n in range({COPIES}):
        data = n.to_bytes(4, "little") * {BYTES // 4}
        driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory + n * {BYTES}), data, c_size_t({BYTES}), stream)
        published = n + 1
thread = threading.Thread(target=publish)
print("ready", flush=True)
for line in sys.stdin:
    if line == "begin\\n":
        thread.start()
    if line == "end\\n":
        thread.join()
        driver.synchronize(stream)
        found = driver.from_device(memory, {COPIES * BYTES})
        assert found == b"".join(n.to_bytes(4, "little") * {BYTES // 4} for n in range({COPIES}))
    print(published, flush=True)
"""


def test_callers_wait_for_a_server_that_does_not_keep_up(server):
    with Client(server.address, PROGRAM) as client:
        assert client.hear() == "ready"
        worker = server.worker_of(client)
        os.kill(worker, signal.SIGSTOP)
        try:
            client.ask("begin")
            seen = [-1, int(client.ask("now"))]
            while seen[-1] != seen[-2]:
                time.sleep(0.5)
                seen.append(int(client.ask("now")))
        finally:
            os.kill(worker, signal.SIGCONT)
        most = WINDOW // BYTES
        assert 0.9 * most < seen[-1] <= most, "they wait when as much is not acknowledged as may be"
        assert int(client.ask("end")) == COPIES
        client.finish()
