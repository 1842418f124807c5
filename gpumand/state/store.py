"""The Store port on files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpumand.domain.device import Devices
from gpumand.domain.lease import Lease, LeaseLifetime
from gpumand.state.filesystem import is_in_memory
from gpumand.state.folder import SUFFIX, Folder, Unfit
from gpumand.state.records import (
    LEASE_ID,
    KeptConsumer,
    KeptLease,
    KeptLoad,
    consumer_stem,
    decode_consumer,
    decode_lease,
    decode_load,
    encode_consumer,
    encode_lease,
    encode_load,
)
from gpumand.state.worker import Worker

log = logging.getLogger(__name__)


class FileStore:
    """Leases, consumers and loads, one file each, under one directory; see gpumand.ports.Store.

    ``leases/``, ``consumers/`` and ``loads/`` hold the files, ``quarantine/`` what could not be understood of them.
    """

    def __init__(self, directory: Path, bus_id: str, boot_id: str) -> None:
        """Nothing is read or made before the first call.

        Args:
            directory: where everything is kept; made if it is not there.
            bus_id: GetId of the bus that we are on: unique names of another one are nobody's.
            boot_id: of the kernel: leases of another boot have no owner.
        """
        quarantine = directory / "quarantine"
        self._leases = Folder(directory / "leases", quarantine)
        self._consumers = Folder(directory / "consumers", quarantine)
        self._loads = Folder(directory / "loads", quarantine)
        self._bus_id = bus_id
        self._boot_id = boot_id
        self._directory = directory
        self._in_memory = False
        self._worker = Worker("gpumand-store")

    async def put_lease(self, lease: Lease) -> None:
        """Keep a lease; returns when it is on disk. Raises OSError when it cannot be kept."""
        _check_id(lease.id)
        content = encode_lease(KeptLease(lease, self._bus_id, self._boot_id))
        await self._do(lambda: self._leases.write(lease.id, content))

    async def drop_lease(self, lease_id: str) -> None:
        """Forget a lease, known or not. Raises OSError when it cannot be forgotten."""
        _check_id(lease_id)
        await self._do(lambda: self._leases.remove(lease_id))

    async def put_consumer(self, name: str, pinned: bool | None, last_used_usec: int) -> None:
        """Keep what was set by hand or learned about a consumer. Raises OSError when it cannot be kept."""
        content = encode_consumer(KeptConsumer(name, pinned, last_used_usec))
        await self._do(lambda: self._consumers.write(consumer_stem(name), content))

    async def put_load(self, consumer: str, devices: Devices, began_usec: int) -> None:
        """Keep that a load is under way. Raises OSError when it cannot be kept."""
        content = encode_load(KeptLoad(consumer, devices, began_usec, self._boot_id))
        await self._do(lambda: self._loads.write(consumer_stem(consumer), content))

    async def drop_load(self, consumer: str) -> None:
        """Forget a load, known or not. Raises OSError when it cannot be forgotten."""
        await self._do(lambda: self._loads.remove(consumer_stem(consumer)))

    async def read_loads(self) -> dict[str, tuple[Devices, int]]:
        """Consumer -> (device, began_usec), of this boot. Raises OSError when nothing can be read."""
        return await self._worker.run(self._read_loads)

    async def read_leases(self) -> tuple[Lease, ...]:
        """All leases that may still have an owner, the oldest first. Raises OSError when nothing can be read.

        A lease of another boot is removed, and so is one that was to end with its owner's connection to another bus.
        An owner of another bus has no ``bus_name`` any more: somebody else may have it on this one.
        """
        leases = await self._worker.run(self._read_leases)
        self._in_memory = await self._worker.run(lambda: is_in_memory(self._directory))
        return leases

    async def read_consumers(self) -> dict[str, tuple[bool | None, int]]:
        """Name -> (pinned, last_used_usec). Raises OSError when nothing can be read."""
        return await self._worker.run(self._read_consumers)

    async def close(self) -> None:
        """Finish what was asked for; then nothing can be asked any more."""
        await self._worker.close()
        self._leases.close()
        self._consumers.close()
        self._loads.close()

    async def _do(self, write: Callable[[], None]) -> None:
        """Write in the worker's thread, or at once where nothing can block: in memory a write is a copy.

        /run is in memory, and there the way to a thread and back is what a lease would cost most. Which of the two it
        is changes only in ``read_leases``, before anything was written, so that writes stay in their order.
        """
        if self._in_memory and not self._worker.is_closed:
            write()
        else:
            await self._worker.run(write)

    # -- in the worker's thread ----------------------------------------------------------------------------------

    def _read_leases(self) -> tuple[Lease, ...]:
        leases: list[Lease] = []
        dropped: dict[str, int] = {}
        for stem, content in self._leases.read_all():
            try:
                kept = decode_lease(stem, content)
            except Unfit as unfit:
                self._leases.set_aside(stem + SUFFIX, str(unfit))
                continue
            if why := self._why_over(kept):
                self._leases.remove(stem)
                dropped[why] = dropped.get(why, 0) + 1
            else:
                leases.append(self._for_this_bus(kept))
        for why, count in dropped.items():
            log.info("leases that are over were removed: %d of %s", count, why)
        return tuple(sorted(leases, key=lambda lease: (lease.granted_usec, lease.id)))

    def _why_over(self, kept: KeptLease) -> str:
        if kept.boot_id != self._boot_id:
            return "another boot"
        if kept.lease.lifetime is LeaseLifetime.CONNECTION and kept.bus_id != self._bus_id:
            return "connections to another bus"
        return ""

    def _for_this_bus(self, kept: KeptLease) -> Lease:
        if kept.bus_id == self._bus_id:
            return kept.lease
        return replace(kept.lease, owner=replace(kept.lease.owner, bus_name=""))

    def _read_consumers(self) -> dict[str, tuple[bool | None, int]]:
        consumers: dict[str, tuple[bool | None, int]] = {}
        for stem, content in self._consumers.read_all():
            try:
                kept = decode_consumer(stem, content)
            except Unfit as unfit:
                self._consumers.set_aside(stem + SUFFIX, str(unfit))
                continue
            consumers[kept.name] = (kept.pinned, kept.last_used_usec)
        return consumers

    def _read_loads(self) -> dict[str, tuple[Devices, int]]:
        loads: dict[str, tuple[Devices, int]] = {}
        for stem, content in self._loads.read_all():
            try:
                kept = decode_load(stem, content)
            except Unfit as unfit:
                self._loads.set_aside(stem + SUFFIX, str(unfit))
                continue
            if kept.boot_id == self._boot_id:
                loads[kept.consumer] = (kept.devices, kept.began_usec)
            else:
                self._loads.remove(stem)
        return loads


def _check_id(lease_id: str) -> None:
    """Ids become file names. Raises ValueError for what is none."""
    if not LEASE_ID.fullmatch(lease_id):
        raise ValueError(f"{lease_id!r} is no lease id")
