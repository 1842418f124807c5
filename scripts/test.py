#!/usr/bin/env python3
"""Run every check and test suite that can run here, and list at the end what did not run, and why.

The tests on booted machines mostly wait for systemd, so they run in parallel with everything else, as a sequence of
their own; within a suite, pytest-xdist runs several files at once. With GPUMAND_E2E=required a skipped e2e test is a
failure. The exit status is 1 when anything failed.

Tests with real processes can fail because the machine stood still for a while. A few of them get a second attempt, and
the summary names each test that needed one; the unit tests, which have no such excuse, get none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
GPU = "not run: it needs a GPU to itself, so it has a command of its own: make gpu"
WORKERS = max(2, os.cpu_count() or 1)
SECOND_ATTEMPTS = 6
"""How many tests of a suite may get a second attempt, per worker; more failures than that are a real fault."""

SHORT_KILLS = "40"
"""Kills of the restart test here; ``make reliability`` does 200."""


@dataclass(frozen=True)
class Report:
    """What a suite reported.

    Attributes:
        total: number of tests.
        skipped: number of skipped tests by reason.
        second_attempts: names of the tests that failed first and then passed.
    """

    total: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    second_attempts: tuple[str, ...] = ()


@dataclass
class Step:
    """One check or test suite.

    Attributes:
        name: as in the Makefile.
        command: what runs it.
        environ: variables added for it.
        log: the file that its output goes to, so that two lanes do not mix their lines.
        report: the JUnit file that pytest writes, None for a check.
    """

    name: str
    command: Sequence[str | Path]
    log: Path
    report: Path | None = None
    environ: dict[str, str] = field(default_factory=dict)
    passed: bool = False
    took_sec: float = 0.0

    def summary(self) -> list[str]:
        """Return the summary of this step: whether it passed, how many tests ran, and what was skipped and why."""
        head = f"{self.name:12} {'passed' if self.passed else 'FAILED'}"
        if self.report is None:
            return [f"{head} in {self.took_sec:.0f} s"]
        found = read_report(self.report) if self.report.exists() else Report()
        head = f"{head}, {found.total - found.skipped.total()} tests in {self.took_sec:.0f} s"
        lines = [f"skipped {number}: {why}" for why, number in sorted(found.skipped.items())]
        lines += [f"passed only at the second attempt: {name}" for name in found.second_attempts]
        return [head, *(f"{'':12} {line}" for line in lines)]


class Runner:
    """Runs steps and prints the output of each when it ends; when interrupted, also the output of the running ones."""

    def __init__(self) -> None:
        self._running: list[Step] = []
        self._printing = threading.Lock()

    def run(self, step: Step) -> None:
        """Run one step to its end."""
        began = time.monotonic()
        self._running.append(step)
        self._say(f"--- {step.name} begins")
        with step.log.open("wb") as log:
            environ = {**os.environ, **step.environ}
            done = subprocess.run(step.command, cwd=ROOT, stdout=log, stderr=log, env=environ, check=False)
        step.passed, step.took_sec = done.returncode == 0, time.monotonic() - began
        self._running.remove(step)
        self._say(f"--- {step.name}", step.log)

    def lane(self, steps: Sequence[Step]) -> None:
        """Run steps one after the other; a failure does not keep the next from running."""
        for step in steps:
            self.run(step)

    def show_unfinished(self, number: int, _frame: FrameType | None) -> None:
        """We are being ended from outside: print what the running steps wrote so far, or it would be lost."""
        for step in list(self._running):
            print(f"--- {step.name}, ended by {signal.Signals(number).name}\n{_text(step.log)}", flush=True)
        os._exit(1)  # the lanes' threads still wait for their steps

    def _say(self, head: str, log: Path | None = None) -> None:
        with self._printing:
            print(head if log is None else f"{head}\n{_text(log).rstrip()}", flush=True)


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def check(folder: Path, name: str) -> Step:
    """One target of the Makefile."""
    return Step(name, ["make", "--no-print-directory", name], folder / f"{name}.log")


def suite(folder: Path, name: str, second_attempts: int = SECOND_ATTEMPTS, **environ: str) -> Step:
    """One folder of tests, several files at once."""
    report = folder / f"{name}.xml"
    options = [f"--numprocesses={WORKERS}", "--dist=loadfile", f"--junit-xml={report}"]
    if second_attempts:
        options += ["--reruns=1", f"--max-suite-reruns={second_attempts}", "--rerun-show-tracebacks"]
    return Step(name, [PYTHON, "-m", "pytest", f"tests/{name}", *options], folder / f"{name}.log", report, environ)


def read_report(path: Path) -> Report:
    """Read a JUnit file; a test that got a second attempt is in it twice."""
    attempts: dict[str, list[ET.Element]] = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        attempts.setdefault(f"{case.get('classname')}::{case.get('name')}", []).append(case)
    last = {name: cases[-1] for name, cases in attempts.items()}
    reasons = Counter(skip.get("message", "") for case in last.values() for skip in case.iter("skipped"))
    failed = {name for name, case in last.items() if case.find("failure") is not None or case.find("error") is not None}
    again = [name for name, cases in attempts.items() if len(cases) > 1 and name not in failed]
    return Report(len(last), reasons, tuple(again))


def main() -> int:
    """Run all, print the summary, and return the exit status."""
    runner = Runner()
    signal.signal(signal.SIGTERM, runner.show_unfinished)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first: Callable[[str], Step] = partial(check, folder)
        lanes = [
            [first("lint"), first("types"), first("docs")],
            [suite(folder, "e2e", GPUMAND_KILLS=os.environ.get("GPUMAND_KILLS", SHORT_KILLS)), suite(folder, "real")],
        ]
        lanes[0] += [suite(folder, "unit", second_attempts=0), suite(folder, "integration")]
        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(runner.lane, lanes))
        steps = [step for lane in lanes for step in lane]
        print("\nsummary")
        for step in steps:
            print("\n".join(f"  {line}" for line in step.summary()))
    print(f"  {'gpu':12} {GPU}")
    failed = not all(step.passed for step in steps)
    print("FAILED" if failed else "all is well")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
