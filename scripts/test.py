#!/usr/bin/env python3
"""Run every check and every circle of tests that can run here, and say at the end what did not, and why.

With GPUMAND_E2E=required a skipped e2e test is a failure. Ends with 1 when anything failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
CHECKS = ("lint", "types", "docs")
CIRCLES = ("unit", "integration", "e2e")
GPU = "not run: it takes a GPU to itself, so it is run by its name: make gpu"


def main() -> int:
    """Run all, print the summary, and return the exit status."""
    results = [run_check(name) for name in CHECKS]
    results += [run_circle(name) for name in CIRCLES]
    print("\nsummary")
    for _, lines in results:
        print("\n".join(f"  {line}" for line in lines))
    print(f"  {'gpu':12} {GPU}")
    failed = not all(passed for passed, _ in results)
    print("FAILED" if failed else "all is well")
    return int(failed)


def run_check(name: str) -> tuple[bool, list[str]]:
    """Run one target of the Makefile; whether it passed, and its lines for the summary."""
    print(f"--- {name}", flush=True)
    passed = subprocess.run(["make", "--no-print-directory", name], cwd=ROOT, check=False).returncode == 0
    return passed, [f"{name:12} {'passed' if passed else 'FAILED'}"]


def run_circle(name: str) -> tuple[bool, list[str]]:
    """Run one folder of tests; whether it passed, and its lines for the summary."""
    print(f"--- {name}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [PYTHON, "-m", "pytest", f"tests/{name}", f"--junit-xml={report}"]
        passed = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
        total, skipped = read_report(report) if report.exists() else (0, Counter())
    took = time.monotonic() - began
    count = f"{total - skipped.total()} tests in {took:.0f} s"
    head = f"{name:12} {'passed' if passed else 'FAILED'}, {count}"
    return passed, [head, *(f"{'':12} skipped {number}: {why}" for why, number in sorted(skipped.items()))]


def read_report(report: Path) -> tuple[int, Counter[str]]:
    """How many tests there were, and how many were skipped for which reason."""
    cases = list(ET.parse(report).getroot().iter("testcase"))
    reasons = [skip.get("message", "") for case in cases for skip in case.iter("skipped")]
    return len(cases), Counter(reasons)


if __name__ == "__main__":
    sys.exit(main())
