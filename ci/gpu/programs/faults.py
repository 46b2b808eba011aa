"""What kernels print, and what a failing one leaves behind: messages and errors as native.

A failed kernel ends its CUDA context, so each case is a process of its own.
"""

import re
import subprocess
import sys

from report import Report, arguments, exact

PRINTS = r"""
extern "C" __global__ void speak(int turn) {
    if (threadIdx.x < 3) printf("turn %d thread %d of %s %.3f\n", turn, threadIdx.x, "many", turn * 0.5);
}
"""

ASSERTS = r"""
extern "C" __global__ void doubt(const int *x) { assert(x[threadIdx.x] < 40); }
"""

WRITES = r"""
extern "C" __global__ void stray(int *x) { x[1LL << 40] = 1; }
"""


def printing(cupy):
    kernel = cupy.RawKernel(PRINTS, "speak")
    for turn in range(3):
        kernel((1,), (32,), (numpy_int(turn),))
        cupy.cuda.Device().synchronize()
        print(f"after {turn}", flush=True)


def numpy_int(value):
    import numpy

    return numpy.int32(value)


def asserting(cupy):
    x = cupy.arange(42, dtype=cupy.int32)
    kernel = cupy.RawKernel(ASSERTS, "doubt")
    kernel((1,), (40,), (x,))
    cupy.cuda.Device().synchronize()
    print("first: no error", flush=True)
    kernel((1,), (42,), (x,))
    errors(cupy)


def straying(cupy):
    x = cupy.zeros(4, dtype=cupy.int32)
    cupy.RawKernel(WRITES, "stray")((1,), (1,), (x,))
    errors(cupy)


def errors(cupy):
    """The error comes from the synchronisation, and stays."""
    for attempt in ("synchronise", "allocate"):
        try:
            if attempt == "synchronise":
                cupy.cuda.Device().synchronize()
            else:
                cupy.cuda.runtime.malloc(64 << 20)
            print(f"{attempt}: no error", flush=True)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            print(f"{attempt}: {str(error).split(':')[0]}", flush=True)


CASES = {"printf": printing, "assert": asserting, "stray_write": straying}


def case(name):
    done = subprocess.run([sys.executable, __file__, "--case", name], capture_output=True, text=True, timeout=60)
    sys.stderr.write(f"--- {name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    # A card names the place of an assertion by the file NVRTC compiled, whose folder is the process's own.
    told = [line for line in (done.stdout + done.stderr).splitlines() if "Assertion" in line]
    told = [re.sub(r"^.*?(block: )", r"\1", line) for line in told]
    return {"stdout": [line for line in done.stdout.splitlines() if "Assertion" not in line], "assertions": sorted(told)}


def main():
    args = arguments(__doc__, case="")
    if args.case:
        import cupy

        CASES[args.case](cupy)
        # Leaving in order would report the error once more.
        sys.stdout.flush()
        return
    report = Report(args)
    for name in CASES:
        report.check(f"kernel_{name}", exact(), case, name)
    report.finish()


main()
