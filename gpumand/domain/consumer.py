"""Consumers: the configuration of a service that uses VRAM, and the results of asking it and its unit about its state.

The settings tables of the configuration file are here too: every part of gpumand reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gpumand.domain.container import service_of
from gpumand.domain.gpu_settings import GpuSettings
from gpumand.domain.output_settings import HistorySettings, HttpSettings
from gpumand.domain.partial_load import PartialLoad
from gpumand.domain.reservation import MAX_VRAM_MIB, Reservation


class BusyAfter(StrEnum):
    """What happens to a busy consumer when its grace period is over."""

    WAIT = "wait"
    EVICT = "evict"
    REFUSE = "refuse"


class EvictionMethod(StrEnum):
    """A way to free the VRAM of a consumer. Methods are tried in the configured order."""

    HTTP = "http"
    UNIT_STOP = "unit-stop"
    CONTAINER = "container"


STOPPING = (EvictionMethod.UNIT_STOP, EvictionMethod.CONTAINER)
"""The methods that end all processes of a consumer, so that nothing of it stays in VRAM."""


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP request that makes a consumer load or unload its model.

    Attributes:
        path: path and query, appended to the consumer's ``url``.
        method: HTTP verb.
        json: body to send as JSON, or None for no body.
        headers: extra headers, as pairs.
        timeout_sec: time limit for the whole exchange, in seconds.
        success: JSON pointer to the result in the response (of a stream: in its last event), for a server that answers
            200 even on failure; the value is interpreted like HealthRoute's ``loaded``; "" where the HTTP status is
            enough. A response without a usable value there is a failure of a load, which nothing else may prove; an
            unload then counts as accepted, and VRAM readings decide.
        success_equals: the value that means success, where it is not simply true; None when not given.
        error: JSON pointer to the server's error text in the response (of a stream: in its last event); a non-empty
            value there is a failure; "" where there is none.
        async_load: the server answers before the load is done; health counts only after it has changed or memory has
            grown.
    """

    path: str
    method: str = "POST"
    json: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    timeout_sec: float = 30.0
    success: str = ""
    success_equals: bool | str | int | None = None
    error: str = ""
    async_load: bool = False


@dataclass(frozen=True, slots=True)
class HealthRoute:
    """The health check request of a consumer.

    Attributes:
        path: path and query; the HTTP verb is GET.
        loaded: JSON pointer (RFC 6901) to the value that says whether the model is in VRAM. A bool is taken literally;
            a list or object means loaded when it is not empty; a string means loaded when it equals ``loaded_equals``
            (or, without that, is not empty); null means not loaded. Beyond the RFC, a token ``[key=value]`` selects
            from a list the first object whose ``key`` is the text ``value``, as in
            ``/data/[id=llama~1Llama-3.1-8B]/status/value`` (``~1`` and ``~0`` are escapes as in any token, and the
            value may contain "="), and ``[=value]`` selects that text from a list of texts. Without a match the
            pointer yields null (not loaded), since a server that does not list a model has not loaded it.
        loaded_equals: the value that means "loaded", of the type that the pointer leads to (``false`` for a pointer
            to ``/is_sleeping``); None when not given.
        unloaded_equals: the value that means "not loaded", where every other value of its type means "loaded"; None
            when not given.
        unloaded_status: HTTP statuses of a running server that mean that the model is not loaded, such as 503.
        last_used: JSON pointer to the time of the last work: seconds since 1970 or ISO 8601; "" when there is none.
        failed: JSON pointer to the value that says that the last load failed, read as ``loaded`` is; "" when there is
            none.
        failed_equals: the value that means "failed"; None when not given.
        loading: JSON pointer to the value that says that the model is being loaded, by whatever client's request, read
            as ``loaded`` is; "" when there is none.
        loading_equals: the value that means "loading"; None when not given.
        sleeping: JSON pointer to the value that says that the server has put its model to sleep and would wake it for
            a request, read as ``loaded`` is; "" when there is none.
        sleeping_equals: the value that means "sleeping"; None when not given.
        sleeping_path: path and query of a second request, in whose response ``sleeping`` points; "" where the health
            check's own response has it. A failure of the second request means "not sleeping".
        size: JSON pointer to the size of the loaded model in bytes, in VRAM and host RAM together; "" when there is
            none.
        size_vram: JSON pointer to the part of it in VRAM, in bytes; "" when there is none.
        headers: extra headers, as pairs.
        timeout_sec: time limit for the whole exchange, in seconds.
    """

    path: str
    loaded: str = ""
    loaded_equals: bool | str | int | None = None
    unloaded_equals: bool | str | int | None = None
    unloaded_status: tuple[int, ...] = ()
    last_used: str = ""
    failed: str = ""
    failed_equals: bool | str | int | None = None
    loading: str = ""
    loading_equals: bool | str | int | None = None
    sleeping: str = ""
    sleeping_equals: bool | str | int | None = None
    sleeping_path: str = ""
    size: str = ""
    size_vram: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    timeout_sec: float = 5.0


