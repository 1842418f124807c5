"""Defines the keys of ``[consumers.NAME]`` and of the tables in it."""

from __future__ import annotations

from typing import Any

from gpumand.config import container_keys, validators
from gpumand.config.busy_schema import HEADERS_DOC, ROUTE_DOC, TIMEOUT_DOC, BusyTable
from gpumand.config.quantities import Mib, Seconds
from gpumand.config.shared_keys import MAX_DEVICES, MAX_MIB, MAX_SEC, default_of, equals, headers, seconds
from gpumand.config.table_schema import TableOf, key, keys_table
from gpumand.config.value_types import Boolean, Choice, Integer, Json, Leaf, ListOf, Text
from gpumand.domain.consumer import BusyAfter, BusyRoute, ConsumerSpec, EvictionMethod, HealthRoute, Route
from gpumand.domain.fleet import UNIQUE
from gpumand.domain.request_limits import MAX_PRIORITY, MIN_PRIORITY


class _Device(Leaf):
    """Index of a device, as a number or a string, its UUID, or its PCI address."""

    description = "index, UUID or PCI address of a device"

    def accept(self, value: Any) -> str:
        number = isinstance(value, int) and not isinstance(value, bool)
        text: str = Text(self.description, validators.device).accept(str(value) if number else value)
        return text


class _Footprint(Leaf):
    """Size in MiB, or "auto", which is converted to None."""

    description = f'whole number from 1 to {MAX_MIB}, or "auto"'

    def accept(self, value: Any) -> int | None:
        return None if value == "auto" else Mib(1, MAX_MIB).accept(value)


@keys_table
class UnloadTable:
    """A request that makes a consumer unload its model: the keys that have an effect there."""

    path: str = key(Text("path", validators.route_path), ROUTE_DOC)
    method: str = key(Text("HTTP method", validators.http_method), "HTTP method.", default=default_of(Route, "method"))
    json: Any = key(
        Json(), "Request body, sent as JSON. By default the request has no body.", default=default_of(Route, "json")
    )
    headers: tuple[tuple[str, str], ...] = key(headers(), HEADERS_DOC, default=default_of(Route, "headers"))
    timeout_sec: float = key(seconds(), TIMEOUT_DOC, default=default_of(Route, "timeout_sec"), unit="s")
    success: str = key(
        Text("JSON pointer", validators.pointer),
        "Position of the result in the response, or in the last event of a response in several events (server-sent "
        "events, or JSON lines). Set it for servers that respond with status 200 even if the request failed. By "
        "default the status decides.",
        default=default_of(Route, "success"),
    )
    success_equals: bool | str | int | None = key(
        equals(),
        "Value at the position success that means success. Set it if that value is not true.",
        default=default_of(Route, "success_equals"),
    )
    error: str = key(
        Text("JSON pointer", validators.pointer),
        "Position of the server's error text in the response, or in the last event of a response in several events. A "
        "value there that is not empty means that the request failed.",
        default=default_of(Route, "error"),
    )


@keys_table
class RouteTable(UnloadTable):
    """A request that makes a consumer load its model. Unload routes are read by it too, see ``check_routes``."""

    async_load: bool = key(
        Boolean(),
        "Early response of a load route: the server responds before the model is loaded, and its old state remains "
        "visible for a moment. gpumand then believes the health check only after its answer has changed or memory use "
        "has grown.",
        default=default_of(Route, "async_load"),
    )


