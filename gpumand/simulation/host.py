"""The simulated host: its devices and consumers, and the durations of their loads and evictions."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.domain.assumed_times import DEFAULT_UNLOAD_SEC, Start, default_load_sec
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Route, SchedulerSettings, Settings
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.request_limits import MAX_PRIORITY, MIN_PRIORITY

MAX_CONSUMERS = 10_000
MAX_DEVICES = 64
DEFAULT_MIB = 24576
MAX_MIB = 16 * 1024 * 1024
MAX_SEC = 86400.0


@dataclass(frozen=True, slots=True)
class SimulatedConsumer:
    """A simulated consumer and the durations of its loads and evictions.

    Attributes:
        spec: the configuration, as the scheduling rules see it.
        load_sec: seconds of a load from disk.
        unload_sec: seconds of an eviction.
        wake_sec: seconds of a load after an eviction that left the weights in host RAM; None = weights are not kept,
            and every load takes ``load_sec``.
    """

    spec: ConsumerSpec
    load_sec: float
    unload_sec: float
    wake_sec: float | None = None


@dataclass(frozen=True, slots=True)
class SimulatedHost:
    """A simulated host.

    Attributes:
        consumers: consumers by name.
        total_mib: MiB of each device, by index.
        external_mib: MiB that foreign processes hold on each device.
        host_ram_mib: MiB of host RAM for parked consumers; None = unlimited.
        managed: consumers that manage their own VRAM. Their memory use over time is unknown: they are not simulated.
        settings: settings of the scheduler from the configuration of a daemon, else the defaults.
    """

    consumers: Mapping[str, SimulatedConsumer]
    total_mib: tuple[int, ...] = (DEFAULT_MIB,)
    external_mib: int = 0
    host_ram_mib: int | None = None
    managed: frozenset[str] = frozenset()
    settings: SchedulerSettings = field(default_factory=SchedulerSettings)

    def sample(self, device: int, held: Mapping[str, int]) -> Sample:
        """An exact VRAM reading of a device; ``held`` is the MiB that each consumer holds there, by name."""
        processes = [ProcessUse(2 + place, mib, name, "", name) for place, (name, mib) in enumerate(held.items())]
        if self.external_mib:
            processes.append(ProcessUse(1, self.external_mib, "external"))
        used_mib, total_mib = sum(held.values()) + self.external_mib, self.total_mib[device]
        return Sample(
            device,
            f"SIM-{device}",
            "simulated",
            "simulated",
            total_mib,
            used_mib,
            total_mib - used_mib,
            tuple(processes),
            attributed=True,
            attributable=frozenset(self.consumers),
        )


def simulated_consumer(
    name: str,
    mib: int,
    load_sec: float,
    unload_sec: float,
    *,
    wake_sec: float | None = None,
    priority: int = 0,
    coexists: Sequence[str] = (),
    where: tuple[Sequence[str], int] = ((), 1),
) -> SimulatedConsumer:
    """Create a simulated consumer: a unit that is stopped to evict it, or, with ``wake_sec``, a server that can sleep.

    Args:
        name: name of the consumer.
        mib: its footprint in MiB.
        load_sec: seconds of a load from disk.
        unload_sec: seconds of an eviction.
        wake_sec: seconds of a load from host RAM; None = it cannot sleep.
        priority: its priority.
        coexists: consumers that it can coexist with.
        where: the devices that it may use (empty: any), and the number of devices that it uses at once.
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
    return SimulatedConsumer(spec, load_sec, unload_sec, wake_sec)


def parse(text: str) -> SimulatedHost:
    """Parse a host from TOML: ``devices``, ``external_mib``, ``host_ram_mib``, ``groups`` and ``[consumers.NAME]``.

    Raises:
        ValueError: when the text is invalid; the message is one line.
    """
    table = tomllib.loads(text)
    _check_keys(table, {"devices", "external_mib", "host_ram_mib", "groups", "consumers"}, "")
    consumers = table.get("consumers")
    if not isinstance(consumers, dict) or not 0 < len(consumers) <= MAX_CONSUMERS:
        raise ValueError(f"there must be 1 to {MAX_CONSUMERS} tables [consumers.NAME]")
    groups = _groups(table.get("groups", []), set(consumers))
    return SimulatedHost(
        {name: _consumer(name, keys, groups, set(consumers)) for name, keys in consumers.items()},
        _devices(table.get("devices", [DEFAULT_MIB])),
        int(_number(table, "external_mib", MAX_MIB, 0)),
        int(_number(table, "host_ram_mib", MAX_MIB)) if "host_ram_mib" in table else None,
    )


