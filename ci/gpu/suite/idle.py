"""What a session costs that does nothing: no processor, and little of the host's memory.

The same program runs three times at once: natively, over TCP and in shared memory. It works, and then does
nothing until it is told to. What the driver itself takes of the host's memory is seen in the native one.
"""

import dataclasses
import os
import pathlib
import re
import time

from . import host
from .process import Process

SECONDS = 10
SETTLING = 1.5
# One tick of the clock may fall on anything.
TICKS = 1
# As many bytes as a worker stages unless told otherwise. Said, so that the mapping can be known by its length.
SLOTS, SLOT_BYTES = (1152, 256), 256 << 10
STAGING = sum(SLOTS) * SLOT_BYTES + (128 << 10)
MIB = 1 << 20
MOST_MIB = 64
LINKS = {"remote.tcp": "tcp", "remote.shm": "shared memory"}
# The driver compiles the program's kernel in every process, so that all of them have its compiler loaded, or none.
SAME = {"CUDA_CACHE_DISABLE": "1"}


def idle(suite, check, only):
    runner = suite.runner
    options = ["--staging-slots", ",".join(map(str, SLOTS)), "--slot-bytes", str(SLOT_BYTES), *suite.server.options]
    # A server of its own: nothing else happens on it, and it listens for both links.
    path = runner.work / "idle.socket"
    server = host.Server(suite.options.fusewire, runner.out, options, name=f"{check.name}.serve", path=path, env=SAME)
    processes = {}
    try:
        server.ensure()
        end = time.monotonic() + check.timeout
        for side in ("native", *LINKS):
            # Natively the driver is the one that the server has.
            arguments = [suite.options.driver] if side == "native" and suite.options.driver else []
            address = server.local if side == "remote.shm" else server.address
            processes[side] = Process(runner, check.name, side, check.file, arguments, address, SAME)
        for process in processes.values():
            process.figures(end)
        # Python alone: no driver has been loaded yet.
        before = resident(mappings(processes["native"].pid))
        again(processes, end)
        workers = {side: server.worker_of(processes[side].pid) for side in LINKS}
        commands = {
            "command": f"ci/gpu-suite --only {check.name}", "native_command": processes["native"].command,
            "remote_command": processes["remote.tcp"].command,
        }
        processor(suite, server, processes, workers, commands)
        # They still work, and what that needed has to be given back.
        figures = again(processes, end)
        time.sleep(SETTLING)
        memory(suite, processes, workers, before, figures["native"]["own"], commands)
    except (RuntimeError, OSError, ValueError) as error:
        tails = [f"{side}: {process.tail()}" for side, process in processes.items() if process.tail()]
        if server.log.exists():
            tails.append(f"server: {server.said()[-1000:]}")
        suite.record.add(check.name, False, detail=str(error)[:600], tail="\n".join(tails)[-3000:])
    finally:
        for process in processes.values():
            process.stop()
        server.stop()


def again(processes, end):
    """All of them work once, side by side. Gives what each says."""
    for process in processes.values():
        process.tell()
    return {side: process.figures(end) for side, process in processes.items()}


def processor(suite, server, processes, workers, commands):
    """Nobody does anything: clients, workers and daemon. The native program tells what the driver does by itself."""
    pids = {"daemon": server.process.pid}
    for side, link in LINKS.items():
        pids.update({f"client ({link})": processes[side].pid, f"worker ({link})": workers[side]})
    pids["native"] = processes["native"].pid
    # What has just been done has to end first.
    time.sleep(SETTLING)
    first = {name: (ticks(name, pid), threads(pid)) for name, pid in pids.items()}
    time.sleep(SECONDS)
    used, busy, driver = {}, {}, {}
    for name, pid in pids.items():
        now = threads(pid)
        used[name], driver[name] = apart(ticks(name, pid) - first[name][0], first[name][1], now)
        busy[name] = awake(first[name][1], now)
    native = used.pop("native")
    most = max(used.values())
    detail = f"hundredths of a second in {SECONDS} s: " + ", ".join(f"{name} {count:g}" for name, count in used.items())
    if any(driver.values()):
        detail += f"; the driver's own threads: {', '.join(f'{name} {count:g}' for name, count in driver.items() if count)}"
    guilty = [f"{name}: {', '.join(busy[name][:4])}" for name, count in used.items() if count > TICKS]
    suite.record.add(
        "idle_processor", most <= TICKS, native, most, detail="; ".join([detail, *guilty]), show=True, used=used,
        threads=busy, asked=TICKS, **commands,
    )


def apart(ticks, first, last):
    """(what a process used without the driver's own threads, what those used), in hundredths of a second.

    NVIDIA's driver has a thread that wakes up by itself, natively too. By the clock where the kernel does not say what
    each thread used.
    """
    if not last:
        return ticks, 0
    spent = {task: ran - first.get(task, (name, 0))[1] for task, (name, ran) in last.items()}
    driver = sum(ran for task, ran in spent.items() if last[task][0].startswith("cuda-"))
    return round((sum(spent.values()) - driver) / 1e7, 2), round(driver / 1e7, 2)


