"""Random driver calls whose results CUDA's rules decide (ci/system/random_calls.py), a few seeds in one and several threads."""

import pathlib
import subprocess
import sys

from report import Report, arguments, exact

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "system" / "random_calls.py"


def lines(seed, calls, threads):
    """What the program saw. A process for each seed: an error that sticks to a context is its own."""
    command = [sys.executable, str(PROGRAM), str(seed), str(calls), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0 or done.stderr:
        said = [line for line in done.stdout.splitlines() if "failed" in line]
        raise RuntimeError(f"exit code {done.returncode}: {said[:3]} {done.stderr[-300:]}")
    return done.stdout.splitlines()


def main():
    args = arguments(__doc__, calls=300)
    report = Report(args)
    for seed in range(3 if args.quick else 6):
        for threads in (1, 3):
            report.check(f"random_calls_{seed}_{threads}", exact(), lines, seed, args.calls, threads)
    report.finish()


main()
