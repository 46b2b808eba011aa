"""Tests of the suite's own judgement, which need no GPU: `python3 ci/gpu/test_suite.py`."""

import contextlib
import io
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "programs")]

import report  # noqa: E402
from suite import host, idle  # noqa: E402
from suite.compare import brief, compare  # noqa: E402
from suite.record import Record, merge, sentence  # noqa: E402

EXACT = report.exact()


def number(value):
    return report.summarise(value)


def array(*values, digest="d"):
    return {"array": digest, "dtype": "f4", "shape": [len(values)], "samples": [float(v).hex() for v in values]}


class Comparing(unittest.TestCase):
    def agrees(self, how, left, right):
        return compare(how, left, right)[0]

    def test_exact_means_every_bit(self):
        self.assertTrue(self.agrees(EXACT, number([0.1, "x", None]), number([0.1, "x", None])))
        self.assertFalse(self.agrees(EXACT, number([0.1]), number([math.nextafter(0.1, 1)])))
        self.assertFalse(self.agrees(EXACT, array(1, digest="a"), array(1, digest="b")))
        self.assertFalse(self.agrees(EXACT, number([1]), number([1, 1])))

    def test_an_exact_difference_says_where(self):
        self.assertIn(".losses[1]", compare(EXACT, number({"losses": [1.0, 2.0]}), number({"losses": [1.0, 3.0]}))[1])

    def test_a_tolerance_is_relative_to_the_largest(self):
        close = report.close(1e-3)
        self.assertTrue(self.agrees(close, array(1000, 0), array(1000.5, 0.9, digest="e")))
        self.assertFalse(self.agrees(close, array(1000, 0), array(1000, 1.1, digest="e")))
        self.assertFalse(self.agrees(close, array(0, 0), array(0, 1e-9, digest="e")))
        self.assertTrue(self.agrees(report.close(0, 0.1), number(1.0), number(1.05)))

    def test_what_is_not_finite_must_be_the_same(self):
        close = report.close(1.0)
        nan, inf = math.nan, math.inf
        self.assertTrue(self.agrees(close, array(nan, inf, 1), array(nan, inf, 1, digest="e")))
        self.assertFalse(self.agrees(close, array(1, 1), array(1, nan, digest="e")))
        self.assertFalse(self.agrees(close, array(inf), array(-inf, digest="e")))

    def test_another_shape_or_kind_never_agrees(self):
        close = report.close(1.0)
        self.assertFalse(self.agrees(close, array(1, 1), array(1, digest="e")))
        self.assertFalse(self.agrees(close, number(1.0), number("1.0")))
        self.assertFalse(self.agrees(close, number({"a": 1.0}), number({"b": 1.0})))

    def test_brief_is_short(self):
        self.assertEqual(brief(number(0.5)), "0.5")
        self.assertEqual(brief(number([1.0, 2.0, 3.0])), "3+2")
        self.assertLess(len(brief("x" * 500)), 50)


class Merging(unittest.TestCase):
    def test_the_last_call_counts_for_what_it_ran(self):
        def call(date, **checks):
            made = {name: {"verdict": verdict} for name, verdict in checks.items()}
            return {"machine": {"gpu": "G"}, "commit": date, "date": date, "checks": made}

        whole = merge([call("1", a="FAIL", b="PASS", c="INFO"), None, call("2", a="PASS", d="SKIP")])
        self.assertEqual(whole["totals"], {"passed": 2, "failed": 0, "skipped": 1})
        self.assertEqual(whole["commit"], "2")
        self.assertEqual(sentence(whole["totals"]), "2 passed, 0 failed, 1 skipped")


MIB = 1 << 20
SMAPS = """\
00400000-00600000 r-xp 00000000 08:01 1234                               /opt/a folder/fusewire
Size:               2048 kB
Rss:                1024 kB
Pss:                1024 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0002000000 rw-p 00000000 00:00 0
Size:              32768 kB
Rss:               32768 kB
VmFlags: rd wr mr mw me ac hg
7f0002000000-7f0006000000 rw-s 00000000 00:01 77                         /memfd:fusewire-pinned (deleted)
Size:              65536 kB
Rss:               65536 kB
7f0006000000-7f0006800000 rw-s 00000000 00:01 78                         /memfd:fusewire-link (deleted)
Size:               8192 kB
Rss:                4096 kB
7f0010000000-7f0090000000 rw-p 00000000 00:00 0
Size:            2097152 kB
Rss:                2048 kB
"""


