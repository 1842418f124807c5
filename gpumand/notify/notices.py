"""Decides which events are worth a notice: what has happened since the last look, and requests that wait for long.

Pure: works on answers of GetHistory and GetStatus, without a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Entry = Mapping[str, Any]
MAX_TEXT = 500
MAX_NAME = 64
SAME_REQUEST_USEC = 3_000_000
"""Two requests of one user for one consumer whose calls are less than this apart count as one."""

MAX_KNOWN = 2000


class NoticeKind(StrEnum):
    """The events that a hook can select."""

    EVICTION = "eviction"
    EVICTION_FAILED = "eviction-failed"
    LOAD = "load"
    LOAD_FAILED = "load-failed"
    LONG_WAIT = "long-wait"
    DEGRADED = "degraded"


FAILURES = (NoticeKind.EVICTION_FAILED, NoticeKind.LOAD_FAILED, NoticeKind.LONG_WAIT, NoticeKind.DEGRADED)
"""The events of a hook that selects none."""

HISTORY_KINDS = (NoticeKind.EVICTION, NoticeKind.EVICTION_FAILED, NoticeKind.LOAD, NoticeKind.LOAD_FAILED)


@dataclass(frozen=True, slots=True)
class Notice:
    """One event.

    Attributes:
        kind: see NoticeKind.
        consumer: name of the consumer; "" where there is none.
        text: a sentence for people.
        waited_sec: how long a request has waited; 0 for other events.
    """

    kind: NoticeKind
    consumer: str
    text: str
    waited_sec: float = 0.0


class Watcher:
    """Remembers what was seen, so that each event is reported once.

    Args:
        since_usec: CLOCK_REALTIME in microseconds; events before that are not reported.
    """

    def __init__(self, since_usec: int) -> None:
        self.since_usec = since_usec
        self._seen: set[tuple[int, str, str]] = set()
        self._waiting: list[tuple[str, int, int, float]] = []
        self._degraded = ""

    def events(self, entries: Sequence[Entry]) -> list[Notice]:
        """Notices for the history entries that are new, the oldest first.

        Args:
            entries: the answer of GetHistory since ``since_usec``, newest first.
        """
        new = [one for one in reversed(entries) if _key(one) not in self._seen and one.get("kind") in HISTORY_KINDS]
        keys = {_key(one) for one in entries}
        newest = max((key[0] for key in keys), default=self.since_usec)
        # Several entries may have the same time, so that the next query includes the newest again.
        self.since_usec = max(self.since_usec, newest)
        self._seen = {key for key in self._seen | keys if key[0] >= self.since_usec}
        return [_event(one) for one in new]

    def waits(self, queue: Iterable[Entry], now_usec: int, least_sec: float) -> list[Notice]:
        """Notices for requests that wait for at least ``least_sec``, once for each request and each ``least_sec``."""
        found, still = [], []
        for one in queue:
            name, uid, waited_usec = (
                _text(one.get("consumer"), MAX_NAME),
                _int(one, "owner_uid"),
                _int(one, "waited_usec"),
            )
            called_usec = now_usec - waited_usec
            request = (name, uid, called_usec, least_sec)
            known = next((other for other in self._waiting if _is_same(other, request)), None)
            if known is not None:
                still.append(known)
            elif waited_usec >= least_sec * 1e6:
                still.append(request)
                found.append(_wait(one, name, waited_usec))
        others = [one for one in self._waiting if one[3] != least_sec]
        self._waiting = [*others, *still][-MAX_KNOWN:]
        return found

    def degraded(self, error: object) -> list[Notice]:
        """A notice where readings have begun to fail, or work again."""
        text = _text(error, MAX_TEXT)
        word, _, _ = text.partition(":")
        before, self._degraded = self._degraded, word
        if word == before:
            return []
        line = f"VRAM cannot be read: {text}" if word else "VRAM can be read again"
        return [Notice(NoticeKind.DEGRADED, "", line)]


def _is_same(one: tuple[str, int, int, float], other: tuple[str, int, int, float]) -> bool:
    return (one[:2], one[3]) == (other[:2], other[3]) and abs(one[2] - other[2]) < SAME_REQUEST_USEC


def _key(one: Entry) -> tuple[int, str, str]:
    return _int(one, "at_usec"), str(one.get("kind")), str(one.get("consumer"))


def _event(one: Entry) -> Notice:
    kind, name = NoticeKind(str(one["kind"])), _text(one.get("consumer"), MAX_NAME)
    detail, trigger = _text(one.get("detail"), MAX_TEXT), _text(one.get("trigger"), MAX_NAME)
    seconds = f"{_int(one, 'duration_usec') / 1e6:.1f} s"
    lines = {
        NoticeKind.EVICTION: f"{name} was evicted{f' for {trigger}' if trigger else ''}: {_int(one, 'mib')} MiB freed",
        NoticeKind.EVICTION_FAILED: f"{name} could not be evicted{f' for {trigger}' if trigger else ''}: {detail}",
        NoticeKind.LOAD: f"{name} was loaded in {seconds}",
        NoticeKind.LOAD_FAILED: f"{name} could not be loaded: {detail}",
    }
    return Notice(kind, name, lines[kind][:MAX_TEXT])


def _wait(one: Entry, name: str, waited_usec: int) -> Notice:
    reason = _text(one.get("waiting_for"), MAX_TEXT)
    text = f"A request for {name or 'a reservation'} has waited for {waited_usec / 1e6:.0f} s"
    line = f"{text}: {reason}" if reason else text
    return Notice(NoticeKind.LONG_WAIT, name, line[:MAX_TEXT], waited_usec / 1e6)


def _int(one: Entry, key: str) -> int:
    value = one.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _text(value: object, most: int) -> str:
    """A text of the daemon in one line, without control characters and of limited length."""
    # Cut first: a long text must not cost seconds. What is cut here would not be shown, unless the rest is blanks.
    words = " ".join(str(value or "")[: 16 * most].split())
    return "".join(one for one in words if one.isprintable())[:most]
