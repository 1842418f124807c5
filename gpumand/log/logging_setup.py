"""Where the log goes, and from which level on, in systemd's words for levels."""

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
"""systemd's levels as thresholds; what we log ourselves is of the five that Python has."""

ARGUMENTS: Mapping[str, str] = {"error": "err"}
"""Words of the command line that systemd does not have."""


class _PrefixFormatter(logging.Formatter):
    """Lines as the journal wants them on stderr: with their priority in front."""

    def format(self, record: logging.LogRecord) -> str:
        level = PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())


def default_level(environ: Mapping[str, str] = os.environ) -> str:
    """The level where the command line says none; systemd asks for more of a unit that it starts to debug it."""
    return "debug" if environ.get("DEBUG_INVOCATION") == "1" else "info"


def setup_logging(level: str, socket_path: str = SOCKET) -> None:
    """Log to the journal with all fields where stderr is the journal's, else to stderr, with times for a person.

    Args:
        level: one of ``LEVELS``, or "error".
        socket_path: the journal's.
    """
    # What no line of ours shows and the journal knows by itself need not be found out for every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[_handler(socket_path)], force=True)
    set_level(ARGUMENTS.get(level, level))


def _handler(socket_path: str) -> logging.Handler:
    if not stderr_is_journal():
        return _on_stderr(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    if not Path(socket_path).is_socket():
        return _on_stderr(_PrefixFormatter("%(message)s"))
    handler = JournalHandler(socket_path)
    handler.addFilter(FloodGuard())
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _on_stderr(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(FloodGuard())
    handler.setFormatter(formatter)
    return handler


def stderr_is_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether our stderr is the very stream that systemd says leads to the journal."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    info = os.fstat(sys.stderr.fileno())
    return (device, inode) == (str(info.st_dev), str(info.st_ino)) and stat.S_ISSOCK(info.st_mode)


def target() -> str:
    """Where the log goes, in the words of org.freedesktop.LogControl1: "journal" or "console"."""
    return "journal" if any(isinstance(one, JournalHandler) for one in logging.getLogger().handlers) else "console"


def level() -> str:
    """The level in force."""
    threshold = logging.getLogger().level
    return next((name for name, value in reversed(list(LEVELS.items())) if value >= threshold), "emerg")


def set_level(name: str) -> None:
    """Put another of ``LEVELS`` in force.

    Every grant is worth an entry in the journal, which is read by fields, but not a line on stderr, which is read.
    """
    logging.getLogger().setLevel(LEVELS[name])
    is_quiet = target() == "console" and name != "debug"
    logging.getLogger(ROUTINE_LOGGER).setLevel(logging.WARNING if is_quiet else logging.NOTSET)
