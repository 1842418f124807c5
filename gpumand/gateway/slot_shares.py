"""Divides a consumer's slots between clients by start-time fair queueing, for backlogs of any length.

Each client has a clock of the work that it was given. The next slot goes to the client whose clock is lowest, and its
clock advances by the time for which the request uses the slot while any request waits. A client that comes, or comes
back, begins at the clock of the last request that was given a slot: it has no credit for its absence, and no debt from
a time with free slots.

Source: P. Goyal, H. Vin, H. Cheng, "Start-time Fair Queueing", 1996.
"""

from __future__ import annotations

MAX_CLIENTS = 4096


class SlotShares:
    """The clocks of the clients of one consumer, in seconds of work."""

    def __init__(self) -> None:
        self._clocks: dict[str, float] = {}
        self._served_at: dict[str, float] = {}
        self._last_start = 0.0

    def start_of(self, client: str) -> float:
        """The clock at which the next request of a client begins."""
        return max(self._last_start, self._clocks.get(client, 0.0))

    def waits_since(self, client: str, arrived_at: float) -> float:
        """Since when a request of a client waits for a turn: its own arrival, or the last turn of its client.

        Args:
            client: the client.
            arrived_at: when the request has arrived, in seconds of any clock.
        """
        return max(arrived_at, self._served_at.get(client, arrived_at))

    def charge(self, client: str, work_sec: float, now: float) -> None:
        """A request of a client gets a slot.

        Args:
            client: the client.
            work_sec: how long it is expected to use the slot.
            now: seconds of the clock of ``waits_since``.
        """
        self._last_start = self.start_of(client)
        if len(self._clocks) >= MAX_CLIENTS:
            self._forget()
        self._clocks[client], self._served_at[client] = self._last_start + work_sec, now

    def correct(self, client: str, seconds: float) -> None:
        """A request of a client is charged for more than was expected, or for less with a negative number."""
        if client in self._clocks:
            self._clocks[client] += seconds

    def _forget(self) -> None:
        """Drop the clients that would begin at the same clock without an entry; all of them if that is not enough."""
        kept = {name: clock for name, clock in self._clocks.items() if clock > self._last_start}
        self._clocks = kept if len(kept) < MAX_CLIENTS else {}
        self._served_at = {name: self._served_at[name] for name in self._clocks}
