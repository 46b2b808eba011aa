"""Whether a GPU or its driver can be seen from here. Needs nothing but Python.

Run natively it must find them, and where the client runs it must not.
"""

import ctypes
import glob

from report import Report, arguments, info

DRIVERS = ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"]


def driver():
    """What cuInit and nvmlInit say: 0, another code, or why there is no library."""
    found = {}
    for name in DRIVERS:
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            found[name] = str(error)
            continue
        start = getattr(library, "cuInit", None) if "cuda" in name else getattr(library, "nvmlInit_v2", None)
        if start is None:
            found[name] = "is no driver"
        else:
            found[name] = start(0) if "cuda" in name else start()
    return found


def devices():
    return sorted(glob.glob("/dev/nvidia*") + glob.glob("/proc/driver/nvidia/*"))


def main():
    report = Report(arguments(__doc__))
    report.check("driver", info(), driver)
    report.check("devices", info(), devices)
    report.finish()


main()
