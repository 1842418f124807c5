"""Announces the resident memory (RSS) of real servers as VRAM of the simulated device. Runs inside the machine.

The servers compute on the CPU, so the memory that a GPU would hold for them is in their RSS. The file ``PEAK`` contains
the highest sum so far: it shows whether the servers together ever exceeded the size of the device.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from gpumand.testing.vram_announcement import Announcement

SERVERS = ("llama-server", "whisper-server")
PEAK = "peak_mib"
INTERVAL_SEC = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_mib() -> dict[int, int]:
    """Return the RSS in MiB, rounded up, of every running server by pid."""
    found: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if (process / "comm").read_text().strip() not in SERVERS:
                continue
            pages = int((process / "statm").read_text().split()[1])
        except OSError:
            continue  # the process has ended since /proc was listed
        found[int(process.name)] = -(-pages * PAGE_BYTES >> 20)
    return found


def announce_forever(folder: Path) -> None:
    """Announce every change until this process is killed."""
    announced: dict[int, int] = {}
    peak_mib = 0
    while True:
        now = resident_mib()
        for pid in announced.keys() - now.keys():
            Announcement(folder, pid=pid).clear()
        for pid, mib in now.items():
            if announced.get(pid) != mib:
                Announcement(folder, pid=pid).set(mib)
        announced = now
        if sum(now.values()) > peak_mib:
            peak_mib = sum(now.values())
            (folder / PEAK).write_text(str(peak_mib))
        time.sleep(INTERVAL_SEC)


if __name__ == "__main__":
    announce_forever(Path(sys.argv[1]))
