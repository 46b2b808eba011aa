"""fusewire-perf measures, records, joins and shows, with the software GPU as both native and remote."""

import json
import subprocess

from harness import BUILT, PATIENCE, SOFTGPU, environment

PERF = BUILT / "fusewire-perf"


def perf(*words, code=0):
    done = subprocess.run([PERF, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE, env=environment())
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout} {done.stderr}"
    return done


def measure(tmp_path, command, *words):
    out = tmp_path / f"{command}.json"
    perf(command, "--quick", "--bin", BUILT, "--native-driver", SOFTGPU, "--commit", "0123abcd", "--out", out, *words)
    return out, json.loads(out.read_text())


def figures(result, link):
    return {figure["case"]: figure for figure in result["figures"] if figure["link"] == link}


def test_latency_is_measured_on_every_link(tmp_path):
    _, result = measure(tmp_path, "latency", "--links", "shm,tcp")
    run = result["runs"][0]
    assert run["commit"] == "0123abcd" and run["machine"]["gpu"] and run["seconds"] > 0
    assert run["command"].startswith("fusewire-perf latency --quick")
    for link in ("shm", "tcp"):
        found = figures(result, link)
        for case in ("launch", "launch_synchronize", "memcpy_dtoh_4", "event_query", "ctx_get_current", "launch_open_100000"):
            figure = found[case]
            for side in (figure["native"], figure["remote"]):
                detail = side["detail"]
                assert len(side["rounds"]) == 2 and detail["count"] > 0
                assert 0 < detail["p50"] <= detail["p99"] <= detail["p99_9"] <= detail["max"] * 1.01, case
            assert figure["ratio"]["min"] <= figure["ratio"]["median"] <= figure["ratio"]["max"]
        # One waits for the server, the other does not.
        assert found["launch_synchronize"]["remote"]["median"] > found["ctx_get_current"]["remote"]["median"]
    assert run["about"]["line_tcp"]["round_trip_us"]["p50"] > 0


def test_bandwidth_is_measured_both_ways_and_results_are_joined_and_shown(tmp_path):
    slices = []
    for size in ("4K", "1M"):
        out, result = measure(tmp_path, "bandwidth", "--links", "tcp", "--sizes", size)
        cases = {f"{memory} {way} {size}" for memory in ("pinned", "pageable") for way in ("h2d", "d2h", "both")}
        assert set(figures(result, "tcp")) == cases
        assert all(figure["native"]["median"] > 0 and figure["remote"]["median"] > 0 for figure in result["figures"])
        slices.append(out.rename(tmp_path / f"{size}.json"))
    whole = tmp_path / "whole.json"
    perf("merge", *slices, "--out", whole)
    joined = json.loads(whole.read_text())
    assert len(joined["figures"]) == 12 and len(joined["runs"]) == 2

    perf("plot", whole, "--out", tmp_path / "plots")
    assert "<svg" in (tmp_path / "plots" / "bandwidth-pinned-h2d.svg").read_text()

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- perf:begin -->\nold\n<!-- perf:end -->\nafter\n")
    perf("table", whole, "--page", page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| pinned h2d 4K |" in text and "`0123abcd`" in text


def test_sessions_and_cold_starts_are_measured(tmp_path):
    _, result = measure(tmp_path, "clients", "--links", "tcp", "--work", "calls", "--sessions", "1,3", "--seconds", "0.3")
    found = figures(result, "tcp")
    assert list(found) == ["calls x1", "calls x3"]
    for shares in found["calls x3"]["remote"]["detail"]["shares"]:
        assert len(shares) == 3 and abs(sum(shares) - 1) < 1e-9 and min(shares) > 0
    _, result = measure(tmp_path, "coldstart", "--links", "tcp", "--only", "kernel")
    assert list(figures(result, "tcp")) == ["kernel, first start", "kernel, second start"]


def test_bad_input_is_one_line_and_its_own_exit_code(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    for words, reason in (
        (("merge", tmp_path / "none.json", "--out", tmp_path / "x"), "none.json cannot be read"),
        (("merge", broken, "--out", tmp_path / "x"), "is not a result"),
        (("latency", "--bin", tmp_path), "name the folder of `fusewire`"),
        (("latency", "--bin", BUILT, "--only", "nonsense"), "no case nonsense"),
        (("bandwidth", "--sizes", "4Q"), "4Q is not a size"),
        (("train", "--links", "carrier-pigeon"), "no link carrier-pigeon"),
        (("gate", "--ceilings", tmp_path / "none.json"), "none.json cannot be read"),
    ):
        done = perf(*words, code=2)
        assert reason in done.stderr, done.stderr
        assert not (tmp_path / "x").exists()


def test_a_server_that_cannot_start_is_a_failure_with_its_reason(tmp_path):
    done = perf("latency", "--quick", "--bin", BUILT, "--native-driver", SOFTGPU, "--driver", "/dev/null",
                "--links", "tcp", "--out", tmp_path / "x.json", code=1)
    assert "link tcp" in done.stderr or "tcp:" in done.stderr, done.stderr
