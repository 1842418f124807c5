"""Findings about a valid configuration: facts of this host that it contradicts, and consumers it cannot distinguish.

``gpumanctl config-check`` prints them. What cannot be asked, because no systemd and no daemon runs, is not checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gpumand.bus.connection import BusConnection
from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.names import DBUS, DBUS_PATH, PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SYSTEMD_UNIT
from gpumand.cli.client import Client
from gpumand.cli.errors import NoBus
from gpumand.cli.options import GlobalOptions
from gpumand.cli.session import connected
from gpumand.domain.consumer import UNKNOWN_MIB, ConsumerSpec, Settings
from gpumand.domain.device import SOURCE_STRIDE
from gpumand.domain.shared_servers import shared_servers

ASK_SEC = 5.0
"""Timeout of all questions together, in seconds; what is unanswered by then is not checked."""

MAX_PARALLEL_CALLS = 16

LEAST_MIB = 64
"""A smaller footprint is a mistake: an empty CUDA context takes more."""


@dataclass(slots=True)
class HostFacts:
    """What this host says.

    Attributes:
        load_states: systemd's LoadState of each unit that it could be asked about.
        devices: the devices of the running daemon, as entries of its status; empty if it could not be asked.
    """

    load_states: dict[str, str] = field(default_factory=dict)
    devices: list[Mapping[str, Any]] = field(default_factory=list)


async def ask_host(options: GlobalOptions, settings: Settings) -> HostFacts:
    """Ask systemd about the consumers' units and a running daemon about its devices. It starts neither of them."""
    facts = HostFacts()
    with suppress(NoBus, BusError, BusLost, TimeoutError):
        async with asyncio.timeout(ASK_SEC), connected(options) as client:
            await _ask_systemd(client.connection, sorted({one.unit for one in settings.consumers.values()}), facts)
            await _ask_daemon(client, facts)
    return facts


def findings(settings: Settings, facts: HostFacts) -> list[str]:
    """Return everything that will not work as configured, one line each."""
    found = [str(one) for one in shared_servers(settings.consumers.values())]
    for spec in settings.consumers.values():
        found += _tiny_finding(spec)
        found += _unit_finding(spec, facts.load_states.get(spec.unit, ""))
        found += _size_finding(spec, settings.scheduler.cushion_mib, facts.devices)
    return found


async def _ask_systemd(bus: BusConnection, units: Sequence[str], facts: HostFacts) -> None:
    slots = asyncio.Semaphore(MAX_PARALLEL_CALLS)
    (is_there,) = await bus.call(DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (SYSTEMD,), timeout_sec=ASK_SEC)

    async def ask(unit: str) -> None:
        async with slots:
            facts.load_states[unit] = await _load_state(bus, unit)

    if is_there:
        await asyncio.gather(*(ask(unit) for unit in units if unit))


async def _load_state(bus: BusConnection, unit: str) -> str:
    """Return a unit's LoadState. LoadUnit reads the unit's file and starts nothing."""
    try:
        (path,) = await bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", "s", (unit,), timeout_sec=ASK_SEC)
    except BusError as error:
        return "not-found" if error.name.endswith((".NoSuchUnit", ".InvalidArgs")) else ""
    (state,) = await bus.call(SYSTEMD, path, PROPERTIES, "Get", "ss", (SYSTEMD_UNIT, "LoadState"), timeout_sec=ASK_SEC)
    return str(getattr(state, "value", state))


async def _ask_daemon(client: Client, facts: HostFacts) -> None:
    if await client.is_running():  # a call would start it
        facts.devices = list((await client.status())["devices"])


def _unit_finding(spec: ConsumerSpec, load_state: str) -> Iterator[str]:
    if load_state == "not-found":
        yield f"{spec.name}: systemd has no unit {spec.unit}, so gpumand cannot start or stop it. Check the name"
    elif load_state not in ("", "loaded"):
        yield f"{spec.name}: {spec.unit} is {load_state}, so gpumand cannot start it: systemctl status {spec.unit}"


def _tiny_finding(spec: ConsumerSpec) -> Iterator[str]:
    if spec.vram_resident_mib < LEAST_MIB:
        yield (
            f"{spec.name}: vram_resident_mib is {spec.vram_resident_mib} MiB, which is less than any program that uses "
            f"a GPU takes. Write {spec.vram_resident_mib * 1024} if you mean GiB"
        )


def _size_finding(spec: ConsumerSpec, cushion_mib: int, devices: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    known = [one for one in devices if one.get("total_mib")]
    if not known or len(known) < len(devices):
        return
    eligible = [one for one in known if _names(one) & {*spec.devices}] if spec.devices else _default_devices(known)
    missing = [name for name in spec.devices if not any(name in _names(one) for one in known)]
    if missing:
        names = ", ".join(str(one["index"]) for one in known)
        yield f"{spec.name}: there is no device {', '.join(missing)}; the devices are {names}"
    elif len(eligible) < spec.device_count:
        yield f"{spec.name}: needs {spec.device_count} devices, but there are {len(eligible)}"
    elif spec.vram_resident_mib != UNKNOWN_MIB:
        yield from _too_large(spec, cushion_mib, sorted((int(one["total_mib"]) for one in eligible), reverse=True))


def _names(device: Mapping[str, Any]) -> set[str]:
    """The names by which a consumer can name a device."""
    return {str(device["index"]), str(device.get("uuid")), *map(str, device.get("aliases") or ())}


def _default_devices(known: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The devices for consumers that name none; the rule is that of ``device.default_devices``."""
    candidates = [one for one in known if not one.get("integrated")] or list(known)
    first = min(int(one["index"]) // SOURCE_STRIDE for one in candidates)
    return [one for one in candidates if int(one["index"]) // SOURCE_STRIDE == first]


def _too_large(spec: ConsumerSpec, cushion_mib: int, totals: Sequence[int]) -> Iterator[str]:
    limit_mib, need_mib = totals[spec.device_count - 1], spec.vram_resident_mib + cushion_mib
    if need_mib > limit_mib:
        where = "its largest device has" if spec.device_count == 1 else f"its {spec.device_count} largest devices have"
        yield (
            f"{spec.name}: vram_resident_mib is {spec.vram_resident_mib}, which with the cushion of {cushion_mib} MiB "
            f"is more than the {limit_mib} MiB that {where}: every request for it is refused"
        )
