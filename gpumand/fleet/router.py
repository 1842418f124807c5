"""The router: places requests on the hosts of the fleet, and tries the next host when one refuses or is lost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpumand.domain.errors import GpumandError, InvalidArgs, NotNowError, WouldDeadlock
from gpumand.fleet import placement
from gpumand.fleet.absences import RETURN_SEC
from gpumand.fleet.attempts import (
    AWAY,
    Attempt,
    PlacedLease,
    describe_place,
    describe_plan,
    describe_return,
    now,
    quote_of,
)
from gpumand.fleet.calls import AcquireCall, Basis, DrainCall, LoadCall, PlaceCall, PlanCall
from gpumand.fleet.errors import HostLost, NoHost, NotResident, StaleToken
from gpumand.fleet.hosts import FleetHost
from gpumand.fleet.intents import SETTLE_SEC, Elsewhere, Intents, Permit
from gpumand.fleet.lease_streams import LeaseHandle
from gpumand.fleet.named_host import CORRECTION_SEC, NamedHost, before_again
from gpumand.fleet.placement import Candidate
from gpumand.fleet.placer import GetHost, Placer
from gpumand.fleet.table import HostTable

MAX_TRIES = 3
"""Hosts that are tried before the request waits at the best one."""

TRY_SEC = 30.0
"""Longest wait at one host while there are others."""

MAX_CORRECTIONS = 8
"""Times that a request is placed again because the table was old; each takes a round trip at most."""

FINAL = (InvalidArgs, WouldDeadlock)
"""Refusals that every host would give."""

PLACED_SEC = 15.0
"""How long the intent of a placed request is kept if its host does not begin the load."""


class Router:
    """Places requests.

    Args:
        table: the router's table.
        intents: the router's intents.
        host: returns the host of a row.
        replicas_at: see ``placement.candidates``; read at every request.
        name: name of the host that the router is on, which goes with its requests.
    """

    def __init__(
        self,
        table: HostTable,
        intents: Intents,
        host: GetHost,
        replicas_at: Callable[[], int] = lambda: 0,
        name: str = "",
    ) -> None:
        self._table, self._intents, self._host, self._name = table, intents, host, name
        self._placer = Placer(table, host, replicas_at)
        self._named = NamedHost(table, self._placer, host)

    async def acquire(self, call: AcquireCall) -> LeaseHandle:
        """Acquire a lease on the best host. Raises GpumandError."""
        attempt = Attempt(call, now() + call.wait_sec)
        if call.on:
            return await self._acquire_on(attempt)
        for _ in range(MAX_TRIES):
            found = await self._placer.placed(attempt, without=attempt.refusals)
            if not found:
                break
            # Without an alternative asking again every half minute would only lose the place in the queue.
            wait_sec = min(attempt.left_sec, TRY_SEC) if len(found) > 1 else attempt.left_sec
            if (lease := await self._try(attempt, found[0], wait_sec)) is not None:
                return lease
            if attempt.left_sec <= 0:
                break
        return await self._wait_at_best(attempt)

    async def load(self, call: LoadCall) -> dict[str, Any]:
        """Load a consumer without a lease, on a given host or on the best one. Raises GpumandError."""
        deadline = now() + call.wait_sec
        attempt = Attempt(AcquireCall(call.consumer, call.wait_sec, device=call.device, on=call.on), deadline)
        if call.on:
            row, loaded = await self._named.ask(attempt, lambda host: host.load(_within(call, attempt)))
            return loaded | {"host": row.name}
        give_up = now() + min(call.wait_sec, RETURN_SEC)
        while (loaded_there := await self._load_anywhere(attempt, call)) is None:
            if not attempt.refusals or now() >= give_up:
                raise attempt.error() if attempt.refusals else self._placer.no_host(call.consumer)
            await before_again(self._table, give_up - now())
            attempt.refusals.clear()
        return loaded_there

    async def _load_anywhere(self, attempt: Attempt, call: LoadCall) -> dict[str, Any] | None:
        """Load on the best host that is there; None if none of those that were tried is. Raises other refusals."""
        for _ in range(MAX_TRIES):
            found = await self._placer.placed(attempt, without=attempt.refusals)
            if not found:
                break
            row, permit = found[0].row, await self._permit(attempt, found)
            try:
                loaded = await self._host(row).load(_within(call, attempt))
            except BaseException as error:
                await _drop(permit, error)
                if isinstance(error, HostLost):
                    self._table.note_lost(row.machine_id, error.message)
                if not isinstance(error, AWAY):
                    raise
                attempt.refused(row.machine_id, error)
            else:
                _expire(permit)
                return loaded | {"host": row.name}
        return None

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        """Where a request would be served and why: every host with its plan, the best first. Raises GpumandError."""
        found = self._placer.candidates(call.consumer, ())
        if call.on:
            row = self._placer.required(call.on)
            found = [one for one in self._placer.every(call.consumer) if one.row.machine_id == row.machine_id]
        if not found:
            self._placer.check_known(call.consumer)
            raise self._placer.no_host(call.consumer)
        plans = dict(zip([one.row.machine_id for one in found], await self._placer.ask_all(found, call), strict=True))
        quotes = {name: quote_of(one) for name, one in plans.items() if not isinstance(one, GpumandError)}
        ordered = placement.with_quotes(found, quotes)
        return {
            "consumer": call.consumer,
            "host": ordered[0].row.name,
            "degraded": self._table.interruption,
            "hosts": [describe_plan(one, plans[one.row.machine_id]) for one in ordered],
        }

    async def place(self, call: PlaceCall) -> dict[str, Any]:
        """The host that a request for a consumer should go to, for clients that send it there themselves.

        An intent to load the consumer is claimed if one is needed, so that requests through other routers go to the
        same host. Raises GpumandError.
        """
        known = (self._table.find(name) for name in call.without)
        without = {one.row.machine_id for one in known if one is not None}
        if (row := self._placer.returning(call.consumer, without)) is not None:
            return describe_return(row)
        attempt = Attempt(AcquireCall(call.consumer, 0.0), now())
        for _ in range(MAX_CORRECTIONS):
            found = await self._placer.placed(attempt, without)
            if not found:
                break
            try:
                permit = await self._intents.permit(found[0])
            except Elsewhere:
                continue  # the table knows the other host now
            if found[0].consumer.unique and permit.basis is Basis.NONE:
                reason = permit.degraded or "a fleet with static peers has no store"
                raise NotNowError(f"{call.consumer} may be loaded on one host only, and no store decides: {reason}.")
            _expire(permit)
            return describe_place(found[0], permit)
        raise self._placer.no_host(call.consumer)

    async def drain(self, call: DrainCall) -> dict[str, Any]:
        """Drain a host, or end its drain. Raises GpumandError."""
        return await self._host(self._placer.required(call.on)).drain(call)

    # -- trying --------------------------------------------------------------------------------------------------

    async def _try(self, attempt: Attempt, candidate: Candidate, wait_sec: float) -> PlacedLease | None:
        """Acquire on one host; None if it refused, which the attempt notes. Raises the refusals of ``FINAL``."""
        machine_id = candidate.row.machine_id
        try:
            lease = await self._acquire_there(attempt, candidate, wait_sec)
        except FINAL:
            raise
        except Elsewhere:
            return await self._again(attempt, machine_id, 0)
        except StaleToken as error:
            attempt.refused(machine_id, error)
            return await self._again(attempt, machine_id, error.seen)
        except NotResident as error:
            attempt.refused(machine_id, error)
            attempt.old_rows[machine_id] = candidate.row.order
            return await self._again(attempt, machine_id, 0)
        except HostLost as error:
            self._table.note_lost(machine_id, error.message)
            attempt.refused(machine_id, error)
            return None
        except GpumandError as error:
            attempt.refused(machine_id, error)
            return None
        self._table.note_reached(machine_id)
        return lease

    async def _acquire_there(self, attempt: Attempt, candidate: Candidate, wait_sec: float) -> PlacedLease:
        permit = await self._intents.permit(candidate, is_row_old=attempt.is_row_old(candidate.row))
        sent = self._sent(attempt.call, permit.basis, permit.revision, max(0.0, wait_sec))
        try:
            lease = await self._host(candidate.row).acquire(sent)
        except BaseException as error:
            await _drop(permit, error)
            raise
        _expire(permit)
        machine_id = candidate.row.machine_id
        return PlacedLease(lease, permit.degraded, lambda: self._table.note_lost(machine_id, "its lease broke off"))

    def _sent(self, call: AcquireCall, basis: Basis, revision: int | None, wait_sec: float) -> AcquireCall:
        """The request as it goes to a host."""
        return replace(call, on="", basis=basis, revision=revision, wait_sec=wait_sec, via=self._name)

    async def _again(self, attempt: Attempt, machine_id: str, seen: int) -> PlacedLease | None:
        """Place the request again by a newer table; None if that happened too often."""
        attempt.corrections += 1
        # A request that does not wait may be corrected too, since that takes no longer than a round trip.
        if attempt.corrections > (MAX_CORRECTIONS if attempt.left_sec > 0 else 2):
            return None
        await self._catch_up(seen)
        attempt.refusals.pop(machine_id, None)
        found = await self._placer.placed(attempt, without=attempt.refusals)
        return await self._try(attempt, found[0], min(attempt.left_sec, TRY_SEC)) if found else None

    async def _catch_up(self, seen: int) -> None:
        """Wait for the next change of the table, or until it has reached a revision."""
        deadline = now() + CORRECTION_SEC
        while now() < deadline:
            if not await self._table.wait_changed(deadline - now()) or self._table.revision >= seen:
                return

    async def _wait_at_best(self, attempt: Attempt) -> PlacedLease:
        """Wait at the best host for the rest of the time. Raises the error of the request.

        A host that is away is asked again for ``RETURN_SEC``; its row may show a moment later that it is away.
        """
        give_up = math.inf
        while attempt.left_sec > 0:
            found = await self._placer.placed(attempt, without=())
            if not found:
                break
            sent_at = now()
            if (lease := await self._try(attempt, found[0], attempt.left_sec)) is not None:
                return lease
            if not isinstance(attempt.refusals.get(found[0].row.machine_id), AWAY):
                break
            if give_up == math.inf or now() - sent_at > RETURN_SEC:  # it had the request in its queue until now
                give_up = now() + RETURN_SEC
            if now() >= give_up:
                break
            await before_again(self._table, min(attempt.left_sec, give_up - now()))
        raise attempt.error() if attempt.refusals else self._placer.no_host(attempt.call.consumer)

    async def _acquire_on(self, attempt: Attempt) -> PlacedLease:
        """Acquire on the host that the caller names, whatever placement thinks of it."""

        async def acquire(host: FleetHost) -> LeaseHandle:
            return await host.acquire(self._sent(attempt.call, Basis.NONE, None, max(0.0, attempt.left_sec)))

        row, lease = await self._named.ask(attempt, acquire)
        return PlacedLease(lease, "", lambda: self._table.note_lost(row.machine_id, "its lease broke off"))

    async def _permit(self, attempt: Attempt, found: list[Candidate]) -> Permit:
        if not found:
            raise self._placer.no_host(attempt.call.consumer)
        try:
            return await self._intents.permit(found[0])
        except Elsewhere:
            raise NoHost(f"{attempt.call.consumer} is being loaded on another host. Try again.") from None


def _within(call: LoadCall, attempt: Attempt) -> LoadCall:
    """The load as it goes to a host: with the time that is left of it."""
    return replace(call, wait_sec=max(0.0, attempt.left_sec))


def _expire(permit: Permit) -> None:
    """End the intent of a request that was placed even if the row of its host never shows the load."""
    if permit.kept is not None:
        asyncio.get_running_loop().call_later(PLACED_SEC, permit.kept.drop)


async def _drop(permit: Permit, error: BaseException) -> None:
    """Drop the intent of a request that failed; before the next host is tried, and soon if it was cancelled."""
    if permit.kept is None:
        return
    if isinstance(error, GpumandError):
        await permit.kept.drop_now(0.0 if isinstance(error, HostLost) else SETTLE_SEC)
    else:
        permit.kept.drop()
