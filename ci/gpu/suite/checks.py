"""The checks, in the order they are run, and what each asks.

Most are programs run natively and then remotely, whose results are compared check by check. The others
have a function each. `alone` checks measure, so nothing else runs beside them.
"""

import dataclasses
import pathlib
import shutil
import socket
import threading
import time
import typing

from . import host, idle, speed
from .compare import compare


@dataclasses.dataclass
class Check:
    name: str
    about: str
    seconds: int  # about how long it takes, native and remote
    timeout: int  # for each run of its program
    file: str = ""
    arguments: tuple = ()
    alone: bool = False
    device_file: str | None = None
    function: typing.Callable | None = None

    def run(self, suite, only):
        (self.function or pair)(suite, self, only)


def pair(suite, check, only):
    """A program, natively and then remotely."""
    arguments = [*check.arguments, *(["--quick"] if suite.options.quick else [])]
    if only:
        arguments += ["--only", ",".join(only)]
    native = suite.options.keep_native and suite.runner.earlier(check.name, check.file, arguments)
    if not native:
        native = suite.runner.run(check.name, "native", check.file, arguments, check.timeout)
    remote = persistent(suite, check, arguments, list(native.results))
    suite.record.versions.update(native.content.get("versions", {}))
    judge(suite, check, native, remote)


AGAIN = 4


def persistent(suite, check, arguments, names):
    """Runs a program remotely; after a crash once more with what it had not come to, so that one check
    that takes the program with it does not hide the others."""
    found, trouble, first, rest = {}, [], None, arguments
    for attempt in range(AGAIN):
        side = f"remote.{attempt}" if attempt else "remote"
        run = suite.runner.run(check.name, side, check.file, rest, check.timeout, device_file=check.device_file)
        first = first or run
        found.update(run.results)
        if not run.trouble:
            break
        trouble.append(run)
        culprit = run.content.get("running")
        if not culprit:
            break
        found[culprit] = {"error": run.trouble, "seconds": run.seconds, "tail": run.tail()}
        left = [name for name in names if name not in found]
        if not left or (run.code == "timeout" and attempt):
            break
        # A program's later --only overrides the earlier one.
        rest = [*arguments, "--only", ",".join(left)]
    first.results = found
    # What is charged to a check is not the program's trouble as well.
    first.excused = bool(trouble) and all(run.content.get("running") for run in trouble)
    return first


def judge(suite, check, native, remote):
    again = f"ci/gpu-suite --only {check.name}"
    names = list(native.results) + [name for name in remote.results if name not in native.results]
    for name in names:
        left, right = native.results.get(name), remote.results.get(name)
        more = {
            "command": again, "native_command": native.command, "remote_command": remote.command,
            "native_seconds": left and left.get("seconds"), "remote_seconds": right and right.get("seconds"),
        }
        missing = [
            f"{side}: {entry['error'] if entry else run.trouble or 'not run'}"
            for side, entry, run in (("native", left, native), ("remote", right, remote))
            if not entry or "error" in entry
        ]
        if missing:
            more.update(detail="; ".join(missing))
            if not right or "error" in right:
                more.update(tail=(right or {}).get("tail") or remote.tail())
            suite.record.add(name, False, left and left.get("value"), right and right.get("value"), **more)
            continue
        how = left["compare"]
        agree, detail = compare(how, left["value"], right["value"])
        passed = None if how["kind"] == "info" else agree
        ratio = "identical" if detail == "identical" else None
        suite.record.add(
            name, passed, left["value"], right["value"], ratio, tolerance=how, detail=detail, **more
        )
    troubles = [f"{side}: {run.trouble}" for side, run in (("native", native), ("remote", remote)) if run.trouble and not run.excused]
    # A crash at the very end, after all results, is a failure as well.
    if troubles:
        suite.record.add(
            f"{check.name}_ends", False, native.code, remote.code, detail="; ".join(troubles), command=again,
            native_command=native.command, remote_command=remote.command,
            tail=remote.tail() if remote.trouble else native.tail(),
        )


def hidden(suite, check, only):
    """The GPU can be used natively, and where the client runs it cannot even be seen."""
    native = suite.runner.run(check.name, "native", check.file, [], check.timeout)
    remote = suite.runner.run(check.name, "hidden", check.file, [], check.timeout, bare=True)
    seen = [run.results.get("driver", {}).get("value", {}).get("libcuda.so.1") for run in (native, remote)]
    left = remote.results.get("devices", {}).get("value")
    passed = seen[0] == 0 and remote.trouble is None and seen[1] != 0 and left == []
    suite.record.add(
        check.name, passed, "cuInit=0" if seen[0] == 0 else "no-driver", "no-driver" if seen[1] != 0 else "cuInit=0",
        detail=f"natively {seen[0]}; hidden: {seen[1]}, devices {left}", found=remote.results,
        native_command=native.command, remote_command=remote.command, tail=None if passed else remote.tail(),
    )
    return passed


