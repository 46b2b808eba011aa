"""What the suite found: one line a check as it comes, and summary.json, merged by name over several calls."""

import datetime
import json
import pathlib
import subprocess
import threading

from . import groups
from .compare import brief

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Record:
    def __init__(self, path, machine, commit, link="tcp"):
        self.path = pathlib.Path(path)
        self.machine, self.commit = machine, commit or head()
        self.date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        # A check over another link is another check.
        self.suffix = "" if link == "tcp" else f"@{link}"
        self.option = "" if link == "tcp" else f" --link {link}"
        self.versions = {}
        self.checks = {}
        self.lock = threading.Lock()

    def add(self, name, passed, native=None, remote=None, ratio=None, **more):
        """One check. `passed` is None for a figure that nothing is asked of, and for what was skipped."""
        if groups.ending():
            return
        name += self.suffix
        if str(more.get("command", "")).startswith("ci/gpu-suite"):
            more["command"] += self.option
        native, remote = (value if value is None or isinstance(value, (str, int, float)) else brief(value) for value in (native, remote))
        verdict = {True: "PASS", False: "FAIL", None: more.get("verdict", "INFO")}[passed]
        entry = {"verdict": verdict, "native": native, "remote": remote, "ratio": ratio}
        entry.update({key: value for key, value in more.items() if key != "verdict" and value not in (None, "")})
        entry.update(date=self.date, commit=self.commit)
        shown = f"{ratio:.3f}" if isinstance(ratio, float) else ratio or "-"
        line = f"{verdict} {name} native={plain(native)} remote={plain(remote)} ratio={shown}"
        detail = more.get("detail")
        if detail and (passed is not True or more.get("show")):
            line += f"  ({' '.join(detail.split())[:400]})"
        entry.pop("show", None)
        with self.lock:
            self.checks[name] = entry
            print(line, flush=True)
            self.write()

    def write(self):
        """Every check that was run now replaces what an earlier call found; the others stay."""
        merged = merge([load(self.path), self.summary()])
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(merged, indent=1) + "\n")
        fresh.replace(self.path)

    def summary(self):
        return {
            "machine": {**self.machine, **self.versions}, "commit": self.commit, "date": self.date,
            "checks": self.checks,
        }

    def totals(self):
        return count(self.checks)


def merge(summaries):
    """Summaries of several calls as one; of a check that is in several, the last counts."""
    whole = {"machine": {}, "checks": {}}
    for summary in summaries:
        if not summary:
            continue
        whole["machine"].update({key: value for key, value in summary["machine"].items() if value is not None})
        whole["commit"], whole["date"] = summary["commit"], summary["date"]
        whole["checks"].update(summary["checks"])
    whole["totals"] = count(whole["checks"])
    return whole


def count(checks):
    verdicts = [entry["verdict"] for entry in checks.values()]
    return {"passed": verdicts.count("PASS"), "failed": verdicts.count("FAIL"), "skipped": verdicts.count("SKIP")}


def sentence(totals):
    text = f"{totals['passed']} passed, {totals['failed']} failed"
    return text + (f", {totals['skipped']} skipped" if totals["skipped"] else "")


def plain(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def head():
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def load(path):
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return None