@dataclass(frozen=True, slots=True)
class BusyRoute:
    """How to find out whether a consumer is busy: a request to it, or the number of its clients.

    Attributes:
        path: path and query; the HTTP verb is GET; "" = nothing is asked, only ``connections`` count.
        pointers: JSON pointers whose values are added up to the number of jobs. A number counts as itself, a list or
            an object counts its entries, ``true`` and a non-empty text count one, ``null`` counts zero. A token ``*``
            matches every element of a list, as in ``/*/is_processing``.
        equals: a pointer counts one where its value equals this, else zero; None when not given.
        metrics: names of Prometheus metrics in a text response; their samples are added up.
        headers: extra headers, as pairs.
        timeout_sec: time limit for the whole exchange, in seconds.
        connections: it also counts as busy while clients are connected to its port, for servers whose own counters do
            not show all of their work.
    """

    path: str = ""
    pointers: tuple[str, ...] = ()
    equals: bool | str | int | None = None
    metrics: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    timeout_sec: float = 2.0
    connections: bool = False


UNKNOWN_MIB = 2**40
"""Footprint of a consumer whose VRAM requirement is unknown: more than any device has, since unknown is not zero."""


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """The configuration of one consumer; gpumand.toml(5) documents units and defaults of the keys.

    Attributes that differ from their configuration key:
        headers: sent with every request to the consumer; headers of a route take precedence. The key from ``key_file``
            is among them.
        vram_auto: ``vram_resident_mib`` is only the assumption until the footprint is measured; it may then be
            ``UNKNOWN_MIB``.
        evict: always filled in: the configured order, or http (with an unload route), then unit-stop (with a unit),
            then container (with a container).
        devices: indices or UUIDs of the devices that the consumer may use; () = any.
        device_count: number of devices that the consumer uses at once; it needs its footprint on each of them.
        loads_on_request: its model loads with the first request although it has no unload route that would say so.
        parks: the unload route leaves the weights in host RAM.
        parked_host_mib: MiB of host RAM held while parked; None = the footprint on all of its devices.
        residual_mib: MiB of VRAM still held on each device while parked.
        fleet: "unique" if only one host of a fleet may have the consumer loaded; gpumand itself ignores it.
        reservation: the reservation that the ledger keeps as this consumer; None for a configured one.
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
    loads_on_request: bool = False
    parks: bool = False
    parked_host_mib: int | None = None
    preset: str = ""
    container: str = ""
    slice: str = ""
    cgroup: str = ""
    vram_auto: bool = False
    fleet: str = ""
    reservation: Reservation | None = None

    @property
    def lazy(self) -> bool:
        """True when only a request to the consumer itself loads its model into VRAM.

        A unit without an unload route holds its model as long as it runs (llama-server), and so does a container. One
        with an unload route but no load route loads on its first request (ComfyUI); so does a consumer with neither,
        and one that says so although only stopping its unit unloads it (Immich).
        """
        return self.load is None and (self.loads_on_request or not self.service or self.unload is not None)

    @property
    def service(self) -> str:
        """What gpumand starts to load it: its unit, or else its container as in ``container NAME``; "" = neither.

        A unit comes first: where it runs ``docker run``, a container that was started without it would be unsupervised.
        """
        return self.unit or service_of(self.controlled_container)

    @property
    def controlled_container(self) -> str:
        """The container that gpumand starts, stops and watches through its engine; "" without one.

        A container whose consumer has other eviction methods only shows which memory is the consumer's. Engines that
        gpumand does not control, such as LXC, have no other use for the name.
        """
        is_controlled = not self.evict or EvictionMethod.CONTAINER in self.evict
        return self.container if is_controlled else ""

    def stopped_by(self, method: EvictionMethod) -> str:
        """What an eviction by this method stops, by the name that the port UnitManager accepts; "" for http."""
        if method is EvictionMethod.CONTAINER:
            return service_of(self.container)
        return self.unit if method is EvictionMethod.UNIT_STOP else ""


def reservation_spec(reservation: Reservation, device_count: int) -> ConsumerSpec:
    """The consumer that stands for a reservation in the ledger.

    A reservation of the whole device needs more than any device has, so that no footprint fits beside it.
    """
    need_mib = MAX_VRAM_MIB if reservation.whole_device else reservation.vram_mib
    return ConsumerSpec(reservation.name, need_mib, device_count=device_count, reservation=reservation)


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a health check.

    Attributes:
        reachable: the route answered 2xx, or with one of ``unloaded_status``.
        loaded: whether the model is in VRAM according to the response; None where the response has no usable value,
            which is no evidence of a loaded model if the route has a pointer for it.
        last_used_usec: CLOCK_REALTIME microseconds of the last work; None where the response has no usable value.
        refused: the connection was refused: no process listens, so waiting for a response is pointless unless the
            consumer is being started.
        error: one line when not reachable.
        status: HTTP status of the response; 0 when there was none.
        failed: one line when the response says that the last load failed, with the server's reason where it gives one;
            "" otherwise.
        loading: the response says that the model is being loaded; ``loaded`` is then not True.
        sleeping: the response says that the server has put its model to sleep; ``loaded`` is then False.
        partial: how much of the model is in VRAM, where that is not all of it; None = all, or unknown.
        answer: one line for messages about a wait: what the response says of the model, or its status; "" when there
            was no response.
    """

    reachable: bool
    loaded: bool | None = None
    last_used_usec: int | None = None
    refused: bool = False
    error: str = ""
    status: int = 0
    failed: str = ""
    loading: bool = False
    sleeping: bool = False
    partial: PartialLoad | None = None
    answer: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class BusyReport:
    """The result of asking a consumer whether it is busy.

    Attributes:
        jobs: number of running and queued jobs; 0 = idle; None where the response has no usable value or is missing.
        refused: the connection was refused: no process listens.
        error: one line where ``jobs`` is None.
        status: HTTP status of the response; 0 when there was none.
    """

    jobs: int | None
    refused: bool = False
    error: str = ""
    status: int = 0