@keys_table
class HealthTable:
    """A request that reports the health of a consumer."""

    path: str = key(Text("path", validators.route_path), ROUTE_DOC + " The method is GET.")
    loaded: str = key(
        Text("JSON pointer", validators.pointer),
        "Position in the response that shows whether the model is in VRAM: true, or a list, object or string that is "
        "not empty, means loaded.",
        default=default_of(HealthRoute, "loaded"),
    )
    loaded_equals: bool | str | int | None = key(
        equals(),
        "Value at the position loaded that means that the model is loaded. Set it if that value is not true.",
        default=default_of(HealthRoute, "loaded_equals"),
    )
    unloaded_equals: bool | str | int | None = key(
        equals(),
        "Value at the position loaded that means that the model is not loaded; every other value of its type means "
        "loaded. It cannot be combined with loaded_equals.",
        default=default_of(HealthRoute, "unloaded_equals"),
    )
    unloaded_status: tuple[int, ...] = key(
        ListOf(Integer(400, 599), max_length=8, single=True),
        "HTTP status, or a list of them, that means that the server runs but the model is not loaded. By default every "
        "status other than 2xx means that the server is not ready.",
        default=default_of(HealthRoute, "unloaded_status"),
    )
    failed: str = key(
        Text("JSON pointer", validators.pointer),
        "Position in the response that shows that the last load of the model failed: true, or a list, object or string "
        "that is not empty, such as an error text. It ends a load at once.",
        default=default_of(HealthRoute, "failed"),
    )
    failed_equals: bool | str | int | None = key(
        equals(),
        "Value at the position failed that means that the load failed. Set it if that value is not true.",
        default=default_of(HealthRoute, "failed_equals"),
    )
    loading: str = key(
        Text("JSON pointer", validators.pointer),
        "Position in the response that shows that the model is being loaded, by whatever client's request: true, or a "
        "list, object or string that is not empty. gpumand then waits for that load instead of calling the load route.",
        default=default_of(HealthRoute, "loading"),
    )
    loading_equals: bool | str | int | None = key(
        equals(),
        "Value at the position loading that means that the model is being loaded. Set it if that value is not true.",
        default=default_of(HealthRoute, "loading_equals"),
    )
    sleeping: str = key(
        Text("JSON pointer", validators.pointer),
        "Position in the response that shows that the server has put the model to sleep, and wakes it with the next "
        "request: true, or a list, object or string that is not empty.",
        default=default_of(HealthRoute, "sleeping"),
    )
    sleeping_equals: bool | str | int | None = key(
        equals(),
        "Value at the position sleeping that means that the model sleeps. Set it if that value is not true.",
        default=default_of(HealthRoute, "sleeping_equals"),
    )
    sleeping_path: str = key(
        Text("path", validators.route_path),
        "Path and query of a second request, whose response contains the position sleeping. By default that is the "
        "response of the health check. If the second request fails, the model does not sleep.",
        default=default_of(HealthRoute, "sleeping_path"),
    )
    size: str = key(
        Text("JSON pointer", validators.pointer),
        "Position in the response of the size of the loaded model in bytes, in VRAM and host RAM together. With "
        "size_vram, gpumand warns when a part of the model is computed on the CPU.",
        default=default_of(HealthRoute, "size"),
    )
    size_vram: str = key(
        Text("JSON pointer", validators.pointer),
        "Position in the response of the part of the model in VRAM, in bytes.",
        default=default_of(HealthRoute, "size_vram"),
    )
    last_used: str = key(
        Text("JSON pointer", validators.pointer),
        "Position of the time of last use in the response: seconds since 1970, or ISO 8601.",
        default=default_of(HealthRoute, "last_used"),
    )
    headers: tuple[tuple[str, str], ...] = key(headers(), HEADERS_DOC, default=default_of(HealthRoute, "headers"))
    timeout_sec: float = key(seconds(), TIMEOUT_DOC, default=default_of(HealthRoute, "timeout_sec"), unit="s")


