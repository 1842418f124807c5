"""The operations that the MCP server offers, without the protocol: values in, JSON documents out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gpumand.client.client import Client
from gpumand.client.held_lease import Held
from gpumand.client.lease_options import LeaseOptions
from gpumand.domain.errors import NoSuchLease
from gpumand.mcp_server.held_leases import HeldLeases

Document = dict[str, Any]

MAX_WAIT_SEC = 3600.0
"""An agent that waits longer has forgotten its request."""

STATUS_KEYS = ("version", "degraded", "devices", "consumers", "leases", "queue")
"""Keys of the status that help to decide; the counters since the start do not."""


class Tools:
    """The operations of one server process. All raise the errors of ``gpumand.client``.

    Each call has a connection of its own, so that a restart of the bus ends no server.

    Args:
        bus: "system", "session", or a D-Bus address.
    """

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self.held = HeldLeases(bus)

    async def status(self) -> Document:
        """Devices, consumers, leases and waiting requests, and the leases of this process under ``held``."""
        async with Client(self._bus) as client:
            found = _document(await client.status())
        status = {key: found[key] for key in STATUS_KEYS}
        return status | {"held": [_held_document(one) for one in self.held.leases]}

    async def plan(self, consumer: str, vram_mib: int | None, whole_gpu: bool, device: str) -> Document:
        """What a request would do now, and why; changes nothing."""
        async with Client(self._bus) as client:
            plan = await client.plan(consumer, vram_mib=vram_mib, all=whole_gpu, device=device)
        return _document(plan)

    async def acquire(self, consumer: str, options: LeaseOptions) -> Document:
        """Take a lease that ends with this process."""
        wait_sec = options.get("timeout_sec")
        options["timeout_sec"] = MAX_WAIT_SEC if wait_sec is None else min(wait_sec, MAX_WAIT_SEC)
        return _held_document(await self.held.acquire(consumer, options))

    async def release(self, lease: str) -> Document:
        """Release a lease: one of this process, or another one that this user may release."""
        full = self._full_id(lease)
        if not await self.held.release(full):
            async with Client(self._bus) as client:
                await client.release(full)
        return {"released": full}

    async def load(self, consumer: str, timeout_sec: float, device: str) -> Document:
        """Load a consumer without a lease."""
        async with Client(self._bus) as client:
            outcome = await client.load(consumer, timeout_sec=min(timeout_sec, MAX_WAIT_SEC), device=device)
        return _document(outcome)

    async def evict(self, consumer: str, timeout_sec: float, force: bool) -> Document:
        """Evict a consumer, so that its VRAM becomes free."""
        async with Client(self._bus) as client:
            outcome = await client.evict(consumer, timeout_sec=min(timeout_sec, MAX_WAIT_SEC), force=force)
        return _document(outcome)

    def _full_id(self, lease: str) -> str:
        """The id of a lease of this process that begins with ``lease``; ``lease`` itself for all others."""
        if not lease:
            raise NoSuchLease("no lease was named. The tool status lists the leases of this server under held.")
        mine = [one.id for one in self.held.leases if one.id.startswith(lease)]
        return mine[0] if len(mine) == 1 else lease


def _held_document(held: Held) -> Document:
    """A lease of this process. Without ``ended`` and ``degraded`` it is active and its consumer is resident."""
    names = ("id", "consumer", "device", "endpoint", "evicted", "loaded", "waited_sec", "vram_mib", "all")
    document = {name: _plain(getattr(held, name)) for name in names}
    if held.ended.is_set():
        document["ended"] = held.ended.reason
    if held.degraded.is_set():
        document["degraded"] = held.degraded.reason
    if held.wanted.is_set():
        document["wanted_by"] = [one or "a reservation" for one in held.wanted.by]
    return {name: value for name, value in document.items() if value is not None}


def _document(value: Any) -> Document:
    """A value of the client as a JSON object; unknown values are left out."""
    found = _plain(value)
    assert isinstance(found, dict)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {name: _plain(one) for name, one in fields.items() if one is not None}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value