def ticks(name, pid):
    """Processor time of a process so far, in hundredths of a second. Raises RuntimeError when it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError as error:
        raise RuntimeError(f"{name} cannot be seen, it may have ended ({error})") from None
    if fields[0] in "ZX":
        raise RuntimeError(f"{name} has ended")
    return (int(fields[11]) + int(fields[12])) * 100 // os.sysconf("SC_CLK_TCK")


def threads(pid):
    """Each thread's name and how long it has run, in nanoseconds; nothing where the kernel does not say."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        try:
            found[task.name] = ((task / "comm").read_text().strip(), int((task / "schedstat").read_text().split()[0]))
        except (OSError, ValueError, IndexError):
            continue
    return found


def awake(first, last):
    """The threads that have run in between, the busiest first, each with its microseconds."""
    spent = [(ran - first.get(task, (name, 0))[1], name) for task, (name, ran) in last.items()]
    return [f"{name} {ran / 1000:.0f} us" for ran, name in sorted(spent, reverse=True) if ran > 0]


def memory(suite, processes, workers, before, own, commands):
    """What a worker has, less what the same work takes natively, its staging, and the program's pinned memory."""
    native = without(mappings(processes["native"].pid), own)
    driver = resident(native) - before
    found, rows = {}, {}
    for side, link in LINKS.items():
        rest, staged, pinned = divide(mappings(workers[side]), STAGING)
        rows[link] = rest
        found[link] = {
            "worker": mib(resident(rest)), "difference": mib(resident(rest) - driver), "staging": mib(staged),
            "pinned": mib(pinned),
        }
    worst = max(found, key=lambda link: found[link]["difference"])
    each = ", ".join(f"{row['difference']} more over {link} ({row['worker']})" for link, row in found.items())
    detail = f"MiB: the driver takes {mib(driver)} natively, a worker has {each}"
    passed = found[worst]["difference"] <= MOST_MIB
    if not passed:
        largest = ", ".join(f"{name} {size}" for name, size in by_name(rows[worst]).items())
        detail += f"; the largest over {worst}: {largest}"
    suite.record.add(
        "worker_memory_mib", passed, mib(driver), found[worst]["worker"], detail=detail, show=True,
        difference=found[worst]["difference"], asked=MOST_MIB, links=found, native_mappings=by_name(native),
        worker_mappings=by_name(rows[worst]), **commands,
    )


@dataclasses.dataclass
class Mapping:
    begin: int
    end: int
    name: str
    resident: int  # bytes

    @property
    def size(self):
        return self.end - self.begin


def mappings(pid):
    """What a process has mapped. Raises RuntimeError when it has ended."""
    try:
        found = parse(pathlib.Path(f"/proc/{pid}/smaps").read_text(errors="replace"))
    except OSError as error:
        raise RuntimeError(f"a process's memory cannot be seen, it may have ended ({error})") from None
    if not found:
        raise RuntimeError(f"process {pid} has ended, or the kernel does not show its memory")
    return found


def parse(smaps):
    """The mappings in the text of a /proc/PID/smaps."""
    found = []
    for line in smaps.splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) (?:\S+ ){3}\S+ *(.*)", line):
            found.append(Mapping(int(head[1], 16), int(head[2], 16), head[3], 0))
        elif line.startswith("Rss:"):
            found[-1].resident = int(line.split()[1]) << 10
    return found


def resident(rows):
    return sum(row.resident for row in rows)


def without(rows, ranges):
    """The mappings without the ranges [(address, bytes)] of them.

    The kernel joins mappings that lie side by side, so that a range can be part of one. A range is taken to be in
    memory as far as its mapping is: whoever has it has written all of it.
    """
    left = []
    for row in rows:
        inside = sum(max(0, min(row.end, begin + size) - max(row.begin, begin)) for begin, size in ranges)
        left.append(dataclasses.replace(row, resident=row.resident - min(row.resident, inside)))
    return left


def divide(rows, staging):
    """(a worker's mappings without staging and pinned memory, bytes in memory of staging, and of pinned memory).

    Raises ValueError when there is no mapping that could be staging.
    """
    pinned = [row for row in rows if row.name.startswith("/memfd:fusewire-pinned")]
    # The smallest that is large enough: the kernel may have joined it with what lies beside. What is much larger
    # is address space that a driver keeps for itself.
    fitting = [row for row in rows if row.name == "" and staging <= row.size < 2 * staging]
    if not fitting:
        sizes = sorted((row.size for row in rows if row.name == ""), reverse=True)[:5]
        raise ValueError(f"the worker has no anonymous mapping of {staging} bytes for staging; the largest: {sizes}")
    staged = min(fitting, key=lambda row: (row.size, -row.resident))
    rest = without((row for row in rows if row not in pinned), [(staged.begin, staging)])
    return rest, min(staged.resident, staging), resident(pinned)


def by_name(rows, most=8):
    """MiB of the mappings that have the most in memory, summed over those of one name."""
    sums = {}
    for row in rows:
        # Names of files without their folders: those are this machine's.
        name = row.name.rsplit("/", 1)[-1].removesuffix(" (deleted)").removeprefix("memfd:") or "anonymous"
        sums[name] = sums.get(name, 0) + row.resident
    largest = sorted(sums.items(), key=lambda pair: -pair[1])[:most]
    return {name: mib(size) for name, size in largest if size}


def mib(size):
    return round(size / MIB, 1)
