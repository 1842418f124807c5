"""``python counted_daemon.py FILE python -m gpumand …`` runs gpumand and counts the calls of functions.

On SIGUSR2 it writes to the file how many functions of Python and of C its main thread has called so far.
"""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path
from types import FrameType

COUNTED = ("call", "c_call")
GPUMAND_ARGUMENTS = 5


def main() -> None:
    """Run the daemon; the file is renamed into place, so that a reader finds it complete."""
    file, calls = Path(sys.argv[1]), 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        if event in COUNTED:
            calls += 1

    def report(number: int, frame: FrameType | None) -> None:
        part = file.with_suffix(".part")
        part.write_text(str(calls))
        part.rename(file)

    signal.signal(signal.SIGUSR2, report)
    sys.argv = ["gpumand", *sys.argv[GPUMAND_ARGUMENTS:]]
    sys.setprofile(count)
    runpy.run_module("gpumand", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
