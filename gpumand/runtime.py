"""What the daemon finds around it: places, ids, and where its log goes."""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def own_uid() -> int:
    """The user we run as."""
    return os.geteuid()


def boot_id() -> str:
    """Which boot of the host this is: what was kept in an earlier one is void. Blocks."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def state_directory(wanted: Path | None, bus_address: str, bus_id: str) -> Path:
    """Where leases are kept over a restart of the daemon, but not over one of the host.

    Args:
        wanted: the command line's word, or None.
        bus_address: "system", "session" or an address; on a bus given by its address everything is kept apart, so
            that a trial on a private bus never takes up the system's leases.
        bus_id: that bus's id.
    """
    if wanted is not None:
        return wanted
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return Path(runtime)
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "gpumand"
    if bus_address == "system" and own_uid() == 0:
        base = Path("/run/gpumand")
    return base if bus_address in ("system", "session") else base / f"bus-{bus_id[:32]}"


class _JournalFormatter(logging.Formatter):
    """Lines as the journal wants them on stderr: with their priority in front."""

    def format(self, record: logging.LogRecord) -> str:
        level = PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())


def setup_logging(level: str) -> None:
    """Log to stderr; with priorities where the journal reads it, with times where a person does."""
    handler = logging.StreamHandler(sys.stderr)
    if _stderr_is_journal():
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _stderr_is_journal() -> bool:
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    info = os.fstat(sys.stderr.fileno())
    return (device, inode) == (str(info.st_dev), str(info.st_ino)) and stat.S_ISSOCK(info.st_mode)
