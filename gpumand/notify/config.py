"""Reads /etc/gpumand/notify.toml: hooks that are run or called for events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpumand.config import validators
from gpumand.config.files import read
from gpumand.config.problems import Document, Place, ProblemList, quoted
from gpumand.config.quantities import Seconds
from gpumand.config.shared_keys import headers
from gpumand.config.table_schema import INVALID, key, keys_table, read_keys, type_name, with_defaults
from gpumand.config.value_types import Choice, Integer, InvalidValue, ListOf, Text
from gpumand.domain.name_suggestions import nearest
from gpumand.notify.notices import FAILURES, NoticeKind

DEFAULT_FILE = Path("/etc/gpumand/notify.toml")
MAX_HOOKS = 16
MAX_WORDS = 64


def _webhook(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(one.isspace() for one in text):
        raise InvalidValue(f"{quoted(text)} is not a URL such as https://chat.example.org/hooks/0123456789")
    if parts.username or parts.password:
        raise InvalidValue("has a user name or password: use headers, such as Authorization")
    return text


@keys_table
class HookTable:
    """``[hooks.NAME]``: what to do at events."""

    events: tuple[str, ...] = key(
        ListOf(Choice(tuple(NoticeKind)), single=True), "Events of the hook.", default=tuple(map(str, FAILURES))
    )
    command: tuple[str, ...] = key(
        ListOf(Text("word of a command"), max_length=MAX_WORDS),
        "Command to run: an absolute path and its arguments. It gets the notice as JSON on standard input, and its "
        "values in GPUMAND_EVENT, GPUMAND_CONSUMER and GPUMAND_TEXT.",
        default=(),
    )
    webhook: str = key(Text("URL", _webhook), "URL that receives the notice as a POST request with JSON.", default="")
    headers: tuple[tuple[str, str], ...] = key(headers(), "Headers of the request to the webhook.", default=())
    wait_sec: float = key(
        Seconds(1, 86400), "Time after which a waiting request is a long wait.", default=60.0, unit="s"
    )
    min_interval_sec: float = key(
        Seconds(0, 86400),
        "Shortest time between two deliveries. Events in between are delivered together with the next one.",
        default=10.0,
        unit="s",
    )
    max_per_hour: int = key(Integer(1, 3600), "Maximum number of deliveries in an hour.", default=30)
    timeout_sec: float = key(
        Seconds(1, 300), "Time after which a command is killed, or a webhook counts as failed.", default=10.0, unit="s"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One hook; the fields are the keys of ``HookTable``.

    Attributes:
        name: name of the hook.
    """

    name: str
    events: tuple[str, ...] = tuple(map(str, FAILURES))
    command: tuple[str, ...] = ()
    webhook: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    wait_sec: float = 60.0
    min_interval_sec: float = 10.0
    max_per_hour: int = 30
    timeout_sec: float = 10.0


TABLES: dict[str, type[Any]] = {"hooks.NAME": HookTable}
"""All tables of the configuration, in the order of the reference."""


def load(path: Path | None = None) -> tuple[Hook, ...]:
    """Read the hooks. This function blocks while it reads the file.

    Args:
        path: the file; None reads ``DEFAULT_FILE``.

    Raises:
        ConfigProblems: the configuration cannot be used; the exception lists all problems.
    """
    problems = ProblemList()
    file = path or DEFAULT_FILE
    document = read(file, problems)
    hooks = _hooks(document, problems) if document else ()
    problems.raise_any([str(file)])
    return hooks


def _hooks(document: Document, problems: ProblemList) -> tuple[Hook, ...]:
    place = Place(document)
    for name in document.table.keys() - {"hooks"}:
        problems.add(place.at(name), "unknown table", nearest(name, ("hooks",)))
    raw = document.table.get("hooks", {})
    if not isinstance(raw, dict):
        problems.add(place.at("hooks"), f"must be a table that contains one table per hook, not {type_name(raw)}")
        return ()
    if len(raw) > MAX_HOOKS:
        problems.add(place.at("hooks"), f"has {len(raw)} hooks, more than the maximum of {MAX_HOOKS}")
        return ()
    return tuple(_hook(name, table, place.at("hooks", name), problems) for name, table in raw.items())


def _hook(name: str, raw: object, place: Place, problems: ProblemList) -> Hook:
    if not validators.CONSUMER_NAME.fullmatch(name):
        problems.add(place, "is not a valid name: use letters, digits, dots, underscores and hyphens")
    keys: dict[str, Any] = with_defaults(HookTable, read_keys(HookTable, raw, place, problems))
    if INVALID not in (keys["command"], keys["webhook"]):
        if bool(keys["command"]) == bool(keys["webhook"]):
            problems.add(place, "needs either a command or a webhook")
        elif keys["command"] and not keys["command"][0].startswith("/"):
            problems.add(place.at("command"), "must begin with an absolute path")
    return Hook(name=name, **keys)