def has_times(text: str) -> bool:
    """Whether a TOML text has load times, as a simulated host does and the configuration of the daemon does not."""
    consumers = tomllib.loads(text).get("consumers")
    return not isinstance(consumers, dict) or any(
        isinstance(keys, dict) and "load_sec" in keys for keys in consumers.values()
    )


def host_from_settings(settings: Settings) -> SimulatedHost:
    """The host that a configuration of the daemon describes, with the default durations of unmeasured consumers.

    It has as many devices as the configuration names or a consumer needs at once. A device named by UUID becomes any
    device that is not named by index.
    """
    gpu, index_of = settings.gpu, _indices(one for spec in settings.consumers.values() for one in spec.devices)
    count = max([int(index) + 1 for index in index_of.values()], default=1)
    count = max([count, *(spec.device_count for spec in settings.consumers.values())])
    sizes = (gpu.total_mib or DEFAULT_MIB,) * min(count, MAX_DEVICES)
    consumers = {
        name: SimulatedConsumer(
            replace(spec, devices=tuple(index_of[one] for one in spec.devices)),
            default_load_sec(spec.vram_resident_mib, Start.COLD),
            DEFAULT_UNLOAD_SEC,
            default_load_sec(spec.vram_resident_mib, Start.PARKED) if spec.parks else None,
        )
        for name, spec in settings.consumers.items()
        if not spec.vram_managed
    }
    managed = frozenset(name for name, spec in settings.consumers.items() if spec.vram_managed)
    sizes = gpu.simulated_total_mib if gpu.source == "simulated" else sizes
    return SimulatedHost(consumers, sizes, managed=managed, settings=settings.scheduler)


def _indices(names: Iterable[str]) -> dict[str, str]:
    """Index of the simulated device for each named device."""
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
    unknown = set(value) - names
    if unknown:
        raise ValueError(f"{key}: {min(unknown)!r} is not a configured consumer")
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


def _consumer(name: str, keys: Any, groups: Sequence[set[str]], names: set[str]) -> SimulatedConsumer:
    where = f"consumers.{name}"
    if not isinstance(keys, dict):
        raise ValueError(f"{where} must be a table")
    _check_keys(keys, _KEYS, f"{where}.")
    devices = _device_names(keys.get("device", []), where)
    coexists = _names(keys.get("can_coexist_with", []), names, f"{where}.can_coexist_with")
    for group in groups:
        coexists |= group if name in group else set()
    one = simulated_consumer(
        name,
        _integer(keys, "vram_resident_mib", 1, MAX_MIB, where),
        _number(keys, "load_sec", MAX_SEC, where=where),
        _number(keys, "unload_sec", MAX_SEC, 1.0, where=where),
        wake_sec=_number(keys, "wake_sec", MAX_SEC, where=where) if "wake_sec" in keys else None,
        priority=_integer({"priority": 0} | keys, "priority", MIN_PRIORITY, MAX_PRIORITY, where),
        coexists=sorted(coexists),
        where=(devices, _integer({"device_count": max(1, len(devices))} | keys, "device_count", 1, MAX_DEVICES, where)),
    )
    residual_mib = _integer({"residual_mib": 0} | keys, "residual_mib", 0, one.spec.vram_resident_mib - 1, where)
    host_mib = _integer(keys, "parked_host_mib", 0, MAX_MIB, where) if "parked_host_mib" in keys else None
    return replace(one, spec=replace(one.spec, residual_mib=residual_mib, parked_host_mib=host_mib))


def _integer(table: Mapping[str, Any], key: str, least: int, most: int, where: str) -> int:
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


def _check_keys(table: Mapping[str, Any], keys: set[str], where: str) -> None:
    unknown = set(table) - keys
    if unknown:
        raise ValueError(f"{where}{min(unknown)} is not a valid key; valid keys are {', '.join(sorted(keys))}")