@keys_table
class ConsumerTable:
    """``[consumers.NAME]``: one service that holds VRAM."""

    vram_resident_mib: int | None = key(
        _Footprint(),
        "VRAM that the consumer needs on each of its devices while it is loaded. Set it to the peak use under load, "
        'not to the size of the model file. Without it, or with "auto", gpumand uses the highest use it has measured.',
        default=None,
        unit="MiB",
    )
    vram_guess_mib: int | None = key(
        Mib(1, MAX_MIB),
        "Estimate of vram_resident_mib, used until gpumand has measured the consumer. It cannot be "
        "combined with vram_resident_mib.",
        default=None,
        unit="MiB",
    )
    preset: str = key(
        Text("name of a preset"),
        "Preset: routes for a known server that ship with gpumand. Every other key of this table overrides the "
        "preset's.",
        default=default_of(ConsumerSpec, "preset"),
    )
    model: str = key(
        Text("name of a model", max_length=256),
        "Model that the preset's routes load and unload, spelled as the server lists it.",
        default="",
    )
    unit: str = key(
        Text("name of a unit", validators.unit_name),
        "Systemd unit of the consumer. gpumand starts it to load the consumer and stops it to evict the consumer.",
        default=default_of(ConsumerSpec, "unit"),
    )
    container: str = key(
        Text("name of a container", container_keys.container_name),
        "Container that the consumer runs in: its name or a prefix of its id (at least 12 digits), with docker: or "
        "podman: in front where both engines have the name. Its processes count as the consumer's. gpumand stops it to "
        "evict the consumer and, without a unit, starts it to load the consumer, unless evict is set without the "
        "method container: then the name only shows which processes are the consumer's, as for LXC.",
        default=default_of(ConsumerSpec, "container"),
    )
    slice: str = key(
        Text("name of a slice", container_keys.slice_name),
        "Systemd slice whose processes count as the consumer's, for containers with a cgroup parent of their own.",
        default=default_of(ConsumerSpec, "slice"),
    )
    cgroup: str = key(
        Text("pattern of a cgroup path", container_keys.cgroup_pattern),
        "Pattern of cgroup paths whose processes count as the consumer's, for Kubernetes, LXC and other engines. * and "
        "? match within a directory name, ** matches any number of directories. Paths are as in /proc/PID/cgroup.",
        default=default_of(ConsumerSpec, "cgroup"),
    )
    url: str = key(
        Text("URL", validators.url), "Base URL of the consumer's HTTP routes.", default=default_of(ConsumerSpec, "url")
    )
    headers: tuple[tuple[str, str], ...] = key(
        headers(),
        "Additional HTTP headers of all requests to the consumer.",
        default=default_of(ConsumerSpec, "headers"),
    )
    key_file: str = key(
        Text("absolute path", validators.absolute_path),
        "File that contains the API key of the consumer, on one line. The user that gpumand runs as must be able to "
        "read it.",
        default="",
    )
    key_header: str = key(
        Text("header", validators.key_header),
        "HTTP header that carries the API key. {key} is replaced by the key.",
        default=validators.KEY_HEADER,
    )
    health: HealthRoute | None = key(
        TableOf(HealthTable, HealthRoute), "Health check request.", default=default_of(ConsumerSpec, "health")
    )
    busy: BusyRoute | None = key(
        TableOf(BusyTable, BusyRoute),
        "Busy check request. gpumand does not evict a consumer that is busy (see busy_grace_sec and busy_after).",
        default=default_of(ConsumerSpec, "busy"),
    )
    busy_grace_sec: float = key(
        Seconds(0, MAX_SEC),
        "Grace period of a busy consumer: how long other requests wait for its work to end, counted from when they "
        "first needed its memory. After that, busy_after applies.",
        default=default_of(ConsumerSpec, "busy_grace_sec"),
        unit="s",
    )
    busy_after: BusyAfter = key(
        Choice(tuple(one.value for one in BusyAfter), BusyAfter),
        "Action after busy_grace_sec. wait lets the consumer finish, however long that takes; evict evicts it; refuse "
        "refuses the requests that need its memory.",
        default=default_of(ConsumerSpec, "busy_after"),
    )
    load: Route | None = key(
        TableOf(RouteTable, Route),
        "Request that loads the model. Leave it out if the model loads with the first request or when the unit starts.",
        default=default_of(ConsumerSpec, "load"),
    )
    unload: Route | None = key(
        TableOf(RouteTable, Route), "Request that unloads the model.", default=default_of(ConsumerSpec, "unload")
    )
    evict: tuple[EvictionMethod, ...] = key(
        ListOf(Choice(tuple(one.value for one in EvictionMethod), EvictionMethod), min_length=1),
        "Eviction methods, in the order in which they are tried. http calls the unload route, unit-stop stops the "
        "unit, container stops the container. By default http, if there is an unload route, then unit-stop, if there "
        "is a unit, then container, if there is one.",
        default=default_of(ConsumerSpec, "evict"),
    )
    can_coexist_with: frozenset[str] = key(
        ListOf(Text("name of a consumer"), make=frozenset, max_length=512),
        "Consumers that are never evicted to make room for this one.",
        default=default_of(ConsumerSpec, "can_coexist_with"),
    )
    vram_managed: bool = key(
        Boolean(),
        "Self-managed consumer: one that manages its own VRAM, as ollama does. gpumand never evicts it for another.",
        default=default_of(ConsumerSpec, "vram_managed"),
    )
    residual_mib: int = key(
        Mib(0, MAX_MIB),
        "VRAM that the consumer keeps after its unload route has been called, usually a CUDA context.",
        default=default_of(ConsumerSpec, "residual_mib"),
        unit="MiB",
    )
    idle_timeout_sec: float = key(
        Seconds(0, MAX_SEC),
        "Idle timeout: the consumer is evicted after this time without a lease. 0 disables it.",
        default=default_of(ConsumerSpec, "idle_timeout_sec"),
        unit="s",
    )
    load_timeout_sec: float = key(
        seconds(),
        "Timeout of a load. A load that takes longer counts as failed.",
        default=default_of(ConsumerSpec, "load_timeout_sec"),
        unit="s",
    )
    stop_timeout_sec: float = key(
        seconds(),
        "Timeout of stopping the unit. A stop that takes longer counts as failed.",
        default=default_of(ConsumerSpec, "stop_timeout_sec"),
        unit="s",
    )
    priority: int = key(
        Integer(MIN_PRIORITY, MAX_PRIORITY),
        "Priority of requests for this consumer. Requests of higher priority are served first.",
        default=default_of(ConsumerSpec, "priority"),
    )
    pinned: bool = key(
        Boolean(),
        "Pinned consumer: gpumand never evicts it until an administrator unpins it (gpumanctl unpin).",
        default=default_of(ConsumerSpec, "pinned"),
    )
    loads_on_request: bool = key(
        Boolean(),
        "Loading with the first request: the server starts without its model, and has no route that unloads it. "
        "Servers with an unload route and no load route need not set it.",
        default=default_of(ConsumerSpec, "loads_on_request"),
    )
    parks: bool = key(
        Boolean(),
        "Parking: the unload route moves the weights to host RAM, from where they load fast. gpumand calls it only "
        "while host RAM has room for them (see host_ram_reserve_mib).",
        default=default_of(ConsumerSpec, "parks"),
    )
    parked_host_mib: int | None = key(
        Mib(0, MAX_MIB),
        "Host RAM that the consumer uses while it is parked. By default its footprint times the number of its devices.",
        default=default_of(ConsumerSpec, "parked_host_mib"),
        unit="MiB",
    )
    device: tuple[str, ...] = key(
        ListOf(_Device(), min_length=1, max_length=MAX_DEVICES, single=True),
        "Device that the consumer runs on, or a list of devices. Of a list it uses all at once, or device_count of "
        "them. By default gpumand chooses the device where the consumer fits at the least cost, among the cards of the "
        "first source; integrated GPUs are used only if they are named here, or if there is no other GPU.",
        default=default_of(ConsumerSpec, "devices"),
    )
    device_count: int | None = key(
        Integer(1, MAX_DEVICES),
        "Number of devices that the consumer runs on at once, with its footprint on each of them. It gets all of them "
        "or none. By default the number of devices that device lists, or 1.",
        default=None,
    )
    fleet: str = key(
        Choice((UNIQUE,)),
        "Use in a fleet. unique lets gpumand-fleet load the consumer on one host of the fleet only, for a licence or "
        "data that two hosts must not use at once. gpumand itself ignores it, but the polkit rule of gpumand-fleet "
        "requires an administrator for requests that do not come through gpumand-fleet or the gateway.",
        default=default_of(ConsumerSpec, "fleet"),
    )
