#!/usr/bin/env python3
"""Checks that the op table and the stand-in agree: a driver function that the client implements is declared in
wire/src/ops/table.rs, and one that is declared there is implemented. What is in neither returns
CUDA_ERROR_NOT_SUPPORTED and says so.

Prints what is wrong, and a count; the exit code says whether anything is.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
INTERFACE = ROOT / "shim/cuda/abi/functions.txt"
TABLE = ROOT / "wire/src/ops/table.rs"
CLIENT = ROOT / "shim/cuda/src"


def main():
    interface = [line.split() for line in INTERFACE.read_text().splitlines() if line and not line.startswith("#")]
    symbols = {row[0] for row in interface}
    # cuMemcpy and cuMemcpy_ptds are one function; so are cuStreamGetCaptureInfo and its later versions.
    base = {row[0]: row[1] for row in interface}
    table = set(re.findall(r'"(cu[A-Z]\w+)"', TABLE.read_text()))
    client = set()
    for file in CLIENT.rglob("*.rs"):
        client |= set(re.findall(r'extern "C" fn (cu[A-Z]\w+)', file.read_text()))
    client &= symbols
    bases = {base[name] for name in client}
    tabled = {base.get(name, name) for name in table}
    problems = [f"{name} is declared in the op table but is no function of the driver" for name in
                sorted(table - symbols)]
    problems += [f"{name} is declared in the op table but the client does not implement it"
                 for name in sorted(table & symbols) if base[name] not in bases]
    problems += [f"{name} is implemented in the client but not declared in the op table"
                 for name in sorted(client) if base[name] not in tabled]
    for problem in problems:
        print(problem)
    print(f"{len(symbols)} symbols, {len(client)} implemented, {len(table)} in the op table, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
