"""Chooses the host for a request: the one with the fewest expected seconds until the request is served.

A consumer that is loaded somewhere is used there: a second load costs the memory of another consumer, and is made only
where the queue is longer than ``replicas_at``. Otherwise the expected time is the queue, the leases above the limit,
the evictions and the load: nothing for a resident consumer, a wake for a parked one, a cold start for any other. The
value of the evicted consumers is known to their host only, so the best hosts are asked (``Quote``).

The functions are pure: they take the rows of the table and return values.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from gpumand.domain.assumed_times import DEFAULT_HOLD_SEC, DEFAULT_UNLOAD_SEC, Start, default_load_sec
from gpumand.domain.residency_states import Residency
from gpumand.fleet.rows import ConsumerRow, HostRow, Intent

ASSUMED_MIB = 8192
"""The size by which a load is estimated while the consumer's own is unknown."""

FAILED_SEC = 60.0
"""Added on a host where the last load failed: it backs off, and another host may be able to load it."""

UNKNOWN_WAIT_SEC = 30.0
"""Assumed for a wait whose end the host does not know, such as for a busy consumer."""

ASKED_HOSTS = 2
"""Number of hosts that are asked for a quote."""

PRESENT = (Residency.RESIDENT, Residency.LOADING)


class Tier(IntEnum):
    """The work that a host has to do before the consumer is resident."""

    RESIDENT = 0
    PARKED = 1
    COLD = 2


@dataclass(frozen=True, slots=True)
class FleetView:
    """The known state of the fleet at one moment.

    Attributes:
        hosts: rows of all hosts of the fleet that are there, by machine id.
        lost: machine ids of hosts that cannot be reached.
        drained: machine ids of hosts that an administrator drains.
        intents: loads that routers have begun and that no row shows yet, by consumer.
        pins: machine id of the host that a consumer is pinned to, by consumer.
    """

    hosts: Mapping[str, HostRow]
    lost: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    intents: Mapping[str, tuple[Intent, ...]] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)

    def usable(self) -> list[HostRow]:
        """The hosts that may get new requests."""
        away = self.lost | self.drained
        rows = [row for name, row in self.hosts.items() if name not in away and not row.draining]
        return [row for row in rows if not row.outdated]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that can serve a request.

    Attributes:
        row: the host.
        name: the requested consumer.
        consumer: its row on the host.
        tier: what the host has to do.
        is_intended: a router is loading the consumer there, and the row may not show it yet.
        expected_sec: expected seconds until the request is served.
        refusal: why the host would refuse it; "" = it would not, or was not asked.
    """

    row: HostRow
    name: str
    consumer: ConsumerRow
    tier: Tier
    is_intended: bool
    expected_sec: float
    refusal: str = ""

    @property
    def is_present(self) -> bool:
        """Whether no new load is needed: the consumer is resident or being loaded there."""
        return self.is_intended or self.consumer.residency in PRESENT


@dataclass(frozen=True, slots=True)
class Quote:
    """A host's own answer to what a request would do there, from ``Plan``.

    Attributes:
        verdict: "grant", "wait" or "refuse".
        expected_sec: expected seconds of evictions, load and waits; None = unknown.
        victims_sec: expected seconds that loading the evicted consumers again will cost.
        message: the reason, in one line.
    """

    verdict: str
    expected_sec: float | None
    victims_sec: float
    message: str = ""


def candidates(
    view: FleetView, consumer: str, *, replicas_at: int = 0, without: Collection[str] = ()
) -> list[Candidate]:
    """The hosts that can serve a request for a consumer, the best first.

    Args:
        view: the fleet.
        consumer: the requested consumer.
        replicas_at: length of its queue above which it is loaded on one more host; 0 = never.
        without: machine ids of hosts that refused this request or were lost during it.

    Returns:
        An empty list where no host has the consumer, or none of those that have it can be used.
    """
    rows = [row for row in view.usable() if consumer in row.consumers and _fits(row, row.consumers[consumer])]
    if (pinned := view.pins.get(consumer)) is not None and any(row.machine_id == pinned for row in rows):
        rows = [row for row in rows if row.machine_id == pinned]
    found = [_candidate(view, row, consumer) for row in rows]
    present = [one for one in found if one.is_present]
    if present and not _wants_replica(found, present, replicas_at):
        found = present
    return ordered([one for one in found if one.row.machine_id not in without])


def ordered(found: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, those with the fewest expected seconds first; equal ones by a stable choice for each consumer."""
    return sorted(
        found,
        key=lambda one: (
            bool(one.refusal),
            round(one.expected_sec, 2),
            one.tier,
            rendezvous(one.name, one.row.machine_id),
        ),
    )


def needs_quotes(found: Sequence[Candidate]) -> bool:
    """Whether the best hosts should be asked: there is a choice, and the best one has something to load or to wait."""
    return len(found) > 1 and found[0].expected_sec > 0.0


def with_quotes(found: Sequence[Candidate], quotes: Mapping[str, Quote]) -> list[Candidate]:
    """The candidates in the order that the hosts' own answers give; hosts that were not asked keep their estimate.

    Args:
        found: the candidates.
        quotes: answers by machine id.
    """
    return ordered([_quoted(one, quotes[one.row.machine_id]) if one.row.machine_id in quotes else one for one in found])


def hold_sec(consumer: ConsumerRow) -> float:
    """Mean seconds that a lease lasts."""
    return DEFAULT_HOLD_SEC if consumer.hold_ms is None else consumer.hold_ms / 1000


