"""Attributes VRAM to consumers: finds the unit of each process, and the consumer of that unit.

The unit is looked up by pid at systemd, whose answer covers sub-cgroups, and not in /proc, which ``ProtectProc=``
hides. A reading waits at most one second for systemd. Units that are still unknown then stay unknown in this sample.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from gpumand.domain.container_rules import ProcessPlace
from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.domain.driver_power import NO_POWER, DriverPower
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.reservation import Holder
from gpumand.ports import Driver, Retrying, VramSource
from gpumand.state.worker import Worker
from gpumand.vram.container_attribution import ContainerAttribution
from gpumand.vram.holders import HolderTree, ancestors, identify, read_table
from gpumand.vram.process import ProcessIdentity, start_ticks
from gpumand.vram.unit_rows import joined
from gpumand.vram.user_names import UNKNOWN_OWNER, ProcessOwner, ProcessOwners

log = logging.getLogger(__name__)

OWNER_TIMEOUT_SEC = 0.2
"""How long a reading waits for user names. They are shown to people only; decisions do not depend on them."""


class UnitLookup(Protocol):
    """The part of UnitManager that attribution needs."""

    async def unit_of_pid(self, pid: int) -> str:
        """Return the unit that a process runs in, or "" if it cannot be determined."""


class AttributedSource:
    """Wraps a VramSource and fills in unit, consumer and user of each process."""

    def __init__(
        self,
        source: VramSource,
        units: UnitLookup,
        *,
        lookup_timeout_sec: float = 1.0,
        max_lookups: int = 16,
        containers: ContainerAttribution | None = None,
    ) -> None:
        """Wrap a source.

        Args:
            source: the source of readings.
            units: looks up the unit of a pid.
            lookup_timeout_sec: real seconds that a reading waits for all lookups together.
            max_lookups: maximum number of simultaneous lookups.
            containers: finds the consumers of processes in containers; by default without asking engines.
        """
        self.containers = containers or ContainerAttribution()
        self.name = source.name
        self._source = source
        self._units = units
        self._timeout_sec = lookup_timeout_sec
        self._slots = asyncio.Semaphore(max_lookups)
        self._consumers: Mapping[str, str] = {}
        self._shared: Mapping[str, tuple[str, ...]] = {}
        self._attributable: frozenset[str] = frozenset()
        self._units_by_process: dict[ProcessIdentity, str] = {}
        self._process_owners, self._owner_worker = ProcessOwners(), Worker("gpumand-owners")
        self._owners: dict[ProcessIdentity, ProcessOwner] = {}
        self._owner_task: asyncio.Task[None] | None = None
        self._lookups: dict[ProcessIdentity, asyncio.Task[None]] = {}
        self._holders: Mapping[str, Holder] = {}
        self._holder_tree, self._holder_worker = HolderTree(), Worker("gpumand-holders")

    @property
    def source(self) -> VramSource:
        """The wrapped source."""
        return self._source

    def set_units(
        self,
        mapping: Mapping[str, str],
        named_by_source: Iterable[str] = (),
        shared: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Replace the mapping of units to consumers.

        Args:
            mapping: unit -> consumer.
            shared: unit -> consumers, of units that several consumers share.
            named_by_source: consumers whose processes the source itself identifies, as the simulator does.
        """
        self._consumers = dict(mapping)
        self._shared = {unit: tuple(names) for unit, names in (shared or {}).items()}
        sharing = (name for names in self._shared.values() for name in names)
        self._attributable = frozenset((*mapping.values(), *sharing, *named_by_source))

    async def identify(self, owner: Owner, lifetime: LeaseLifetime) -> Holder:
        """Find the processes that a reservation is for; see HolderProcesses."""
        if lifetime is LeaseLifetime.TTL and owner.pid > 0 and not owner.unit:
            owner = replace(owner, unit=await self._unit_in_time(owner.pid))
        try:
            return await self._holder_worker.run(lambda: identify(owner, lifetime))
        except OSError:
            return Holder()  # the daemon is stopping

    async def ancestors(self, pid: int) -> tuple[int, ...]:
        """Find the ancestors of a process; see HolderProcesses."""
        try:
            return await self._holder_worker.run(lambda: ancestors(pid))
        except OSError:
            return ()  # the daemon is stopping

    async def _unit_in_time(self, pid: int) -> str:
        """The unit of a process; "" if systemd does not answer in time."""
        try:
            async with asyncio.timeout(self._timeout_sec):
                return await self._units.unit_of_pid(pid)
        except TimeoutError:
            return ""

    def follow(self, holders: Mapping[str, Holder]) -> None:
        """Attribute the memory of these processes to reservations; see HolderProcesses."""
        self._holders = dict(holders)

    async def replace_source(self, source: VramSource) -> None:
        """Use another source from now on, and close the former one."""
        # The new source is set before the await, so that readings in progress notice the change and start again.
        former, self._source, self.name = self._source, source, source.name
        await former.close()

    async def read(self, only: Devices = ()) -> Reading:
        """Read the source and add units and consumers; see VramSource."""
        while True:
            source = self._source
            reading = await self._read(source, only)
            # If the source was replaced during the await, the reading describes other devices and is discarded.
            if source is self._source:
                return reading

    async def _read(self, source: VramSource, only: Devices) -> Reading:
        reading = await source.read(only)
        # systemd takes pid 0 for the calling process, so it is not looked up.
        pids = {process.pid for sample in reading.devices for process in sample.processes if process.pid > 0}
        identities = await asyncio.to_thread(_identify, pids) if pids else {}
        if not only:
            self._discard_others(identities.values())
        holders = self._holders
        nothing: tuple[dict[int, str], dict[str, str]] = ({}, {})
        by_pid, by_unit = await self._holder_worker.run(lambda: self._assign(holders, pids)) if holders else nothing
        await self._look_up_units(identities.values())
        await self._look_up_owners(identities.values())
        whole_units = {one.unit: one.cgroup for sample in reading.devices for one in sample.processes if not one.pid}
        await self.containers.update(identities.values(), whole_units, is_partial=bool(only))
        samples = (self._attribute(sample, identities) for sample in reading.devices)
        if holders:
            samples = (_with_reservations(sample, holders, by_pid, by_unit) for sample in samples)
        return replace(reading, devices=tuple(samples))

    def _assign(self, holders: Mapping[str, Holder], pids: Iterable[int]) -> tuple[dict[int, str], dict[str, str]]:
        """Find the reservations of processes by their ancestors, and those of units; this method blocks."""
        return self._holder_tree.assign(holders, pids, read_table()), self._holder_tree.units

    async def release_driver(self) -> None:
        """Close the driver until the next reading, if the source has one; see Driver."""
        if isinstance(self._source, Driver):
            await self._source.release_driver()

    def rest_driver(self, *, resting: bool) -> None:
        """Read only the other devices for now; see Driver."""
        if isinstance(self._source, Driver):
            self._source.rest_driver(resting=resting)

    async def power(self) -> DriverPower:
        """The power states of the driver's cards; see Driver."""
        return await self._source.power() if isinstance(self._source, Driver) else NO_POWER

    def retry(self) -> None:
        """Open what has failed at once; see Retrying."""
        if isinstance(self._source, Retrying):
            self._source.retry()

    def reopen(self) -> None:
        """Reopen the source; see VramSource. Known units are kept, because processes survive a suspend."""
        self._source.reopen()

    async def close(self) -> None:
        """Cancel all lookups and close the source."""
        self._discard_others(())
        await self._holder_worker.close()
        await self.containers.close()
        if self._owner_task is None or self._owner_task.done():
            await self._owner_worker.close()
        else:
            # The thread hangs in a directory service (NSS). It cannot be interrupted, so it is abandoned.
            self._owner_task.cancel()
        await self._source.close()

    def _attribute(self, sample: Sample, identities: Mapping[int, ProcessIdentity]) -> Sample:
        named = [self._name(process, identities.get(process.pid)) for process in sample.processes]
        processes = joined(named, processes_count_first=sample.attribution == "nvml")
        # A process without a known unit may belong to any consumer. As long as there is one, no consumer is known to
        # hold nothing.
        all_known = all(process.unit or process.consumer for process in processes)
        attributable = self._recognised(sample, identities) if all_known else frozenset()
        return replace(sample, processes=processes, attributable=sample.attributable | attributable)

    def _recognised(self, sample: Sample, identities: Mapping[int, ProcessIdentity]) -> frozenset[str]:
        """Consumers whose processes would have been recognised in a sample in which the unit of each is known."""
        found = [identities[one.pid] for one in sample.processes if one.pid in identities and not one.consumer]
        possible = self._attributable | self.containers.located
        return possible.difference(self._blind(sample), self.containers.undecided(found))

    def _blind(self, sample: Sample) -> set[str]:
        """Consumers whose memory the source could not have seen: for them, absence from the list proves nothing."""
        return {consumer for unit in sample.blind for consumer in self._possible_in(unit)}

    def _possible_in(self, unit: str) -> Iterable[str]:
        """The consumers that a unit of which only the name is known may belong to."""
        by_unit = (self._consumers[unit],) if unit in self._consumers else self._shared.get(unit, ())
        return by_unit or self.containers.possible_in(unit)

    def _name(self, process: ProcessUse, identity: ProcessIdentity | None) -> ProcessUse:
        unit = process.unit or (self._units_by_process.get(identity, "") if identity else "")
        owner = self._owners.get(identity, UNKNOWN_OWNER) if identity else UNKNOWN_OWNER
        place = self.containers.place_of(identity, process.unit)
        names = self._consumers_of(process, unit, place)
        consumer, shared = (names[0], ()) if len(names) == 1 else ("", names)
        container = self.containers.name_of(place)
        return replace(
            process, unit=unit, consumer=consumer, uid=owner.uid, user=owner.name, shared=shared, container=container
        )

    def _consumers_of(self, process: ProcessUse, unit: str, place: ProcessPlace) -> tuple[str, ...]:
        """The consumers of a process: by container, cgroup and unit, which may differ; else by its slice."""
        if process.consumer:
            return (process.consumer,)
        by_unit = (self._consumers[unit],) if unit in self._consumers else self._shared.get(unit, ())
        found = tuple(dict.fromkeys((*self.containers.consumers_of(place), *by_unit)))
        return found or self.containers.consumers_of_slice(place)

    def _discard_others(self, listed: Iterable[ProcessIdentity]) -> None:
        keep = set(listed)
        self._units_by_process = {
            identity: unit for identity, unit in self._units_by_process.items() if identity in keep
        }
        self._owners = {identity: owner for identity, owner in self._owners.items() if identity in keep}
        for identity in self._lookups.keys() - keep:
            self._lookups.pop(identity).cancel()

    async def _look_up_units(self, listed: Iterable[ProcessIdentity]) -> None:
        """Look up all unknown units; a lookup that times out continues, and a later reading uses its result."""
        for identity in listed:
            if identity not in self._units_by_process and identity not in self._lookups:
                self._lookups[identity] = task = asyncio.create_task(self._look_up_unit(identity))
                task.add_done_callback(partial(self._lookup_done, identity))
        if self._lookups:
            # Unlike wait_for, asyncio.wait leaves the tasks running after the timeout.
            await asyncio.wait(self._lookups.values(), timeout=self._timeout_sec)

    async def _look_up_unit(self, identity: ProcessIdentity) -> None:
        async with self._slots:
            unit = await self._units.unit_of_pid(identity.pid)
        # The kernel may have reused the pid during the lookup. The answer would then describe another process.
        if unit and await asyncio.to_thread(start_ticks, identity.pid) == identity.started:
            self._units_by_process[identity] = unit

    async def _look_up_owners(self, listed: Iterable[ProcessIdentity]) -> None:
        """Look up the users of new processes; a slow directory service delays the reading by OWNER_TIMEOUT_SEC."""
        unknown = [identity for identity in listed if identity not in self._owners]
        if unknown and (self._owner_task is None or self._owner_task.done()):
            self._owner_task = asyncio.create_task(self._ask_owners(unknown))
            self._owner_task.add_done_callback(_log_owner_failure)
        if self._owner_task is not None and not self._owner_task.done():
            await asyncio.wait([self._owner_task], timeout=min(OWNER_TIMEOUT_SEC, self._timeout_sec))

    async def _ask_owners(self, unknown: Iterable[ProcessIdentity]) -> None:
        units = {identity: self._units_by_process.get(identity, "") for identity in unknown}
        # asyncio's own threads are joined when the process ends, which would wait for a directory service that hangs.
        owners = await self._owner_worker.run(lambda: _owners_of(self._process_owners, units))
        self._owners |= owners

    def _lookup_done(self, identity: ProcessIdentity, task: asyncio.Task[None]) -> None:
        # A cancelled lookup may have been replaced by a new one for the same process.
        if self._lookups.get(identity) is task:
            del self._lookups[identity]
        if not task.cancelled() and (error := task.exception()):
            log.debug("lookup of the unit of pid %d failed: %s", identity.pid, error)


