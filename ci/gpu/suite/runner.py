"""Runs check programs: natively, and remotely where neither GPU nor driver can be seen."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

from . import groups

GPU = pathlib.Path(__file__).resolve().parent.parent
ROOT = GPU.parent.parent
TAIL = 3000


class Run:
    """One run of a program: how it ended, what it said, and its result file."""

    def __init__(self, command, code, seconds, log, content):
        self.command, self.code, self.seconds, self.log = command, code, seconds, log
        self.content = content or {}
        self.results = self.content.get("results", {})
        self.excused = False

    @property
    def trouble(self):
        """Why the program as a whole did not do its work, or None."""
        if self.code == "timeout":
            running = self.content.get("running")
            return f"stopped after {self.seconds:.0f} s" + (f", in {running}" if running else "")
        if self.code != 0:
            running = self.content.get("running")
            return f"exit code {self.code}" + (f", in {running}" if running else "")
        if not self.content.get("complete", False):
            return "no complete result"
        return None

    def tail(self):
        try:
            return pathlib.Path(self.log).read_bytes()[-TAIL:].decode(errors="replace")
        except OSError:
            return ""


class Runner:
    def __init__(self, options, server, work, out, hidden):
        self.options, self.server = options, server
        self.work, self.out = pathlib.Path(work), pathlib.Path(out)
        (self.work / "hidden-paths").write_text("".join(f"{path}\n" for path in hidden))

    def native_argv(self, argv):
        return list(argv)

    def remote_argv(self, argv, address=None):
        address = address or self.server.reach
        return [*self.hidden_argv(), self.options.fusewire, "run", "--server", address, "--", *argv]

    def hidden_argv(self):
        return ["unshare", "--mount", "--propagation", "private", str(GPU / "hide.sh"), str(self.work), "--"]

    def environment(self, name, side, device_file=None):
        """Each run compiles for itself, so that what one side built is not what the other is tested with."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("FUSEWIRE_")}
        env.pop("LD_PRELOAD", None)
        caches = self.work / "caches" / f"{name}.{side}"
        for variable, folder in (
            ("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
            ("CUPY_CACHE_DIR", "cupy"), ("CUDA_CACHE_PATH", "cuda"),
        ):
            env[variable] = str(caches / folder)
        env.update(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
        if side != "native":
            env["FUSEWIRE_STATS"] = str(self.stats_path(name, side))
            if device_file:
                env["HIDE_DEVICE_FILE"] = device_file
        return env

    def stats_path(self, name, side="remote"):
        return self.out / f"{name}.{side}.stats"

    def program(self, file, arguments, out):
        return [sys.executable, str(GPU / "programs" / file), *arguments, "--out", str(out)]

    def run(self, name, side, file, arguments, timeout, address=None, device_file=None, bare=False):
        """Runs a program of ours to its end. `bare`: hidden, but without Fusewire."""
        result = self.out / f"{name}.{side}.json"
        argv = self.program(file, arguments, result)
        if bare:
            full = [*self.hidden_argv(), *argv]
        elif side.startswith("remote"):
            full = self.remote_argv(argv, address)
        else:
            full = self.native_argv(argv)
        code, seconds, log, _ = self.execute(name, side, full, timeout, device_file)
        return Run(self.shown(full), code, seconds, log, load(result))

    def execute(self, name, side, argv, timeout, device_file=None):
        """Runs a command; stdout and stderr go to a log. Returns code, seconds, the log, its text."""
        log = self.out / f"{name}.{side}.log"
        start = time.monotonic()
        with open(log, "wb") as file:
            process = groups.start(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                env=self.environment(name, side, device_file),
            )
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                groups.end(process)
                code = "timeout"
        return code, round(time.monotonic() - start, 2), log, log.read_text(errors="replace")

    def shown(self, argv):
        """A command as a reader can use it: without this machine's folders."""
        words = []
        for word in argv:
            word = str(word)
            for folder, name in (
                (str(self.out), "OUT"), (str(self.work), "WORK"),
                (os.path.dirname(self.options.fusewire), "BIN"), (str(ROOT) + "/", ""),
            ):
                word = word.replace(folder, name)
            words.append("python3" if word == sys.executable.replace(str(ROOT) + "/", "") else word)
        return shlex.join(words)

    def statistics(self, name, side="remote"):
        """FUSEWIRE_STATS of a run, summed over its processes: {function: {kind: count}}."""
        totals = {}
        try:
            lines = self.stats_path(name, side).read_text().splitlines()
        except OSError:
            return totals
        for line in lines:
            try:
                functions = json.loads(line)["functions"]
            except (ValueError, KeyError):
                continue
            for row in functions:
                total = totals.setdefault(row["name"], {})
                for key, value in row.items():
                    if key != "name":
                        total[key] = total.get(key, 0) + value
        return totals

    def clean(self, name, keep_native=False):
        """Removes what earlier runs of a check left, so that it is not taken for this run's."""
        for path in self.out.glob(f"{name}.*"):
            if not (keep_native and path.name.startswith(f"{name}.native.")):
                path.unlink()
        for path in (self.work / "caches").glob(f"{name}.*"):
            shutil.rmtree(path, ignore_errors=True)

    def earlier(self, name, file, arguments):
        """A complete native run of an earlier time, if there is one."""
        result = self.out / f"{name}.native.json"
        run = Run(self.shown(self.program(file, arguments, result)), 0, 0.0, self.out / f"{name}.native.log", load(result))
        return None if run.trouble else run


def load(path):
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return None
