"""Fixtures with the fake NVML library, its text file, and processes that read NVML through it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shim import build_shim, have_compiler, shim_environment
from tests.shim.shimfile import Shim, ShimDevice

ROOT = Path(__file__).parents[3]


class NvmlWorker:
    """A client of an nvml_worker process."""

    def __init__(self, environment: dict[str, str], *, call_timeout_sec: float = 20.0, flags: tuple[str, ...] = ()):
        command = [sys.executable, "-W", "error", *flags, "-m", "tests.integration.vram.nvml_worker"]
        self.process = subprocess.Popen(
            [*command, str(call_timeout_sec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
        )

    def ask(self, command: str, argument: float = 0) -> Any:
        self.send(command, argument)
        return self.answer()

    def send(self, command: str, argument: float = 0) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, argument]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker died with {self.process.wait()}"
        return json.loads(line)

    def read(self) -> Any:
        return self.ask("read")

    def read_after(self, seconds: float) -> Any:
        """Advance the source's clock by this many seconds, then read."""
        self.ask("advance", seconds)
        return self.read()

    def end(self, within_sec: float = 30.0) -> float:
        """Close stdin and return the seconds until the process has ended with status 0."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        started = time.monotonic()
        self.process.stdin.close()
        assert self.process.wait(within_sec) == 0
        self.process.stdout.close()
        return time.monotonic() - started


class Lab:
    """A fake NVML library, its text file, and the workers that use them."""

    def __init__(self, directory: Path, library: Path) -> None:
        self.directory = directory
        self.library = library
        self.text = directory / "shim.txt"
        self.shim = Shim(devices=[ShimDevice("GPU-a", "NVIDIA Shim A", reserved_mib=400)])
        self.workers: list[NvmlWorker] = []
        self.write()

    def write(self) -> None:
        self.shim.write(self.text)

    def worker(self, *, environment: dict[str, str] | None = None, **settings: Any) -> NvmlWorker:
        worker = NvmlWorker(shim_environment(self.library, self.text) | (environment or {}), **settings)
        self.workers.append(worker)
        return worker


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that builds a variant of the fake library; each variant is built once."""
    if not have_compiler():
        pytest.skip("gcc is not installed, so the fake NVML cannot be built")
    known: dict[tuple[str, ...], Path] = {}

    def build(*without: str) -> Path:
        if without not in known:
            known[without] = build_shim(tmp_path_factory.mktemp("nvml"), without=without)
        return known[without]

    return build


@pytest.fixture
def lab_of(built: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Return a function that creates a Lab with a variant of the fake library."""
    labs: list[Lab] = []

    def make(*without: str) -> Lab:
        labs.append(Lab(tmp_path, built(*without)))
        return labs[-1]

    yield make
    for worker in (worker for lab in labs for worker in lab.workers):
        worker.process.kill()
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def lab(lab_of: Callable[..., Lab]) -> Lab:
    """A Lab with one device and a complete library."""
    return lab_of()