class Idling(unittest.TestCase):
    def setUp(self):
        self.rows = idle.parse(SMAPS)

    def sizes(self, rows):
        return [row.resident // MIB for row in rows]

    def test_smaps_are_read(self):
        self.assertEqual(self.rows[0], idle.Mapping(0x400000, 0x600000, "/opt/a folder/fusewire", MIB))
        self.assertEqual([row.name for row in self.rows[1:3]], ["", "/memfd:fusewire-pinned (deleted)"])
        self.assertEqual(self.sizes(self.rows), [1, 32, 64, 4, 2])
        self.assertEqual(idle.parse(""), [])

    def test_this_process_is_read(self):
        self.assertGreater(idle.resident(idle.mappings("self")), MIB)
        self.assertGreaterEqual(idle.ticks("this one", "self"), 0)

    def test_what_has_ended_is_said(self):
        with self.assertRaises(RuntimeError):
            idle.mappings(1 << 30)
        with self.assertRaisesRegex(RuntimeError, "^a worker "):
            idle.ticks("a worker", 1 << 30)
        self.assertEqual(idle.threads(1 << 30), {})

    def test_buffers_do_not_count_even_as_part_of_a_mapping(self):
        begin = self.rows[1].begin
        self.assertEqual(self.sizes(idle.without(self.rows, [(begin, 32 * MIB)])), [1, 0, 64, 4, 2])
        self.assertEqual(self.sizes(idle.without(self.rows, [(begin + MIB, 8 * MIB)])), [1, 24, 64, 4, 2])
        # Over two mappings; and in one that is hardly in memory.
        self.assertEqual(self.sizes(idle.without(self.rows, [(begin + 31 * MIB, 2 * MIB)])), [1, 31, 63, 4, 2])
        self.assertEqual(self.sizes(idle.without(self.rows, [(self.rows[4].begin, 64 * MIB)])), [1, 32, 64, 4, 0])

    def test_a_worker_is_what_is_left_of_it(self):
        rest, staging, pinned = idle.divide(self.rows, 32 * MIB)
        self.assertEqual((idle.resident(rest), staging, pinned), (7 * MIB, 32 * MIB, 64 * MIB))
        # The kernel has joined staging with something else.
        rest, staging, _ = idle.divide(self.rows, 30 * MIB)
        self.assertEqual((idle.resident(rest), staging), (9 * MIB, 30 * MIB))
        # Neither what is smaller nor what is far larger.
        with self.assertRaisesRegex(ValueError, "no anonymous mapping"):
            idle.divide(self.rows, 256 * MIB)

    def test_mappings_of_one_name_are_summed(self):
        self.assertEqual(idle.by_name(self.rows, 3), {"fusewire-pinned": 64.0, "anonymous": 34.0, "fusewire-link": 4.0})

    def test_busy_threads_are_named(self):
        first = {"1": ("main", 5000), "2": ("io", 0)}
        last = {"1": ("main", 5000), "2": ("io", 3000), "3": ("new", 9000)}
        self.assertEqual(idle.awake(first, last), ["new 9 us", "io 3 us"])

    def test_the_drivers_own_threads_count_apart(self):
        first = {"1": ("main", 5000), "2": ("cuda-EvtHandlr", 0)}
        last = {"1": ("main", 5000), "2": ("cuda-EvtHandlr", 20_000_000), "3": ("new", 10_000_000)}
        self.assertEqual(idle.apart(7, first, last), (1, 2))
        self.assertEqual(idle.apart(7, {}, {}), (7, 0))

    def test_a_worker_is_found_in_the_log(self):
        said = (
            "fusewire: session 2c5 opened: 127.0.0.1:77 python3 a.py (pid 500 on vm), gpu 0, worker 80\n"
            "fusewire: session f3a opened: process 77 of user 0 python3 a.py (pid 77 on vm), gpu 1, worker 93\n"
        )
        self.assertEqual([host.worker_in(said, pid) for pid in (500, 77, 7, 80)], [80, 93, None, None])


class Ending(unittest.TestCase):
    def test_told_to_end_it_leaves_no_process_behind(self):
        program = """
import sys, time
from suite import groups
groups.end_with_us()
started = groups.start(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=-1)
print(started.pid, started.stdout.readline().decode(), flush=True)
started.wait()
time.sleep(60)
"""
        suite = subprocess.Popen([sys.executable, "-c", program], cwd=HERE, stdout=subprocess.PIPE)
        shell, sleeper = (int(word) for word in (suite.stdout.readline() + suite.stdout.readline()).split())
        suite.terminate()
        self.assertEqual(suite.wait(20), 128 + 15)
        suite.stdout.close()
        for pid in (shell, sleeper):
            for _ in range(100):
                try:
                    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
                except OSError:
                    break
                if state == "Z":
                    break
                time.sleep(0.05)
            else:
                self.fail(f"process {pid} goes on")


class OverAnotherLink(unittest.TestCase):
    def test_checks_have_names_and_commands_of_their_own(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "summary.json"
            for link in ("tcp", "shm"):
                with contextlib.redirect_stdout(io.StringIO()):
                    Record(path, {}, "c0ffee", link).add("fft", True, command="ci/gpu-suite --only fft")
            checks = json.loads(path.read_text())["checks"]
        commands = {name: check["command"] for name, check in checks.items()}
        self.assertEqual(
            commands, {"fft": "ci/gpu-suite --only fft", "fft@shm": "ci/gpu-suite --only fft --link shm"},
        )


if __name__ == "__main__":
    unittest.main()
