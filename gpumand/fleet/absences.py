"""The hosts that were there a moment ago, with the consumers that they had.

While gpumand or the agent of a host restarts, as at an upgrade, no row shows the host's consumers. Requests for them
must wait for the host, or be refused with its name, instead of being refused as requests for unknown consumers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpumand.fleet.rows import HostRow

KNOWN_SEC = 600.0
"""How long the consumers of an absent host are remembered. Afterwards they count as unknown."""

RETURN_SEC = 60.0
"""How long after its last row requests wait for a host, within their own time: longer than a restart takes."""

MAX_ABSENCES = 256


@dataclass(frozen=True, slots=True)
class Absence:
    """A host that has no row, or whose gpumand gives no answer.

    Attributes:
        row: its last row that had consumers.
        since_sec: monotonic seconds at which it was replaced or removed.
        has_agent: whether only its gpumand is absent.
    """

    row: HostRow
    since_sec: float
    has_agent: bool


class Absences:
    """Remembers the absent hosts.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._absent: dict[str, Absence] = {}

    def current(self) -> list[Absence]:
        """The absent hosts, those that were there last at the end."""
        earliest = self._clock() - KNOWN_SEC
        self._absent = {name: one for name, one in self._absent.items() if one.since_sec >= earliest}
        return list(self._absent.values())

    def having(self, consumer: str) -> list[Absence]:
        """The absent hosts that had a consumer."""
        return [one for one in self.current() if consumer in one.row.consumers]

    def of_host(self, host: str) -> Absence | None:
        """The absence of the host of this name or machine id; None if it is not absent."""
        return next((one for one in self.current() if host in (one.row.name, one.row.machine_id)), None)

    def wait_sec(self, consumer: str) -> float:
        """Seconds that a request for a consumer may wait for the host that had it; 0 where that is of no use."""
        return max((self.left_sec(one) for one in self.having(consumer)), default=0.0)

    def left_sec(self, absence: Absence) -> float:
        """Seconds in which an absent host is expected back."""
        return max(0.0, absence.since_sec + RETURN_SEC - self._clock())

    def describe(self, absence: Absence) -> str:
        """Name of the host, and why it is absent."""
        seconds = max(0.0, self._clock() - absence.since_sec)
        what = "its gpumand has given no answer for" if absence.has_agent else "it has not been in the fleet for"
        return f"{absence.row.name} ({what} {seconds:.0f} s)"

    def note_replaced(self, before: HostRow | None, row: HostRow) -> None:
        """A row was written: its host is back, or its gpumand gives no answer."""
        if not row.is_away:
            self._absent.pop(row.machine_id, None)
        elif before is not None and not before.is_away:
            self._note(before, has_agent=True)

    def note_removed(self, row: HostRow) -> None:
        """A row was removed."""
        before = self._absent.get(row.machine_id)
        if not row.is_away:
            self._note(row, has_agent=False)
        elif before is not None:
            self._absent[row.machine_id] = Absence(before.row, before.since_sec, has_agent=False)

    def _note(self, row: HostRow, *, has_agent: bool) -> None:
        self._absent.pop(row.machine_id, None)
        if len(self._absent) >= MAX_ABSENCES:
            self._absent.pop(next(iter(self._absent)))
        self._absent[row.machine_id] = Absence(row, self._clock(), has_agent)
