"""Set up logging: the target (journal or stderr) and the level, by the level names of systemd."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from gpumand.log.journal import PRIORITIES, SOCKET, FloodGuard, JournalHandler
from gpumand.log.message_ids import ROUTINE_LOGGER

LEVELS: Mapping[str, int] = {
    "emerg": 70,
    "alert": 60,
    "crit": logging.CRITICAL,
    "err": logging.ERROR,
    "warning": logging.WARNING,
    "notice": 25,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
"""Level names of systemd as thresholds; gpumand itself logs at the five levels of Python only."""

LEVEL_ALIASES: Mapping[str, str] = {"error": "err"}
"""Level names of the command line that systemd does not have."""


class _PrefixFormatter(logging.Formatter):
    """Prefixes every line with its priority, as the journal expects it on stderr (see sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        level = PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())


def default_level(environ: Mapping[str, str] = os.environ) -> str:
    """The level without a command line option: "debug" where systemd sets DEBUG_INVOCATION=1, else "info"."""
    return "debug" if environ.get("DEBUG_INVOCATION") == "1" else "info"


def setup_logging(level: str, socket_path: str = SOCKET) -> None:
    """Log to the journal with all fields where stderr is connected to it, else to stderr with timestamps.

    Args:
        level: one of ``LEVELS``, or "error".
        socket_path: socket of the journal.
    """
    # No format of gpumand shows these values, and the journal adds them itself: do not look them up for every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[_handler(socket_path)], force=True)
    set_level(LEVEL_ALIASES.get(level, level))


def _handler(socket_path: str) -> logging.Handler:
    if not stderr_is_journal():
        return _stderr_handler(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    # Without the native socket, lines on stderr still reach the journal, with a priority but without fields.
    if not Path(socket_path).is_socket():
        return _stderr_handler(_PrefixFormatter("%(message)s"))
    handler = JournalHandler(socket_path)
    handler.addFilter(FloodGuard())
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _stderr_handler(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(FloodGuard())
    handler.setFormatter(formatter)
    return handler


def stderr_is_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether stderr is the journal stream that systemd names in JOURNAL_STREAM, and has not been redirected since."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    info = os.fstat(sys.stderr.fileno())
    return (device, inode) == (str(info.st_dev), str(info.st_ino)) and stat.S_ISSOCK(info.st_mode)


def target() -> str:
    """The log target by the names of org.freedesktop.LogControl1: "journal" or "console"."""
    return "journal" if any(isinstance(one, JournalHandler) for one in logging.getLogger().handlers) else "console"


def level() -> str:
    """Name of the current log level."""
    threshold = logging.getLogger().level
    return next((name for name, value in reversed(list(LEVELS.items())) if value >= threshold), "emerg")


def set_level(name: str) -> None:
    """Set the log level to one of ``LEVELS``.

    Routine messages such as grants go to the journal, which can be filtered by fields. On stderr, which a person reads
    line by line, they appear only at level debug.
    """
    logging.getLogger().setLevel(LEVELS[name])
    is_quiet = target() == "console" and name != "debug"
    logging.getLogger(ROUTINE_LOGGER).setLevel(logging.WARNING if is_quiet else logging.NOTSET)
