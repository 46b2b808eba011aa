"""Servers and clients for the tests: real processes, on free loopback ports, with time limits everywhere.

Nothing here judges: it starts, stops and collects. What is right is the tests' to say.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILT = pathlib.Path(os.environ.get("FUSEWIRE_BUILT") or
                     pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug")
FUSEWIRE = BUILT / "fusewire"
SOFTGPU = BUILT / "libsoftgpu.so"

# How clients reach their server unless a test says otherwise: "tcp" or "unix". The whole suite holds over both.
LINK = os.environ.get("FUSEWIRE_TEST_LINK", "tcp")

# How long threads of a client spin before they sleep, in microseconds; on two cores they do not unless told to.
SPIN = os.environ.get("FUSEWIRE_TEST_SPIN_US", "")

# Longer than anything but a hang takes, on a slow machine that does other things too.
PATIENCE = 120


def environment(extra=None):
    """The environment of a client or server: this one, without what a user may have set for Fusewire."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FUSEWIRE_", "SOFTGPU_"))}
    env["PYTHONPATH"] = str(HERE)
    env["PYTHONFAULTHANDLER"] = "1"
    if SPIN:
        env["FUSEWIRE_SPIN_US"] = SPIN
    env.update(extra or {})
    return env


def until(condition, what, limit=PATIENCE):
    """Waits until `condition()` gives something true, and gives that."""
    end = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {limit} s"
        time.sleep(0.01)


def alive(pid):
    """Whether a process runs. A zombie holds nothing and counts as gone."""
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Server:
    """`fusewire serve` on the software GPU."""

    def __init__(self, *arguments, env=None, driver=SOFTGPU, under=()):
        self.log_file = tempfile.NamedTemporaryFile(prefix="fusewire-serve-", suffix=".log")
        self.folder = tempfile.TemporaryDirectory(prefix="fusewire-")
        self.local = f"unix:{self.folder.name}/socket"
        command = [*under, FUSEWIRE, "serve", "--listen", "127.0.0.1:0", "--listen", self.local, "--driver", driver,
                   "--warm-workers", "1", *arguments]
        if "--image-cache" not in arguments:
            # A test leaves nothing behind, and finds nothing of another.
            command += ["--image-cache-bytes", "0"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log_file,
                                        stderr=self.log_file, env=environment(env))
        try:
            self.address = until(self._listening, "the server listens").group(1)
            self.wait_line("listening on unix:")
        except BaseException:
            self.stop()
            raise

    def _listening(self):
        assert self.process.poll() is None, f"the server ended: {self.log()}"
        return re.search(r"listening on (\S+)", self.log())

    @property
    def link(self):
        """The address that clients are given."""
        return self.local if LINK == "unix" else self.address

    def log(self):
        return pathlib.Path(self.log_file.name).read_text()

    def lines(self, text):
        """The lines of the log with `text` in them."""
        return [line for line in self.log().splitlines() if text in line]

    def wait_line(self, text, count=1):
        """The last of at least `count` lines of the log with `text` in them, once they are there."""
        return until(lambda: self.lines(text)[count - 1:], f"{text!r} in the server's log")[-1]

    def worker_of(self, client):
        """The process that serves the session of a client."""
        pattern = re.compile(rf"opened: .*\b{client.pid}\b.*worker (\d+)")
        return int(until(lambda: pattern.search(self.log()), "the session in the log").group(1))

    def sessions(self):
        """How many sessions are open."""
        return len(re.findall(r"session \w+ opened: ", self.log())) - len(re.findall(r"session \w+ closed: ", self.log()))

    def stop(self, sig=signal.SIGTERM):
        """Ends the server and gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server does not stop: {self.log()}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Client:
    """A Python program under `fusewire run`, whose stdin and stdout are pipes to the test."""

    def __init__(self, server, program, *arguments, env=None, python=sys.executable, stats=True, command=None,
                 lib_dir=None, under=()):
        address = server if isinstance(server, str) else server.link
        self.stats_file = tempfile.NamedTemporaryFile(prefix="fusewire-stats-")
        extra = {"FUSEWIRE_STATS": self.stats_file.name} if stats else {}
        extra.update(env or {})
        command = command or [python, "-c", program, *map(str, arguments)]
        self.process = subprocess.Popen(
            [*under, FUSEWIRE, "run", "--server", address, *(["--lib-dir", lib_dir] if lib_dir else []), "--", *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(extra), text=True,
            bufsize=1)
        self.pid = self.process.pid
        self.errors = ""
        self._stderr = threading.Thread(target=self._read_errors, daemon=True)
        self._stderr.start()

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors += line

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self, limit=PATIENCE):
        """The next line of the program's output. Kills the program when it takes too long."""
        watchdog = threading.Timer(limit, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, f"the program ended or hung; it said: {self.errors}"
        return line.rstrip("\n")

    def ask(self, line, limit=PATIENCE):
        self.say(line)
        return self.hear(limit)

    def finish(self, limit=PATIENCE):
        """Waits for the end of the program; gives its exit code and the rest of its output."""
        watchdog = threading.Timer(limit, self.process.kill)
        watchdog.start()
        try:
            self.process.stdin.close()
            out = self.process.stdout.read()
            code = self.process.wait()
        finally:
            late = not watchdog.is_alive()
            watchdog.cancel()
        self._stderr.join(5)
        assert not late, f"the program did not end within {limit} s; it said: {out} {self.errors}"
        return code, out

    def complaints(self):
        """What the stand-in said on stderr."""
        return [line for line in self.errors.splitlines() if line.startswith("fusewire:")]

    def stats(self):
        """Calls by function name, from FUSEWIRE_STATS."""
        return {row["name"]: row for row in self._statistics()["functions"]}

    def batches(self):
        """Batches sent and received, from FUSEWIRE_STATS."""
        return self._statistics()["batches"]

    def _statistics(self):
        return json.loads(pathlib.Path(self.stats_file.name).read_text())

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def run(server, program, *arguments, limit=PATIENCE, code=0, **options):
    """Runs a program to its end, which must be with `code`. Gives the client, with `out` set."""
    with Client(server, program, *arguments, **options) as client:
        ended, client.out = client.finish(limit)
        assert ended == code, f"exit code {ended}: {client.out} {client.errors}"
        return client


# A session that goes on working while others misbehave.
BYSTANDER = """
import sys, driver
worked = driver.Worked()
print("ready", flush=True)
for line in sys.stdin:
    worked.again()
    print("right", flush=True)
"""


class Bystander:
    """Another session on the same server. It must not notice what happens beside it."""

    def __init__(self, server):
        self.client = Client(server, BYSTANDER)
        assert self.client.hear() == "ready"
        self.check()

    def check(self):
        assert self.client.ask("again") == "right"

    def done(self):
        """Still right, all the way to an ordinary end."""
        self.check()
        code, _ = self.client.finish()
        assert code == 0 and not self.client.complaints(), self.client.errors
