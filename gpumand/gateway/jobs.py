"""Holds the leases of jobs: requests that are answered before their work is done.

After such a request, the lease is held until the consumer's busy check has said twice that it is idle. Once is not
enough, because a server may answer before it has taken the job from its queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gpumand.domain.consumer import BusyReport
from gpumand.gateway.leases import Ticket

log = logging.getLogger(__name__)

POLL_SEC = 1.0
IDLE_ANSWERS = 2

BusyProbe = Callable[[], Awaitable[BusyReport]]
"""Asks the consumer whether it works."""


class Jobs:
    """The jobs of all consumers: one background task for each consumer that has any.

    Args:
        poll_sec: seconds between two busy checks.
    """

    def __init__(self, poll_sec: float = POLL_SEC) -> None:
        self._poll_sec = poll_sec
        self._held: dict[str, list[Ticket]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def count(self, consumer: str) -> int:
        """Number of jobs of a consumer that are held."""
        return len(self._held.get(consumer, ()))

    def hold(self, consumer: str, ticket: Ticket, probe: BusyProbe, grace_sec: float) -> None:
        """Hold the lease of a job, which the caller no longer leaves.

        Args:
            consumer: name of the consumer.
            ticket: the place of the request in its lease.
            probe: the busy check.
            grace_sec: how long the lease is held without an answer of the busy check.
        """
        self._held.setdefault(consumer, []).append(ticket)
        # A new job needs idle answers of its own, so the count begins again.
        if (earlier := self._tasks.pop(consumer, None)) is not None:
            earlier.cancel()
        self._tasks[consumer] = asyncio.ensure_future(self._watch(consumer, probe, grace_sec))

    async def close(self) -> None:
        """Let go of all jobs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for consumer in tuple(self._held):
            self._let_go(consumer)

    async def _watch(self, consumer: str, probe: BusyProbe, grace_sec: float) -> None:
        idle_answers, clock = 0, asyncio.get_running_loop().time
        answered_at = clock()
        while idle_answers < IDLE_ANSWERS and clock() - answered_at < grace_sec:
            await asyncio.sleep(self._poll_sec)
            jobs = await _ask(consumer, probe)
            if jobs is None:
                idle_answers = 0
                continue
            answered_at = clock()
            idle_answers = 0 if jobs else idle_answers + 1
        if idle_answers < IDLE_ANSWERS:
            log.warning("%s: the busy check gave no answer for %g s; its job is no longer held", consumer, grace_sec)
        self._tasks.pop(consumer, None)
        self._let_go(consumer)

    def _let_go(self, consumer: str) -> None:
        for ticket in self._held.pop(consumer, ()):
            ticket.leave()


async def _ask(consumer: str, probe: BusyProbe) -> int | None:
    """The number of jobs that a busy check reports; None without an answer."""
    try:
        return (await probe()).jobs
    # Whatever fails here, the lease must not be held forever.
    except Exception as error:
        log.warning("%s: the busy check failed: %s", consumer, error)
        return None
