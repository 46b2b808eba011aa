"""What a check program found, written as JSON for the suite to compare.

A program makes one Report and runs its checks through it; each check is on its own, so one that fails does
not take the others with it. The file is written anew after every check, so that a crash or a hang later on
keeps what was found before. Values are never judged here against another run: that is the suite's work.

Arrays are kept as a digest of their bytes, for exact comparison, and some of their elements, for comparison
within a tolerance.
"""

import argparse
import hashlib
import json
import os
import time
import traceback

SAMPLES = 256


def exact():
    """The same bits as native."""
    return {"kind": "exact"}


def close(rtol, atol=0.0):
    """Each number within atol + rtol * (the largest magnitude in its array)."""
    return {"kind": "close", "rtol": rtol, "atol": atol}


def info():
    """Reported, not compared."""
    return {"kind": "info"}


def arguments(description, **options):
    """The command line of a check program: --out, --only and what `options` adds with its defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", help="file for the result; without it, it is printed")
    parser.add_argument("--only", help="names of checks, separated by commas")
    parser.add_argument("--quick", action="store_true", help="less of the same")
    for name, default in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(default), default=default)
    return parser.parse_args()


class Report:
    def __init__(self, args):
        self.out = args.out
        self.only = set(args.only.split(",")) if args.only else None
        self.results = {}
        self.versions = {}
        self.running = None
        self.started = time.monotonic()
        self.save()

    def check(self, name, compare, function, *args):
        """Runs one check and keeps what it returns, or why it failed."""
        if self.only is not None and name not in self.only:
            return
        self.running = name
        self.save()
        start = time.monotonic()
        entry = {"compare": compare}
        try:
            entry["value"] = summarise(function(*args))
        except Exception as error:  # A check may fail in any way; the next must still run.
            entry["error"] = f"{type(error).__name__}: {error}".strip()[:600]
            traceback.print_exc()
        entry["seconds"] = round(time.monotonic() - start, 3)
        self.results[name] = entry
        self.running = None
        self.save()

    def save(self, complete=False):
        content = {
            "complete": complete,
            "running": self.running,
            "seconds": round(time.monotonic() - self.started, 3),
            "versions": self.versions,
            "results": self.results,
        }
        if not self.out:
            return
        fresh = f"{self.out}.{os.getpid()}"
        with open(fresh, "w") as file:
            json.dump(content, file)
        os.replace(fresh, self.out)

    def finish(self):
        self.save(complete=True)
        if not self.out:
            print(json.dumps(self.results, indent=1))
        failed = [name for name, entry in self.results.items() if "error" in entry]
        if failed:
            print(f"checks that failed: {', '.join(failed)}")


def summarise(value):
    """JSON for a value: numbers keep all their bits, arrays become a digest and samples."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, dict):
        return {str(key): summarise(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [summarise(item) for item in value]
    return array(value)


def array(value):
    import numpy

    dtype = str(value.dtype)
    if dtype.startswith("torch."):
        import torch

        value = value.detach().cpu().contiguous()
        shape = list(value.shape)
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        flat = torch.view_as_real(value).reshape(-1) if value.is_complex() else value.reshape(-1)
        picked = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES].to(torch.float64).tolist()
    else:
        value = numpy.ascontiguousarray(value.get() if hasattr(value, "get") else numpy.asarray(value))
        shape = list(value.shape)
        raw = value.tobytes()
        flat = value.reshape(-1)
        if numpy.iscomplexobj(flat):
            flat = flat.view(flat.real.dtype)
        picked = flat[:: max(1, flat.size // SAMPLES)][:SAMPLES].astype(numpy.float64).tolist()
    return {
        "array": hashlib.sha256(raw).hexdigest(),
        "dtype": dtype,
        "shape": shape,
        "samples": [float(item).hex() for item in picked],
    }
