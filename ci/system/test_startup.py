"""NVIDIA's CUDA runtimes, as they are on PyPI, start up over the stand-in and move data.

cudart reads private tables of the driver and checks it before it does anything; the versions differ in what they
ask for. The shared libraries are of several minor versions; the static ones are inside CuPy's modules.
"""

import os
import pathlib

import pytest

from harness import Client, free_port, run

# Where ci/test puts the runtimes: one folder for each version.
RUNTIMES = sorted(pathlib.Path(os.environ.get("FUSEWIRE_RUNTIMES", "/nonexistent")).glob("*/**/libcudart.so.1*"))

DYNAMIC = """
import ctypes, sys
from ctypes import byref, c_int, c_size_t, c_void_p
cudart = ctypes.CDLL(sys.argv[1])
def call(name, *arguments):
    code = getattr(cudart, name)(*arguments)
    assert code == 0, (name, code)
count, runtime, driver, memory, stream = c_int(), c_int(), c_int(), c_void_p(), c_void_p()
call("cudaRuntimeGetVersion", byref(runtime))
call("cudaDriverGetVersion", byref(driver))
call("cudaGetDeviceCount", byref(count))
assert count.value == 2
# cudaDeviceProp starts with the name, whatever its version; this has room for any.
properties = ctypes.create_string_buffer(4096)
call("cudaGetDeviceProperties_v2" if runtime.value < 13000 else "cudaGetDeviceProperties", properties, 0)
assert properties.value == b"Fusewire Software GPU", properties.value
call("cudaSetDevice", 1)
call("cudaMalloc", byref(memory), c_size_t(1 << 20))
call("cudaStreamCreate", byref(stream))
sent = (ctypes.c_ubyte * (1 << 20))(*(n * 7 % 256 for n in range(1 << 20)))
back = (ctypes.c_ubyte * (1 << 20))()
call("cudaMemcpyAsync", memory, sent, c_size_t(1 << 20), 1, stream)
call("cudaMemcpyAsync", back, memory, c_size_t(1 << 20), 2, stream)
call("cudaStreamSynchronize", stream)
assert bytes(sent) == bytes(back)
call("cudaFree", memory)
call("cudaDeviceReset")
print(runtime.value, driver.value)
"""


def test_the_runtimes_are_there():
    """So that the tests below cannot pass by being none."""
    found = {path.name for path in RUNTIMES}
    assert {"libcudart.so.12", "libcudart.so.13"} <= found, "ci/test installs them and sets FUSEWIRE_RUNTIMES"
    assert len(RUNTIMES) >= 5


@pytest.mark.parametrize("library", RUNTIMES, ids=lambda path: path.parts[-5])
def test_dynamic(server, library):
    client = run(server, DYNAMIC, library)
    runtime, driver = map(int, client.out.split())
    assert f"libcudart.so.{runtime // 1000}" == library.name
    assert driver >= 13000
    assert not client.complaints(), client.errors


STATIC = """
import sys
major = int(sys.argv[1])
from cupy.cuda import runtime
import numpy as np
assert runtime.runtimeGetVersion() // 1000 == major, runtime.runtimeGetVersion()
assert runtime.getDeviceCount() == 2
assert runtime.getDeviceProperties(0)["name"].decode() == "Fusewire Software GPU"
sent = np.arange(300_000, dtype=np.float64)
back = np.zeros_like(sent)
memory = runtime.malloc(sent.nbytes)
runtime.memcpy(memory, sent.ctypes.data, sent.nbytes, runtime.memcpyHostToDevice)
runtime.memcpy(back.ctypes.data, memory, sent.nbytes, runtime.memcpyDeviceToHost)
assert (sent == back).all()
runtime.free(memory)
"""


@pytest.mark.parametrize("major", [12, 13])
def test_static_inside_cupy(server, major):
    env = {}
    if major == 12:
        folder = os.environ.get("FUSEWIRE_CUPY12")
        assert folder, "ci/test installs CuPy for CUDA 12 and sets FUSEWIRE_CUPY12"
        env = {"PYTHONPATH": f"{folder}:{pathlib.Path(__file__).parent}"}
    client = run(server, STATIC, major, env=env)
    assert not client.complaints(), client.errors


# Both libraries look for a server that is not there: one after the other, or at once.
NO_SERVER = """
import ctypes, sys, threading
cuda, nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
codes = {}
line = threading.Barrier(2)
def start(name):
    if sys.argv[1] == "both":
        line.wait()
    codes[name] = cuda.cuInit(0) if name == "cuda" else nvml.nvmlInit_v2()
if sys.argv[1] == "both":
    threads = [threading.Thread(target=start, args=(name,)) for name in ("cuda", "nvml")]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
else:
    for name in sys.argv[1].split(","):
        start(name)
assert codes == {"cuda": 100, "nvml": 9}, codes
"""


@pytest.mark.parametrize("order", ["cuda,nvml", "nvml,cuda", "both"])
def test_a_program_is_told_once_that_there_is_no_server(order):
    for _ in range(40 if order == "both" else 1):
        with Client(f"127.0.0.1:{free_port()}", NO_SERVER, order, stats=False) as client:
            code, out = client.finish()
            assert code == 0, out + client.errors
            complaints = client.complaints()
        # At the same moment each may think that it is the first; but one of them speaks.
        assert len(complaints) in ((1, 2) if order == "both" else (1,)), complaints
        assert all("no Fusewire server answers" in line for line in complaints), complaints
