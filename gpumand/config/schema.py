"""Every table and key of the configuration: the one place that says what may be written.

Reading, the refusals and the reference in gpumand.toml(5) all come from here. Defaults are those of the domain's
dataclasses, so that a test or a client that builds one by hand gets the same.
"""

# ruff: noqa: RUF009 - key() is a field specifier, evaluated once for each class as it should be

from __future__ import annotations

import dataclasses
from typing import Any

import attrs

from gpumand.config import checks
from gpumand.config.kinds import Choice, Decimal, Flag, Json, Leaf, ListOf, OneOf, Pairs, Text, Whole
from gpumand.config.tables import TableOf, key
from gpumand.domain.consumer import (
    BusyAfter,
    BusyRoute,
    ConsumerSpec,
    EvictionMethod,
    GpuSettings,
    HealthRoute,
    HistorySettings,
    HttpSettings,
    Overlap,
    Policy,
    Route,
    SchedulerSettings,
)
from gpumand.domain.request import MAX_PRIORITY, MIN_PRIORITY

MAX_MIB = 16 * 1024 * 1024
"""16 TiB: no device has more, so a larger figure is a slip of the unit."""

MAX_DEVICES = 64

MAX_SEC = 86400.0
"""A day: a longer timeout is a slip of the unit."""

SOURCES = ("nvml", "simulated", "none")

CLASSES = ("full-rest", "unload-only", "sleep-wake", "restart", "unit-only")
"""What kinds of servers presets are for."""

_ROUTE = "Path and query, appended to the consumer's url."


def _default(owner: Any, name: str) -> Any:
    return next(one.default for one in dataclasses.fields(owner) if one.name == name)


def _seconds(low: float = 0.0, high: float = MAX_SEC) -> Decimal:
    """A time; a lower end of 0 is not a time to wait for anything and not included."""
    return Decimal(low, high, above=low == 0.0)


def _equals() -> OneOf:
    return OneOf((Flag(), Whole(-(2**63), 2**63 - 1), Text()), "boolean, whole number or text")


def _headers() -> Pairs:
    return Pairs(Text("header name", checks.header_name), Text("header value", most=8192))


class _Device(Leaf):
    """A device's index, as a number or as text, or its UUID."""

    says = "index or UUID of a device"

    def accept(self, value: Any) -> str:
        number = isinstance(value, int) and not isinstance(value, bool)
        text: str = Text(self.says, checks.device).accept(str(value) if number else value)
        return text


class _Footprint(Leaf):
    """MiB, or "auto", which is None here."""

    says = f'whole number from 1 to {MAX_MIB}, or "auto"'

    def accept(self, value: Any) -> int | None:
        return None if value == "auto" else Whole(1, MAX_MIB).accept(value)


@attrs.frozen
class SchedulerTable:
    """``[scheduler]``: how room is made and leases are granted."""

    policy: Policy = key(
        Choice(tuple(one.value for one in Policy), Policy),
        "Who is evicted and who is served next. lru: the least recently used; first come, first served. adaptive: "
        "those worth least by what was learned of their loads and uses; who asks for what is resident may pass others.",
        default=_default(SchedulerSettings, "policy"),
    )
    overtake_budget_sec: float = key(
        Decimal(0, MAX_SEC),
        "With policy adaptive: how many seconds of work may be let past a waiting request; 0 = none.",
        default=_default(SchedulerSettings, "overtake_budget_sec"),
        unit="s",
    )
    overlap: Overlap = key(
        Choice(tuple(one.value for one in Overlap), Overlap),
        "With policy adaptive: load the next consumer while another one works; measured does so while those who work "
        "are not slowed down by more than a fifth.",
        default=_default(SchedulerSettings, "overlap"),
    )
    cushion_mib: int = key(
        Whole(0, MAX_MIB),
        "Kept free on top of every footprint, for what a consumer allocates while it works.",
        default=_default(SchedulerSettings, "cushion_mib"),
        unit="MiB",
    )
    max_evictions: int = key(
        Whole(0, 1000),
        "How many evictions one request may lead to at most.",
        default=_default(SchedulerSettings, "max_evictions"),
    )
    settle_timeout_sec: float = key(
        _seconds(),
        "How long to wait for an evicted consumer's memory to be seen free before the next method is tried.",
        default=_default(SchedulerSettings, "settle_timeout_sec"),
        unit="s",
    )
    concurrent_leases: int = key(
        Whole(0, 1024),
        "How many leases may stand on one device at a time; 0 = as many as fit.",
        default=_default(SchedulerSettings, "concurrent_leases"),
    )
    lease_ttl_sec: float = key(
        _seconds(),
        "How long a lease of lifetime ttl lasts when the client does not say.",
        default=_default(SchedulerSettings, "lease_ttl_sec"),
        unit="s",
    )
    health_interval_sec: float = key(
        _seconds(0.1),
        "How often consumers are asked how they are.",
        default=_default(SchedulerSettings, "health_interval_sec"),
        unit="s",
    )
    host_ram_reserve_mib: int = key(
        Whole(0, MAX_MIB),
        "Host RAM that parked consumers leave to everybody else.",
        default=_default(SchedulerSettings, "host_ram_reserve_mib"),
        unit="MiB",
    )
    aging_sec: float = key(
        _seconds(),
        "Waiting for so long is worth 100 points of priority, so that no request is overtaken for ever.",
        default=_default(SchedulerSettings, "aging_sec"),
        unit="s",
    )


