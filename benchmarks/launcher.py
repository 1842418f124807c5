"""Runs the daemon as the system unit does, without a command line to parse, and records its garbage collections.

``python -m benchmarks.launcher PAUSES python -m gpumand OPTIONS``: the prefix of the command that ``running_daemon``
starts. At its end, the daemon writes one line for each collection to PAUSES: its start, its
processor time, which other processes of a busy host do not lengthen, and its generation.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from gpumand.bus.dbus_fast_import import import_dbus_fast
from gpumand.daemon.options import Options
from gpumand.log.logging_setup import setup_logging

GPUMAND_ARGUMENTS = 5
"""Position of the daemon's options: after the file, python, -m and gpumand."""


def main() -> None:
    """Run the daemon, and write the pauses when it has ended."""
    pauses: list[tuple[float, float, int]] = []
    started = started_cpu = 0.0

    def record(phase: str, about: dict[str, int]) -> None:
        nonlocal started, started_cpu
        if phase == "start":
            started, started_cpu = time.monotonic(), time.thread_time()
        else:
            pauses.append((started, time.thread_time() - started_cpu, about["generation"]))

    gc.callbacks.append(record)
    given = dict(zip(sys.argv[GPUMAND_ARGUMENTS::2], sys.argv[GPUMAND_ARGUMENTS + 1 :: 2], strict=True))
    options = Options(Path(given["--config"]), given["--bus-address"], Path(given["--state-dir"]))
    setup_logging("info")
    import_dbus_fast()
    daemon: Any = importlib.import_module("gpumand.daemon.daemon")
    daemon.parse_arguments = lambda _: options
    try:
        daemon.main([])
    finally:
        lines = (f"{at} {lasted} {generation}\n" for at, lasted, generation in tuple(pauses))
        Path(sys.argv[1]).write_text("".join(lines))


if __name__ == "__main__":
    main()