def _with_reservations(
    sample: Sample, holders: Iterable[str], by_pid: Mapping[int, str], by_unit: Mapping[str, str]
) -> Sample:
    """The sample with the processes of reservations, of those that belong to no consumer.

    Args:
        sample: processes with their units and consumers.
        holders: names of the reservations.
        by_pid: reservations found by the ancestors of a process.
        by_unit: reservations of units.
    """
    processes = tuple(
        one if one.consumer else replace(one, consumer=by_pid.get(one.pid) or by_unit.get(one.unit, ""))
        for one in sample.processes
    )
    # A process whose unit is unknown may be of any unit. The ancestors of a process are always known.
    all_known = all(process.unit or process.consumer for process in processes)
    attributable = set(holders) if all_known else set(holders).difference(by_unit.values())
    attributable -= {name for unit, name in by_unit.items() if unit in sample.blind}
    # The processes in the entry of a whole unit, or in a unit that the source does not see, may be of any ancestor.
    if sample.blind or any(not one.pid and not one.consumer for one in processes):
        attributable &= set(by_unit.values())
    return replace(sample, processes=processes, attributable=sample.attributable | attributable)


def _log_owner_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.debug("lookup of the users of processes failed: %s", error)


def _owners_of(
    process_owners: ProcessOwners, units: Mapping[ProcessIdentity, str]
) -> dict[ProcessIdentity, ProcessOwner]:
    """Return the known owners of processes; this function blocks."""
    owners = {identity: process_owners.owner_of(identity.pid, unit) for identity, unit in units.items()}
    # A pid may have been reused during the lookup. The result would then be the owner of another process.
    unchanged = {identity for identity in owners if start_ticks(identity.pid) == identity.started}
    return {identity: owner for identity, owner in owners.items() if identity in unchanged and owner != UNKNOWN_OWNER}


def _identify(pids: Iterable[int]) -> dict[int, ProcessIdentity]:
    return {pid: ProcessIdentity(pid, start_ticks(pid)) for pid in pids}
