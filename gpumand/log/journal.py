"""Logging handler for the native protocol of the systemd journal: one datagram per record, sent without blocking.

See ``man 7 systemd.journal-fields`` and systemd's JOURNAL_NATIVE_PROTOCOL. A record that the journal does not accept
at once is dropped and counted: the event loop must not wait for a disk.
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
"""Limits that keep a datagram below the socket buffer size; a larger one would have to be passed as a memory file."""


class JournalHandler(logging.Handler):
    """Sends log records to the journal, with the ``extra`` attributes MESSAGE_ID and GPUMAND_… as fields."""

    def __init__(self, path: str = SOCKET) -> None:
        """Create the socket. It is not connected, so that a restart of the journal does not break it.

        Args:
            path: socket of the journal.
        """
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)  # a send to a full journal fails at once instead of blocking the event loop
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Number of records dropped since the last one that the journal accepted."""
        return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, preceded by a message with the number of dropped records, if any."""
        try:
            entry = b"".join(_entry(record, self.format(record)))
        except Exception:
            self.handleError(record)
            return
        # The notice comes first, so that the gap appears in the journal where the messages are missing.
        if self._dropped and self._send(_loss_notice(self._dropped)):
            self._dropped = 0
        if not self._send(entry):
            self._dropped += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _send(self, entry: bytes) -> bool:
        """Whether the journal accepted the entry; a full or missing journal is not waited for."""
        try:
            self._socket.sendto(entry, self._path)
        except OSError:
            return False
        return True


def _entry(record: logging.LogRecord, text: str) -> Iterator[bytes]:
    yield from _common_fields(_truncated(text, MAX_MESSAGE_CHARS), PRIORITIES.get(record.levelno, 6))
    yield _field("CODE_FILE", record.pathname)
    yield _field("CODE_LINE", str(record.lineno))
    yield _field("CODE_FUNC", record.funcName or "")
    yield _field("LOGGER", record.name)
    for name, value in vars(record).items():
        if name == "MESSAGE_ID" or name.startswith(FIELD_PREFIX):
            yield _field(name, _truncated(str(value), MAX_FIELD_CHARS))


def _common_fields(text: str, priority: int) -> Iterator[bytes]:
    yield _field("MESSAGE", text)
    yield _field("PRIORITY", str(priority))
    yield _field("SYSLOG_IDENTIFIER", IDENTIFIER)


def _loss_notice(count: int) -> bytes:
    lost = "1 log message was lost" if count == 1 else f"{count} log messages were lost"
    text = f"{lost}: the journal did not accept new entries at that time"
    return b"".join(_common_fields(text, PRIORITIES[logging.WARNING]))


def _field(name: str, value: str) -> bytes:
    """Encode one field; a value with line breaks is length-prefixed, so that it cannot inject further fields."""
    octets = value.encode("utf-8", "replace")
    if b"\n" not in octets:
        return b"%s=%s\n" % (name.encode(), octets)
    return b"%s\n%s%s\n" % (name.encode(), len(octets).to_bytes(8, "little"), octets)


def _truncated(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more characters)"


@dataclass(slots=True)
class _Window:
    ends_at: float = float("-inf")
    passed: int = 0
    held_back: int = 0


class FloodGuard(logging.Filter):
    """Limits the rate of grant and refusal messages, so that a client with many requests cannot flood the log.

    The journal has one rate limit for all messages of a service: without this filter, grants and refusals could use it
    up, and the message about the following eviction would be lost. The first message of the next interval reports the
    number of suppressed ones in its field GPUMAND_HELD_BACK.
    """

    GUARDED = frozenset({MessageId.GRANT.value, MessageId.REFUSAL.value})

    def __init__(
        self, burst: int = 1000, interval_sec: float = 30.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a filter with an independent limit for each kind of message.

        Args:
            burst: number of messages of each kind that pass in one interval.
            interval_sec: length of the interval in seconds.
            now: monotonic clock in seconds.
        """
        super().__init__()
        self._burst, self._interval_sec, self._now = burst, interval_sec, now
        self._windows = {message: _Window() for message in self.GUARDED}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be logged."""
        window = self._windows.get(getattr(record, "MESSAGE_ID", ""))
        if window is None:
            return True
        if self._now() >= window.ends_at:
            _add_held_back_count(record, window.held_back)
            window.ends_at, window.passed, window.held_back = self._now() + self._interval_sec, 0, 0
        may_pass = window.passed < self._burst
        window.passed += may_pass
        window.held_back += not may_pass
        return may_pass


def _add_held_back_count(record: logging.LogRecord, held_back: int) -> None:
    if held_back:
        setattr(record, FIELD_PREFIX + "HELD_BACK", held_back)
