"""Processes that stay: they do something each time they are told, and say what came of it in one line."""

import json
import queue
import subprocess
import threading
import time

from . import groups
from .runner import TAIL

MARK = "FIGURES "


class Process:
    """A program of ours, native or remote, that does its work for each line that it is sent.

    Its first line of figures says that it is ready, each further one that it has done what it was told.
    """

    def __init__(self, runner, name, side, file, arguments=(), address=None, env=None):
        # These programs write no result file.
        argv = runner.program(file, arguments, "unused")[:-2]
        argv = runner.remote_argv(argv, address) if side.startswith("remote") else runner.native_argv(argv)
        self.side, self.command = side, runner.shown(argv)
        self.log = runner.out / f"{name}.{side}.log"
        self.file = open(self.log, "wb")
        self.lines = queue.Queue()
        self.process = groups.start(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.file,
            env={**runner.environment(name, side), **(env or {})},
        )
        self.pid = self.process.pid
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            text = line.decode(errors="replace")
            if text.startswith(MARK):
                self.lines.put(json.loads(text[len(MARK):]))
        self.lines.put(None)

    def figures(self, end):
        """The next line of figures. Raises RuntimeError when none comes in time."""
        try:
            found = self.lines.get(timeout=max(0.1, end - time.monotonic()))
        except queue.Empty:
            raise RuntimeError(f"{self.side}: no figures in time") from None
        if found is None:
            try:
                raise RuntimeError(f"{self.side}: ended with exit code {self.process.wait(10)}")
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"{self.side}: closed its output and does not end") from None
        return found

    def tell(self):
        try:
            self.process.stdin.write(b"turn\n")
            self.process.stdin.flush()
        except OSError:
            pass  # It has ended; the next line tells.

    def turn(self, end):
        self.tell()
        return self.figures(end)

    def tail(self):
        return self.log.read_bytes()[-TAIL:].decode(errors="replace")

    def stop(self):
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            groups.end(self.process)
        self.file.close()
