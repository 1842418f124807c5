"""Defines every table and key of the configuration.

The reader, its error messages and the reference in gpumand.toml(5) are generated from these definitions. The tables of
consumers are in ``consumer_schema``. Defaults are taken from the dataclasses in ``gpumand.domain``, so that code that
creates one of those directly gets the same values.
"""

from __future__ import annotations

from typing import Any

from gpumand.config import validators
from gpumand.config.busy_schema import BusyTable
from gpumand.config.consumer_schema import ConsumerTable, HealthTable, RouteTable, UnloadTable
from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.config.quantities import Mib, Seconds
from gpumand.config.shared_keys import MAX_MIB, MAX_SEC, default_of, seconds
from gpumand.config.table_schema import INVALID, TableOf, TablesByName, key, keys_table
from gpumand.config.value_types import Boolean, Choice, Integer, Leaf, ListOf, Number, Text
from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.gpu_settings import DeviceOptions, GpuSettings, NamedOptions, PoolChoice
from gpumand.domain.output_settings import HistorySettings, HttpSettings

SOURCES = ("auto", "nvml", "amdgpu", "xe", "simulated", "none")
ALONE = ("auto", "none")
"""Sources that cannot be combined with others."""


class _TurnLength(Leaf):
    """Number of seconds, or "auto", which is converted to None."""

    description = f'number from 0 to {MAX_SEC:g}, or "auto"'
    word_for_none = "auto"

    def accept(self, value: Any) -> float | None:
        return None if value == "auto" else Number(0, MAX_SEC).accept(value)


class _Sources(ListOf):
    """One source, or a list of several."""

    def read(self, value: Any, place: Place, problems: ProblemList) -> Any:
        read = super().read(value, place, problems)
        if read is INVALID:
            return read
        alone = [one for one in read if one in ALONE]
        if alone and len(read) > 1:
            problems.add(place, f"{quoted(alone[0])} cannot be combined with other sources")
            return INVALID
        return read[0] if len(read) == 1 else read


@keys_table
class SchedulerTable:
    """``[scheduler]``: how leases are granted and consumers are evicted."""

    policy: Policy = key(
        Choice(tuple(one.value for one in Policy), Policy),
        "Scheduling policy. lru evicts the least recently used consumer and serves requests in the order of their "
        "arrival. adaptive evicts the consumers that cost least to lose, based on learned load times and usage, and "
        "may serve a request for a resident consumer before earlier requests (see overtake_budget_sec).",
        default=default_of(SchedulerSettings, "policy"),
    )
    overtake_budget_sec: float = key(
        Seconds(0, MAX_SEC),
        "Limit on overtaking: how much work of later requests may be served before a waiting request. Later requests "
        "go first for a consumer that is leased or was just loaded, and with policy adaptive for any resident "
        "consumer. 0 disables overtaking.",
        default=default_of(SchedulerSettings, "overtake_budget_sec"),
        unit="s",
    )
    min_turn_sec: float | None = key(
        _TurnLength(),
        "Turn of a consumer: time after its load in which it is not evicted as long as clients use it, so that "
        "consumers that exclude each other are not loaded for one request each. auto gives a turn twice as long as the "
        "load took, 30 s at most. A pause between two leases that is longer than the load, or than 2 s, ends "
        "the turn. overtake_budget_sec limits how much work a turn puts before a waiting request. 0 gives no turns.",
        default=default_of(SchedulerSettings, "min_turn_sec"),
        unit="s",
    )
    overlap: Overlap = key(
        Choice(tuple(one.value for one in Overlap), Overlap),
        "Loading during work, with policy adaptive: whether the next consumer is loaded while another one works. off "
        "never does so, on always does, measured does so as long as it slows down the working consumers by at most a "
        "fifth.",
        default=default_of(SchedulerSettings, "overlap"),
    )
    cushion_mib: int = key(
        Mib(0, MAX_MIB),
        "Cushion: VRAM that stays free on a device in addition to every footprint, for allocations that a consumer "
        "makes while it works.",
        default=default_of(SchedulerSettings, "cushion_mib"),
        unit="MiB",
    )
    max_evictions: int = key(
        Integer(0, 1000),
        "Maximum number of evictions for one request.",
        default=default_of(SchedulerSettings, "max_evictions"),
    )
    settle_timeout_sec: float = key(
        seconds(),
        "Timeout of an eviction method: how long gpumand waits for the driver to report the evicted consumer's memory "
        "as free before it tries the next method of the consumer's evict list.",
        default=default_of(SchedulerSettings, "settle_timeout_sec"),
        unit="s",
    )
    concurrent_leases: int = key(
        Integer(0, 1024),
        "Maximum number of simultaneous leases on one device. 0 grants as many as fit, 1 one at a time.",
        default=default_of(SchedulerSettings, "concurrent_leases"),
    )
    lease_ttl_sec: float = key(
        seconds(),
        "Default duration of a lease of lifetime ttl, used when the client gives none.",
        default=default_of(SchedulerSettings, "lease_ttl_sec"),
        unit="s",
    )
    health_interval_sec: float = key(
        seconds(0.1),
        "Interval between health checks of a consumer.",
        default=default_of(SchedulerSettings, "health_interval_sec"),
        unit="s",
    )
    host_ram_reserve_mib: int = key(
        Mib(0, MAX_MIB),
        "Reserve of host RAM: a consumer is parked only if this much host RAM stays available afterwards.",
        default=default_of(SchedulerSettings, "host_ram_reserve_mib"),
        unit="MiB",
    )
    aging_sec: float = key(
        seconds(),
        "Aging of waiting requests: time in which a request gains 100 points of priority. Aging ensures that no "
        "request is overtaken forever.",
        default=default_of(SchedulerSettings, "aging_sec"),
        unit="s",
    )


