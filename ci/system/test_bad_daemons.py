"""`fusewire serve` that cannot start: one clear line, exit code 1, nothing left behind."""

import os
import pathlib
import resource
import shutil
import subprocess

import pytest

from harness import BUILT, FUSEWIRE, PATIENCE, SOFTGPU, Server, environment, run


def fails(*arguments, command=FUSEWIRE, listen="127.0.0.1:0", env=None, **options):
    """Runs `fusewire serve`, which must fail with one line; gives the line."""
    done = subprocess.run([command, "serve", "--listen", listen, *arguments], capture_output=True, text=True,
                          timeout=PATIENCE, env=environment(env), **options)
    assert done.returncode == 1, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("fusewire: "), done.stderr
    return lines[0]


def test_the_driver_is_missing(tmp_path):
    path = tmp_path / "no-such-driver.so"
    line = fails("--driver", path)
    assert str(path) in line and "--driver" in line, line


@pytest.mark.parametrize("content", [b"", b"not a library\n", b"\x7fELF" + bytes(200)], ids=["empty", "text", "elf"])
def test_the_driver_is_no_library(tmp_path, content):
    path = tmp_path / "driver.so"
    path.write_bytes(content)
    line = fails("--driver", path)
    assert str(path) in line and "--driver" in line, line


def test_the_driver_is_another_library():
    """A library that loads, but has none of the driver's functions."""
    line = fails("--driver", "libm.so.6")
    assert "libm.so.6" in line and "--driver" in line, line


def test_the_driver_is_a_folder(tmp_path):
    assert str(tmp_path) in fails("--driver", tmp_path)


def test_the_driver_has_no_device():
    line = fails("--driver", SOFTGPU, env={"SOFTGPU_DEVICES": "0"})
    assert "device" in line, line


def test_the_port_is_taken(server):
    line = fails("--driver", SOFTGPU, listen=server.address)
    assert server.address in line and "--listen" in line, line


@pytest.fixture
def for_everyone(tmp_path_factory):
    """Copies of what is needed, in a folder that a user without privileges can reach."""
    folder = pathlib.Path("/tmp") / f"fusewire-everyone-{os.getpid()}"
    folder.mkdir(mode=0o755)
    for name in ("fusewire", "libsoftgpu.so", "libcuda.so"):
        shutil.copy(BUILT / name, folder)
    yield folder
    shutil.rmtree(folder)


def unprivileged(limit):
    """What to do in a child: allow it to lock `limit` bytes, and give up all privileges."""

    def prepare():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

    return prepare


def test_no_lockable_memory(for_everyone):
    line = fails("--driver", for_everyone / "libsoftgpu.so", command=for_everyone / "fusewire",
                 preexec_fn=unprivileged(0), cwd="/")
    assert "0 KiB" in line and "ulimit -l" in line, line


def test_no_lockable_memory_in_the_client(server, for_everyone):
    """The client needs none: it works, with another way to move data if it must."""
    program = for_everyone / "program.py"
    here = pathlib.Path(__file__).parent
    shutil.copy(here / "driver.py", for_everyone)
    program.write_text("import driver\nworked = driver.Worked()\n[worked.again() for _ in range(20)]\nprint('right')\n")
    env = environment({"TMPDIR": str(for_everyone), "HOME": "/", "PYTHONPATH": str(for_everyone)})
    private = for_everyone / "links"
    private.mkdir()
    private.chmod(0o777)
    env["TMPDIR"] = str(private)
    done = subprocess.run(
        [for_everyone / "fusewire", "run", "--server", server.address, "--", "/usr/bin/env", "python3", program],
        capture_output=True, text=True, timeout=PATIENCE, env=env, preexec_fn=unprivileged(0), cwd="/")
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
