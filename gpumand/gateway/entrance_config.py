"""The configuration of the entrance: one address for all models, with the tables of models and of routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpumand.config import validators
from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.config.shared_keys import seconds
from gpumand.config.table_schema import check_required, key, keys_table, read_keys, type_name, with_defaults
from gpumand.config.value_types import Integer, InvalidValue, ListOf, Text
from gpumand.gateway.access_config import AccessSettings, AccessTable, listen_at

GATEWAY = "gateway"
"""Name of the listener at the gateway's own address, and of the socket that systemd passes for it; no consumer can have
a listener of that name."""

MAX_RULES = 1024
MAX_MODEL = 256
DISCOVER = "discover"


def consumer_name(text: str) -> str:
    """Check the name of a consumer."""
    if not validators.CONSUMER_NAME.fullmatch(text):
        raise InvalidValue(f"{quoted(text)} is not the name of a consumer")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or set(text) & set("?#%\\ ") or any(one in (".", "..") for one in text.split("/")):
        raise InvalidValue(f"{quoted(text)} is not a path: write, for example, /v1/tts")
    return text


def _model() -> Text:
    return Text("name of a model", max_length=MAX_MODEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRule:
    """Requests for models whose id matches ``pattern`` go to a consumer; ``as_`` replaces the model's name there."""

    pattern: str
    consumer: str
    as_: str = ""

    @property
    def is_glob(self) -> bool:
        """Whether the pattern may match several ids."""
        return any(one in self.pattern for one in "*?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRule:
    """Requests to a path go to a consumer; ``path`` replaces the path there."""

    pattern: str
    consumer: str
    path: str = ""


@keys_table
class ModelTable:
    """``[gateway.models]``: one entry for each model, whose name may contain ``*`` and ``?``."""

    consumer: str = key(Text("name of a consumer", consumer_name), "Consumer that serves the model.")
    as_: str = key(_model(), "Name of the model at the consumer. By default the name in the request.", default="")


@keys_table
class PathTable:
    """``[gateway.routes]``: one entry for each path that belongs to a consumer, whatever model a request names."""

    consumer: str = key(Text("name of a consumer", consumer_name), "Consumer that serves the path.")
    path: str = key(Text("path", _path), "Path at the consumer. By default the path of the request.", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntranceSettings(AccessSettings):
    """The entrance; the fields are the keys of ``EntranceTable`` and the tables of models and routes.

    Attributes:
        discover: consumers whose lists of models are asked for; None = all.
    """

    listen: tuple[str, ...] = ()
    default_model: str = ""
    state_dir: str = ""
    spool_max_mib: int = 1024
    home: tuple[str, ...] = ()
    home_after_sec: float = 60.0
    discover: tuple[str, ...] | None = None
    models: tuple[ModelRule, ...] = ()
    routes: tuple[PathRule, ...] = ()


_DEFAULTS = EntranceSettings()


@keys_table
class EntranceTable(AccessTable):
    """The keys of ``[gateway]`` that concern the entrance."""

    listen: tuple[str, ...] = key(
        ListOf(Text("address and port, or unix:PATH", listen_at), max_length=8, single=True),
        "Listen address of the gateway itself, for all models, the web page, the metrics and gpumanctl gateway: an "
        "IP address and port, such as 127.0.0.1:8770, or unix: and the path of a socket, or a list of them. "
        "Without it, the gateway uses the sockets that systemd passes under the name gateway.",
        default=(),
    )
    default_model: str = key(
        _model(),
        "Model of requests to the entrance that name none.",
        default=_DEFAULTS.default_model,
    )
    state_dir: str = key(
        Text("absolute path", validators.absolute_path),
        "Directory of the last known lists of models, of the list of held jobs, and of large uploads that wait. By "
        "default the state directory that systemd passes, else /var/lib/gpumand-gateway.",
        default=_DEFAULTS.state_dir,
    )
    spool_max_mib: int = key(
        Integer(0, 16 * 1024 * 1024),
        "Maximum size of all uploads that are kept in the state directory, because they name their model after a file.",
        default=_DEFAULTS.spool_max_mib,
        unit="MiB",
    )
    home: tuple[str, ...] = key(
        ListOf(Text("name of a consumer", consumer_name)),
        "Consumers that are loaded again when their device has been idle for a while, such as a chat model after an "
        "image was made. None of them is loaded if that evicts another one of them: the one in memory stays, and the "
        "first of the list is loaded first.",
        default=(),
    )
    home_after_sec: float = key(
        seconds(),
        "Idle time after which they are loaded: no lease on the device, no load, and no request that waits.",
        default=_DEFAULTS.home_after_sec,
        unit="s",
    )


def read_models(raw: object, place: Place, problems: ProblemList) -> tuple[tuple[ModelRule, ...], Any]:
    """Read ``[gateway.models]``; returns its rules and the value of ``discover``."""
    if not isinstance(raw, dict):
        problems.add(place, f"must be a table, not {type_name(raw)}")
        return (), None
    discover = _discover(raw.get(DISCOVER, True), place.at(DISCOVER), problems)
    entries = {name: value for name, value in raw.items() if name != DISCOVER}
    return tuple(ModelRule(**one) for one in _entries(entries, ModelTable, place, problems)), discover


def read_routes(raw: object, place: Place, problems: ProblemList) -> tuple[PathRule, ...]:
    """Read ``[gateway.routes]``."""
    if not isinstance(raw, dict):
        problems.add(place, f"must be a table, not {type_name(raw)}")
        return ()
    for name in raw:
        Text("path", _path).read(name, place.at(name), problems)
    return tuple(PathRule(**one) for one in _entries(raw, PathTable, place, problems))


def _discover(raw: object, place: Place, problems: ProblemList) -> Any:
    if isinstance(raw, bool):
        return None if raw else ()
    return ListOf(Text("name of a consumer", consumer_name)).read(raw, place, problems)


def _entries(raw: dict[str, Any], table: type[Any], place: Place, problems: ProblemList) -> list[dict[str, Any]]:
    """Read entries that are a table, or only the name of a consumer."""
    if len(raw) > MAX_RULES:
        problems.add(place, f"has {len(raw)} entries, more than the maximum of {MAX_RULES}")
        return []
    return [_entry(name, value, table, place.at(name), problems) for name, value in raw.items()]


def _entry(name: str, raw: object, table: type[Any], place: Place, problems: ProblemList) -> dict[str, Any]:
    Text("name", max_length=MAX_MODEL).read(name, place, problems)
    keys = {"consumer": raw} if isinstance(raw, str) else raw
    given = read_keys(table, keys, place, problems)
    check_required(table, given, place, problems)
    values = {"consumer": ""} | with_defaults(table, given)
    return {"pattern": name, **{"as_" if one == "as" else one: value for one, value in values.items()}}