@attrs.frozen
class GpuTable:
    """``[gpu]``: where figures about VRAM come from."""

    source: str = key(
        Choice(SOURCES),
        "nvml reads the NVIDIA driver, simulated needs no GPU, none looks at nothing.",
        default=_default(GpuSettings, "source"),
    )
    sample_interval_sec: float = key(
        _seconds(0.05),
        "How often devices are read while nothing happens.",
        default=_default(GpuSettings, "sample_interval_sec"),
        unit="s",
    )
    total_mib: int | None = key(
        Whole(1, MAX_MIB),
        "What device 0 has, for when the source cannot say.",
        default=_default(GpuSettings, "total_mib"),
        unit="MiB",
    )
    simulated_total_mib: tuple[int, ...] = key(
        ListOf(Whole(1, MAX_MIB), least=1, most=64, unique=False, single=True),
        "Sizes of the simulated devices.",
        default=_default(GpuSettings, "simulated_total_mib"),
        unit="MiB",
    )
    simulated_dir: str = key(
        Text("absolute path", checks.absolute_path),
        "The folder in which consumers of the simulator announce their memory.",
        default=_default(GpuSettings, "simulated_dir"),
    )


@attrs.frozen
class HttpTable:
    """``[http]``: status, events and metrics over TCP, for those who do not reach the socket /run/gpumand.sock."""

    listen: str = key(
        Text("address and port", checks.listen_address),
        "Where to listen, as address and port; by default nowhere. Whoever reaches it may read the whole status.",
        default=_default(HttpSettings, "listen"),
    )
    allow_remote: bool = key(
        Flag(),
        "The address may be other than loopback, so that other hosts reach it.",
        default=_default(HttpSettings, "allow_remote"),
    )


@attrs.frozen
class HistoryTable:
    """``[history]``: what is kept of what happened, for ``gpumanctl history`` and ``gpumanctl simulate``."""

    keep_days: float = key(
        Decimal(0, 3660),
        "For how many days it is kept what happened; 0 = it is not. What was measured of consumers is kept anyway.",
        default=_default(HistorySettings, "keep_days"),
        unit="d",
    )
    demand_log: str = key(
        Text("absolute path", checks.absolute_path),
        "A file to which every use of a consumer is appended as a line of JSON, to be replayed by gpumanctl simulate; "
        "by default there is none. The service may write below /var/lib/gpumand.",
        default=_default(HistorySettings, "demand_log"),
    )


@attrs.frozen
class RouteTable:
    """A route that makes a consumer load or unload."""

    path: str = key(Text("path", checks.route_path), _ROUTE)
    method: str = key(Text("HTTP method", checks.http_method), "HTTP verb.", default=_default(Route, "method"))
    json: Any = key(Json(), "Body to send as JSON; without it there is none.", default=_default(Route, "json"))
    headers: tuple[tuple[str, str], ...] = key(_headers(), "Extra headers.", default=_default(Route, "headers"))
    timeout_sec: float = key(
        _seconds(), "How long the whole exchange may take.", default=_default(Route, "timeout_sec"), unit="s"
    )
    success: str = key(
        Text("JSON pointer", checks.pointer),
        "Where the answer says whether it was done, for servers that answer 200 though it was not.",
        default=_default(Route, "success"),
    )
    success_equals: bool | str | int | None = key(
        _equals(),
        "The value there that means that it was done, where that is not simply true.",
        default=_default(Route, "success_equals"),
    )


@attrs.frozen
class HealthTable:
    """A route that says how a consumer is."""

    path: str = key(Text("path", checks.route_path), _ROUTE + " It is asked with GET.")
    loaded: str = key(
        Text("JSON pointer", checks.pointer),
        "Where the answer says whether the model is in VRAM: a boolean, or a list, object or text that is not empty.",
        default=_default(HealthRoute, "loaded"),
    )
    loaded_equals: bool | str | int | None = key(
        _equals(),
        "The value there that means that it is loaded, where that is not simply true.",
        default=_default(HealthRoute, "loaded_equals"),
    )
    last_used: str = key(
        Text("JSON pointer", checks.pointer),
        "Where the answer says when it last worked: seconds since 1970, or ISO 8601.",
        default=_default(HealthRoute, "last_used"),
    )
    headers: tuple[tuple[str, str], ...] = key(_headers(), "Extra headers.", default=_default(HealthRoute, "headers"))
    timeout_sec: float = key(
        _seconds(), "How long the whole exchange may take.", default=_default(HealthRoute, "timeout_sec"), unit="s"
    )


