"""What programs do beside CUDA: several sessions, forks, threads, ends of every kind, dlclose."""

import subprocess
import time

import pytest

from harness import BUILT, Client, alive, run, until


def test_two_sessions_at_once(server):
    """Their memory is their own: the same address holds something else in each."""
    program = """
import sys, driver
worked = driver.Worked()
mine = bytes([int(sys.argv[1])]) * 4096
memory = driver.alloc(4096)
driver.to_device(memory, mine)
print(memory, flush=True)
for line in sys.stdin:
    worked.again()
    print(driver.from_device(memory, 4096) == mine, flush=True)
"""
    with Client(server, program, 1) as first, Client(server, program, 2) as second:
        assert first.hear() == second.hear()
        assert server.worker_of(first) != server.worker_of(second)
        for _ in range(10):
            assert first.ask("go") == second.ask("go") == "True"
        assert first.finish()[0] == second.finish()[0] == 0
    until(lambda: server.sessions() == 0, "both sessions are closed", 10)


def test_the_other_sessions_memory_is_out_of_reach(server):
    with Client(server, """
import driver
driver.start()
print(driver.alloc(8 << 20), flush=True)
input()
""") as owner:
        address = int(owner.hear()) + (4 << 20)
        run(server, """
import sys, driver
driver.start()
assert driver.code_of(driver.from_device, int(sys.argv[1]), 16) != 0
""", address)
        owner.say("done")
        assert owner.finish()[0] == 0


def test_fork_before_cuda(server):
    """As DataLoader's workers and multiprocessing do: each has a session of its own."""
    client = run(server, """
import os, driver
child = os.fork()
driver.Worked().again()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
else:
    os._exit(0)
""")
    assert client.out == "both\n"


def test_fork_after_cuda(server):
    """CUDA does not work in the child, which is told so and ends well; the parent goes on."""
    client = run(server, """
import os, sys, driver
worked = driver.Worked()
worked.again()
child = os.fork()
if child == 0:
    code = driver.code_of(worked.again)
    print("child", code, flush=True)
    sys.exit(0)  # through every destructor and exit handler
assert os.waitpid(child, 0)[1] == 0
for _ in range(20):
    worked.again()
print("parent")
""")
    child, parent = client.out.split("\n")[:2]
    assert parent == "parent"
    # CUDA's own answer to use after fork.
    assert child in ("child 3", "child 304"), child
    assert server.sessions() <= 1


def test_many_forks_while_threads_work(server):
    client = run(server, """
import os, threading, driver
worked = driver.Worked()
over = threading.Event()
def work():
    driver.call("cuCtxSetCurrent", worked.context)
    while not over.is_set():
        worked.again()
thread = threading.Thread(target=work)
thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
over.set()
thread.join()
worked.again()
print("right")
""")
    assert client.out == "right\n"


def test_threads(server):
    """Eight threads, each with a stream and memory of its own, at once."""
    client = run(server, """
import ctypes, threading, driver
context = driver.start()
kernel = driver.function(driver.module(), "add")
wrong = []
def work(seed):
    try:
        driver.call("cuCtxSetCurrent", context)
        stream = driver.stream()
        memory = driver.alloc(4096)
        for n in range(50):
            numbers = (ctypes.c_uint * 1024)(*range(seed, seed + 1024))
            driver.call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(memory), numbers, ctypes.c_size_t(4096), stream)
            driver.add(kernel, memory, n, 1024, on=stream)
            driver.add(kernel, memory, seed, 1024, on=stream)
            back = (ctypes.c_uint * 1024)()
            driver.call("cuMemcpyDtoHAsync_v2", back, ctypes.c_uint64(memory), ctypes.c_size_t(4096), stream)
            driver.synchronize(stream)
            if list(back) != [k + n + 2 * seed for k in range(1024)]:
                wrong.append((seed, n))
        driver.free(memory)
        driver.call("cuStreamDestroy_v2", stream)
    except Exception as error:
        wrong.append(error)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(wrong)
""")
    assert client.out == "[]\n", client.out


def test_the_first_call_from_many_threads(server):
    client = run(server, """
import threading, driver
codes = []
threads = [threading.Thread(target=lambda: codes.append(driver.code_of(driver.start))) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(codes)
""")
    assert client.out == str([0] * 16) + "\n"
    assert len(server.lines(" opened: ")) == 1


def ends(server, program, code=0):
    """The program ends with this code, quickly, and its session with it."""
    with Client(server, "import driver, os, sys, ctypes\nworked = driver.Worked()\nworked.again()\n"
                        "print('ready', flush=True)\n" + program) as client:
        worker = server.worker_of(client)
        assert client.hear() == "ready"
        before = time.monotonic()
        ended, _ = client.finish(20)
        assert ended == code, (ended, client.errors)
        assert time.monotonic() - before < 10
        until(lambda: not alive(worker), "the worker is gone", 10)
        return client


def test_exit_without_cleanup(server, bystander):
    """Work is still running, memory is not freed, nothing is waited for."""
    work = "memory = driver.alloc(8 << 20)\n" \
           "for _ in range(200): driver.add(worked.add, memory, 1, 1000)\n"
    ends(server, work)
    ends(server, work + "sys.exit(3)", 3)
    ends(server, work + "os._exit(4)", 4)
    ends(server, work + "ctypes.CDLL(None).exit(5)", 5)
    ends(server, work + "ctypes.CDLL(None).quick_exit(6)", 6)
    ends(server, work + "os.abort()", -6)


