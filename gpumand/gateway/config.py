"""Reads /etc/gpumand/gateway.toml, the configuration of the gateway; every error has its file, line and key."""

# ruff: noqa: RUF009 - key() is a field specifier, evaluated once for each class as it should be

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumand.config import validators
from gpumand.config.busy_schema import BusyTable
from gpumand.config.files import read, read_key_file
from gpumand.config.presets import preset_names
from gpumand.config.problems import Document, Place, ProblemList, quoted
from gpumand.config.quantities import Seconds
from gpumand.config.routes_schema import rules
from gpumand.config.shared_keys import MAX_SEC, seconds
from gpumand.config.table_schema import INVALID, TableOf, key, keys_table, read_keys, type_name, with_defaults
from gpumand.config.value_types import Boolean, Choice, Integer, InvalidValue, ListOf, Text
from gpumand.domain.consumer import BusyRoute
from gpumand.domain.name_suggestions import nearest
from gpumand.domain.request_limits import MAX_PRIORITY, MIN_PRIORITY
from gpumand.gateway.access_config import check_access, listen_at, read_client_keys
from gpumand.gateway.entrance_config import (
    GATEWAY,
    EntranceSettings,
    EntranceTable,
    ModelTable,
    PathTable,
    consumer_name,
    read_models,
    read_routes,
)
from gpumand.gateway.fleet_config import FleetSettings, FleetTable, read_fleet

DEFAULT_FILE = Path("/etc/gpumand/gateway.toml")
DEFAULT_STATE_DIR = "/var/lib/gpumand-gateway"
MAX_LISTENERS = 256


def _preset(text: str) -> str:
    if text not in preset_names():
        raise InvalidValue(f"there is no preset {quoted(text)}", nearest(text, preset_names()))
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """One service that the gateway offers; the fields are the keys of ``ListenerTable``.

    Attributes:
        name: name of the listener.
        key: content of ``key_file``.
    """

    name: str
    listen: tuple[str, ...] = ()
    consumer: str = ""
    preset: str = ""
    priority: int | None = None
    websocket: str = ""
    ws_idle_sec: float = 30.0
    allow: tuple[str, ...] = ()
    busy: BusyRoute | None = None
    busy_grace_sec: float = 60.0
    max_job_sec: float = 0.0
    forward_user: bool = False
    early_status: bool = False
    slots: int = 0
    reserved_slots: int = 0
    key_file: str = ""
    key: str = field(default="", repr=False)


_LISTENER = ListenerSettings(name="")


