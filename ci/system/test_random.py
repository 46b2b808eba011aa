"""Programs of random calls do the same over Fusewire as on the driver itself, here the software GPU (random_calls.py)."""

import subprocess
import sys

import pytest

from harness import HERE, PATIENCE, SOFTGPU, environment, run

CALLS = 250
# Seeds, threads, and what else the client is told.
CASES = [
    (range(0, 8), 1, {}),
    (range(100, 105), 3, {}),
    (range(200, 204), 2, {"FUSEWIRE_LANES": "1"}),
    (range(300, 304), 1, {"FUSEWIRE_LANES": "8", "FUSEWIRE_COMPRESS": "always"}),
]


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """The environment of a program that runs on the software GPU itself."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "libcuda.so.1").symlink_to(SOFTGPU)
    return environment({"LD_LIBRARY_PATH": str(folder)})


@pytest.mark.parametrize("case", range(len(CASES)))
def test_random_calls_do_what_they_do_on_the_driver(server, native, case):
    seeds, threads, env = CASES[case]
    for seed in seeds:
        words = [str(HERE / "random_calls.py"), str(seed), str(CALLS), str(threads)]
        there = subprocess.run([sys.executable, *words], env=native, capture_output=True, text=True, timeout=PATIENCE)
        assert there.returncode == 0 and there.stdout.endswith("done\n"), there.stdout[-2000:] + there.stderr
        client = run(server, None, command=[sys.executable, *words], env=env)
        assert not client.complaints(), client.errors
        compare(there.stdout.splitlines(), client.out.splitlines(), f"ci/system/random_calls.py {' '.join(words[1:])}, {env}")


def compare(there, here, what):
    """The first line that differs, and what came before it."""
    for number, (expected, found) in enumerate(zip(there, here)):
        before = " | ".join(there[max(0, number - 3):number])
        assert expected == found, f"{what}: line {number + 1} is {found!r}, natively {expected!r}, after {before}"
    assert len(there) == len(here), f"{what}: {len(here)} lines, natively {len(there)}"
