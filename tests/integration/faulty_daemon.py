"""``python -m tests.integration.faulty_daemon FAULT …``: the daemon with a fault that SIGUSR1 triggers."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from gpumand.arbiter.scheduler import Scheduler
from gpumand.daemon import daemon
from gpumand.daemon.daemon import main
from gpumand.vram.nvml import NvmlSession


def block(*_: Any) -> None:
    """Block for longer than any test runs."""
    time.sleep(600)


def fail(*_: Any) -> NoReturn:
    raise RuntimeError("injected")


def die(*_: Any) -> NoReturn:
    """End the thread: SystemExit is not an Exception, so no handler for Exception catches it."""
    raise SystemExit


def end_housekeeping() -> None:
    for task in asyncio.all_tasks():
        if "Housekeeping.run" in repr(task):
            task.cancel()


FAULTS: dict[str, Callable[[], Any]] = {
    "loop-blocks": block,
    "step-raises": lambda: setattr(Scheduler, "step", fail),
    "step-blocks": lambda: setattr(Scheduler, "step", block),
    "sampler-dies": lambda: setattr(NvmlSession, "read", die),
    "housekeeping-ends": end_housekeeping,
    "allows-early-restart": lambda: setattr(daemon, "MIN_AGE_FOR_RESTART_SEC", 0.0),
    "driver-hangs": lambda: setattr(NvmlSession, "read", block),
}

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: FAULTS[sys.argv[1]]())
    main(sys.argv[2:])
