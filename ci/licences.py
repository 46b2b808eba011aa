#!/usr/bin/env python3
"""Checks the licence and the source of every dependency against deny.toml.

The two rules of cargo-deny that matter most, for machines without it: each package must offer at least one
allowed licence (all of them where its expression says AND), and come from crates.io.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def allowed(expression, licences):
    """Evaluates an SPDX expression; AND binds tighter than OR, and an old-style slash is an OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+(?: WITH [^\s()]+)?", expression.replace("/", " OR "))

    def either():
        value = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = both() or value
        return value

    def both():
        value = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = one() and value
        return value

    def one():
        token = tokens.pop(0)
        if token != "(":
            return token in licences
        value = either()
        tokens.pop(0)
        return value

    value = either()
    assert not tokens, f"cannot read {expression!r}"
    return value


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    licences, registries = set(rules["licenses"]["allow"]), rules["sources"]["allow-registry"]
    metadata = json.loads(subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1"], cwd=ROOT,
                                         check=True, stdout=subprocess.PIPE).stdout)
    problems = 0
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if not package["license"] or not allowed(package["license"], licences):
            print(f"{name}: its licence, {package['license']}, is not allowed by deny.toml")
            problems += 1
        if package["source"] and package["source"] not in {f"registry+{registry}" for registry in registries}:
            print(f"{name}: its source, {package['source']}, is not allowed by deny.toml")
            problems += 1
    print(f"{len(metadata['packages'])} packages, {problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
