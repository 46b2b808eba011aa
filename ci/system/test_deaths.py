"""One end goes away while the other works: clients, workers, the daemon.

Whoever is left learns of it within a second or so, in one line, and goes on.
"""

import os
import signal
import subprocess
import sys
import time

from harness import FUSEWIRE, Client, alive, environment, run, until

# Copies 64 MiB to and fro without end.
COPYING = """
import driver
driver.start()
size = 64 << 20
memory, data = driver.alloc(size), bytes(size)
driver.to_device(memory, data)
print("copying", flush=True)
while True:
    driver.to_device(memory, data)
    driver.from_device(memory, size)
"""

# Launches and copies without end; says the code of the first call that fails, then of a few more.
STEPPING = """
import time, driver
worked = driver.Worked()
print("stepping", flush=True)
while True:
    try:
        worked.again()
    except driver.CudaError as error:
        print(error.code, time.time(), flush=True)
        break
print(driver.code_of(driver.synchronize), driver.code_of(driver.alloc, 1 << 20), driver.code_of(worked.again), flush=True)
"""


def test_a_client_killed_in_the_middle_of_a_copy(server, bystander):
    for delay in (0, 0.05, 0.2):
        with Client(server, COPYING) as client:
            worker = server.worker_of(client)
            assert client.hear() == "copying"
            time.sleep(delay)
            client.process.send_signal(signal.SIGKILL)
            client.process.wait()
            # The worker's process holds the memory: with it, all is freed.
            until(lambda: not alive(worker), "the worker of the killed client is gone", 10)
        bystander.check()
    until(lambda: server.sessions() == 1, "all sessions but the bystander's are closed", 10)
    # The next session has the whole memory, and works.
    run(server, """
import driver
worked = driver.Worked()
free, total = driver.mem_info()
assert free > total - (64 << 20), (free, total)
worked.again()
""")


def test_a_client_that_stops_reading_holds_nobody_up(server, bystander):
    with Client(server, COPYING) as client:
        assert client.hear() == "copying"
        client.process.send_signal(signal.SIGSTOP)
        try:
            before = time.monotonic()
            for _ in range(20):
                bystander.check()
            assert time.monotonic() - before < 20
        finally:
            client.process.send_signal(signal.SIGCONT)


def test_a_worker_killed_in_the_middle_of_a_step(server, bystander):
    with Client(server, STEPPING) as client:
        assert client.hear() == "stepping"
        worker = server.worker_of(client)
        time.sleep(0.1)
        killed = time.time()
        os.kill(worker, signal.SIGKILL)
        code, when = client.hear().split()
        assert int(code) == 46 and float(when) - killed < 1, (code, float(when) - killed)
        assert client.hear().split() == ["46", "46", "46"]
        ended, _ = client.finish()
        assert ended == 0
        [line] = client.complaints()
        assert "lost" in line and "46" in line and "log" in line, line
    line = server.wait_line("SIGKILL")
    assert " closed: " in line, line
    bystander.check()
    run(server, "import driver; driver.Worked().again()")


def test_a_worker_killed_while_the_program_waits(server, bystander):
    """Inside a call that waits for the GPU: the call returns."""
    with Client(server, """
import time, driver
driver.start()
driver.launch(driver.function(driver.module(), "spin"), 1, 1)
print("waiting", flush=True)
code = driver.code_of(driver.synchronize)
print(code, time.time(), flush=True)
""") as client:
        assert client.hear() == "waiting"
        worker = server.worker_of(client)
        time.sleep(0.3)
        killed = time.time()
        os.kill(worker, signal.SIGKILL)
        code, when = client.hear().split()
        assert int(code) == 46 and float(when) - killed < 1, (code, float(when) - killed)


def test_a_daemon_stopped_while_sessions_run(server):
    with Client(server, STEPPING) as first, Client(server, STEPPING) as second:
        assert first.hear() == second.hear() == "stepping"
        workers = [server.worker_of(client) for client in (first, second)]
        stopped = time.time()
        assert server.stop() == 0
        for client in (first, second):
            code, when = client.hear().split()
            assert int(code) == 46 and float(when) - stopped < 6
            assert client.hear().split() == ["46", "46", "46"]
            assert client.finish()[0] == 0
            [line] = client.complaints()
            assert "shutting down" in line or "stop" in line, line
        assert not any(map(alive, workers))


def test_a_daemon_killed_while_sessions_run(server):
    with Client(server, STEPPING) as client:
        assert client.hear() == "stepping"
        worker = server.worker_of(client)
        server.stop(signal.SIGKILL)
        # Its workers do not outlive it.
        until(lambda: not alive(worker), "the worker is gone", 5)
        assert client.hear().split()[0] == "46"
        client.hear()
        assert client.finish()[0] == 0
        assert len(client.complaints()) == 1, client.errors


def test_ctrl_c(server, bystander):
    """The program ends as it would without Fusewire; the server notices."""
    # Whoever runs the tests may ignore the signal, as a shell does for what it runs in the background.
    listens = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with Client(server, listens + COPYING) as client:
        worker = server.worker_of(client)
        assert client.hear() == "copying"
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(20) == -signal.SIGINT
        until(lambda: not alive(worker), "the worker is gone", 10)


def test_the_exit_code_is_the_programs():
    done = subprocess.run([FUSEWIRE, "run", "--server", "127.0.0.1:1", "--", sys.executable, "-c", "exit(42)"],
                          env=environment(), timeout=60)
    assert done.returncode == 42