def test_exit_while_a_kernel_never_ends(server, bystander):
    ends(server, "driver.launch(driver.function(driver.module(), 'spin'), 1, 1)")


def test_exit_while_threads_work(server, bystander):
    ends(server, """
import threading
def work():
    driver.call("cuCtxSetCurrent", worked.context)
    while True:
        worked.again()
threading.Thread(target=work, daemon=True).start()
""")


INTERRUPTED = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>
typedef int Result;
Result cuInit(unsigned), cuDevicePrimaryCtxRetain(void **, int), cuDevicePrimaryCtxRelease_v2(int);
Result cuCtxSetCurrent(void *), cuCtxSynchronize(void), cuMemAlloc_v2(unsigned long long *, size_t);
Result cuMemsetD32_v2(unsigned long long, unsigned, size_t);
Result cuStreamWaitValue32_v2(void *, unsigned long long, unsigned, unsigned);
static unsigned long long word;
static void must(Result code) { if (code) { printf("%d\n", code); _exit(1); } }
/* As the CUDA runtime does at exit, and what waits for the server. */
static void last(void) {
    void *other;
    printf("%d", cuDevicePrimaryCtxRetain(&other, 1));
    printf(" %d\n", cuDevicePrimaryCtxRelease_v2(0));
}
static void leave(int signal) { (void)signal; exit(7); }
int main(int count, char **arguments) {
    void *context;
    struct itimerval soon = {{0, 0}, {0, count > 1 ? atoi(arguments[1]) : 0}};
    signal(SIGALRM, leave);
    must(cuInit(0));
    must(cuDevicePrimaryCtxRetain(&context, 0));
    must(cuCtxSetCurrent(context));
    must(cuMemAlloc_v2(&word, 4096));
    must(cuMemsetD32_v2(word, 0, 1));
    atexit(last);
    must(cuStreamWaitValue32_v2(0, word, 1, 0));
    setitimer(ITIMER_REAL, &soon, 0);
    cuCtxSynchronize();
    return 1;
}
"""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A program that ends in a signal handler, in the middle of a synchronisation that would never end."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "program.c").write_text(INTERRUPTED)
    subprocess.run(["cc", "-O1", "-o", folder / "program", folder / "program.c", BUILT / "libcuda.so"],
                   check=True, timeout=60)
    return folder / "program"


# Longer than the caller does the I/O thread's work, where it does; and long before.
@pytest.mark.parametrize("after", [1_000, 5_000, 900_000])
def test_exit_in_a_signal_handler_while_a_call_waits(server, interrupted, after):
    for link in (server.address, server.local):
        with Client(link, None, command=[interrupted, str(after)], env={"FUSEWIRE_SPIN_US": "1000"}) as client:
            code, out = client.finish(20)
            assert code == 7, (code, out, client.errors)
            # The driver at its end, as natively, or still there.
            assert out in ("4 4\n", "0 0\n"), out
    until(lambda: server.sessions() == 0, "the sessions are closed", 10)


def test_exec(server):
    """The session of the program that was there before ends with it."""
    ends(server, "os.execv('/bin/true', ['true'])")


def test_dlclose(server, bystander):
    """The library stays while its threads run, and can be opened again."""
    client = ends(server, """
handle = driver.lib._handle
dl = ctypes.CDLL(None)
dl.dlclose.argtypes = [ctypes.c_void_p]
for _ in range(3):
    dl.dlclose(handle)
again = ctypes.CDLL("libcuda.so.1")
assert again.cuInit(0) == 0
worked.again()
""")
    assert not client.complaints(), client.errors


def test_thirty_sessions_one_after_the_other(server):
    """Nothing is left behind: processes, descriptors."""
    import os

    descriptors = lambda: len(os.listdir(f"/proc/{server.process.pid}/fd"))
    run(server, "import driver; driver.Worked().again()")
    until(lambda: server.sessions() == 0, "the session is closed", 10)
    time.sleep(0.5)
    before = descriptors()
    for _ in range(30):
        run(server, "import driver; driver.start()", stats=False)
    until(lambda: server.sessions() == 0, "the sessions are closed", 10)
    until(lambda: descriptors() <= before, "the daemon has closed what it opened", 10)


def test_an_ordinary_end_is_one_line_in_the_log(server):
    run(server, "import driver; driver.Worked().again()")
    line = server.wait_line(" closed: ")
    assert line.endswith("the program ended"), line
    time.sleep(0.2)
    assert not server.lines("worker:") and len(server.lines("session ")) == 2, server.log()


SIGNALS = """
import ctypes, pathlib, signal, driver
driver.start()
stream = driver.stream()
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
memory = driver.alloc(4096)
for turn in range(400):
    driver.call("cuMemsetD8Async", ctypes.c_uint64(memory), 0, ctypes.c_size_t(4096), stream)
    if turn >= 200:
        driver.call("cuLaunchHostFunc", stream, function, None)
    driver.synchronize(stream)
names = set()
for task in pathlib.Path("/proc/self/task").iterdir():
    status = dict(line.split(":\\t", 1) for line in (task / "status").read_text().splitlines() if ":\\t" in line)
    if status["Name"].startswith("fusewire"):
        names.add(status["Name"])
        assert int(status["SigBlk"], 16) >> (signal.SIGUSR1 - 1) & 1, status["Name"]
assert {"fusewire-io", "fusewire-host"} <= names, names
"""


def test_threads_of_ours_take_no_signals_of_the_programs(server):
    # Also where a thread of the program's finds that one is wanted.
    for spin in ["0", "2000"]:
        run(server, SIGNALS, env={"FUSEWIRE_SPIN_US": spin})
