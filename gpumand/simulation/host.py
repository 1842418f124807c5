"""The host that is simulated: its devices, its consumers, and what loading and unloading them takes."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Route, SchedulerSettings, Settings
from gpumand.domain.learning import FIRST_UNLOAD_SEC, Start, first_load_sec
from gpumand.domain.request import MAX_PRIORITY, MIN_PRIORITY

MAX_CONSUMERS = 10_000
MAX_DEVICES = 64
DEFAULT_MIB = 24576
MAX_MIB = 16 * 1024 * 1024
MAX_SEC = 86400.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """A consumer, and how long things take with it.

    Attributes:
        spec: as the rules see it.
        load_sec: to load it with nothing of it in memory.
        unload_sec: to take its VRAM back.
        wake_sec: to load it when it was evicted before and keeps its weights in host RAM; None = it keeps nothing, and
            every load takes ``load_sec``.
    """

    spec: ConsumerSpec
    load_sec: float
    unload_sec: float
    wake_sec: float | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """What there is.

    Attributes:
        consumers: by name.
        total_mib: sizes of the devices, by index.
        external_mib: what others than consumers hold on each of them.
        host_ram_mib: host RAM for consumers that are parked; None = enough for all.
        managed: those that run their own memory: nobody can tell when they hold what, so they are not simulated.
        settings: the scheduler's where the daemon's configuration says them, else the defaults.
    """

    consumers: Mapping[str, Simulated]
    total_mib: tuple[int, ...] = (DEFAULT_MIB,)
    external_mib: int = 0
    host_ram_mib: int | None = None
    managed: frozenset[str] = frozenset()
    settings: SchedulerSettings = field(default_factory=SchedulerSettings)


def consumer(
    name: str,
    mib: int,
    load_sec: float,
    unload_sec: float,
    *,
    wake_sec: float | None = None,
    priority: int = 0,
    coexists: Sequence[str] = (),
    where: tuple[Sequence[str], int] = ((), 1),
) -> Simulated:
    """A simulated consumer: a unit that is stopped to evict it, or, where it can sleep, a server with routes.

    ``where``: the devices it may be on (none named: any), and how many of them it takes at once.
    """
    sleeps = wake_sec is not None
    spec = ConsumerSpec(
        name,
        mib,
        unit=f"{name}.service",
        url="http://localhost:1" if sleeps else "",
        load=Route("/load") if sleeps else None,
        unload=Route("/unload") if sleeps else None,
        evict=(EvictionMethod.HTTP, EvictionMethod.UNIT_STOP) if sleeps else (EvictionMethod.UNIT_STOP,),
        parks=sleeps,
        can_coexist_with=frozenset(coexists) - {name},
        priority=priority,
        devices=tuple(where[0]),
        device_count=where[1],
    )
    return Simulated(spec, load_sec, unload_sec, wake_sec)


def read(text: str) -> Host:
    """Read a host from TOML: ``devices``, ``external_mib``, ``groups`` and one table ``[consumers.NAME]`` for each.

    Raises:
        ValueError: for what is no such host, in one line.
    """
    table = tomllib.loads(text)
    _known(table, {"devices", "external_mib", "host_ram_mib", "groups", "consumers"}, "")
    consumers = table.get("consumers")
    if not isinstance(consumers, dict) or not 0 < len(consumers) <= MAX_CONSUMERS:
        raise ValueError(f"there must be 1 to {MAX_CONSUMERS} tables [consumers.NAME]")
    groups = _groups(table.get("groups", []), set(consumers))
    return Host(
        {name: _consumer(name, keys, groups, set(consumers)) for name, keys in consumers.items()},
        _devices(table.get("devices", [DEFAULT_MIB])),
        int(_number(table, "external_mib", MAX_MIB, 0)),
        int(_number(table, "host_ram_mib", MAX_MIB)) if "host_ram_mib" in table else None,
    )


def has_times(text: str) -> bool:
    """Whether a TOML file says how long its consumers take to load; the daemon's configuration does not."""
    consumers = tomllib.loads(text).get("consumers")
    return not isinstance(consumers, dict) or any(
        isinstance(keys, dict) and "load_sec" in keys for keys in consumers.values()
    )


