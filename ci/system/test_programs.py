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
