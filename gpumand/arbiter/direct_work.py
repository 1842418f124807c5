"""Work that clients have sent directly to a server without a busy check, past leases and the gateway.

Neither the connections of its clients nor the processor time of its processes prove work alone: clients keep idle
connections open, and a server also works for itself. Both together are evidence, for the grace period of its work.
"""

from __future__ import annotations

from dataclasses import replace

from gpumand.arbiter.deferred_unloads import BY_CONNECTIONS
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.victims import EVICTABLE
from gpumand.domain.view import ConsumerState
from gpumand.ports import ConsumerRoutes, CpuTimes

LOOK_SEC = 0.3
"""Seconds between two readings of the processor time; the kernel counts it in steps of 10 ms."""

LEAST_SHARE = 0.1
"""Share of one processor from which a server computes. Idle servers in Python take 1 or 2 %."""


class DirectWork:
    """Looks for work of consumers that have no busy check.

    Args:
        state: the arbiter's state.
        routes: counts the connections of clients.
        cpu_times: processor time of processes; None = unknown on this host.
    """

    def __init__(self, state: ArbiterState, routes: ConsumerRoutes, cpu_times: CpuTimes | None) -> None:
        self._state, self._routes, self._cpu_times = state, routes, cpu_times

    def may_be_seen(self, consumer: ConsumerState) -> bool:
        """Whether there is anything to look at: a server without a busy check, and processes that hold its memory."""
        is_served = consumer.spec.busy is None and bool(consumer.spec.url) and consumer.residency in EVICTABLE
        return self._cpu_times is not None and is_served and bool(self._pids(consumer.name))

    async def jobs(self, consumer: ConsumerState) -> int:
        """The number of its connected clients, if its processes compute meanwhile; 0 where nothing shows work."""
        clients = (await self._routes.probe_busy(replace(consumer.spec, busy=BY_CONNECTIONS))).jobs or 0
        return clients if clients and await self._computes(consumer.name) else 0

    async def _computes(self, name: str) -> bool:
        if self._cpu_times is None:
            return False
        pids, began = self._pids(name), self._state.clock.monotonic()
        before = await self._cpu_times.used_sec(pids)
        await self._state.clock.sleep(LOOK_SEC)
        after = await self._cpu_times.used_sec(pids)
        used_sec = sum(after[pid] - before[pid] for pid in after.keys() & before.keys())
        return used_sec >= LEAST_SHARE * (self._state.clock.monotonic() - began)

    def _pids(self, name: str) -> frozenset[int]:
        """The processes that hold memory for it, also for others in its unit."""
        processes = (one for sample in self._state.ledger.devices.values() for one in sample.processes)
        return frozenset(one.pid for one in processes if one.pid and (one.consumer == name or name in one.shared))
