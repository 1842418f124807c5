"""``[consumers.NAME]`` and the tables in it, key by key."""

# ruff: noqa: RUF009 - key() is a field specifier, evaluated once for each class as it should be

from __future__ import annotations

from typing import Any

import attrs

from gpumand.config import validators
from gpumand.config.shared_keys import MAX_DEVICES, MAX_MIB, MAX_SEC, default_of, equals, headers, seconds
from gpumand.config.table_schema import TableOf, key
from gpumand.config.value_types import Choice, Decimal, Flag, Json, Leaf, ListOf, Text, Whole
from gpumand.domain.consumer import BusyAfter, BusyRoute, ConsumerSpec, EvictionMethod, HealthRoute, Route
from gpumand.domain.request import MAX_PRIORITY, MIN_PRIORITY

_ROUTE = "Path and query, appended to the consumer's url."


class _Device(Leaf):
    """A device's index, as a number or as text, or its UUID."""

    says = "index or UUID of a device"

    def accept(self, value: Any) -> str:
        number = isinstance(value, int) and not isinstance(value, bool)
        text: str = Text(self.says, validators.device).accept(str(value) if number else value)
        return text


class _Footprint(Leaf):
    """MiB, or "auto", which is None here."""

    says = f'whole number from 1 to {MAX_MIB}, or "auto"'

    def accept(self, value: Any) -> int | None:
        return None if value == "auto" else Whole(1, MAX_MIB).accept(value)


@attrs.frozen
class RouteTable:
    """A route that makes a consumer load or unload."""

    path: str = key(Text("path", validators.route_path), _ROUTE)
    method: str = key(Text("HTTP method", validators.http_method), "HTTP verb.", default=default_of(Route, "method"))
    json: Any = key(Json(), "Body to send as JSON; without it there is none.", default=default_of(Route, "json"))
    headers: tuple[tuple[str, str], ...] = key(headers(), "Extra headers.", default=default_of(Route, "headers"))
    timeout_sec: float = key(
        seconds(), "How long the whole exchange may take.", default=default_of(Route, "timeout_sec"), unit="s"
    )
    success: str = key(
        Text("JSON pointer", validators.pointer),
        "Where the answer says whether it was done, for servers that answer 200 though it was not.",
        default=default_of(Route, "success"),
    )
    success_equals: bool | str | int | None = key(
        equals(),
        "The value there that means that it was done, where that is not simply true.",
        default=default_of(Route, "success_equals"),
    )


@attrs.frozen
class HealthTable:
    """A route that says how a consumer is."""

    path: str = key(Text("path", validators.route_path), _ROUTE + " It is asked with GET.")
    loaded: str = key(
        Text("JSON pointer", validators.pointer),
        "Where the answer says whether the model is in VRAM: a boolean, or a list, object or text that is not empty.",
        default=default_of(HealthRoute, "loaded"),
    )
    loaded_equals: bool | str | int | None = key(
        equals(),
        "The value there that means that it is loaded, where that is not simply true.",
        default=default_of(HealthRoute, "loaded_equals"),
    )
    last_used: str = key(
        Text("JSON pointer", validators.pointer),
        "Where the answer says when it last worked: seconds since 1970, or ISO 8601.",
        default=default_of(HealthRoute, "last_used"),
    )
    headers: tuple[tuple[str, str], ...] = key(headers(), "Extra headers.", default=default_of(HealthRoute, "headers"))
    timeout_sec: float = key(
        seconds(), "How long the whole exchange may take.", default=default_of(HealthRoute, "timeout_sec"), unit="s"
    )


