"""The router: places requests on the hosts of the fleet, and tries the next host when one refuses or is lost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.domain.errors import GpumandError, InvalidArgs, NoSuchConsumer, NotNowError, WouldDeadlock
from gpumand.fleet import placement
from gpumand.fleet.calls import AcquireCall, Basis, DrainCall, LoadCall, PlaceCall, PlanCall
from gpumand.fleet.errors import HostLost, NoHost, NoSuchHost, NotResident, StaleToken
from gpumand.fleet.hosts import FleetHost
from gpumand.fleet.intents import SETTLE_SEC, Elsewhere, Intents, Permit
from gpumand.fleet.lease_streams import LeaseHandle
from gpumand.fleet.placement import Candidate, Quote
from gpumand.fleet.remote_host import HOST_LOST
from gpumand.fleet.rows import HostRow
from gpumand.fleet.table import HostTable

MAX_TRIES = 3
"""Hosts that are tried before the request waits at the best one."""

TRY_SEC = 30.0
"""Longest wait at one host while there are others."""

QUOTE_SEC = 1.0
MAX_CORRECTIONS = 8
"""Times that a request is placed again because the table was old; each takes a round trip at most."""

CORRECTION_SEC = 0.5
NO_HOST_SEC = 10.0
"""How long a request waits for a host that has the consumer, while all of them are lost or drained."""

FINAL = (InvalidArgs, WouldDeadlock)
"""Refusals that every host would give."""

PLACED_SEC = 15.0
"""How long the intent of a placed request is kept if its host does not begin the load."""

GetHost = Callable[[HostRow], FleetHost]


class PlacedLease:
    """A lease on some host of the fleet.

    Attributes:
        grant: the grant of the host, with ``degraded`` if it was placed without the store.
    """

    def __init__(self, lease: LeaseHandle, degraded: str, lost: Callable[[], None]) -> None:
        self._lease, self._lost = lease, lost
        self.grant: dict[str, Any] = {**lease.grant} | ({"degraded": degraded} if degraded else {})

    async def wait_ended(self) -> str:
        """See LeaseHandle; "host-lost" if its host gave no sign of life."""
        reason = await self._lease.wait_ended()
        if reason == HOST_LOST:
            self._lost()
        return reason

    async def release(self) -> None:
        """See LeaseHandle."""
        await self._lease.release()


@dataclass
class _Attempt:
    """One request while it is placed: until when it may wait, and what hosts have answered."""

    call: AcquireCall
    deadline: float
    refusals: dict[str, GpumandError] = field(default_factory=dict)
    corrections: int = 0

    def refused(self, machine_id: str, error: GpumandError) -> None:
        self.refusals.pop(machine_id, None)  # the order is that of the last answers
        self.refusals[machine_id] = error

    def error(self) -> GpumandError:
        """The error of the request: of the refusals, one that may end by itself is the most useful."""
        errors = list(self.refusals.values())
        first = next(
            (one for one in errors if isinstance(one, NotNowError) and not isinstance(one, HostLost)), errors[0]
        )
        if len(errors) == 1:
            return first
        merged = type(first)("; ".join(one.message.rstrip(".") for one in errors))
        merged.dbus_name = first.dbus_name
        return merged


class Router:
    """Places requests.

    Args:
        table: the router's table.
        intents: the router's intents.
        host: returns the host of a row.
        replicas_at: see ``placement.candidates``; read at every request.
    """

    def __init__(
        self, table: HostTable, intents: Intents, host: GetHost, replicas_at: Callable[[], int] = lambda: 0
    ) -> None:
        self._table, self._intents, self._host, self._replicas_at = table, intents, host, replicas_at

    async def acquire(self, call: AcquireCall) -> LeaseHandle:
        """Acquire a lease on the best host. Raises GpumandError."""
        attempt = _Attempt(call, _now() + call.wait_sec)
        if call.on:
            return await self._acquire_on(attempt)
        for _ in range(MAX_TRIES):
            found = await self._placed(attempt, without=attempt.refusals)
            if not found:
                break
            # Without an alternative asking again every half minute would only lose the place in the queue.
            wait_sec = min(_left(attempt), TRY_SEC) if len(found) > 1 else _left(attempt)
            if (lease := await self._try(attempt, found[0], wait_sec)) is not None:
                return lease
            if _left(attempt) <= 0:
                break
        return await self._wait_at_best(attempt)

    async def load(self, call: LoadCall) -> dict[str, Any]:
        """Load a consumer without a lease, on a given host or on the best one. Raises GpumandError."""
        if call.on:
            return await self._load_at(self._required(call.on), call)
        attempt = _Attempt(AcquireCall(call.consumer, call.wait_sec, device=call.device), _now() + call.wait_sec)
        for _ in range(MAX_TRIES):
            found = await self._placed(attempt, without=attempt.refusals)
            if not found:
                break
            permit = await self._permit(attempt, found)
            try:
                loaded = await self._load_at(found[0].row, call)
            except BaseException as error:
                await _drop(permit, error)
                if not isinstance(error, HostLost):
                    raise
                attempt.refused(found[0].row.machine_id, error)
            else:
                _expire(permit)
                return loaded
        raise attempt.error() if attempt.refusals else self._no_host(call.consumer)

    async def _load_at(self, row: HostRow, call: LoadCall) -> dict[str, Any]:
        try:
            return await self._host(row).load(call) | {"host": row.name}
        except HostLost as error:
            self._table.note_lost(row.machine_id, error.message)
            raise

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        """Where a request would be served and why: every host with its plan, the best first. Raises GpumandError."""
        found = self._candidates(call.consumer, ())
        if call.on:
            row = self._required(call.on)
            found = [one for one in self._every(call.consumer) if one.row.machine_id == row.machine_id]
        if not found:
            self._check_known(call.consumer)
            raise self._no_host(call.consumer)
        plans = dict(zip([one.row.machine_id for one in found], await self._ask_all(found, call), strict=True))
        quotes = {name: _quote(one) for name, one in plans.items() if not isinstance(one, GpumandError)}
        ordered = placement.with_quotes(found, quotes)
        return {
            "consumer": call.consumer,
            "host": ordered[0].row.name,
            "degraded": self._table.interruption,
            "hosts": [_described(one, plans[one.row.machine_id]) for one in ordered],
        }

    async def place(self, call: PlaceCall) -> dict[str, Any]:
        """The host that a request for a consumer should go to, for clients that send it there themselves.

        An intent to load the consumer is claimed if one is needed, so that requests through other routers go to the
        same host. Raises GpumandError.
        """
        known = (self._table.find(name) for name in call.without)
        without = {one.row.machine_id for one in known if one is not None}
        attempt = _Attempt(AcquireCall(call.consumer, 0.0), _now())
        for _ in range(MAX_CORRECTIONS):
            found = await self._placed(attempt, without)
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
            return _place(found[0], permit)
        raise self._no_host(call.consumer)

    async def drain(self, call: DrainCall) -> dict[str, Any]:
        """Drain a host, or end its drain. Raises GpumandError."""
        return await self._host(self._required(call.on)).drain(call)

    # -- placing -------------------------------------------------------------------------------------------------

    def _candidates(self, consumer: str, without: Collection[str]) -> list[Candidate]:
        view = self._table.view()
        return placement.candidates(view, consumer, replicas_at=self._replicas_at(), without=without)

    def _every(self, consumer: str) -> list[Candidate]:
        """Each host that has the consumer, even if it is drained or another one has it loaded."""
        view = self._table.view()
        alone = [replace(view, hosts={name: row}, drained=frozenset()) for name, row in view.hosts.items()]
        return [one for each in alone for one in placement.candidates(each, consumer)]

    async def _placed(self, attempt: _Attempt, without: Collection[str]) -> list[Candidate]:
        """The candidates in order; the best two were asked if it matters. Raises NoSuchConsumer, NoHost."""
        call = attempt.call
        found = self._candidates(call.consumer, without)
        give_up = min(attempt.deadline, _now() + NO_HOST_SEC)
        while not found and not attempt.refusals:
            self._check_known(call.consumer)
            if not await self._table.wait_changed(give_up - _now()):
                raise self._no_host(call.consumer)
            found = self._candidates(call.consumer, without)
        return await self._with_quotes(found, call) if placement.needs_quotes(found) else found

    async def _with_quotes(self, found: list[Candidate], call: AcquireCall) -> list[Candidate]:
        asked = found[: placement.ASKED_HOSTS]
        plans = await self._ask_all(asked, PlanCall(call.consumer, call.priority, call.device))
        answers = zip([one.row.machine_id for one in asked], plans, strict=True)
        quotes = {name: _quote(plan) for name, plan in answers if not isinstance(plan, HostLost)}
        lost = self._table.view().lost
        return placement.with_quotes([one for one in found if one.row.machine_id not in lost] or found, quotes)

    async def _ask_all(self, asked: list[Candidate], call: PlanCall) -> list[dict[str, Any] | GpumandError]:
        return await asyncio.gather(*(self._ask(one, call) for one in asked))

    async def _ask(self, candidate: Candidate, call: PlanCall) -> dict[str, Any] | GpumandError:
        try:
            async with asyncio.timeout(QUOTE_SEC):
                return await self._host(candidate.row).plan(call)
        except TimeoutError:
            return NoHost(f"{candidate.row.name} did not answer within {QUOTE_SEC:g} s")
        except HostLost as error:
            self._table.note_lost(candidate.row.machine_id, error.message)
            return error
        except GpumandError as error:
            return error

    # -- trying --------------------------------------------------------------------------------------------------

    async def _try(self, attempt: _Attempt, candidate: Candidate, wait_sec: float) -> PlacedLease | None:
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

    async def _acquire_there(self, attempt: _Attempt, candidate: Candidate, wait_sec: float) -> PlacedLease:
        permit = await self._intents.permit(candidate)
        sent = replace(attempt.call, wait_sec=max(0.0, wait_sec), on="", basis=permit.basis, revision=permit.revision)
        try:
            lease = await self._host(candidate.row).acquire(sent)
        except BaseException as error:
            await _drop(permit, error)
            raise
        _expire(permit)
        machine_id = candidate.row.machine_id
        return PlacedLease(lease, permit.degraded, lambda: self._table.note_lost(machine_id, "its lease broke off"))

    async def _again(self, attempt: _Attempt, machine_id: str, seen: int) -> PlacedLease | None:
        """Place the request again by a newer table; None if that happened too often."""
        attempt.corrections += 1
        # A request that does not wait may be corrected too, since that takes no longer than a round trip.
        if attempt.corrections > (MAX_CORRECTIONS if _left(attempt) > 0 else 2):
            return None
        await self._catch_up(seen)
        attempt.refusals.pop(machine_id, None)
        found = await self._placed(attempt, without=attempt.refusals)
        return await self._try(attempt, found[0], min(_left(attempt), TRY_SEC)) if found else None

    async def _catch_up(self, seen: int) -> None:
        """Wait for the next change of the table, or until it has reached a revision."""
        deadline = _now() + CORRECTION_SEC
        while _now() < deadline:
            if not await self._table.wait_changed(deadline - _now()) or self._table.revision >= seen:
                return

    async def _wait_at_best(self, attempt: _Attempt) -> PlacedLease:
        """Wait at the best host for the rest of the time. Raises the error of the request."""
        while _left(attempt) > 0:
            found = await self._placed(attempt, without=())
            if not found:
                break
            if (lease := await self._try(attempt, found[0], _left(attempt))) is not None:
                return lease
            if not isinstance(attempt.refusals.get(found[0].row.machine_id), HostLost):
                break
        raise attempt.error() if attempt.refusals else self._no_host(attempt.call.consumer)

    async def _acquire_on(self, attempt: _Attempt) -> PlacedLease:
        """Acquire on the host that the caller names, whatever placement thinks of it."""
        row = self._required(attempt.call.on)
        sent = replace(attempt.call, on="", basis=Basis.NONE, revision=None)
        try:
            lease = await self._host(row).acquire(sent)
        except HostLost as error:
            self._table.note_lost(row.machine_id, error.message)
            raise
        return PlacedLease(lease, "", lambda: self._table.note_lost(row.machine_id, "its lease broke off"))

    async def _permit(self, attempt: _Attempt, found: list[Candidate]) -> Permit:
        if not found:
            raise self._no_host(attempt.call.consumer)
        try:
            return await self._intents.permit(found[0])
        except Elsewhere:
            raise NoHost(f"{attempt.call.consumer} is being loaded on another host. Try again.") from None

    # -- words ---------------------------------------------------------------------------------------------------

    def _required(self, name: str) -> HostRow:
        """The host of a name. Raises NoSuchHost, InvalidArgs."""
        if not name:
            raise InvalidArgs('on is missing: send the name of a host, such as {"on": "gpu2"}')
        if (known := self._table.find(name)) is None:
            there = ", ".join(sorted(one.row.name for one in self._table.rows.values())) or "none"
            raise NoSuchHost(f"the fleet has no host {name!r}; it has {there}")
        return known.row

    def _check_known(self, consumer: str) -> None:
        """Raise NoSuchConsumer if no host that publishes all of its consumers has this one."""
        rows = [one.row for one in self._table.rows.values()]
        if rows and not any(consumer in row.consumers or row.omitted for row in rows):
            there = ", ".join(sorted(row.name for row in rows))
            raise NoSuchConsumer(f"no host of the fleet has a consumer {consumer!r}; the hosts that answer: {there}")

    def _no_host(self, consumer: str) -> GpumandError:
        rows = [one.row for one in self._table.rows.values() if consumer in one.row.consumers]
        if not rows:
            reason = self._table.interruption or "no host has published it"
            return NoHost(f"no host of the fleet is known that has {consumer}: {reason}")
        losses, drained = self._table.losses(), self._table.drained
        states = [f"{row.name} {_state(row, losses, drained)}" for row in rows]
        return NoHost(f"no host of the fleet can serve {consumer} now: {', '.join(states)}")


def _state(row: HostRow, losses: Mapping[str, str], drained: Collection[str]) -> str:
    if row.machine_id in losses:
        return f"is lost ({losses[row.machine_id].rstrip('.')})"
    return "is drained" if row.machine_id in drained else "has too little memory"


def _place(one: Candidate, permit: Permit) -> dict[str, Any]:
    return {
        "host": one.row.name,
        "machine_id": one.row.machine_id,
        "gateway": one.row.gateway,
        "residency": str(one.consumer.residency),
        "expected_sec": round(one.expected_sec, 3) if math.isfinite(one.expected_sec) else None,
        "degraded": permit.degraded,
    }


def _described(one: Candidate, plan: dict[str, Any] | GpumandError) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "host": one.row.name,
        "machine_id": one.row.machine_id,
        "residency": str(one.consumer.residency),
        "queue": one.consumer.queue,
        "expected_sec": None if one.refusal else round(one.expected_sec, 3),
    }
    if isinstance(plan, GpumandError):
        return fields | {"error": plan.dbus_name, "message": plan.message}
    return fields | {"plan": plan}


def _quote(plan: dict[str, Any] | GpumandError) -> Quote:
    """The quote of a plan; an error is a refusal."""
    if isinstance(plan, GpumandError):
        return Quote("refuse", None, 0.0, plan.message)
    expected, victims = plan.get("expected_usec"), plan.get("victims_usec")
    return Quote(
        str(plan.get("verdict", "refuse")),
        expected / 1e6 if isinstance(expected, int) else None,
        victims / 1e6 if isinstance(victims, int) else 0.0,
        str(plan.get("message", ""))[:512],
    )


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


def _now() -> float:
    return asyncio.get_running_loop().time()


def _left(attempt: _Attempt) -> float:
    return attempt.deadline - _now()
