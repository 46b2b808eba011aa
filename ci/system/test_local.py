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
import time

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


def ticks(pid):
    """Processor time of a process so far, in ticks of the clock."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_lanes_are_in_shared_memory_and_copies_come_back_as_they_went(server):
    with Client(server.local, IDLE) as client:
        assert client.hear() == "ready"
        assert shares(client.pid) and shares(server.worker_of(client))
    with Client(server.address, IDLE) as client:
        assert client.hear() == "ready"
        assert not shares(client.pid) and not shares(server.worker_of(client))
    run(server.local, COPIES)


def test_an_idle_session_uses_no_processor(server):
    with Client(server.local, IDLE) as client:
        assert client.hear() == "ready"
        processes = [client.pid, server.worker_of(client)]
        time.sleep(0.5)
        before = [ticks(pid) for pid in processes]
        time.sleep(3)
        used = [ticks(pid) - ticked for pid, ticked in zip(processes, before)]
        assert max(used) <= 1, used
        assert client.ask("again") == "right"


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
