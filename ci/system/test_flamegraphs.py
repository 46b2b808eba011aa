"""flamegraphs/record, without perf and on what is built already: the stacks of both ends name what is looked for."""

import subprocess

import pytest

from harness import BUILT, PATIENCE, ROOT, SOFTGPU, environment

RECORD = ROOT / "flamegraphs" / "record"


def record(*words, code=0):
    done = subprocess.run([RECORD, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE,
                          env=environment())
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout} {done.stderr}"
    return done


@pytest.fixture
def packed(tmp_path):
    """What `record --pack` makes, of what is built already."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("fusewire", "libcuda.so", "libfusewire_sampler.so"):
        (folder / name).symlink_to(BUILT / name)
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", folder / "bound",
                    ROOT / "flamegraphs" / "programs" / "bound.c", "-ldl"], check=True, timeout=60)
    (folder / "commit").write_text("0123abcd\n")
    return folder


def stacks(folder, name):
    """The stacks, or the graph if there is something here that draws them."""
    files = [folder / f"{name}.{kind}" for kind in ("folded", "svg")]
    return "".join(file.read_text() for file in files if file.exists())


def missing(folder):
    """The names that should be in the stacks and are not."""
    for name, names in (
        ("client-launch", ("cuLaunchKernel",)),
        ("worker-launch", ("fusewire_server::worker", "softgpu")),
        ("worker-bulk", ("softgpu",)),
    ):
        text = stacks(folder, name)
        assert "perf_signal_handler" not in text
        yield from (f"{name}: {function}" for function in names if function not in text)


@pytest.mark.parametrize("link", ["tcp", "shm"])
def test_stacks_are_recorded_from_within(packed, tmp_path, link):
    out = tmp_path / "out"
    words = ("--bin", packed, "--driver", SOFTGPU, "--sampler", "in-process", "--link", link, "--out", out)
    # Where all processors are taken, that may not be enough to be seen at work in.
    for seconds in (2, 8):
        record(*words, "--seconds", seconds)
        if not list(missing(out)):
            break
    assert not list(missing(out))
    for kind in ("launch", "bulk"):
        said = (out / f"{kind}.txt").read_text()
        assert "commit 0123abcd" in said and f"link {link}, {seconds} s by in-process" in said


def test_bad_input_is_one_line(tmp_path):
    for words, reason in (
        (("--sampler", "guesses"), "--sampler is perf or in-process"),
        (("--link", "carrier-pigeon"), "--link is tcp or shm"),
        (("--seconds", "soon"), "--seconds is a whole number"),
        (("--bin", tmp_path, "--sampler", "in-process"), "has no fusewire"),
        (("--out",), "--out needs a value"),
        (("--nonsense", "1"), "is not known"),
    ):
        done = record(*words, code=1)
        assert reason in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
