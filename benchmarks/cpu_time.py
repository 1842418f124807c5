"""CPU time of the daemon, by the scheduler's own accounting: it does not depend on how busy the host is."""

from __future__ import annotations

from pathlib import Path


def cpu_msec(pid: int) -> float:
    """Milliseconds of CPU that all threads of a process have used."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e6