def nvidia_smi(suite, check, only):
    """The default screen of NVIDIA's own nvidia-smi."""
    found = host.nvidia_smi()
    if not found:
        suite.record.add(check.name, None, verdict="SKIP", detail="there is no nvidia-smi here", show=True)
        return
    # The client has the program but not the folder it came in.
    program = suite.runner.work / "nvidia-smi"
    shutil.copy2(pathlib.Path(found).resolve(), program)
    screens = {}
    for side, argv in (("native", [found]), ("remote", suite.runner.remote_argv([str(program)]))):
        code, seconds, _, said = suite.runner.execute(check.name, side, argv, check.timeout)
        screens[side] = (code, said, seconds, suite.runner.shown(argv))
    name = suite.record.machine["gpu"] or "NVIDIA"
    code, said, seconds, command = screens["remote"]
    shows = name in said and (suite.record.machine["driver"] or "") in said
    suite.record.add(
        check.name, code == 0 and shows, f"exit_{screens['native'][0]}", f"exit_{code}",
        detail=f"remote: exit code {code}, " + ("shows" if shows else "does not show") + f" {name} and its driver",
        command=f"ci/gpu-suite --only {check.name}", remote_command=command, remote_seconds=seconds, screen=said[-3000:],
    )


def no_server(suite, check, only):
    """Nobody listens; or somebody who never says a word. Both are answered in time, and in one line."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        addresses = {"no_server": f"127.0.0.1:{host.free_port()}", "silent_server": "127.0.0.1:%d" % silent.getsockname()[1]}
        for name, address in addresses.items():
            run = suite.runner.run(name, "remote", check.file, [], check.timeout, address=address)
            seen = run.results.get("no_server", {}).get("value") or {}
            said = [line for line in run.tail().splitlines() if line.startswith("fusewire")]
            passed = run.trouble is None and seen.get("available") is False and len(said) == 1 and seen["first use"] != "no error"
            suite.record.add(
                name, passed, None, f"is_available={seen.get('available')}", command=f"ci/gpu-suite --only {check.name}",
                detail=f"{run.trouble or 'ended well'}; {len(said)} lines of fusewire's: {' / '.join(said)[:300]}",
                remote_command=run.command, found=seen, tail=None if passed else run.tail(),
            )


COUNTED = (20, 40)


def counts(suite, check, only):
    """Round trips of a training step: the difference between a longer and a shorter run."""
    runs = {}

    def one(item, steps):
        side = f"remote.{'item' if item else 'plain'}.{steps}"
        arguments = ["--steps", str(steps), *(["--item"] if item else [])]
        runs[item, steps] = (side, suite.runner.run(check.name, side, check.file, arguments, check.timeout))

    # Counting is not timing: the four can run at once.
    workers = [threading.Thread(target=one, args=(item, steps)) for item in (False, True) for steps in COUNTED]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    short, long = COUNTED
    for item, expected in ((False, 0), (True, 1)):
        name = "round_trips_with_item" if item else "round_trips_a_step"
        pair = [runs[item, steps] for steps in COUNTED]
        trouble = next((run.trouble for _, run in pair if run.trouble), None)
        less, more = (suite.runner.statistics(check.name, side) for side, _ in pair)
        if not trouble and not (less and more):
            trouble = "no statistics were written"
        failed = next((run for _, run in pair if run.trouble or "error" in run.results.get("counts", {})), None)
        if trouble or failed:
            error = failed and failed.results.get("counts", {}).get("error")
            suite.record.add(name, False, expected, None, detail=error or trouble, tail=failed and failed.tail())
            continue
        steps = {}
        for kind in ("local", "async", "sync", "bytes_out"):
            each = {f: (row[kind] - less.get(f, {}).get(kind, 0)) / (long - short) for f, row in more.items()}
            steps[kind] = {f: number for f, number in sorted(each.items(), key=lambda pair: -pair[1]) if number}
        total = sum(steps["sync"].values())
        waits = ", ".join(f"{f} {number:g}" for f, number in steps["sync"].items())
        suite.record.add(
            name, total == expected, expected, total, detail=f"waiting a step: {waits or 'nothing'}", show=True,
            sums={kind: sum(numbers.values()) for kind, numbers in steps.items()}, functions=steps,
            command=f"ci/gpu-suite --only {check.name}", remote_command=pair[1][1].command,
        )


SESSIONS = 10


def ten_sessions(suite, check, only):
    """Ten at once, each with the losses it has alone, and afterwards the card's memory is as before."""
    native = suite.runner.run(check.name, "native", check.file, [], check.timeout)
    before = host.settled_memory()
    runs = [None] * SESSIONS

    def one(index):
        runs[index] = suite.runner.run(check.name, f"remote.{index}", check.file, [], check.timeout)

    workers = [threading.Thread(target=one, args=(index,)) for index in range(SESSIONS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    known = native.results.get("small", {})
    right, wrong = 0, []
    for index, run in enumerate(runs):
        found = run.results.get("small", {})
        if run.trouble is None and "value" in found and "value" in known:
            agree, why = compare(known["compare"], known["value"], found["value"])
        else:
            agree, why = False, run.trouble or found.get("error") or native.trouble or known.get("error")
        right += agree
        if not agree:
            wrong.append(f"session {index}: {why}")
    again = f"ci/gpu-suite --only {check.name}"
    first = next((run for run in runs if run.trouble or "error" in run.results.get("small", {})), None)
    suite.record.add(
        check.name, right == SESSIONS, SESSIONS, right, detail="; ".join(wrong)[:600], command=again,
        native_command=native.command, remote_command=runs[0].command, tail=first and first.tail(),
        seconds_each=[run.seconds for run in runs],
    )
    after = memory_returns(before)
    suite.record.add(
        "memory_after_sessions", before is not None and after is not None and after <= before, before, after,
        detail="MiB in use on the card before and after, by nvidia-smi", command=again, show=True,
    )


def memory_returns(before, limit=15):
    """MiB in use once it is what it was, or at the end of the time a worker may take to go."""
    end = time.monotonic() + limit
    while True:
        now = host.memory_used()
        if now is None or before is None or now <= before or time.monotonic() > end:
            return now
        time.sleep(0.5)


def training(name, *arguments, **more):
    return Check(name, seconds=more.pop("seconds", 35), timeout=120, file="train.py", arguments=arguments, **more)


CHECKS = [
    training("resnet50", "--model", "resnet50", about="ResNet-50, deterministic, 50 steps: losses bit for bit"),
    training("inception_v3", "--model", "inception_v3", about="Inception-v3, the same"),
    training("amp_bf16", "--mode", "amp", about="ResNet-50, bf16 autocast, channels-last, cudnn.benchmark"),
    Check("torch_ops", "copies, streams, graphs, attention, FFT, sparse, linalg, random numbers", 60, 180, "torch_ops.py"),
    Check("dataloader", "a DataLoader with two worker processes", 30, 90, "loader.py"),
    Check("torch_compile", "torch.compile, forward and backward", 70, 180, "torch_compile.py"),
    Check("jax", "JAX: jit, convolution, FFT, SVD, random numbers, a callback", 50, 150, "jax_ops.py", device_file="nvidiactl"),
    Check("cupy", "CuPy: kernels, reductions, linalg, FFT, random numbers", 45, 150, "cupy_ops.py"),
    Check("triton", "Triton kernels", 30, 120, "triton_ops.py"),
    Check("faults", "device printf, assert, a stray write: messages and errors", 35, 180, "faults.py"),
    Check("random_calls", "random driver calls in one and three threads, 6 seeds, line by line", 30, 180, "random_calls.py"),
    Check("nvidia_smi", "NVIDIA's nvidia-smi, default screen", 3, 40, function=nvidia_smi),
    Check("no_server", "torch without a server, and with one that says nothing", 35, 90, "no_server.py", function=no_server),
    Check("counts", "round trips of a training step: 0, with .item() 1", 25, 120, "counts.py", alone=True, function=counts),
    Check("speed", "training steps, launches and copies against native, in turns", 100, 240, "speed.py", alone=True, function=speed.speed),
    Check("idle", "idle sessions use no processor, and a worker little memory", 30, 60, "idle.py", alone=True, function=idle.idle),
    Check("ten_sessions", "ten sessions at once; memory afterwards", 45, 150, "small.py", alone=True, function=ten_sessions),
]
HIDDEN = Check("hidden", "the client's surroundings: no GPU, no driver", 3, 40, "probe.py", function=hidden)