@attrs.frozen
class BusyTable:
    """A route that says whether a consumer works."""

    path: str = key(Text("path", validators.route_path), _ROUTE + " It is asked with GET.")
    pointers: tuple[str, ...] = key(
        ListOf(Text("JSON pointer", validators.pointer), most=16, single=True),
        "Where the answer tells of work: a number above 0, a list or an object that is not empty, true, or a text; "
        "the token * is every element of a list.",
        default=default_of(BusyRoute, "pointers"),
    )
    equals: bool | str | int | None = key(
        equals(),
        "The value there that means that it is busy, where that is none of these.",
        default=default_of(BusyRoute, "equals"),
    )
    metrics: tuple[str, ...] = key(
        ListOf(Text("name of a metric", validators.metric_name), most=16, single=True),
        "Prometheus metrics in the answer that count what it works on.",
        default=default_of(BusyRoute, "metrics"),
    )
    headers: tuple[tuple[str, str], ...] = key(headers(), "Extra headers.", default=default_of(BusyRoute, "headers"))
    timeout_sec: float = key(
        seconds(), "How long the whole exchange may take.", default=default_of(BusyRoute, "timeout_sec"), unit="s"
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
        default=default_of(ConsumerSpec, "preset"),
    )
    model: str = key(
        Text("name of a model", most=256),
        "The model that the preset's routes load and unload, spelled as the server lists it.",
        default="",
    )
    unit: str = key(
        Text("name of a unit", validators.unit_name),
        "The systemd unit it runs in: started to load it, stopped to evict it.",
        default=default_of(ConsumerSpec, "unit"),
    )
    url: str = key(Text("URL", validators.url), "Where its HTTP routes are.", default=default_of(ConsumerSpec, "url"))
    headers: tuple[tuple[str, str], ...] = key(
        headers(), "Extra headers of all its routes.", default=default_of(ConsumerSpec, "headers")
    )
    key_file: str = key(
        Text("absolute path", validators.absolute_path),
        "A file that holds the key it asks for, on one line; gpumand's user must be able to read it.",
        default="",
    )
    key_header: str = key(
        Text("header", validators.key_header),
        "The header that carries the key, with {key} where it goes.",
        default=validators.KEY_HEADER,
    )
    health: HealthRoute | None = key(
        TableOf(HealthTable, HealthRoute), "How to ask it how it is.", default=default_of(ConsumerSpec, "health")
    )
    busy: BusyRoute | None = key(
        TableOf(BusyTable, BusyRoute),
        "How to ask it whether it works; while it does it is not evicted.",
        default=default_of(ConsumerSpec, "busy"),
    )
    busy_grace_sec: float = key(
        Decimal(0, MAX_SEC),
        "How long others wait for it while it works, from when they first needed its room; then busy_after holds.",
        default=default_of(ConsumerSpec, "busy_grace_sec"),
        unit="s",
    )
    busy_after: BusyAfter = key(
        Choice(tuple(one.value for one in BusyAfter), BusyAfter),
        "What comes then: wait lets it finish, however long that takes; evict evicts it all the same; refuse refuses "
        "who needs its room.",
        default=default_of(ConsumerSpec, "busy_after"),
    )
    load: Route | None = key(
        TableOf(RouteTable, Route),
        "How to have it load; without it, it loads on its first request or with its unit.",
        default=default_of(ConsumerSpec, "load"),
    )
    unload: Route | None = key(
        TableOf(RouteTable, Route), "How to have it give its memory back.", default=default_of(ConsumerSpec, "unload")
    )
    evict: tuple[EvictionMethod, ...] = key(
        ListOf(Choice(tuple(one.value for one in EvictionMethod), EvictionMethod), least=1),
        "Methods of eviction in the order in which they are tried; by default http where there is an unload route, "
        "then unit-stop where there is a unit.",
        default=default_of(ConsumerSpec, "evict"),
    )
    can_coexist_with: frozenset[str] = key(
        ListOf(Text("name of a consumer"), make=frozenset, most=512),
        "Consumers that are never evicted for this one.",
        default=default_of(ConsumerSpec, "can_coexist_with"),
    )
    vram_managed: bool = key(
        Flag(),
        "It manages its own memory (as ollama does): it is never evicted for another.",
        default=default_of(ConsumerSpec, "vram_managed"),
    )
    residual_mib: int = key(
        Whole(0, MAX_MIB),
        "What stays in VRAM after its unload route did its work (a CUDA context, mostly).",
        default=default_of(ConsumerSpec, "residual_mib"),
        unit="MiB",
    )
    idle_timeout_sec: float = key(
        Decimal(0, MAX_SEC),
        "Evicted after so long without a lease; 0 = never.",
        default=default_of(ConsumerSpec, "idle_timeout_sec"),
        unit="s",
    )
    load_timeout_sec: float = key(
        seconds(),
        "How long loading may take before it counts as failed.",
        default=default_of(ConsumerSpec, "load_timeout_sec"),
        unit="s",
    )
    stop_timeout_sec: float = key(
        seconds(),
        "How long stopping its unit may take before that counts as failed.",
        default=default_of(ConsumerSpec, "stop_timeout_sec"),
        unit="s",
    )
    priority: int = key(
        Whole(MIN_PRIORITY, MAX_PRIORITY),
        "Requests for a consumer of higher priority go first.",
        default=default_of(ConsumerSpec, "priority"),
    )
    pinned: bool = key(
        Flag(), "It is never evicted, until it is unpinned by hand.", default=default_of(ConsumerSpec, "pinned")
    )
    parks: bool = key(
        Flag(),
        "Its unload route leaves its weights in host RAM, from where it loads fast; it is called only while there is "
        "room for them.",
        default=default_of(ConsumerSpec, "parks"),
    )
    parked_host_mib: int | None = key(
        Whole(0, MAX_MIB),
        "What it holds of host RAM while it is parked; by default its footprint, on each of its devices.",
        default=default_of(ConsumerSpec, "parked_host_mib"),
        unit="MiB",
    )
    device: tuple[str, ...] = key(
        ListOf(_Device(), least=1, most=MAX_DEVICES, single=True),
        "The device it runs on; by default the one where it fits at the least cost. Of a list, it takes all of them at "
        "once, or device_count of them.",
        default=default_of(ConsumerSpec, "devices"),
    )
    device_count: int | None = key(
        Whole(1, MAX_DEVICES),
        "How many devices it runs on at once, its footprint on each of them; by default as many as device names, else "
        "one. It gets all of them or none.",
        default=None,
    )
