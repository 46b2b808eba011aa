"""Tests of the suite's own judgement, which need no GPU: `python3 ci/gpu/test_suite.py`."""

import math
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "programs")]

import report  # noqa: E402
from suite.compare import brief, compare  # noqa: E402
from suite.record import merge, sentence  # noqa: E402

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


if __name__ == "__main__":
    unittest.main()
