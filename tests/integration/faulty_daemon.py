"""``python -m tests.integration.faulty_daemon FAULT …``: the daemon, with a fault that begins with SIGUSR1."""

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
    """Do not return for as long as any test lasts."""
    time.sleep(600)


def fail(*_: Any) -> NoReturn:
    raise RuntimeError("injected")


def die(*_: Any) -> NoReturn:
    """End the thread, as nothing that is an Exception can."""
    raise SystemExit


def end_upkeep() -> None:
    for task in asyncio.all_tasks():
        if "Upkeep.run" in repr(task):
            task.cancel()


FAULTS: dict[str, Callable[[], Any]] = {
    "loop-blocks": block,
    "step-raises": lambda: setattr(Scheduler, "step", fail),
    "step-blocks": lambda: setattr(Scheduler, "step", block),
    "sampler-dies": lambda: setattr(NvmlSession, "read", die),
    "upkeep-ends": end_upkeep,
    "grows-old": lambda: setattr(daemon, "LIBRARY_SEC", 0.0),
    "driver-hangs": lambda: setattr(NvmlSession, "read", block),
}

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: FAULTS[sys.argv[1]]())
    main(sys.argv[2:])
