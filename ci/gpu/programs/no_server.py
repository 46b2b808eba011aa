"""What a program sees when there is no server: no GPU, and neither a crash nor a hang."""

import time

import torch

from report import Report, arguments, info


def see():
    start = time.monotonic()
    available = torch.cuda.is_available()
    count = torch.cuda.device_count()
    try:
        torch.zeros(1, device="cuda")
        refused = "no error"
    except Exception as error:  # Which one is torch's choice.
        refused = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return {
        "available": available,
        "count": count,
        "first use": refused,
        "seconds": round(time.monotonic() - start, 1),
        "cpu": float(torch.ones(4).sum()),
    }


def main():
    report = Report(arguments(__doc__))
    report.check("no_server", info(), see)
    report.finish()


main()
