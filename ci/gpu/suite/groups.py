"""Processes of the suite's, each with a process group of its own, so that all that it starts can be ended with it.

None is left behind when the suite itself is told to end: a server or a program that went on would be measured with
whatever is measured next.
"""

import os
import signal
import subprocess
import threading

_lock = threading.Lock()
_running = []
_over = False


def start(argv, **options):
    """As subprocess.Popen. Raises RuntimeError when the suite is ending."""
    with _lock:
        if _over:
            raise RuntimeError("the suite is ending")
        process = subprocess.Popen(argv, start_new_session=True, **options)
        _running[:] = [other for other in _running if other.poll() is None]
        _running.append(process)
        return process


def end(process):
    """Ends a process and all it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def ending():
    """Whether the suite is ending: what its programs come to from now on says nothing of them."""
    return _over


def end_all():
    """Ends them all, and lets no other start."""
    global _over
    with _lock:
        _over = True
        left = list(_running)
    for process in left:
        end(process)


def end_with_us():
    """Has SIGTERM end them, as Ctrl-C does. What has been recorded stays."""

    def stop(number, _frame):
        # On a thread of its own: this one may hold the lock.
        ending = threading.Thread(target=end_all)
        ending.start()
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