@keys_table
class ListenerTable:
    """``[gateway.listeners.NAME]``: an address at which clients find one consumer."""

    listen: tuple[str, ...] = key(
        ListOf(Text("address and port, or unix:PATH", listen_at), max_length=8, single=True),
        "Listen address: an IP address and port, such as 127.0.0.1:8188, or unix: and the path of a socket, or "
        "a list of them. Without it, the listener uses the sockets that systemd passes under its name.",
        default=(),
    )
    consumer: str = key(
        Text("name of a consumer", consumer_name), "Consumer that serves the requests. By default NAME.", default=""
    )
    preset: str = key(
        Text("name of a preset", _preset),
        "Preset whose routes apply. By default the preset of the consumer in gpumand's configuration.",
        default="",
    )
    priority: int | None = key(
        Integer(MIN_PRIORITY, MAX_PRIORITY),
        "Priority of requests whose API key has none. By default that of the consumer.",
        default=_LISTENER.priority,
    )
    websocket: str = key(
        Choice(("look", "work")),
        "Class of WebSocket connections. look passes them while the server runs and needs no lease; work holds a lease "
        "while messages are exchanged. By default as in the preset.",
        default="",
    )
    ws_idle_sec: float = key(
        seconds(),
        "Idle time of a WebSocket of class work: its lease ends after this time without a message. Ping and pong do "
        "not count.",
        default=_LISTENER.ws_idle_sec,
        unit="s",
    )
    allow: tuple[str, ...] = key(
        rules(),
        "Permitted routes of class never, such as POST /api/pull: routes that change the server, which clients may not "
        "use by default.",
        default=(),
    )
    busy: BusyRoute | None = key(
        TableOf(BusyTable, BusyRoute),
        "Busy check request, for requests that are answered before their work is done. By default that of the preset.",
        default=None,
    )
    busy_grace_sec: float = key(
        Seconds(0, MAX_SEC),
        "Grace period of such work: how long its lease is held while the busy check gives no answer.",
        default=_LISTENER.busy_grace_sec,
        unit="s",
    )
    max_job_sec: float = key(
        Seconds(0, MAX_SEC),
        "Maximum hold of such work, counted from its answer, for servers whose busy check may never become idle, such "
        "as one with a paused queue. 0 sets no limit.",
        default=_LISTENER.max_job_sec,
        unit="s",
    )
    forward_user: bool = key(
        Boolean(),
        "Names of users: pass on the headers X-OpenWebUI-User-*, with which Open WebUI can name its user.",
        default=False,
    )
    early_status: bool = key(
        Boolean(),
        "Interim status: answer 102 Processing at each drip_sec while the client of an image, of speech or of another "
        "answer without a text form waits. Browsers, httpx and undici (Node.js) ignore it or restart their time limit. "
        "Off by default, since urllib and requests of Python take it for the answer.",
        default=False,
    )
    slots: int = key(
        Integer(0, 1024),
        "Number of requests that the consumer works on at a time. Further ones wait, and slots are divided fairly "
        "between clients. 0 sets no limit.",
        default=_LISTENER.slots,
    )
    reserved_slots: int = key(
        Integer(0, 1024),
        "Number of these slots that only interactive API keys may use.",
        default=_LISTENER.reserved_slots,
    )
    key_file: str = key(
        Text("absolute path", validators.absolute_path),
        "File with the API key of the service itself, in one line, which the gateway sends as a Bearer token instead "
        "of the client's key. The user of the gateway must be able to read it.",
        default="",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(EntranceSettings):
    """The configuration of the gateway; the fields are the keys of ``GatewayTable``."""

    wait_sec: float = 290.0
    patience_sec: float = 10.0
    drip_sec: float = 5.0
    turn_sec: float = 2.0
    linger_sec: float = 5.0
    lease_ttl_sec: float = 120.0
    drain_sec: float = 30.0
    max_connections: int = 1024
    max_waiting: int = 512
    max_waiting_per_client: int = 64
    access_log: bool = False
    listeners: dict[str, ListenerSettings] = field(default_factory=dict)
    fleet: FleetSettings = FleetSettings()

    def all_listeners(self, passed: Collection[str] = ()) -> dict[str, ListenerSettings]:
        """The listeners to open by name, that of the gateway itself included if it has an address.

        Beside that one, a listener without an address only has the settings of its consumer.

        Args:
            passed: names of the sockets that systemd has passed.
        """
        if not self.listen and GATEWAY not in passed:
            return dict(self.listeners)
        services = {name: one for name, one in self.listeners.items() if one.listen or name in passed}
        return {GATEWAY: ListenerSettings(name=GATEWAY, listen=self.listen)} | services

    def of_consumer(self, name: str) -> ListenerSettings:
        """The settings of a consumer: those of its first listener, else the defaults."""
        found = next((one for one in self.listeners.values() if one.consumer == name), None)
        return found or ListenerSettings(name=name, consumer=name)


_DEFAULTS = GatewaySettings()


@keys_table
class GatewayTable(EntranceTable):
    """``[gateway]``: how the gateway waits, and which clients it accepts."""

    wait_sec: float = key(
        seconds(),
        "Maximum wait of a request for its lease. Many programs give up after 300 s, without saying why.",
        default=_DEFAULTS.wait_sec,
        unit="s",
    )
    patience_sec: float = key(
        Seconds(0, MAX_SEC),
        "Silence before the answer of a waiting request begins. After that, the client gets signs of life in the form "
        "of its API, and later errors come inside an answer with status 200.",
        default=_DEFAULTS.patience_sec,
        unit="s",
    )
    drip_sec: float = key(seconds(), "Interval between signs of life.", default=_DEFAULTS.drip_sec, unit="s")
    turn_sec: float = key(
        Seconds(0, MAX_SEC),
        "Turn of a consumer: while requests for others wait, new requests share a lease only for this time after its "
        "grant. After that they wait for a lease of their own.",
        default=_DEFAULTS.turn_sec,
        unit="s",
    )
    linger_sec: float = key(
        Seconds(0, MAX_SEC),
        "Lingering of a lease: how long it is kept after its last request while no other request waits.",
        default=_DEFAULTS.linger_sec,
        unit="s",
    )
    lease_ttl_sec: float = key(
        Seconds(10, MAX_SEC),
        "Duration of the gateway's leases. They are renewed at half of it, and end by themselves if the gateway "
        "crashes.",
        default=_DEFAULTS.lease_ttl_sec,
        unit="s",
    )
    drain_sec: float = key(
        Seconds(0, 3600),
        "Time that requests in flight have to end when the gateway is stopped.",
        default=_DEFAULTS.drain_sec,
        unit="s",
    )
    access_log: bool = key(
        Boolean(),
        "Access log: one line in the journal for each request, with client, model, status, wait and duration. It has "
        "no bodies, queries or keys. Pages and programs that poll a service cause most of its lines.",
        default=_DEFAULTS.access_log,
    )
    max_connections: int = key(
        Integer(1, 65536), "Maximum number of connections of clients.", default=_DEFAULTS.max_connections
    )
    max_waiting: int = key(Integer(1, 65536), "Maximum number of waiting requests.", default=_DEFAULTS.max_waiting)
    max_waiting_per_client: int = key(
        Integer(1, 65536),
        "Maximum number of waiting requests of one client. It does not apply to programs of this host, which share one "
        "address.",
        default=_DEFAULTS.max_waiting_per_client,
    )


TABLES: dict[str, type[Any]] = {
    "gateway": GatewayTable,
    "gateway.listeners.NAME": ListenerTable,
    "gateway.models.NAME": ModelTable,
    "gateway.routes.PATH": PathTable,
    "gateway.fleet": FleetTable,
}
"""All tables of the configuration, in the order of the reference."""


def state_dir(settings: GatewaySettings) -> Path:
    """The directory of lists and uploads."""
    passed = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(settings.state_dir or passed or DEFAULT_STATE_DIR)


def load(path: Path | None = None) -> GatewaySettings:
    """Read the configuration. This function blocks while it reads the file.

    Args:
        path: the file; None reads ``DEFAULT_FILE``, which need not exist.

    Raises:
        ConfigProblems: the configuration cannot be used; the exception lists all problems.
    """
    problems = ProblemList()
    file = path or DEFAULT_FILE
    document = read(file, problems, optional=path is None)
    settings = _settings(document, problems) if document else GatewaySettings()
    problems.raise_any([str(file)])
    return settings


def _settings(document: Document, problems: ProblemList) -> GatewaySettings:
    place = Place(document)
    for name in document.table.keys() - {"gateway"}:
        problems.add(place.at(name), "unknown table", nearest(name, ("gateway",)))
    raw = document.table.get("gateway", {})
    tables: dict[str, object] = {"listeners": {}, "models": {}, "routes": {}, "fleet": {}}
    if isinstance(raw, dict):
        raw = dict(raw)
        tables = {name: raw.pop(name, {}) for name in tables}
    given = with_defaults(GatewayTable, read_keys(GatewayTable, raw, place.at("gateway"), problems))
    listeners = _listeners(tables["listeners"], place.at("gateway", "listeners"), problems)
    models, discover = read_models(tables["models"], place.at("gateway", "models"), problems)
    routes = read_routes(tables["routes"], place.at("gateway", "routes"), problems)
    fleet = read_fleet(tables["fleet"], place.at("gateway", "fleet"), problems)
    _check_addresses({GATEWAY: given["listen"]} | _listens(listeners), place.at("gateway"), problems)
    keys = read_client_keys(given["keys_file"], problems)
    parts = {"listeners": listeners, "models": models, "routes": routes, "discover": discover, "fleet": fleet}
    settings = GatewaySettings(**given, **parts, keys=keys)
    listens: dict[tuple[str, ...], Any] = {("listeners", name, "listen"): one.listen for name, one in listeners.items()}
    check_access(settings, {("listen",): settings.listen, **listens}, place.at("gateway"), problems)
    return settings


def _listeners(raw: object, place: Place, problems: ProblemList) -> dict[str, ListenerSettings]:
    if not isinstance(raw, dict):
        problems.add(place, f"must be a table that contains one table per listener, not {type_name(raw)}")
        return {}
    if len(raw) > MAX_LISTENERS:
        problems.add(place, f"has {len(raw)} listeners, more than the maximum of {MAX_LISTENERS}")
        return {}
    return {name: _listener(name, table, place.at(name), problems) for name, table in raw.items()}


def _listener(name: str, raw: object, place: Place, problems: ProblemList) -> ListenerSettings:
    if not validators.CONSUMER_NAME.fullmatch(name):
        problems.add(place, "is not a valid name: use letters, digits, dots, underscores and hyphens")
    if name == GATEWAY:
        problems.add(place, "is the name of the gateway itself: choose another one, and set consumer")
    keys: dict[str, Any] = with_defaults(ListenerTable, read_keys(ListenerTable, raw, place, problems))
    if INVALID not in (slots := (keys["slots"], keys["reserved_slots"])) and slots[1] >= max(slots[0], 1):
        problems.add(place.at("reserved_slots"), "must be less than slots, or other requests would wait for ever")
    file = keys["key_file"]
    secret = read_key_file(Path(file), place.at("key_file"), problems) if file and file is not INVALID else ""
    return ListenerSettings(name=name, key=secret, **(keys | {"consumer": keys["consumer"] or name}))


def _listens(listeners: dict[str, ListenerSettings]) -> dict[str, Any]:
    return {name: one.listen for name, one in listeners.items() if name != GATEWAY}


def _check_addresses(listens: dict[str, Any], place: Place, problems: ProblemList) -> None:
    first: dict[str, str] = {}
    for name, addresses in listens.items():
        for address in () if addresses is INVALID else addresses:
            if (owner := first.setdefault(address, name)) != name:
                what = "listen of [gateway]" if owner == GATEWAY else f"the listener {owner}"
                problems.add(place.at("listeners", name, "listen"), f"{address} is already used by {what}")