def load_sec(consumer: ConsumerRow) -> float:
    """Expected seconds until the consumer is resident, from its present state."""
    mib = consumer.need_mib or ASSUMED_MIB
    if consumer.residency is Residency.RESIDENT:
        return 0.0
    if consumer.residency is Residency.PARKED:
        return default_load_sec(mib, Start.PARKED) if consumer.wake_ms is None else consumer.wake_ms / 1000
    cold_sec = default_load_sec(mib, Start.COLD) if consumer.load_ms is None else consumer.load_ms / 1000
    return cold_sec + (FAILED_SEC if consumer.residency is Residency.FAILED else 0.0)


def _candidate(view: FleetView, row: HostRow, name: str) -> Candidate:
    consumer = row.consumers[name]
    is_intended = any(intent.host == row.machine_id for intent in view.intents.get(name, ()))
    tier = Tier.COLD
    if consumer.residency in PRESENT or is_intended:
        tier = Tier.RESIDENT
    elif consumer.residency is Residency.PARKED:
        tier = Tier.PARKED
    seconds = _queue_sec(consumer) + load_sec(consumer)
    if tier is not Tier.RESIDENT:
        seconds += _room_sec(view, row, consumer) + _others_sec(view, row, name)
    return Candidate(row, name, consumer, tier, is_intended, seconds)


def _queue_sec(consumer: ConsumerRow) -> float:
    """Seconds to wait behind the consumer's own queue and behind its leases above the limit."""
    over = 0 if consumer.limit is None else max(0, consumer.leases + 1 - consumer.limit)
    return (consumer.queue + over) * hold_sec(consumer)


def _others_sec(view: FleetView, row: HostRow, name: str) -> float:
    """Seconds of the loads that other requests have begun on the host, and of the requests that wait there."""
    loading = [one for other, one in row.consumers.items() if other != name and _is_loading(view, row, other)]
    return sum(map(load_sec, loading)) + max(0, row.queue - row.consumers[name].queue) * _mean_hold_sec(row)


def _is_loading(view: FleetView, row: HostRow, name: str) -> bool:
    is_intended = any(intent.host == row.machine_id for intent in view.intents.get(name, ()))
    residency = row.consumers[name].residency
    return residency is Residency.LOADING or (is_intended and residency is not Residency.RESIDENT)


def _is_intended_only(view: FleetView, row: HostRow, name: str) -> bool:
    """Whether a load was promised by a router, and the host has not begun it yet."""
    is_intended = any(intent.host == row.machine_id for intent in view.intents.get(name, ()))
    return is_intended and row.consumers[name].residency not in PRESENT


def _mean_hold_sec(row: HostRow) -> float:
    known = [one.hold_ms / 1000 for one in row.consumers.values() if one.hold_ms is not None]
    return sum(known) / len(known) if known else DEFAULT_HOLD_SEC


def _room_sec(view: FleetView, row: HostRow, consumer: ConsumerRow) -> float:
    """Seconds to make room: evictions of idle consumers, and the end of leases where these are not enough."""
    missing = _missing_mib(view, row, consumer)
    if missing <= 0:
        return 0.0
    resident = [one for one in row.consumers.values() if one is not consumer and one.residency in PRESENT]
    idle = sorted((one for one in resident if not one.leases), key=lambda one: one.need_mib or 0, reverse=True)
    seconds = 0.0
    for one in idle:
        seconds += _unload_sec(one)
        missing -= one.need_mib or 0
        if missing <= 0:
            return seconds
    leased = [hold_sec(one) + _unload_sec(one) for one in resident if one.leases]
    return seconds + (min(leased) if leased else UNKNOWN_WAIT_SEC)


def _unload_sec(consumer: ConsumerRow) -> float:
    return DEFAULT_UNLOAD_SEC if consumer.park_ms is None else consumer.park_ms / 1000


def _missing_mib(view: FleetView, row: HostRow, consumer: ConsumerRow) -> int:
    """MiB that must become free on the device with the most free memory; unknown memory counts as none missing."""
    free = [device.free_mib for device in row.devices if device.free_mib is not None]
    if not free or consumer.need_mib is None:
        return 0
    promised = sum(
        row.consumers[name].need_mib or 0
        for name in row.consumers
        # The row's free memory already lacks what a consumer that is loading needs.
        if row.consumers[name] is not consumer and _is_intended_only(view, row, name)
    )
    return consumer.need_mib - (max(free) - (promised if len(free) == 1 else 0))


def _fits(row: HostRow, consumer: ConsumerRow) -> bool:
    """Whether the host's memory is large enough; a consumer may be spread over all of its devices."""
    total = [device.total_mib for device in row.devices]
    if consumer.need_mib is None or not total or None in total:
        return True
    return consumer.need_mib <= sum(one or 0 for one in total)


def _wants_replica(found: Sequence[Candidate], present: Sequence[Candidate], replicas_at: int) -> bool:
    """Whether one more copy is worth a load: every present one has a longer queue than allowed, and none is unique."""
    if replicas_at <= 0 or any(one.consumer.unique for one in found):
        return False
    return min(one.consumer.queue for one in present) > replicas_at


def _quoted(one: Candidate, quote: Quote) -> Candidate:
    if quote.verdict == "refuse":
        return replace(one, expected_sec=math.inf, refusal=quote.message or "the host would refuse it")
    wait_sec = UNKNOWN_WAIT_SEC if quote.expected_sec is None else quote.expected_sec
    return replace(one, expected_sec=_queue_sec(one.consumer) + wait_sec + quote.victims_sec)


def rendezvous(consumer: str, machine_id: str) -> bytes:
    """The rank of a host for a consumer, the lowest first; it does not depend on which other hosts exist."""
    return hashlib.sha256(f"{consumer}\0{machine_id}".encode()).digest()
