"""What a training step costs at both ends: system calls, allocations, and bytes that a processor copies.

Counted, not timed, by a preloaded library (counts/counter.c) around a program that does the same at every step
(counts/step.c), and compared with counts/ceilings.json. Round trips are test_steady.py's. The client's library is
the one that is shipped, built with optimisation: without, the compiler copies what it need not.

What is exact: of a step, one copy of the pageable memory and none of the pinned; of a launch, no allocation in the
calling thread, and one copy of its record, or two over shared memory. A launch makes no system call either, but where
it meets another thread that was sent away by the scheduler in the middle of something: one in ten may. How many batches the calls
of a step gather to is the scheduler's choice, so that system calls have a ceiling for the step and one for each
batch. Buffers grow now and then, and a long batch is put together once more where it is received: those ceilings
have room.
"""

import collections
import json
import os
import pathlib
import struct
import subprocess
import time

import pytest

from harness import BUILT, HERE, Client, Server, until

SHIPPED = pathlib.Path(os.environ.get("FUSEWIRE_SHIPPED") or BUILT.parent / "release")
CEILINGS = json.loads((HERE / "counts" / "ceilings.json").read_text())
COLUMNS = ("calls", "idle", "allocations", "allocated", "copied", "large", "large_copied")
LABELS = 64 << 10
LINKS = ["tcp", "shm"]
# Microseconds that the client's threads spin before they sleep: not at all, and for good.
SPIN = {"asleep": "0", "awake": "1000000"}

pytestmark = pytest.mark.skipif(
    not os.environ.get("FUSEWIRE_SHIPPED") and not (SHIPPED / "libcuda.so").exists(),
    reason="cargo build --release -p fusewire-cuda has not been run")


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """The counter and the program."""
    folder = tmp_path_factory.mktemp("counts")
    for name, *options in (("counter.so", "-shared", "-fPIC", "-fno-builtin"), ("step",)):
        source = HERE / "counts" / f"{name.removesuffix('.so')}.c"
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", *options, "-o", folder / name, source, "-ldl"],
                       check=True, timeout=60)
    return folder


def counted(folder, pid):
    """What a process has cost so far, by kind of thread."""
    data = (folder / str(pid)).read_bytes()
    (rows,) = struct.unpack_from("Q", data)
    assert rows < 256, "more threads than the counter has rows for"
    sums = collections.defaultdict(lambda: dict.fromkeys(COLUMNS, 0))
    for thread, *numbers in struct.iter_unpack(f"{1 + len(COLUMNS)}Q", data[8:8 + rows * 8 * (1 + len(COLUMNS))]):
        try:
            name = pathlib.Path(f"/proc/{pid}/task/{thread}/comm").read_text().strip()
        except FileNotFoundError:
            continue
        kind = "main" if thread == pid else name
        for column, number in zip(COLUMNS, numbers):
            sums[kind][column] += number
    return sums


class Pair:
    """A session whose ends are counted."""

    def __init__(self, tools, link, spin, folder):
        self.folder = folder
        env = {"LD_PRELOAD": str(tools / "counter.so"), "COUNTS_FOLDER": str(folder), "FUSEWIRE_SPIN_US": SPIN[spin]}
        self.server = Server(env=env | {"COUNTS_OF": "/fusewire"})
        address = self.server.local if link == "shm" else self.server.address
        self.client = Client(address, None, command=[tools / "step"], env=env | {"COUNTS_OF": "/libcuda.so.1"},
                             lib_dir=SHIPPED)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.kill()
        self.server.stop()

    def so_far(self):
        ends = {"client": self.client.pid, "worker": self.server.worker_of(self.client)}
        return {f"{end} {kind}": sums for end, pid in ends.items() for kind, sums in counted(self.folder, pid).items()}

    def do(self, what, count):
        """What the pair has cost when that is done and nobody does anything any more."""
        assert self.client.ask(f"{what} {count}") == "done"

        def settled():
            before = self.so_far()
            time.sleep(0.03)
            after = self.so_far()
            return after if before == after else None

        return until(settled, "everybody is idle")

    def each(self, what, few, many):
        """What one costs, by end and kind of thread: the difference between few and many of them.

        "batches" beside them is how many a step's calls were sent in, by the client's own statistics.
        """
        counts = [self.do(what, number) for number in (0, few, few, few, many)]
        none = dict.fromkeys(COLUMNS, 0)
        costs = {}
        for kind in counts[-1]:
            ready, _, start, once, more = (count.get(kind, none) for count in counts)
            row = {column: (more[column] - 2 * once[column] + start[column]) / (many - few) for column in COLUMNS}
            # All of them, as the batches are.
            for column in ("calls", "idle"):
                row[column] = (more[column] - ready[column]) / (3 * few + many)
            row["calls"] -= row["idle"]
            if any(row.values()):
                costs[kind] = row
        # A caller that waits does what is otherwise the I/O thread's.
        callers = [costs.get(kind, none) for kind in ("client main", "client fusewire-io")]
        costs["client main and fusewire-io"] = {column: sum(row[column] for row in callers) for column in COLUMNS}
        code, _ = self.client.finish()
        assert code == 0, self.client.errors
        return costs, self.client.batches()["out"] / (3 * few + many)


def check(costs, batches, ceilings, spin):
    """No cost is above its ceiling; a kind of thread that has none is a new one.

    A ceiling may depend on how long threads spin; and that of system calls has a part for each batch.
    """
    above = []
    for kind, row in costs.items():
        for column, ceiling in ceilings[kind].items():
            if isinstance(ceiling, dict):
                ceiling = ceiling[spin]
            limit = ceiling[0] + ceiling[1] * batches if isinstance(ceiling, list) else ceiling
            if row[column] > limit:
                above.append(f"{kind}: {column} {row[column]:.3f}, more than {limit:.3f}")
    assert not above, "\n".join([*above, f"{batches:.2f} batches", json.dumps(costs, indent=1)])


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("spin", SPIN)
def test_a_step(tools, tmp_path, link, spin):
    with Pair(tools, link, spin, tmp_path) as pair:
        costs, batches = pair.each("step", 30, 130)
    # The counter counts; and pageable memory is copied once, the program's pinned memory never. In shared memory the
    # batches are copied as well, to where the server reads them.
    copied = costs["client main and fusewire-io"]["large_copied"]
    assert LABELS <= copied <= LABELS + (40_000 if link == "shm" else 0), costs
    check(costs, batches, CEILINGS[link]["step"], spin)


@pytest.mark.parametrize("link", LINKS)
def test_a_launch(tools, tmp_path, link):
    with Pair(tools, link, "awake", tmp_path) as pair:
        # Few enough not to fill the GPU's queue: then the worker would have to keep them.
        costs, batches = pair.each("launch", 200, 800)
    assert costs["client main"]["copied"] > 32, costs
    check(costs, batches, CEILINGS[link]["launch"], "awake")