@attrs.frozen
class BusyTable:
    """A route that says whether a consumer works."""

    path: str = key(Text("path", checks.route_path), _ROUTE + " It is asked with GET.")
    pointers: tuple[str, ...] = key(
        ListOf(Text("JSON pointer", checks.pointer), most=16, single=True),
        "Where the answer tells of work: a number above 0, a list or an object that is not empty, true, or a text; "
        "the token * is every element of a list.",
        default=_default(BusyRoute, "pointers"),
    )
    equals: bool | str | int | None = key(
        _equals(),
        "The value there that means that it is busy, where that is none of these.",
        default=_default(BusyRoute, "equals"),
    )
    metrics: tuple[str, ...] = key(
        ListOf(Text("name of a metric", checks.metric_name), most=16, single=True),
        "Prometheus metrics in the answer that count what it works on.",
        default=_default(BusyRoute, "metrics"),
    )
    headers: tuple[tuple[str, str], ...] = key(_headers(), "Extra headers.", default=_default(BusyRoute, "headers"))
    timeout_sec: float = key(
        _seconds(), "How long the whole exchange may take.", default=_default(BusyRoute, "timeout_sec"), unit="s"
    )


@attrs.frozen
class ConsumerTable:
    """``[consumers.NAME]``: one service that holds VRAM."""

    vram_resident_mib: int | None = key(
        _Footprint(),
        'What it needs of VRAM while it is loaded. Left out, or "auto": the most that it was measured to hold.',
        default=None,
        unit="MiB",
    )
    vram_guess_mib: int | None = key(
        Whole(1, MAX_MIB),
        "What it is taken to need until it was measured, where vram_resident_mib does not say.",
        default=None,
        unit="MiB",
    )
    preset: str = key(
        Text("name of a preset"),
        "Routes that ship with gpumand for a known server; every other key given here overrides the preset's.",
        default=_default(ConsumerSpec, "preset"),
    )
    model: str = key(
        Text("name of a model", most=256),
        "The model that the preset's routes load and unload, spelled as the server lists it.",
        default="",
    )
    unit: str = key(
        Text("name of a unit", checks.unit_name),
        "The systemd unit it runs in: started to load it, stopped to evict it.",
        default=_default(ConsumerSpec, "unit"),
    )
    url: str = key(Text("URL", checks.url), "Where its HTTP routes are.", default=_default(ConsumerSpec, "url"))
    headers: tuple[tuple[str, str], ...] = key(
        _headers(), "Extra headers of all its routes.", default=_default(ConsumerSpec, "headers")
    )
    key_file: str = key(
        Text("absolute path", checks.absolute_path),
        "A file that holds the key it asks for, on one line; gpumand's user must be able to read it.",
        default="",
    )
    key_header: str = key(
        Text("header", checks.key_header),
        "The header that carries the key, with {key} where it goes.",
        default=checks.KEY_HEADER,
    )
    health: HealthRoute | None = key(
        TableOf(HealthTable, HealthRoute), "How to ask it how it is.", default=_default(ConsumerSpec, "health")
    )
    busy: BusyRoute | None = key(
        TableOf(BusyTable, BusyRoute),
        "How to ask it whether it works; while it does it is not evicted.",
        default=_default(ConsumerSpec, "busy"),
    )
    busy_grace_sec: float = key(
        Decimal(0, MAX_SEC),
        "How long others wait for it while it works, from when they first needed its room; then busy_after holds.",
        default=_default(ConsumerSpec, "busy_grace_sec"),
        unit="s",
    )
    busy_after: BusyAfter = key(
        Choice(tuple(one.value for one in BusyAfter), BusyAfter),
        "What comes then: wait lets it finish, however long that takes; evict evicts it all the same; refuse refuses "
        "who needs its room.",
        default=_default(ConsumerSpec, "busy_after"),
    )
    load: Route | None = key(
        TableOf(RouteTable, Route),
        "How to have it load; without it, it loads on its first request or with its unit.",
        default=_default(ConsumerSpec, "load"),
    )
    unload: Route | None = key(
        TableOf(RouteTable, Route), "How to have it give its memory back.", default=_default(ConsumerSpec, "unload")
    )
    evict: tuple[EvictionMethod, ...] = key(
        ListOf(Choice(tuple(one.value for one in EvictionMethod), EvictionMethod), least=1),
        "Methods of eviction in the order in which they are tried; by default http where there is an unload route, "
        "then unit-stop where there is a unit.",
        default=_default(ConsumerSpec, "evict"),
    )
    can_coexist_with: frozenset[str] = key(
        ListOf(Text("name of a consumer"), make=frozenset, most=512),
        "Consumers that are never evicted for this one.",
        default=_default(ConsumerSpec, "can_coexist_with"),
    )
    vram_managed: bool = key(
        Flag(),
        "It manages its own memory (as ollama does): it is never evicted for another.",
        default=_default(ConsumerSpec, "vram_managed"),
    )
    residual_mib: int = key(
        Whole(0, MAX_MIB),
        "What stays in VRAM after its unload route did its work (a CUDA context, mostly).",
        default=_default(ConsumerSpec, "residual_mib"),
        unit="MiB",
    )
    idle_timeout_sec: float = key(
        Decimal(0, MAX_SEC),
        "Evicted after so long without a lease; 0 = never.",
        default=_default(ConsumerSpec, "idle_timeout_sec"),
        unit="s",
    )
    load_timeout_sec: float = key(
        _seconds(),
        "How long loading may take before it counts as failed.",
        default=_default(ConsumerSpec, "load_timeout_sec"),
        unit="s",
    )
    stop_timeout_sec: float = key(
        _seconds(),
        "How long stopping its unit may take before that counts as failed.",
        default=_default(ConsumerSpec, "stop_timeout_sec"),
        unit="s",
    )
    priority: int = key(
        Whole(MIN_PRIORITY, MAX_PRIORITY),
        "Requests for a consumer of higher priority go first.",
        default=_default(ConsumerSpec, "priority"),
    )
    pinned: bool = key(
        Flag(), "It is never evicted, until it is unpinned by hand.", default=_default(ConsumerSpec, "pinned")
    )
    parks: bool = key(
        Flag(),
        "Its unload route leaves its weights in host RAM, from where it loads fast; it is called only while there is "
        "room for them.",
        default=_default(ConsumerSpec, "parks"),
    )
    parked_host_mib: int | None = key(
        Whole(0, MAX_MIB),
        "What it holds of host RAM while it is parked; by default its footprint, on each of its devices.",
        default=_default(ConsumerSpec, "parked_host_mib"),
        unit="MiB",
    )
    device: tuple[str, ...] = key(
        ListOf(_Device(), least=1, most=MAX_DEVICES, single=True),
        "The device it runs on; by default the one where it fits at the least cost. Of a list, it takes all of them at "
        "once, or device_count of them.",
        default=_default(ConsumerSpec, "devices"),
    )
    device_count: int | None = key(
        Whole(1, MAX_DEVICES),
        "How many devices it runs on at once, its footprint on each of them; by default as many as device names, else "
        "one. It gets all of them or none.",
        default=None,
    )


