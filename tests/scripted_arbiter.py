"""A scripted arbiter for tests of the bus and the CLI: it publishes events like the real one and records its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.domain.device import ProcessUse
from gpumand.domain.driver_release import ReleaseOptions, ReleaseReport
from gpumand.domain.errors import GpumandError, InvalidArgs, NoSuchConsumer, NoSuchLease, NoSuchRequest
from gpumand.domain.events import (
    ConsumersChanged,
    Event,
    EvictionFailed,
    EvictionOccurred,
    EvictionReport,
    LeaseEnded,
    LeaseGranted,
    LeaseRenewed,
    SummaryChanged,
)
from gpumand.domain.history import HistoryEntry, HistoryQuery
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.request import (
    AcquireOptions,
    Grant,
    ManualResult,
    PlannedEviction,
    PlanReport,
    SparedConsumer,
    Verdict,
)
from gpumand.domain.status import ConsumerStatus, DeviceStatus, Stats, Status, Summary, WaitingStatus
from gpumand.domain.telemetry import Telemetry

GRANTED_USEC = 1_700_000_000_000_000
DEFAULT_TTL_SEC = 900.0


def a_consumer(name: str, unit: str = "", residency: str = "resident") -> ConsumerStatus:
    return ConsumerStatus(name, residency, "0", 4096, 4000, 0, 0, False, False, unit, "", busy=False)


def a_device(index: int = 0, used_mib: int | None = 8000) -> DeviceStatus:
    free_mib = None if used_mib is None else 24564 - used_mib
    memory = (24564, used_mib, free_mib, 0, 100, 1)
    more: dict[str, Any] = {"telemetry": Telemetry(12, 45, 90, 100.5, 450.0), "unnamed_mib": 0}
    return DeviceStatus(index, f"GPU-{index}", "Simulated", "simulated", *memory, "", **more)


@dataclass
class ScriptedArbiter:
    """Its state is public: tests change it and publish the matching event."""

    publish: Callable[[Event], None] = lambda event: None
    consumers: dict[str, ConsumerStatus] = field(default_factory=dict)
    devices: list[DeviceStatus] = field(default_factory=lambda: [a_device()])
    leases: dict[str, Lease] = field(default_factory=dict)
    waiting: list[Owner] = field(default_factory=list)
    degraded: str = ""
    evictions: int = 0
    granted: int = 0
    statuses: int = 0
    calls: list[tuple[object, ...]] = field(default_factory=list)
    errors: dict[str, GpumandError] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    vanished: list[str] = field(default_factory=list)
    entries: list[HistoryEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()
        for consumer in (a_consumer("ollama"), a_consumer("comfyui", "comfyui.service"), a_consumer("über/geek")):
            self.consumers[consumer.name] = consumer

    async def acquire(self, owner: Owner, consumer: str, options: AcquireOptions) -> Grant:
        self._note("acquire", owner, consumer, options)
        self._require(consumer)
        self.waiting.append(owner)
        self.publish(SummaryChanged())
        try:
            await self.gate.wait()
        finally:
            self.waiting.remove(owner)
            self.publish(SummaryChanged())
        lease = self._new_lease(owner, consumer, options)
        self._set(consumer, leases=self.consumers[consumer].leases + 1)
        self.publish(LeaseGranted(lease))
        return Grant(lease, waited_usec=7, evicted=("comfyui",), loaded=True, endpoint="http://127.0.0.1:1/")

    async def release(self, lease_id: str, reason: LeaseEnd = LeaseEnd.RELEASED) -> None:
        self._note("release", lease_id, reason)
        self.end(lease_id, reason)

    def end(self, lease_id: str, reason: LeaseEnd) -> None:
        lease = self.leases.pop(self.lease(lease_id).id)
        self._set(lease.consumer, leases=self.consumers[lease.consumer].leases - 1)
        self.publish(LeaseEnded(lease, reason))

    async def renew(self, lease_id: str, ttl_sec: float | None) -> Lease:
        self._note("renew", lease_id, ttl_sec)
        old = self.lease(lease_id)
        if old.lifetime is not LeaseLifetime.TTL:
            raise InvalidArgs("not a ttl lease")
        lease = replace(old, expires_usec=GRANTED_USEC + int((ttl_sec or old.ttl_sec) * 1e6) + 1)
        self.leases[lease_id] = lease
        self.publish(LeaseRenewed(lease))
        return lease

    def request_owner(self, request_id: str) -> Owner:
        for owner in self.waiting:
            if request_id == f"request-of-{owner.bus_name}":
                return owner
        raise NoSuchRequest(f"no request {request_id!r}")

    def cancel(self, request_id: str, caller: Owner) -> None:
        self._note("cancel", request_id, caller.uid)
        self.request_owner(request_id)

    def lease(self, lease_id: str) -> Lease:
        if lease_id not in self.leases:
            raise NoSuchLease(f"no lease {lease_id!r}")
        return self.leases[lease_id]

    def consumer_unit(self, consumer: str) -> str:
        return self.consumer_status(consumer).unit

    def consumer_fleet(self, consumer: str) -> str:
        return self.consumer_status(consumer).fleet

    def consumer_status(self, consumer: str) -> ConsumerStatus:
        self._require(consumer)
        return self.consumers[consumer]

    def announced_consumer(self, consumer: str) -> ConsumerStatus:
        return self.consumer_status(consumer)

    def lease_count(self) -> int:
        return len(self.leases)

    def summary(self) -> Summary:
        return Summary(self.degraded, len(self.waiting), len(self.leases), self.evictions)

    def status(self) -> Status:
        self.statuses += 1
        queue = [
            WaitingStatus("ollama", n, 5, 9, "comfyui", owner.uid, "why") for n, owner in enumerate(self.waiting, 1)
        ]
        parts = tuple(self.devices), tuple(self.consumers.values()), tuple(self.leases.values()), tuple(queue)
        return Status("1.2.3", self.degraded, *parts, Stats(self.evictions, 1, 2, 3, 4, 5, 6, 7, 8))

    def status_refresh(self) -> None:
        return None

    async def release_gpu(
        self, owner: Owner, options: ReleaseOptions, ended: Callable[[], None] | None = None
    ) -> ReleaseReport:
        self.calls.append(("release_gpu", owner.uid, options))
        return ReleaseReport(GRANTED_USEC, (ProcessUse(7, 300, "Xorg", "display.service", uid=0, user="root"),))

    def take_gpu(self) -> bool:
        self.calls.append(("take_gpu",))
        return True

    async def plan(self, owner: Owner, consumer: str, options: AcquireOptions) -> PlanReport:
        self._note("plan", owner, consumer, options)
        self._require(consumer)
        victims = (PlannedEviction("comfyui", None, "http", "least recently used"),)
        spared = (SparedConsumer("ollama", "pinned"),)
        return PlanReport(consumer, Verdict.GRANT, "0", False, True, 4352, None, victims, spared, "", "fits")

    async def load(self, consumer: str, device: str, timeout_sec: float) -> ManualResult:
        self._note("load", consumer, device, timeout_sec)
        self._require(consumer)
        self._set(consumer, residency="resident")
        return ManualResult(consumer, "0", True, ("comfyui",), "", 0, 12)

    async def history(self, query: HistoryQuery) -> tuple[HistoryEntry, ...]:
        self._note("history", query)
        return tuple(self.entries)

    async def evict(self, consumer: str, force: bool, timeout_sec: float, method: str = "") -> ManualResult:
        self._note("evict", consumer, force, timeout_sec, method)
        self._require(consumer)
        report = EvictionReport(consumer, "0", 4000, "http", "manual", "by hand", 4096, True, 12, ("http",))
        if "eviction" in self.errors:
            self.publish(EvictionFailed(replace(report, freed_mib=0, error=self.errors["eviction"].message)))
            raise self.errors["eviction"]
        self.evictions += 1
        self._set(consumer, residency="unloaded", used_mib=None)
        self.publish(EvictionOccurred(report))
        return ManualResult(consumer, "0", True, (consumer,), "http", 4000, 12)

    async def pin(self, consumer: str, pinned: bool) -> None:
        self._note("pin", consumer, pinned)
        self._require(consumer)
        self._set(consumer, pinned=pinned)

    async def reload(self) -> None:
        self._note("reload")

    async def owner_vanished(self, bus_name: str) -> None:
        self.vanished.append(bus_name)
        for lease in list(self.leases.values()):
            if lease.lifetime is LeaseLifetime.CONNECTION and lease.owner.bus_name == bus_name:
                self.end(lease.id, LeaseEnd.OWNER_VANISHED)

    def _note(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        if name in self.errors:
            raise self.errors[name]

    def _require(self, consumer: str) -> None:
        if consumer not in self.consumers:
            raise NoSuchConsumer(f"no consumer {consumer!r}")

    def _new_lease(self, owner: Owner, consumer: str, options: AcquireOptions) -> Lease:
        is_ttl = options.lifetime is LeaseLifetime.TTL
        ttl_sec = (options.ttl_sec or DEFAULT_TTL_SEC) if is_ttl else 0.0
        expires_usec = GRANTED_USEC + int(ttl_sec * 1e6) if is_ttl else 0
        self.granted += 1
        lease = Lease(
            f"a{self.granted:04d}",
            consumer,
            "0",
            owner,
            options.lifetime,
            GRANTED_USEC,
            expires_usec,
            ttl_sec,
            options.reason,
            options.token,
        )
        self.leases[lease.id] = lease
        return lease

    def _set(self, consumer: str, **changes: object) -> None:
        self.consumers[consumer] = replace(self.consumers[consumer], **changes)  # type: ignore[arg-type]  # by name
        self.publish(ConsumersChanged(frozenset({consumer})))
        self.publish(SummaryChanged())
