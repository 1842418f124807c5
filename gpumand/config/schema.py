"""Every table and key of the configuration: the one place that says what may be written.

Reading, the refusals and the reference in gpumand.toml(5) all come from here; the tables of consumers are in
``consumer_schema``. Defaults are those of the domain's dataclasses, so that a test or a client that builds one by hand
gets the same.
"""

# ruff: noqa: RUF009 - key() is a field specifier, evaluated once for each class as it should be

from __future__ import annotations

import attrs

from gpumand.config import validators
from gpumand.config.consumer_schema import BusyTable, ConsumerTable, HealthTable, RouteTable
from gpumand.config.shared_keys import MAX_MIB, MAX_SEC, default_of, seconds
from gpumand.config.table_schema import key
from gpumand.config.value_types import Choice, Decimal, Flag, ListOf, Text, Whole
from gpumand.domain.consumer import (
    GpuSettings,
    HistorySettings,
    HttpSettings,
    Overlap,
    Policy,
    SchedulerSettings,
)

SOURCES = ("nvml", "simulated", "none")


@attrs.frozen
class SchedulerTable:
    """``[scheduler]``: how room is made and leases are granted."""

    policy: Policy = key(
        Choice(tuple(one.value for one in Policy), Policy),
        "Who is evicted and who is served next. lru: the least recently used; first come, first served. adaptive: "
        "those worth least by what was learned of their loads and uses; who asks for what is resident may pass others.",
        default=default_of(SchedulerSettings, "policy"),
    )
    overtake_budget_sec: float = key(
        Decimal(0, MAX_SEC),
        "With policy adaptive: how many seconds of work may be let past a waiting request; 0 = none.",
        default=default_of(SchedulerSettings, "overtake_budget_sec"),
        unit="s",
    )
    overlap: Overlap = key(
        Choice(tuple(one.value for one in Overlap), Overlap),
        "With policy adaptive: load the next consumer while another one works; measured does so while those who work "
        "are not slowed down by more than a fifth.",
        default=default_of(SchedulerSettings, "overlap"),
    )
    cushion_mib: int = key(
        Whole(0, MAX_MIB),
        "Kept free on top of every footprint, for what a consumer allocates while it works.",
        default=default_of(SchedulerSettings, "cushion_mib"),
        unit="MiB",
    )
    max_evictions: int = key(
        Whole(0, 1000),
        "How many evictions one request may lead to at most.",
        default=default_of(SchedulerSettings, "max_evictions"),
    )
    settle_timeout_sec: float = key(
        seconds(),
        "How long to wait for an evicted consumer's memory to be seen free before the next method is tried.",
        default=default_of(SchedulerSettings, "settle_timeout_sec"),
        unit="s",
    )
    concurrent_leases: int = key(
        Whole(0, 1024),
        "How many leases may stand on one device at a time; 0 = as many as fit.",
        default=default_of(SchedulerSettings, "concurrent_leases"),
    )
    lease_ttl_sec: float = key(
        seconds(),
        "How long a lease of lifetime ttl lasts when the client does not say.",
        default=default_of(SchedulerSettings, "lease_ttl_sec"),
        unit="s",
    )
    health_interval_sec: float = key(
        seconds(0.1),
        "How often consumers are asked how they are.",
        default=default_of(SchedulerSettings, "health_interval_sec"),
        unit="s",
    )
    host_ram_reserve_mib: int = key(
        Whole(0, MAX_MIB),
        "Host RAM that parked consumers leave to everybody else.",
        default=default_of(SchedulerSettings, "host_ram_reserve_mib"),
        unit="MiB",
    )
    aging_sec: float = key(
        seconds(),
        "Waiting for so long is worth 100 points of priority, so that no request is overtaken for ever.",
        default=default_of(SchedulerSettings, "aging_sec"),
        unit="s",
    )


@attrs.frozen
class GpuTable:
    """``[gpu]``: where figures about VRAM come from."""

    source: str = key(
        Choice(SOURCES),
        "nvml reads the NVIDIA driver, simulated needs no GPU, none looks at nothing.",
        default=default_of(GpuSettings, "source"),
    )
    sample_interval_sec: float = key(
        seconds(0.05),
        "How often devices are read while nothing happens.",
        default=default_of(GpuSettings, "sample_interval_sec"),
        unit="s",
    )
    total_mib: int | None = key(
        Whole(1, MAX_MIB),
        "What device 0 has, for when the source cannot say.",
        default=default_of(GpuSettings, "total_mib"),
        unit="MiB",
    )
    simulated_total_mib: tuple[int, ...] = key(
        ListOf(Whole(1, MAX_MIB), least=1, most=64, unique=False, single=True),
        "Sizes of the simulated devices.",
        default=default_of(GpuSettings, "simulated_total_mib"),
        unit="MiB",
    )
    simulated_dir: str = key(
        Text("absolute path", validators.absolute_path),
        "The folder in which consumers of the simulator announce their memory.",
        default=default_of(GpuSettings, "simulated_dir"),
    )


@attrs.frozen
class HttpTable:
    """``[http]``: status, events and metrics over TCP, for those who do not reach the socket /run/gpumand.sock."""

    listen: str = key(
        Text("address and port", validators.listen_address),
        "Where to listen, as address and port; by default nowhere. Whoever reaches it may read the whole status.",
        default=default_of(HttpSettings, "listen"),
    )
    allow_remote: bool = key(
        Flag(),
        "The address may be other than loopback, so that other hosts reach it.",
        default=default_of(HttpSettings, "allow_remote"),
    )


@attrs.frozen
class HistoryTable:
    """``[history]``: what is kept of what happened, for ``gpumanctl history`` and ``gpumanctl simulate``."""

    keep_days: float = key(
        Decimal(0, 3660),
        "For how many days it is kept what happened; 0 = it is not. What was measured of consumers is kept anyway.",
        default=default_of(HistorySettings, "keep_days"),
        unit="d",
    )
    demand_log: str = key(
        Text("absolute path", validators.absolute_path),
        "A file to which every use of a consumer is appended as a line of JSON, to be replayed by gpumanctl simulate; "
        "by default there is none. The service may write below /var/lib/gpumand.",
        default=default_of(HistorySettings, "demand_log"),
    )


TABLES: dict[str, type[attrs.AttrsInstance]] = {
    "scheduler": SchedulerTable,
    "gpu": GpuTable,
    "http": HttpTable,
    "history": HistoryTable,
    "consumers.NAME": ConsumerTable,
    "consumers.NAME.health": HealthTable,
    "consumers.NAME.busy": BusyTable,
    "consumers.NAME.load": RouteTable,
    "consumers.NAME.unload": RouteTable,
}
"""All tables of the configuration, in the order of the reference."""
