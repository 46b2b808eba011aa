"""Speed against native: two processes that stay, native and remote, and measure in turns."""

import statistics
import time

from .process import Process

# What is asked: (at least this ratio to native, at least this figure). Larger ratios are faster.
ASKED = {
    "resnet50_fp32_32_ms": (0.90, None),
    "resnet50_fp32_128_ms": (0.97, None),
    "launch_issue_us": (1.0, None),
    "add_issue_us": (1.0, None),
    "pinned_h2d_gbs": (None, 4.0),
    "pinned_d2h_gbs": (None, 4.0),
}


def speed(suite, check, only):
    rounds = 3 if suite.options.quick else 5
    end = time.monotonic() + check.timeout
    processes, figures, failure = [], {"native": [], "remote": []}, None
    try:
        # One after the other: each tunes itself with the card to itself.
        for side in ("native", "remote"):
            arguments = ["--quick"] if suite.options.quick else []
            processes.append(Process(suite.runner, check.name, side, check.file, arguments))
            processes[-1].figures(end)
        for turn in range(rounds):
            # Who goes first alternates.
            for process in processes if turn % 2 == 0 else processes[::-1]:
                figures[process.side].append(process.turn(end))
    except RuntimeError as error:
        failure = str(error)
    finally:
        for process in processes:
            process.stop()
    whole = min(len(figures["native"]), len(figures["remote"]))
    commands = {f"{process.side}_command": process.command for process in processes}
    if failure:
        detail = f"{failure} after {whole} whole rounds"
        suite.record.add("speed", False, detail=detail, tail=processes[-1].tail(), **commands)
    names = figures["native"][0] if whole else {}
    for name in names:
        judge(suite, check, name, *([row[name] for row in figures[side][:whole]] for side in ("native", "remote")), commands)


def judge(suite, check, name, native, remote, commands):
    """Times are better when smaller, rates (_gbs) when larger; a ratio is always better when larger."""
    rate = name.endswith("_gbs")
    ratios = [r / n if rate else n / r for n, r in zip(native, remote)]
    left, right = statistics.median(native), statistics.median(remote)
    ratio = right / left if rate else left / right
    least_ratio, least = ASKED.get(name, (None, None))
    passed = None
    detail = f"ratio {min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} rounds"
    if least_ratio is not None:
        passed, detail = ratio >= least_ratio, f"{detail}; asked {least_ratio}"
    if least is not None:
        passed, detail = right >= least, f"{detail}; asked {least} GB/s"
    suite.record.add(
        name, passed, left, right, ratio, detail=detail, show=True, native_rounds=native, remote_rounds=remote,
        command=f"ci/gpu-suite --only {check.name}", **commands,
    )
