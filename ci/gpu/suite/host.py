"""The machine the suite runs on: what it is, what of it belongs to the driver, and the server on it."""

import glob
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import time

from . import groups

# The server's first worker starts the driver, which may take its time on a cold machine.
START_LIMIT = 150


def hidden_paths(also=()):
    """Every folder and file of the NVIDIA driver that a program could load or open by name."""
    paths = {"/usr/local/nvidia", "/proc/driver/nvidia", *also}
    cache = text(["/sbin/ldconfig", "-p"]) or ""
    for line in cache.splitlines():
        if re.match(r"\s*(libcuda\.so|libnvidia-|libcudadebugger\.so|libnvcuvid\.so)", line) and " => " in line:
            paths.add(line.rsplit(" => ", 1)[1].strip())
    folders = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    folders += ["/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"]
    folders += glob.glob("/usr/local/cuda*/compat")
    for folder in folders:
        for pattern in ("libcuda.so*", "libnvidia-ml.so*"):
            paths.update(glob.glob(os.path.join(folder, pattern)))
    return sorted(path for path in paths if os.path.exists(path))


def text(command, timeout=30):
    """What a command prints, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def nvidia_smi():
    found = shutil.which("nvidia-smi")
    return found or next(iter(glob.glob("/usr/local/nvidia/bin/nvidia-smi")), None)


def query(fields):
    """nvidia-smi's answer for the first GPU, as a list of strings, or None."""
    smi = nvidia_smi()
    out = smi and text([smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    return [field.strip() for field in out.splitlines()[0].split(",")] if out else None


def describe():
    gpu = query("name,driver_version,memory.total") or [None, None, None]
    return {
        "gpu": gpu[0],
        "driver": gpu[1],
        "gpu_memory_mib": gpu[2],
        "cores": len(os.sched_getaffinity(0)),
        # Major and minor alone: the rest names whose build it is.
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
    }


def memory_used():
    """MiB in use on the first GPU, by everybody, or None."""
    answer = query("memory.used")
    return int(answer[0]) if answer else None


def settled_memory(limit=15.0):
    """MiB in use once two looks a second apart agree; workers may still be starting or ending."""
    last = memory_used()
    end = time.monotonic() + limit
    while time.monotonic() < end:
        time.sleep(1.0)
        now = memory_used()
        if now == last:
            break
        last = now
    return last


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def worker_in(said, pid):
    """The worker that a server's log names for a client process, or None."""
    found = re.findall(rf"^.*session \w+ opened: .*\(pid {pid} on .*, worker (\d+)$", said, re.MULTILINE)
    return int(found[-1]) if found else None


class Server:
    """`fusewire serve` on a free loopback port, and on a UNIX socket too where a path for it is given."""

    def __init__(self, program, out, options, name="serve", path=None, env=None):
        self.program, self.options = program, options
        self.log = pathlib.Path(out) / f"{name}.log"
        self.local = f"unix:{path}" if path else None
        self.env = {**os.environ, **(env or {})}
        self.process = None
        self.address = None
        self.starts = 0
        self.offset = 0

    def ensure(self):
        """Starts the server if it does not run. Raises RuntimeError with the reason when it cannot."""
        if self.process is not None and self.process.poll() is None:
            return
        self.starts += 1
        self.address = f"127.0.0.1:{free_port()}"
        links = [self.address, *([self.local] if self.local else [])]
        self.offset = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = groups.start(
                [self.program, "serve", *(word for link in links for word in ("--listen", link)), *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self.env,
            )
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            said = self.said()
            if said.count("listening on") >= len(links):
                return
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {said.strip()[-600:]}")
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"the server does not listen after {START_LIMIT} s: see {self.log.name}")

    @property
    def reach(self):
        """The address that programs are given: the UNIX socket, if there is one."""
        return self.local or self.address

    def said(self):
        """What the server that runs now has said so far."""
        return self.log.read_bytes()[self.offset:].decode(errors="replace")

    def worker_of(self, pid, limit=10.0):
        """The process that serves the session of a client process. Raises RuntimeError when there is none."""
        end = time.monotonic() + limit
        while True:
            if worker := worker_in(self.said(), pid):
                return worker
            if time.monotonic() > end:
                raise RuntimeError(f"{self.log.name} names no worker for client {pid}")
            time.sleep(0.05)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
