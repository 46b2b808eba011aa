"""A server that goes away: what it said of itself stays, what would have to be asked is an error, and soon."""

import os
import sys
import time

import pynvml as nvml

nvml.nvmlInit()
device = nvml.nvmlDeviceGetHandleByIndex(0)
print("ready", flush=True)
sys.stdin.readline()
time.sleep(0.3)
began = time.monotonic()
assert nvml.nvmlDeviceGetName(device) == "A GPU"
for _ in range(100):
    try:
        nvml.nvmlDeviceGetTemperature(device, 0)
    except nvml.NVMLError as error:
        assert error.value == nvml.NVML_ERROR_GPU_IS_LOST, error
    else:
        raise AssertionError("answered without a server")
assert time.monotonic() - began < 5
