"""Whether two results agree, by the tolerance the program named."""

import math


def compare(how, native, remote):
    """(agree, the worst difference or why not). A difference is relative to the tolerance: 1.0 is the limit."""
    if how["kind"] == "info":
        return True, "not compared"
    if how["kind"] == "exact":
        return (True, "identical") if bits(native) == bits(remote) else (False, where(native, remote))
    worst = difference(native, remote, how["rtol"], how["atol"])
    if isinstance(worst, str):
        return False, worst
    if bits(native) == bits(remote):
        return True, "identical"
    return worst <= 1.0, f"off by {worst:.3g} of what is allowed"


def bits(value):
    """A value without what only serves comparison within a tolerance."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items() if key != "samples"}
    if isinstance(value, list):
        return [bits(item) for item in value]
    return value


def where(native, remote, path=""):
    """The first place where two values differ, with both."""
    if isinstance(native, dict) and isinstance(remote, dict) and native.keys() == remote.keys():
        if "array" not in native:
            for key in native:
                if bits(native[key]) != bits(remote[key]):
                    return where(native[key], remote[key], f"{path}.{key}")
    if isinstance(native, list) and isinstance(remote, list) and len(native) == len(remote):
        for index, (left, right) in enumerate(zip(native, remote)):
            if bits(left) != bits(right):
                return where(left, right, f"{path}[{index}]")
    return f"differs at {path or 'the top'}: {brief(native)} natively, {brief(remote)} remotely"


def difference(native, remote, rtol, atol, path=""):
    """The worst difference over its tolerance, or the reason why the two cannot be compared."""
    pairs = None
    if isinstance(native, dict) and isinstance(remote, dict) and native.keys() == remote.keys():
        if "array" in native:
            if (native["shape"], native["dtype"]) != (remote["shape"], remote["dtype"]):
                return f"another shape or type at {path}: {brief(native)} and {brief(remote)}"
            return numbers(native["samples"], remote["samples"], rtol, atol)
        if "float" in native:
            return numbers([native["float"]], [remote["float"]], rtol, atol)
        pairs = [(f"{path}.{key}", native[key], remote[key]) for key in native]
    elif isinstance(native, list) and isinstance(remote, list) and len(native) == len(remote):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(native, remote))]
    if pairs is None:
        return 0.0 if native == remote else where(native, remote, path)
    worst = 0.0
    for place, left, right in pairs:
        found = difference(left, right, rtol, atol, place)
        if isinstance(found, str):
            return found
        worst = max(worst, found)
    return worst


def numbers(native, remote, rtol, atol):
    left = [float.fromhex(item) for item in native]
    right = [float.fromhex(item) for item in remote]
    finite = [abs(item) for item in left if math.isfinite(item)]
    allowed = atol + rtol * max(finite, default=0.0)
    worst = 0.0
    for a, b in zip(left, right):
        if math.isfinite(a) and math.isfinite(b):
            gap = abs(a - b)
        else:
            same = a == b or (math.isnan(a) and math.isnan(b))
            gap = 0.0 if same else math.inf
        if gap:
            worst = max(worst, gap / allowed if allowed else math.inf)
    return worst


def brief(value):
    """A value in a few characters."""
    if isinstance(value, dict):
        if "array" in value:
            return value["array"][:8]
        if "float" in value:
            return f"{float.fromhex(value['float']):.6g}"
        value = list(value.values())
    if isinstance(value, list):
        if not value:
            return "[]"
        more = f"+{len(value) - 1}" if len(value) > 1 else ""
        return brief(value[-1]) + more
    return str(value).replace(" ", "_")[:40]
