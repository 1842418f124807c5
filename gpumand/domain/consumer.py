"""Consumers: what is configured of a service, and what is known of it now."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Residency(StrEnum):
    """Where a consumer's model is."""

    UNKNOWN = "unknown"
    UNLOADED = "unloaded"
    PARKED = "parked"
    LOADING = "loading"
    RESIDENT = "resident"
    UNLOADING = "unloading"
    FAILED = "failed"


class BusyAfter(StrEnum):
    """What comes of a consumer that is still busy when its grace is over."""

    WAIT = "wait"
    EVICT = "evict"
    REFUSE = "refuse"


class EvictionMethod(StrEnum):
    """How VRAM is taken back; the order of a consumer's methods is the order in which they are tried."""

    HTTP = "http"
    UNIT_STOP = "unit-stop"


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP request that makes a consumer do something.

    Attributes:
        path: path and query, appended to the consumer's ``url``.
        method: HTTP verb.
        json: body to send as JSON, or None for no body.
        headers: extra headers, as pairs.
        timeout_sec: how long the whole exchange may take.
        success: JSON pointer to where the answer of a server that answers 200 whatever happens says whether it did
            what it was asked to; read as HealthRoute's ``loaded`` is; "" where the status is enough. An answer that
            has nothing usable there counts as success: figures decide.
        success_equals: the value there that means that it did, where that is not simply true; None when not given.
    """

    path: str
    method: str = "POST"
    json: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    timeout_sec: float = 30.0
    success: str = ""
    success_equals: bool | str | int | None = None


@dataclass(frozen=True, slots=True)
class HealthRoute:
    """How to ask a consumer how it is.

    Attributes:
        path: path and query, asked with GET.
        loaded: JSON pointer (RFC 6901) to whether the model is in VRAM. A bool is taken as it is; a list or object is
            loaded when it is not empty; a string when it equals ``loaded_equals`` (or, without that, is not empty);
            null is not loaded. Beyond the RFC, a token ``[key=value]`` selects from a list the first object whose
            ``key`` is the text ``value``, as in ``/data/[id=llama~1Llama-3.1-8B]/status/value`` (``~1`` and ``~0`` in
            the value as in any token, and it may hold "="), and ``[=value]`` from a list of texts that one; where there
            is none, a pointer that ends with it gives null (so: not loaded), and one that goes on leads nowhere.
        loaded_equals: the value that means "loaded", of whatever type the pointer leads to (``false`` for a pointer
            to ``/is_sleeping``); None when not given.
        last_used: JSON pointer to when it last worked: seconds or ISO 8601; "" when there is none.
        headers: extra headers, as pairs.
        timeout_sec: how long the whole exchange may take.
    """

    path: str
    loaded: str = ""
    loaded_equals: bool | str | int | None = None
    last_used: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    timeout_sec: float = 5.0


@dataclass(frozen=True, slots=True)
class BusyRoute:
    """How to ask a consumer whether it works.

    Attributes:
        path: path and query, asked with GET.
        pointers: JSON pointers to what tells; they count together. A number counts as itself, a list or an object by
            its entries, ``true`` and a text that is not empty as one, ``null`` as none. A token ``*`` is every element
            of a list, as in ``/*/is_processing``.
        equals: the value that means "busy" where a pointer leads to it (counting one), any other that it does not;
            None when not given.
        metrics: names of Prometheus metrics in an answer that is text; their samples count together.
        headers: extra headers, as pairs.
        timeout_sec: how long the whole exchange may take.
    """

    path: str
    pointers: tuple[str, ...] = ()
    equals: bool | str | int | None = None
    metrics: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    timeout_sec: float = 2.0


UNKNOWN_MIB = 2**40
"""What a consumer is taken to need where nobody knows: more than any device has, since unknown is not zero."""


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """A consumer as configured; units and defaults are documented in gpumand.toml(5).

    ``headers`` go with every request to it, under those of the route; a key from ``key_file`` is among them.
    ``vram_auto`` says that ``vram_resident_mib`` is only what it is taken to need until it was measured; then it may
    be ``UNKNOWN_MIB``.
    ``evict`` is always filled in: the configured order, or http where there is an unload route and then unit-stop
    where there is a unit. ``devices`` are those it may be on, by index or UUID, () = any; it needs ``device_count`` of
    them at once, and its footprint on each. ``parks`` says that its unload route leaves its weights in host RAM; there
    it holds ``parked_host_mib``, None = its footprint on all of its devices, and ``residual_mib`` of VRAM on each.
    """

    name: str
    vram_resident_mib: int
    unit: str = ""
    url: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    health: HealthRoute | None = None
    busy: BusyRoute | None = None
    busy_grace_sec: float = 60.0
    busy_after: BusyAfter = BusyAfter.WAIT
    load: Route | None = None
    unload: Route | None = None
    evict: tuple[EvictionMethod, ...] = ()
    can_coexist_with: frozenset[str] = frozenset()
    vram_managed: bool = False
    residual_mib: int = 0
    idle_timeout_sec: float = 0.0
    load_timeout_sec: float = 300.0
    stop_timeout_sec: float = 100.0
    priority: int = 0
    pinned: bool = False
    devices: tuple[str, ...] = ()
    device_count: int = 1
    parks: bool = False
    parked_host_mib: int | None = None
    preset: str = ""
    vram_auto: bool = False

    @property
    def lazy(self) -> bool:
        """True where nothing outside its own requests puts the model into VRAM.

        A unit without an unload route holds its model for as long as it runs (llama-server); one with an unload
        route but no load route loads on its first request (ComfyUI), as does one that is no unit at all.
        """
        return self.load is None and (not self.unit or self.unload is not None)


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe found.

    Attributes:
        reachable: the route answered 2xx.
        loaded: what the answer said; None where it says nothing usable.
        last_used_usec: CLOCK_REALTIME microseconds of its last work; None where it says nothing usable.
        gone: nothing listens there (connection refused), so that waiting for an answer is pointless unless something
            is being started.
        error: one line when not reachable.
    """

    reachable: bool
    loaded: bool | None = None
    last_used_usec: int | None = None
    gone: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What a busy probe found.

    Attributes:
        jobs: how many things it works on or has queued; 0 = idle; None where it does not say, or does not answer.
        gone: nothing listens there.
        error: one line where ``jobs`` is None.
    """

    jobs: int | None
    gone: bool = False
    error: str = ""


class UnitActivity(StrEnum):
    """ActiveState of a unit, reduced to what matters here; values this version does not know become UNKNOWN."""

    ACTIVE = "active"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    INACTIVE = "inactive"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class UnitState:
    """A unit as systemd describes it.

    Attributes:
        unit: its name.
        activity: see UnitActivity; "reloading" and "maintenance" count as active.
        load_state: "loaded", "not-found", "masked", "bad-setting", "error" …
        result: "success", "exit-code", "timeout", "oom-kill" … of the last run.
        invocation_id: hex id of this run, "" when it has none.
    """

    unit: str
    activity: UnitActivity
    load_state: str = "loaded"
    result: str = ""
    invocation_id: str = ""


class Policy(StrEnum):
    """How victims are chosen and whom a waiting request may pass."""

    LRU = "lru"
    """Least recently used first; strictly first come, first served on a device."""

    ADAPTIVE = "adaptive"
    """The set that is worth least by what was learned; requests for what is resident may pass others, within limits."""


class Overlap(StrEnum):
    """Whether the next consumer is loaded while another one works."""

    OFF = "off"
    MEASURED = "measured"
    """As long as those who work are not slowed down by it by more than a fifth."""

    ON = "on"


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The ``[scheduler]`` table."""

    cushion_mib: int = 256
    max_evictions: int = 5
    settle_timeout_sec: float = 10.0
    concurrent_leases: int = 1
    lease_ttl_sec: float = 900.0
    health_interval_sec: float = 5.0
    aging_sec: float = 120.0
    policy: Policy = Policy.LRU
    overtake_budget_sec: float = 30.0
    overlap: Overlap = Overlap.OFF
    host_ram_reserve_mib: int = 2048


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """The ``[gpu]`` table.

    Attributes:
        source: "nvml", "simulated" or "none".
        sample_interval_sec: how often devices are read while nothing happens.
        total_mib: what device 0 has, for when no source can say; None when not configured.
        simulated_total_mib: sizes of the simulated devices, by index.
        simulated_dir: where consumers of the simulator announce their MiB; "" for the default.
    """

    source: str = "nvml"
    sample_interval_sec: float = 2.0
    total_mib: int | None = None
    simulated_total_mib: tuple[int, ...] = (24564,)
    simulated_dir: str = ""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The ``[http]`` table.

    Attributes:
        listen: address and port of a TCP listener beside the passed socket; "" = none.
        allow_remote: the address may be one that other hosts reach.
    """

    listen: str = ""
    allow_remote: bool = False


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """The ``[history]`` table.

    Attributes:
        keep_days: for how many days it is kept what happened; 0 = it is not.
        demand_log: file to which every use of a consumer is appended as a JSON line; "" = none.
    """

    keep_days: float = 90.0
    demand_log: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that configuration says."""

    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    gpu: GpuSettings = field(default_factory=GpuSettings)
    consumers: dict[str, ConsumerSpec] = field(default_factory=dict)
    http: HttpSettings = field(default_factory=HttpSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
