"""Whose memory is it: the unit of each process, and the consumer of that unit.

systemd is asked by pid (its answer covers sub-cgroups), not /proc, which ``ProtectProc=`` hides. Figures never wait
for a slow systemd longer than a second; what is not known by then stays unknown, and the sample says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from gpumand.domain.device import ProcessUse, Reading, Sample
from gpumand.ports import VramSource
from gpumand.state.worker import Worker
from gpumand.vram.process import start_ticks
from gpumand.vram.user_names import NOBODY, ProcessOwner, ProcessOwners

log = logging.getLogger(__name__)

NAMES_SEC = 0.2
"""How long a reading waits for names of users; without them it says less, and decides as well."""


class UnitsOfPids(Protocol):
    """Who knows the unit of a process: any UnitManager does."""

    async def unit_of_pid(self, pid: int) -> str:
        """The unit a process runs in, or "" when it cannot be told."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for as long as it is listed: a pid alone may be used again.

    ``started`` is in ticks since boot, None where /proc does not show the process.
    """

    pid: int
    started: int | None


class AttributedSource:
    """Any VramSource, with ``unit`` and ``consumer`` of each process filled in."""

    def __init__(
        self,
        source: VramSource,
        units: UnitsOfPids,
        *,
        lookup_timeout_sec: float = 1.0,
        max_lookups: int = 16,
    ) -> None:
        """Wrap a source.

        Args:
            source: where the figures come from.
            units: who knows the unit of a pid.
            lookup_timeout_sec: how long a reading waits for all lookups together, in real seconds.
            max_lookups: how many are asked at once.
        """
        self.name = source.name
        self._source = source
        self._units = units
        self._timeout_sec = lookup_timeout_sec
        self._slots = asyncio.Semaphore(max_lookups)
        self._consumers: Mapping[str, str] = {}
        self._recognised: frozenset[str] = frozenset()
        self._known: dict[Identity, str] = {}
        self._people, self._asks_people = ProcessOwners(), Worker("gpumand-people")
        self._owners: dict[Identity, ProcessOwner] = {}
        self._naming: asyncio.Task[None] | None = None
        self._asking: dict[Identity, asyncio.Task[None]] = {}

    @property
    def source(self) -> VramSource:
        """What is wrapped."""
        return self._source

    def set_units(self, mapping: Mapping[str, str], named_by_source: Iterable[str] = ()) -> None:
        """Say which unit belongs to which consumer; replaces what was said before.

        Args:
            mapping: unit -> consumer.
            named_by_source: consumers whose processes the source names by itself, as the simulator does.
        """
        self._consumers = dict(mapping)
        self._recognised = frozenset(mapping.values()) | frozenset(named_by_source)

    async def swap(self, source: VramSource) -> None:
        """Take figures from another source from now on, and give the former one back."""
        former, self._source, self.name = self._source, source, source.name
        await former.close()

    async def read(self) -> Reading:
        """The source's reading with units and consumers; see VramSource."""
        while True:
            source = self._source
            reading = await self._read(source)
            if source is self._source:  # else it was swapped meanwhile, and these are figures of other devices
                return reading

    async def _read(self, source: VramSource) -> Reading:
        reading = await source.read()
        pids = {process.pid for sample in reading.devices for process in sample.processes if process.pid > 0}
        identities = await asyncio.to_thread(_identify, pids) if pids else {}
        self._forget_all_but(identities.values())
        await self._look_up(identities.values())
        await self._name_owners(identities.values())
        return replace(reading, devices=tuple(self._attribute(sample, identities) for sample in reading.devices))

    def renew(self) -> None:
        """See VramSource; processes keep their units, however long they slept."""
        self._source.renew()

    async def close(self) -> None:
        """Stop asking, and close the source."""
        self._forget_all_but(())
        if self._naming is None or self._naming.done():
            await self._asks_people.close()
        else:
            self._naming.cancel()  # a directory service that hangs is left alone, and so is the thread that asks it
        await self._source.close()

    def _attribute(self, sample: Sample, identities: Mapping[int, Identity]) -> Sample:
        processes = tuple(self._name(process, identities.get(process.pid)) for process in sample.processes)
        # A process that nobody could place may be any consumer's: then none of them is known to be absent.
        placed = all(process.unit or process.consumer for process in processes)
        recognised = self._recognised if placed else frozenset()
        return replace(sample, processes=processes, attributable=sample.attributable | recognised)

    def _name(self, process: ProcessUse, identity: Identity | None) -> ProcessUse:
        unit = process.unit or (self._known.get(identity, "") if identity else "")
        owner = self._owners.get(identity, NOBODY) if identity else NOBODY
        consumer = process.consumer or self._consumers.get(unit, "")
        return replace(process, unit=unit, consumer=consumer, uid=owner.uid, user=owner.name)

    def _forget_all_but(self, listed: Iterable[Identity]) -> None:
        keep = set(listed)
        self._known = {identity: unit for identity, unit in self._known.items() if identity in keep}
        self._owners = {identity: owner for identity, owner in self._owners.items() if identity in keep}
        for identity in self._asking.keys() - keep:
            self._asking.pop(identity).cancel()

    async def _look_up(self, listed: Iterable[Identity]) -> None:
        """Ask for all that is not known yet; a lookup that outlasts this reading goes on for the next one."""
        for identity in listed:
            if identity not in self._known and identity not in self._asking:
                self._asking[identity] = task = asyncio.create_task(self._ask(identity))
                task.add_done_callback(partial(self._answered, identity))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=self._timeout_sec)

    async def _ask(self, identity: Identity) -> None:
        async with self._slots:
            unit = await self._units.unit_of_pid(identity.pid)
        # The pid may have been used again while systemd looked: then the answer is about somebody else.
        if unit and await asyncio.to_thread(start_ticks, identity.pid) == identity.started:
            self._known[identity] = unit

    async def _name_owners(self, listed: Iterable[Identity]) -> None:
        """Learn whose processes they are; a directory service that is slow to tell names holds up nothing for long."""
        wanted = [identity for identity in listed if identity not in self._owners]
        if wanted and (self._naming is None or self._naming.done()):
            self._naming = asyncio.create_task(self._ask_owners(wanted))
            self._naming.add_done_callback(_named)
        if self._naming is not None and not self._naming.done():
            await asyncio.wait([self._naming], timeout=min(NAMES_SEC, self._timeout_sec))

    async def _ask_owners(self, wanted: Iterable[Identity]) -> None:
        units = {identity: self._known.get(identity, "") for identity in wanted}
        # Not in one of asyncio's threads, which a process waits for at its end, however long they take.
        owners = await self._asks_people.run(lambda: _owners_of(self._people, units))
        self._owners |= owners  # of now: those of processes that ended meanwhile have been forgotten

    def _answered(self, identity: Identity, task: asyncio.Task[None]) -> None:
        if self._asking.get(identity) is task:
            del self._asking[identity]
        if not task.cancelled() and (error := task.exception()):
            log.debug("the unit of pid %d cannot be told: %s", identity.pid, error)


def _named(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.debug("whose processes they are cannot be told: %s", error)


def _owners_of(people: ProcessOwners, units: Mapping[Identity, str]) -> dict[Identity, ProcessOwner]:
    """Those that can be told; a pid that was used again meanwhile is somebody else's."""
    owners = {identity: people.owner_of(identity.pid, unit) for identity, unit in units.items()}
    still = {identity for identity in owners if start_ticks(identity.pid) == identity.started}
    return {identity: owner for identity, owner in owners.items() if identity in still and owner != NOBODY}


def _identify(pids: Iterable[int]) -> dict[int, Identity]:
    return {pid: Identity(pid, start_ticks(pid)) for pid in pids}
