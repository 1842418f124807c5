"""The journal's native protocol: log records with their fields, by one datagram each, that never waits.

See ``man 7 systemd.journal-fields`` and systemd's JOURNAL_NATIVE_PROTOCOL. What the journal does not take at once is
dropped and counted: the event loop must not wait for a disk.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpumand.log.message_ids import FIELD_PREFIX, MessageId

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "gpumand"
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

MAX_MESSAGE_CHARS = 16 * 1024
MAX_FIELD_CHARS = 2 * 1024
"""So a datagram is always smaller than any socket buffer, and no memory file is needed to hand a large one over."""


class JournalHandler(logging.Handler):
    """Sends records to the journal. Attributes that ``extra`` added go along when they are MESSAGE_ID or GPUMAND_…"""

    def __init__(self, path: str = SOCKET) -> None:
        """Make the socket; it is bound to no life of the journal's, which may be started anew."""
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many records the journal did not take since the last one that it took."""
        return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, and first the number of those that were lost, should any have been."""
        try:
            entry = b"".join(_entry(record, self.format(record)))
        except Exception:
            self.handleError(record)
            return
        if self._dropped and self._send(_loss(self._dropped)):
            self._dropped = 0
        if not self._send(entry):
            self._dropped += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _send(self, entry: bytes) -> bool:
        """Whether the journal took it; it may be full, or not there, and neither is worth waiting for."""
        try:
            self._socket.sendto(entry, self._path)
        except OSError:
            return False
        return True


def _entry(record: logging.LogRecord, text: str) -> Iterator[bytes]:
    yield from _head(_shortened(text, MAX_MESSAGE_CHARS), PRIORITIES.get(record.levelno, 6))
    yield _field("CODE_FILE", record.pathname)
    yield _field("CODE_LINE", str(record.lineno))
    yield _field("CODE_FUNC", record.funcName or "")
    yield _field("LOGGER", record.name)
    for name, value in vars(record).items():
        if name == "MESSAGE_ID" or name.startswith(FIELD_PREFIX):
            yield _field(name, _shortened(str(value), MAX_FIELD_CHARS))


def _head(text: str, priority: int) -> Iterator[bytes]:
    yield _field("MESSAGE", text)
    yield _field("PRIORITY", str(priority))
    yield _field("SYSLOG_IDENTIFIER", IDENTIFIER)


def _loss(count: int) -> bytes:
    lost = "1 log message was lost" if count == 1 else f"{count} log messages were lost"
    text = f"{lost}: the journal did not take what it was given"
    return b"".join(_head(text, PRIORITIES[logging.WARNING]))


def _field(name: str, value: str) -> bytes:
    """One field; where its value has lines it is preceded by its length, so that no value makes up further fields."""
    octets = value.encode("utf-8", "replace")
    if b"\n" not in octets:
        return b"%s=%s\n" % (name.encode(), octets)
    return b"%s\n%s%s\n" % (name.encode(), len(octets).to_bytes(8, "little"), octets)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more characters)"


@dataclass(slots=True)
class _Window:
    ends_at: float = float("-inf")
    passed: int = 0
    held_back: int = 0


class FloodGuard(logging.Filter):
    """Lets a client that asks a thousand times a second fill neither disk nor the journal's own limit.

    That limit is one for all messages of a service: grants and refusals would use it up, and the eviction that follows
    would be lost. What was held back is counted in the next one that passes.
    """

    GUARDED = frozenset({MessageId.GRANT.value, MessageId.REFUSAL.value})

    def __init__(
        self, burst: int = 1000, interval_sec: float = 30.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Let ``burst`` of each kind pass in each interval."""
        super().__init__()
        self._burst, self._interval_sec, self._now = burst, interval_sec, now
        self._windows = {message: _Window() for message in self.GUARDED}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it may pass."""
        window = self._windows.get(getattr(record, "MESSAGE_ID", ""))
        if window is None:
            return True
        if self._now() >= window.ends_at:
            _tell(record, window.held_back)
            window.ends_at, window.passed, window.held_back = self._now() + self._interval_sec, 0, 0
        may_pass = window.passed < self._burst
        window.passed += may_pass
        window.held_back += not may_pass
        return may_pass


def _tell(record: logging.LogRecord, held_back: int) -> None:
    if held_back:
        setattr(record, FIELD_PREFIX + "HELD_BACK", held_back)
