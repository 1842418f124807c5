"""The API keys of the gateway's clients: /etc/gpumand/gateway-keys.toml, which has their hashes only."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpumand.config.files import read
from gpumand.config.problems import Document, Place, ProblemList, quoted
from gpumand.config.table_schema import INVALID, check_required, key, keys_table, read_keys, type_name, with_defaults
from gpumand.config.validators import CONSUMER_NAME
from gpumand.config.value_types import Boolean, Integer, InvalidValue, ListOf, Text
from gpumand.config.whole_file import write_whole
from gpumand.domain.request_limits import MAX_PRIORITY, MIN_PRIORITY

DEFAULT_KEYS_FILE = Path("/etc/gpumand/gateway-keys.toml")
PREFIX = "gpumand-"
"""Beginning of keys, so that a key that was published by mistake can be recognised."""

KEY_BYTES = 32
MAX_KEYS = 1024
NEW_FILE_MODE = 0o640
GATEWAY_GROUP = "_gpumand-gateway"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text.lower()):
        # The value is not quoted: it may be the key itself.
        raise InvalidValue("is not a SHA-256 hash: 64 hexadecimal digits. Create keys with gpumanctl gateway key add")
    return text.lower()


def _consumer(text: str) -> str:
    if not CONSUMER_NAME.fullmatch(text):
        raise InvalidValue(f"{quoted(text)} is not the name of a consumer")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKey:
    """One key; the fields are the keys of ``KeyTable``.

    Attributes:
        name: name of the key, which lists and logs show instead of the client's address.
        consumers: the consumers that its clients may use; None = all.
    """

    name: str
    sha256: str = field(repr=False)
    priority: int | None = None
    consumers: frozenset[str] | None = None
    evict: bool = False
    interactive: bool = False


@keys_table
class KeyTable:
    """``[keys.NAME]``: a key of one or several clients."""

    sha256: str = key(Text("SHA-256 hash", _sha256), "SHA-256 hash of the key, in hexadecimal digits.")
    priority: int | None = key(
        Integer(MIN_PRIORITY, MAX_PRIORITY),
        "Priority of its requests. By default that of the listener, and without one that of the consumer.",
        default=None,
    )
    consumers: frozenset[str] | None = key(
        ListOf(Text("name of a consumer", _consumer), frozenset),
        "Consumers that its clients may use. By default all.",
        default=None,
    )
    evict: bool = key(
        Boolean(), "Permission to load, evict and pin consumers, and to cancel requests of others.", default=False
    )
    interactive: bool = key(
        Boolean(), "Use of the slots that consumers reserve for people who wait for an answer.", default=False
    )


def load_keys(path: Path, problems: ProblemList, *, optional: bool) -> tuple[GatewayKey, ...]:
    """Read the keys (blocks); problems are added to ``problems``."""
    document = read(path, problems, optional=optional)
    if document is None:
        return ()
    place = Place(document)
    for name in document.table.keys() - {"keys"}:
        problems.add(place.at(name), "unknown table", "keys")
    return _keys(document, document.table.get("keys", {}), problems)


def _keys(document: Document, raw: object, problems: ProblemList) -> tuple[GatewayKey, ...]:
    place = Place(document, ("keys",))
    if not isinstance(raw, dict):
        problems.add(place, f"must be a table that contains one table per key, not {type_name(raw)}")
        return ()
    if len(raw) > MAX_KEYS:
        problems.add(place, f"has {len(raw)} keys, more than the maximum of {MAX_KEYS}")
        return ()
    found = [_key(name, table, place.at(name), problems) for name, table in raw.items()]
    first: dict[str, str] = {}
    for one in found:
        if one is not None and (owner := first.setdefault(one.sha256, one.name)) != one.name:
            problems.add(place.at(one.name, "sha256"), f"is already the hash of the key {owner}")
    return tuple(one for one in found if one is not None)


def _key(name: str, raw: object, place: Place, problems: ProblemList) -> GatewayKey | None:
    if not _NAME.fullmatch(name):
        problems.add(place, "is not a valid name: use letters, digits, dots, underscores and hyphens")
    given = read_keys(KeyTable, raw, place, problems)
    check_required(KeyTable, given, place, problems)
    if "sha256" not in given or INVALID in given.values():
        return None
    return GatewayKey(name=name, **with_defaults(KeyTable, given))


def hash_of(secret: str) -> str:
    """The hash of a key. A key has 256 random bits, so that a slow hash would add nothing."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def new_secret() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def is_key_name(name: str) -> bool:
    """Whether a key may have this name."""
    return _NAME.fullmatch(name) is not None


def key_table(
    name: str, sha256: str, priority: int | None, consumers: Sequence[str], *, evict: bool, interactive: bool
) -> str:
    """The table of a key as text."""
    lines = [f"[keys.{_quoted(name)}]", f'sha256 = "{sha256}"']
    lines += [f"priority = {priority}"] if priority is not None else []
    lines += [f"consumers = {json.dumps(list(consumers))}"] if consumers else []
    lines += [f"{word} = true" for word, has in (("evict", evict), ("interactive", interactive)) if has]
    return "\n".join(lines) + "\n"


def add_key(path: Path, table: str) -> None:
    """Append a table to the file; owner, group and mode of the file stay (blocks). Raises OSError."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    _replace(path, f"{old.rstrip()}\n\n{table}".lstrip())


def remove_key(path: Path, name: str) -> bool:
    """Remove the table of a key; False if it has no header line of its own (blocks). Raises OSError."""
    old = path.read_text(encoding="utf-8")
    header = rf"^[ \t]*\[[ \t]*keys[ \t]*\.[ \t]*(?:{re.escape(name)}|[\"']{re.escape(name)}[\"'])[ \t]*\][^\n]*\n?"
    found = re.search(header, old, re.MULTILINE)
    if found is None:
        return False
    following = re.search(r"^[ \t]*\[", old[found.end() :], re.MULTILINE)
    rest = old[found.end() + following.start() :] if following else ""
    _replace(path, f"{old[: found.start()].rstrip()}\n\n{rest}".lstrip())
    return True


def _quoted(name: str) -> str:
    # A dot would begin a table inside the table.
    return f'"{name}"' if "." in name else name


def _replace(path: Path, content: str) -> None:
    about = path.stat() if path.exists() else None
    folder = path.parent.stat()

    def set_permissions(descriptor: int) -> None:
        os.fchmod(descriptor, NEW_FILE_MODE if about is None else stat.S_IMODE(about.st_mode))
        owner, group = (-1, _gateway_group(folder.st_gid)) if about is None else (about.st_uid, about.st_gid)
        os.fchown(descriptor, owner, group)

    write_whole(path, content.encode(), set_permissions)


def _gateway_group(default: int) -> int:
    """The group of a new file: that of the gateway, which has to read it."""
    try:
        return grp.getgrnam(GATEWAY_GROUP).gr_gid if os.geteuid() == 0 else default
    except KeyError:
        return default