@keys_table
class DeviceTable:
    """``[gpu.device.NAME]``: options of one device, named by its UUID or its PCI address."""

    pool: PoolChoice = key(
        Choice(tuple(one.value for one in PoolChoice), PoolChoice),
        "Memory of an AMD GPU that counts. vram is its own, or the part of host RAM that the firmware sets aside for "
        "it; gtt is the host RAM that it can map. auto takes gtt for an integrated GPU that can map more than was set "
        "aside.",
        default=default_of(DeviceOptions, "pool"),
    )
    reserve_mib: int | None = key(
        Mib(0, MAX_MIB),
        "Reserve of the device: memory that gpumand leaves free for other programs. By default 4096 MiB where the GPU "
        "uses host RAM, and 0 for a GPU with memory of its own.",
        default=default_of(DeviceOptions, "reserve_mib"),
        unit="MiB",
    )
    ignore: bool = key(
        Boolean(),
        "Exclusion of the device: it is neither listed nor used.",
        default=default_of(DeviceOptions, "ignore"),
    )


@keys_table
class GpuTable:
    """``[gpu]``: where VRAM readings come from."""

    source: str | tuple[str, ...] = key(
        _Sources(Choice(SOURCES), max_length=4, single=True, min_length=1),
        "Source of VRAM readings, or several. auto uses the sources that the host has, nvml reads the NVIDIA driver, "
        "amdgpu reads AMD cards, xe reads Intel cards, simulated needs no GPU, none reads nothing. The devices of the "
        "first source have the indices from 0, those of the second from 10000. Consumers that name no device use the "
        "cards of the first source.",
        default=default_of(GpuSettings, "source"),
    )
    sample_interval_sec: float = key(
        seconds(0.05),
        "Interval between readings of a device while nothing happens.",
        default=default_of(GpuSettings, "sample_interval_sec"),
        unit="s",
    )
    idle_release_sec: float = key(
        Seconds(0, MAX_SEC),
        "Idle time after which gpumand closes the NVIDIA driver, so that a card with runtime power management can "
        "sleep: time without a request while no consumer is in VRAM. Consumers that can only use another GPU, such as "
        "the integrated one, do not count. Without any consumer, the driver is closed for every kind of card. The next "
        "request opens it. A sleeping card is never woken for a reading that no request needs. 0 keeps the driver "
        "open.",
        default=default_of(GpuSettings, "idle_release_sec"),
        unit="s",
    )
    total_mib: int | None = key(
        Mib(1, MAX_MIB),
        "Total VRAM of device 0. Declared footprints are compared with it on a host without any source of readings, "
        "and on a device that has never been read and that a consumer names.",
        default=default_of(GpuSettings, "total_mib"),
        unit="MiB",
    )
    simulated_total_mib: tuple[int, ...] = key(
        ListOf(Mib(1, MAX_MIB), min_length=1, max_length=64, unique=False, single=True),
        "Sizes of the simulated devices, by index. Used with source simulated.",
        default=default_of(GpuSettings, "simulated_total_mib"),
        unit="MiB",
    )
    simulated_dir: str = key(
        Text("absolute path", validators.absolute_path),
        "Folder in which simulated consumers announce their memory. Used with source simulated.",
        default=default_of(GpuSettings, "simulated_dir"),
    )
    device: NamedOptions = key(
        TablesByName(
            Text("UUID or PCI address of a device", validators.lasting_device), TableOf(DeviceTable, DeviceOptions)
        ),
        "Options of single devices, each in a table gpu.device.NAME.",
        default=default_of(GpuSettings, "device"),
    )


@keys_table
class HttpTable:
    """``[http]``: status, events and metrics over TCP, for clients that cannot reach the socket /run/gpumand.sock."""

    listen: str = key(
        Text("address and port", validators.listen_address),
        "Listen address of the HTTP endpoints: IP address and port, such as 127.0.0.1:9876. By default gpumand does "
        "not listen on TCP. Every client that can reach the address may read the whole status.",
        default=default_of(HttpSettings, "listen"),
    )
    allow_remote: bool = key(
        Boolean(),
        "Permission to listen on an address that other hosts can reach. Without it, listen must be a loopback address. "
        "gpumand.service drops packets of other hosts: permit their addresses with systemctl edit gpumand, [Service] "
        "and IPAddressAllow=192.168.1.0/24, and restart it.",
        default=default_of(HttpSettings, "allow_remote"),
    )


@keys_table
class HistoryTable:
    """``[history]``: which past events are kept, for ``gpumanctl history`` and ``gpumanctl simulate``."""

    keep_days: float = key(
        Number(0, 3660),
        "Retention time of the event history. 0 disables the history. Measurements of consumers are kept in any case.",
        default=default_of(HistorySettings, "keep_days"),
        unit="d",
    )
    demand_log: str = key(
        Text("absolute path", validators.absolute_path),
        "File to which every use of a consumer is appended as one line of JSON, for replay with gpumanctl simulate. By "
        "default no such file is written. Choose a path below /var/lib/gpumand, where the service may write.",
        default=default_of(HistorySettings, "demand_log"),
    )


TABLES: dict[str, type[Any]] = {
    "scheduler": SchedulerTable,
    "gpu": GpuTable,
    "gpu.device.NAME": DeviceTable,
    "http": HttpTable,
    "history": HistoryTable,
    "consumers.NAME": ConsumerTable,
    "consumers.NAME.health": HealthTable,
    "consumers.NAME.busy": BusyTable,
    "consumers.NAME.load": RouteTable,
    "consumers.NAME.unload": UnloadTable,
}
"""All tables of the configuration, in the order of the reference."""