def guessed(settings: Settings) -> Host:
    """The host of a daemon's configuration; times are what is assumed of consumers that were never seen.

    It has as many devices as are named or needed at once; one that is named by its UUID is any that no index names.
    """
    gpu, index_of = settings.gpu, _indices(one for spec in settings.consumers.values() for one in spec.devices)
    count = max([int(index) + 1 for index in index_of.values()], default=1)
    count = max([count, *(spec.device_count for spec in settings.consumers.values())])
    sizes = (gpu.total_mib or DEFAULT_MIB,) * min(count, MAX_DEVICES)
    consumers = {
        name: Simulated(
            replace(spec, devices=tuple(index_of[one] for one in spec.devices)),
            first_load_sec(spec.vram_resident_mib, Start.COLD),
            FIRST_UNLOAD_SEC,
            first_load_sec(spec.vram_resident_mib, Start.PARKED) if spec.parks else None,
        )
        for name, spec in settings.consumers.items()
        if not spec.vram_managed
    }
    managed = frozenset(name for name, spec in settings.consumers.items() if spec.vram_managed)
    sizes = gpu.simulated_total_mib if gpu.source == "simulated" else sizes
    return Host(consumers, sizes, managed=managed, settings=settings.scheduler)


def _indices(names: Iterable[str]) -> dict[str, str]:
    """Which simulated device stands for each one that is named."""
    known = dict.fromkeys(names)
    fixed = {one for one in known if one.isdecimal() and int(one) < MAX_DEVICES}
    free = (str(index) for index in itertools.count() if str(index) not in fixed)
    return {one: one if one in fixed else next(free) for one in known}


def _devices(value: Any) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) else [value]
    if not 0 < len(sizes) <= MAX_DEVICES or not all(_is_whole(one) and 0 < one <= MAX_MIB for one in sizes):
        raise ValueError(f"devices must be a list of 1 to {MAX_DEVICES} sizes in MiB")
    return tuple(sizes)


def _groups(value: Any, names: set[str]) -> list[set[str]]:
    if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
        raise ValueError("groups must be a list of lists of consumers that can coexist")
    return [_names(one, names, "groups") for one in value]


def _names(value: Any, names: set[str], key: str) -> set[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key} must be a list of consumers")
    strangers = set(value) - names
    if strangers:
        raise ValueError(f"{key}: {min(strangers)!r} is no consumer")
    return set(value)


_KEYS = {
    "vram_resident_mib",
    "load_sec",
    "unload_sec",
    "wake_sec",
    "residual_mib",
    "parked_host_mib",
    "priority",
    "can_coexist_with",
    "device",
    "device_count",
}


def _device_names(value: Any, where: str) -> tuple[str, ...]:
    names = [one for one in (value if isinstance(value, list) else [value]) if one != ""]
    if len(names) > MAX_DEVICES or not all(isinstance(one, str) or _is_whole(one) for one in names):
        raise ValueError(f"{where}.device must be the index of a device, or a list of them")
    return tuple(dict.fromkeys(str(one) for one in names))


def _consumer(name: str, keys: Any, groups: Sequence[set[str]], names: set[str]) -> Simulated:
    where = f"consumers.{name}"
    if not isinstance(keys, dict):
        raise ValueError(f"{where} must be a table")
    _known(keys, _KEYS, f"{where}.")
    devices = _device_names(keys.get("device", []), where)
    coexists = _names(keys.get("can_coexist_with", []), names, f"{where}.can_coexist_with")
    for group in groups:
        coexists |= group if name in group else set()
    one = consumer(
        name,
        _whole(keys, "vram_resident_mib", 1, MAX_MIB, where),
        _number(keys, "load_sec", MAX_SEC, where=where),
        _number(keys, "unload_sec", MAX_SEC, 1.0, where=where),
        wake_sec=_number(keys, "wake_sec", MAX_SEC, where=where) if "wake_sec" in keys else None,
        priority=_whole({"priority": 0} | keys, "priority", MIN_PRIORITY, MAX_PRIORITY, where),
        coexists=sorted(coexists),
        where=(devices, _whole({"device_count": max(1, len(devices))} | keys, "device_count", 1, MAX_DEVICES, where)),
    )
    residual_mib = _whole({"residual_mib": 0} | keys, "residual_mib", 0, one.spec.vram_resident_mib - 1, where)
    host_mib = _whole(keys, "parked_host_mib", 0, MAX_MIB, where) if "parked_host_mib" in keys else None
    return replace(one, spec=replace(one.spec, residual_mib=residual_mib, parked_host_mib=host_mib))


def _whole(table: Mapping[str, Any], key: str, least: int, most: int, where: str) -> int:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{where}.{key} must be a whole number from {least} to {most}")
    return value


def _number(table: Mapping[str, Any], key: str, most: float, default: float | None = None, where: str = "") -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{where}{'.' if where else ''}{key} must be a number from 0 to {most:g}")
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _known(table: Mapping[str, Any], keys: set[str], where: str) -> None:
    strangers = set(table) - keys
    if strangers:
        raise ValueError(f"{where}{min(strangers)} is not a key; there are {', '.join(sorted(keys))}")