@attrs.frozen
class Detect:
    """What a server looks like from outside.

    Attributes:
        units: patterns of the names that its unit is usually given, as of a shell.
        commands: patterns; one of them, with anything before and behind it, is found in its command line.
        ports: where it listens by its own default.
    """

    units: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


@attrs.frozen
class DetectTable:
    """``detect`` in a ``[preset]`` table."""

    units: tuple[str, ...] = key(ListOf(Text()), "Patterns of names of its unit.", default=())
    commands: tuple[str, ...] = key(ListOf(Text()), "Patterns found in its command line.", default=())
    ports: tuple[int, ...] = key(ListOf(Whole(1, checks.MAX_PORT)), "Its default ports.", default=())


@attrs.frozen
class PresetTable:
    """``[preset]`` in a preset's file: what it is for, and where its facts come from."""

    title: str = key(Text(), "The server's name, for people.")
    summary: str = key(Text(), "What the preset does, in a sentence.")
    class_: str = key(
        Choice(CLASSES),
        "full-rest loads and unloads by route; unload-only loads with the first request; sleep-wake parks weights; "
        "restart begins anew without or with its model; unit-only has no such route: its unit is stopped and started.",
    )
    async_unload: bool = key(Flag(), "Its unload route answers before the memory is free.", default=False)
    model: str = key(
        Choice(("required", "optional", "none")),
        "Whether its routes name a model; without an optional one the routes that need it are left out.",
        default="none",
    )
    needs: tuple[str, ...] = key(ListOf(Text()), "Flags and variables the server must be started with.", default=())
    detect: Detect = key(
        TableOf(DetectTable, Detect), "What it looks like on a host, for gpumanctl init.", default=Detect()
    )
    notes: tuple[str, ...] = key(ListOf(Text()), "What whoever runs it should know.", default=())
    sources: tuple[str, ...] = key(ListOf(Text()), "Where the facts were read.", default=())


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
