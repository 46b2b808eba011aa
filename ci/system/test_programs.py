"""Whole programs, those of ci/demo: CuPy from PyPI, and C on NVIDIA's runtimes. They check their own results."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from harness import ROOT, run

CUPY = {"CUPY_COMPILE_WITH_PTX": "1", "CUPY_CACHE_IN_MEMORY": "1"}


def test_cupy(server, bystander):
    client = run(server, None, command=[sys.executable, ROOT / "ci/demo.py"], env=CUPY)
    assert client.out.splitlines()[-1].endswith("all results are right"), client.out
    assert client.out.count(": as NumPy") == 14
    assert not client.complaints(), client.errors
    stats = client.stats().values()
    local = sum(row["local"] for row in stats)
    assert local / sum(row["local"] + row["async"] + row["sync"] for row in stats) > 0.8


@pytest.mark.parametrize("major", [12, 13])
def test_c_on_cudart(server, tmp_path, major):
    nvidia = pathlib.Path(importlib.util.find_spec("nvidia").submodule_search_locations[0])
    package = nvidia / {12: "cuda_runtime", 13: "cu13"}[major]
    program = tmp_path / "demo"
    # The headers' crt/ folder is in a package of its own for 13 and in the compiler's for 12: one serves both.
    subprocess.run(["cc", "-std=c11", "-Wall", "-Werror", "-isystem", package / "include", "-isystem",
                    nvidia / "cu13/include", ROOT / "ci/demo.c", package / f"lib/libcudart.so.{major}",
                    f"-Wl,-rpath,{package / 'lib'}", "-o", program], check=True, timeout=60)
    client = run(server, None, command=[program])
    version, result = client.out.splitlines()
    assert version.startswith(f"cudart {major}.") and "Fusewire Software GPU" in version
    assert "every element is right" in result
    assert not client.complaints(), client.errors


def test_cupy_without_a_server():
    """A program that can do without a GPU does without."""
    client = run("127.0.0.1:1", """
import cupy
assert not cupy.cuda.is_available()
print("no GPU, no crash")
""", stats=False)
    assert client.out == "no GPU, no crash\n"
    assert len(client.complaints()) == 1, client.errors


def test_small_memory_freed_between_allocations(server):
    """What is freed comes back while an allocation waits for more memory, and the two do not wait for each other."""
    run(server, """
import driver
worked = driver.Worked()
held = []
for round in range(40):
    held += [driver.alloc(64 << 10) for _ in range(40)]
    for address in held[::3]:
        driver.free(address)
    del held[::3]
assert len(set(held)) == len(held)
worked.again()
""")


def test_a_copy_is_seen_on_another_stream_once_it_was_waited_for(server):
    """A synchronisation is all that a program needs between streams: the copy is finished, not only sent."""
    run(server, """
import ctypes, driver
driver.start()
one, two = driver.stream(), driver.stream()
size = 4 << 20
address = driver.alloc(size)
back = driver.pinned(size)
for round in range(1, 20):
    data = ctypes.create_string_buffer(bytes([round]) * size, size)
    driver.call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), data, ctypes.c_size_t(size), one)
    driver.synchronize(one)
    driver.call("cuMemcpyDtoHAsync_v2", back, ctypes.c_uint64(address), ctypes.c_size_t(size), two)
    driver.synchronize(two)
    assert ctypes.string_at(back, size) == data.raw, round
""")
