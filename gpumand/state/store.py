"""The Store port on files, one file per lease, consumer and load."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpumand.domain.device import Devices
from gpumand.domain.lease import Lease, LeaseLifetime
from gpumand.state.filesystem import is_in_memory
from gpumand.state.folder import SUFFIX, Folder, UnusableFile
from gpumand.state.records import (
    LEASE_ID,
    StoredConsumer,
    StoredLease,
    StoredLoad,
    consumer_stem,
    decode_consumer,
    decode_lease,
    decode_load,
    encode_consumer,
    encode_lease,
    encode_load,
)
from gpumand.state.spare_files import SpareFiles
from gpumand.state.worker import Worker

log = logging.getLogger(__name__)


class FileStore:
    """Stores leases, consumers and loads in one directory; see gpumand.ports.Store.

    ``leases/``, ``consumers/`` and ``loads/`` hold the files; unusable files are moved to ``quarantine/``.
    """

    def __init__(self, directory: Path, bus_id: str, boot_id: str) -> None:
        """Nothing is read or created before the first call.

        Args:
            directory: directory of the state files; created if missing.
            bus_id: GetId of the current bus: unique names of another bus are invalid on it.
            boot_id: boot id of the kernel: leases of another boot have ended.
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
        """Store a lease; returns when it is on disk. Raises OSError when it cannot be stored."""
        _check_id(lease.id)
        content = encode_lease(StoredLease(lease, self._bus_id, self._boot_id))
        if self._writes_directly:
            self._leases.write(lease.id, content)
        else:
            await self._worker.run(lambda: self._leases.write(lease.id, content))

    async def drop_lease(self, lease_id: str) -> None:
        """Remove a lease; a missing one is not an error. Raises OSError when it cannot be removed."""
        _check_id(lease_id)
        if self._writes_directly:
            self._leases.remove(lease_id)
        else:
            await self._worker.run(lambda: self._leases.remove(lease_id))

    async def put_consumer(self, name: str, pinned: bool | None, last_used_usec: int) -> None:
        """Store pin and time of last use of a consumer. Raises OSError when they cannot be stored."""
        content = encode_consumer(StoredConsumer(name, pinned, last_used_usec))
        await self._write(lambda: self._consumers.write(consumer_stem(name), content))

    async def put_load(self, consumer: str, devices: Devices, began_usec: int) -> None:
        """Store a running load. Raises OSError when it cannot be stored."""
        content = encode_load(StoredLoad(consumer, devices, began_usec, self._boot_id))
        await self._write(lambda: self._loads.write(consumer_stem(consumer), content))

    async def drop_load(self, consumer: str) -> None:
        """Remove a load; a missing one is not an error. Raises OSError when it cannot be removed."""
        await self._write(lambda: self._loads.remove(consumer_stem(consumer)))

    async def read_loads(self) -> dict[str, tuple[Devices, int]]:
        """Consumer -> (devices, began_usec) of loads of this boot. Raises OSError when nothing can be read."""
        return await self._worker.run(self._read_loads)

    async def read_leases(self) -> tuple[Lease, ...]:
        """All leases that may still have an owner, the oldest first. Raises OSError when nothing can be read.

        Leases of another boot are removed, and so are leases of lifetime connection that belong to another bus. For
        other leases from another bus, ``bus_name`` of the owner is emptied: another client may have that name here.
        """
        # In the thread even when the directory is in memory: only now is it created and can be examined.
        leases = await self._worker.run(self._read_leases)
        self._in_memory = await self._worker.run(lambda: is_in_memory(self._directory))
        for folder in (self._leases, self._consumers, self._loads) if self._in_memory else ():
            folder.skip_syncs()
        if self._in_memory:
            self._leases.use_again(SpareFiles(self._directory / "spare"))
        return leases

    async def read_consumers(self) -> dict[str, tuple[bool | None, int]]:
        """Name -> (pinned, last_used_usec) of all stored consumers. Raises OSError when nothing can be read."""
        return await self._worker.run(self._read_consumers)

    async def close(self) -> None:
        """Finish pending writes and close; later calls raise OSError."""
        await self._worker.close()
        self._leases.close()
        self._consumers.close()
        self._loads.close()

    @property
    def _writes_directly(self) -> bool:
        """Whether to write here instead of in the worker thread: the directory is in memory, and no write can block.

        /run is in memory, and there the round trip to a thread would be the largest part of the cost of a lease. The
        choice is made in ``read_leases``, before the first write, so that writes stay in order.
        """
        return self._in_memory and not self._worker.is_closed

    async def _write(self, write: Callable[[], None]) -> None:
        if self._writes_directly:
            write()
        else:
            await self._worker.run(write)

    # -- in the worker's thread ----------------------------------------------------------------------------------

    def _read_leases(self) -> tuple[Lease, ...]:
        leases: list[Lease] = []
        dropped: dict[str, int] = {}
        for stem, content in self._leases.read_all():
            try:
                stored = decode_lease(stem, content)
            except UnusableFile as unfit:
                self._leases.quarantine_file(stem + SUFFIX, str(unfit))
                continue
            # Removed here, since no other code would remove the file of a lease that is never restored.
            if why := self._ended_reason(stored):
                self._leases.remove(stem)
                dropped[why] = dropped.get(why, 0) + 1
            else:
                leases.append(self._for_this_bus(stored))
        for why, count in dropped.items():
            log.info("removed %d ended %s of %s", count, "lease" if count == 1 else "leases", why)
        return tuple(sorted(leases, key=lambda lease: (lease.granted_usec, lease.id)))

    def _ended_reason(self, stored: StoredLease) -> str:
        if stored.boot_id != self._boot_id:
            return "another boot"
        if stored.lease.lifetime is LeaseLifetime.CONNECTION and stored.bus_id != self._bus_id:
            return "connections to another bus"
        return ""

    def _for_this_bus(self, stored: StoredLease) -> Lease:
        if stored.bus_id == self._bus_id:
            return stored.lease
        return replace(stored.lease, owner=replace(stored.lease.owner, bus_name=""))

    def _read_consumers(self) -> dict[str, tuple[bool | None, int]]:
        consumers: dict[str, tuple[bool | None, int]] = {}
        for stem, content in self._consumers.read_all():
            try:
                stored = decode_consumer(stem, content)
            except UnusableFile as unfit:
                self._consumers.quarantine_file(stem + SUFFIX, str(unfit))
                continue
            consumers[stored.name] = (stored.pinned, stored.last_used_usec)
        return consumers

    def _read_loads(self) -> dict[str, tuple[Devices, int]]:
        loads: dict[str, tuple[Devices, int]] = {}
        for stem, content in self._loads.read_all():
            try:
                stored = decode_load(stem, content)
            except UnusableFile as unfit:
                self._loads.quarantine_file(stem + SUFFIX, str(unfit))
                continue
            if stored.boot_id == self._boot_id:
                loads[stored.consumer] = (stored.devices, stored.began_usec)
            else:
                self._loads.remove(stem)
        return loads


def _check_id(lease_id: str) -> None:
    """Raise ValueError for an invalid lease id: ids become file names."""
    if not LEASE_ID.fullmatch(lease_id):
        raise ValueError(f"{lease_id!r} is not a valid lease id")