class UnitActivity(StrEnum):
    """The ActiveState of a systemd unit, reduced to what gpumand distinguishes; other values become UNKNOWN."""

    ACTIVE = "active"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    INACTIVE = "inactive"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class UnitState:
    """The state of a unit as systemd reports it, or of a container as its engine does.

    Attributes:
        unit: name of the unit, or ``container NAME``.
        activity: its ActiveState; "reloading" and "maintenance" count as active.
        load_state: "loaded", "not-found", "masked", "bad-setting", "error" …
        result: result of the last run: "success", "exit-code", "timeout", "oom-kill" …
        invocation_id: hex id of the current run, "" when there is none.
        restarts: how often systemd has restarted the service by itself (NRestarts); 0 in states that were announced.
        active_since: when its current run became active, in monotonic seconds; None where that is unknown.
    """

    unit: str
    activity: UnitActivity
    load_state: str = "loaded"
    result: str = ""
    invocation_id: str = ""
    restarts: int = 0
    # Not compared: that of a container is calculated from the wall clock, and differs a little in each reading.
    active_since: float | None = field(default=None, compare=False)


class Policy(StrEnum):
    """How victims are chosen, and which waiting requests a later request may overtake."""

    LRU = "lru"
    """Least recently used first; strictly first come, first served on a device."""

    ADAPTIVE = "adaptive"
    """The victim set of the lowest learned value; requests for resident consumers may overtake, within limits."""


class Overlap(StrEnum):
    """Whether a consumer may be loaded while another one on the same device is leased."""

    OFF = "off"
    MEASURED = "measured"
    """As long as measurements show that leases become no more than a fifth longer by it."""

    ON = "on"


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The ``[scheduler]`` table of the configuration. ``min_turn_sec`` None = as measured, see ``turns``."""

    cushion_mib: int = 256
    max_evictions: int = 5
    settle_timeout_sec: float = 10.0
    concurrent_leases: int = 0
    lease_ttl_sec: float = 900.0
    health_interval_sec: float = 5.0
    aging_sec: float = 120.0
    policy: Policy = Policy.LRU
    overtake_budget_sec: float = 30.0
    overlap: Overlap = Overlap.OFF
    host_ram_reserve_mib: int = 2048
    min_turn_sec: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The complete configuration of the daemon."""

    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    gpu: GpuSettings = field(default_factory=GpuSettings)
    consumers: dict[str, ConsumerSpec] = field(default_factory=dict)
    http: HttpSettings = field(default_factory=HttpSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
