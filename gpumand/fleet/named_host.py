"""Requests for a host that the caller names: they wait while it restarts, since no other host may serve them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gpumand.fleet.absences import RETURN_SEC
from gpumand.fleet.attempts import AWAY, Attempt, now
from gpumand.fleet.errors import HostDrained, HostLost
from gpumand.fleet.hosts import FleetHost
from gpumand.fleet.placer import GetHost, Placer
from gpumand.fleet.rows import HostRow
from gpumand.fleet.table import HostTable

CORRECTION_SEC = 0.5
AGAIN_SEC = 0.25
"""Shortest time between two calls of a host that restarts: the table of a busy fleet changes all the time."""

T = TypeVar("T")


class NamedHost:
    """Asks the host that a caller names.

    Args:
        table: the router's table.
        placer: finds the host.
        host: returns the host of a row.
    """

    def __init__(self, table: HostTable, placer: Placer, host: GetHost) -> None:
        self._table, self._placer, self._host = table, placer, host

    async def ask(self, attempt: Attempt, work: Callable[[FleetHost], Awaitable[T]]) -> tuple[HostRow, T]:
        """Ask it again while it restarts, for ``RETURN_SEC`` and within the time of the request.

        A request that was in the queue of the host until it restarted has the whole of ``RETURN_SEC``.

        Args:
            attempt: the request, which names the host.
            work: calls the host; it must be idempotent.

        Returns the host and its answer. Raises GpumandError.
        """
        give_up = now() + min(attempt.left_sec, RETURN_SEC)
        while True:
            row = await self._placer.required_soon(attempt.call.on, attempt)
            sent_at = now()
            try:
                answer = await work(self._host(row))
            except AWAY as error:
                if isinstance(error, HostLost):
                    self._table.note_lost(row.machine_id, error.message)
                if now() - sent_at > RETURN_SEC:
                    give_up = now() + min(attempt.left_sec, RETURN_SEC)
                if now() >= give_up or not _may_return(error):
                    raise
                # The row shows a moment later that the host is away.
                await before_again(self._table, give_up - now())
            else:
                self._table.note_reached(row.machine_id)
                return row, answer


def _may_return(error: BaseException) -> bool:
    """Whether a host that gave this answer can serve the same request soon."""
    return not isinstance(error, HostDrained) and not (isinstance(error, HostLost) and error.is_refusal)


async def before_again(table: HostTable, at_most_sec: float) -> None:
    """Wait for a change of the table, ``CORRECTION_SEC`` at most, before a host is asked again."""
    began = now()
    await table.wait_changed(min(at_most_sec, CORRECTION_SEC))
    await asyncio.sleep(max(0.0, min(at_most_sec, AGAIN_SEC) - (now() - began)))
