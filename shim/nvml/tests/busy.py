"""Threads that ask at once, a child that is forked meanwhile, and what a second of it costs the server."""

import os
import threading
import time

import pynvml as nvml

nvml.nvmlInit()
device = nvml.nvmlDeviceGetHandleByIndex(0)
end = time.monotonic() + 1
failures = []


def work():
    try:
        while time.monotonic() < end:
            assert nvml.nvmlDeviceGetTemperature(device, 0) >= 40
            assert nvml.nvmlDeviceGetName(device) == "A GPU"
    except Exception as error:
        failures.append(error)


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for _ in range(5):
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        good = nvml.nvmlDeviceGetTemperature(device, 0) >= 40 and nvml.nvmlDeviceGetCount() == 2
        os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0, "a forked child got no answer"
for thread in threads:
    thread.join()
assert not failures, failures
