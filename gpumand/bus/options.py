"""The options callers send (``a{sv}``), checked and turned into our own values.

Unknown options are refused by name: a misspelled ``timeout_usec`` that is silently ignored costs more than an error.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dbus_fast import Variant

from gpumand.bus.errors import shown
from gpumand.domain.errors import InvalidArgs, LimitsExceeded
from gpumand.domain.history import MAX_ENTRIES, EntryKind, Query
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import DEFAULT_TIMEOUT_SEC, MAX_PRIORITY, MAX_WAIT_SEC, MIN_PRIORITY, AcquireOptions

MAX_STRING_BYTES = 1024
MAX_TTL_SEC = 366 * 24 * 3600.0
"""A lease that lasts for ever is asked for as ``connection`` or ``unit``; this one ends within a year."""

USEC_PER_SEC = 1_000_000

MAX_USEC = 2**63 - 1
MAX_KINDS = 64
DEFAULT_ENTRIES = 100

Options = Mapping[str, Variant]

ACQUIRE_OPTIONS = {
    "lifetime": "s",
    "ttl_usec": "t",
    "timeout_usec": "t",
    "priority": "i",
    "device": "s",
    "reason": "s",
    "token": "s",
}
LOAD_OPTIONS = {"device": "s", "timeout_usec": "t"}
EVICT_OPTIONS = {"force": "b", "timeout_usec": "t", "method": "s"}
HISTORY_OPTIONS = {"since_usec": "t", "until_usec": "t", "consumer": "s", "kinds": "as", "limit": "u"}

_INTEGERS = frozenset("ynqiuxt")
_EXPECTED = {
    "s": "a string (s)",
    "as": "a list of strings (as)",
    "b": "a boolean (b)",
    "i": "an integer (i)",
    "t": "an integer of 0 or more (t)",
    "u": "an integer of 0 or more (u)",
}
_CONTROL = frozenset({"Cc", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The options of ``Load``; device is index or UUID, "" for the consumer's own."""

    device: str = ""
    timeout_sec: float = DEFAULT_TIMEOUT_SEC


@dataclass(frozen=True, slots=True)
class EvictOptions:
    """The options of ``Evict``; force also evicts what is leased or pinned; method is the only one to be used."""

    force: bool = False
    timeout_sec: float = DEFAULT_TIMEOUT_SEC
    method: str = ""


def acquire_options(options: Options) -> AcquireOptions:
    """Check the options of ``Acquire`` and ``Plan``.

    Raises:
        InvalidArgs: an option is unknown, of the wrong type or out of range.
        LimitsExceeded: a string is too long.
    """
    values = _checked(options, ACQUIRE_OPTIONS)
    lifetime = _lifetime(values.get("lifetime", LeaseLifetime.TTL.value))
    return AcquireOptions(
        lifetime=lifetime,
        ttl_sec=_ttl(values["ttl_usec"], lifetime) if "ttl_usec" in values else None,
        timeout_sec=_timeout(values),
        priority=_priority(values["priority"]) if "priority" in values else None,
        device=values.get("device", ""),
        reason=_one_line("reason", values.get("reason", "")),
        token=_one_line("token", values.get("token", "")),
    )


def load_options(options: Options) -> LoadOptions:
    """Check the options of ``Load``; raises like ``acquire_options``."""
    values = _checked(options, LOAD_OPTIONS)
    return LoadOptions(device=values.get("device", ""), timeout_sec=_timeout(values))


def evict_options(options: Options) -> EvictOptions:
    """Check the options of ``Evict``; raises like ``acquire_options``."""
    values = _checked(options, EVICT_OPTIONS)
    return EvictOptions(values.get("force", False), _timeout(values), values.get("method", ""))


def history_query(options: Options) -> Query:
    """Check the options of ``GetHistory``; raises like ``acquire_options``."""
    values = _checked(options, HISTORY_OPTIONS)
    return Query(
        since_usec=min(values.get("since_usec", 0), MAX_USEC),
        until_usec=min(values.get("until_usec", 0), MAX_USEC),
        consumer=values.get("consumer", ""),
        kinds=frozenset(map(_kind, values.get("kinds", ())[:MAX_KINDS])),
        limit=min(values.get("limit", DEFAULT_ENTRIES), MAX_ENTRIES),
    )


def _kind(word: str) -> EntryKind:
    try:
        return EntryKind(word)
    except ValueError:
        known = ", ".join(repr(kind.value) for kind in EntryKind)
        raise InvalidArgs(f"option 'kinds' may hold {known}, not {shown(word)}") from None


def renew_ttl_sec(ttl_usec: int) -> float | None:
    """The argument of ``Renew`` in seconds; None for 0: as long as it was granted for. Raises InvalidArgs."""
    return _ttl(ttl_usec, LeaseLifetime.TTL) if ttl_usec else None


def capped(what: str, text: str) -> str:
    """The text itself, when it is short enough. Raises LimitsExceeded, naming ``what`` it is."""
    if len(text.encode("utf-8", "replace")) > MAX_STRING_BYTES:
        raise LimitsExceeded(f"{what} is longer than {MAX_STRING_BYTES} bytes")
    return text


def _checked(options: Options, known: Mapping[str, str]) -> dict[str, Any]:
    return {name: _value(name, variant, _type_of(name, known)) for name, variant in options.items()}


def _type_of(name: str, known: Mapping[str, str]) -> str:
    signature = known.get(name)
    if signature is not None:
        return signature
    nearest = get_close_matches(name[:64], known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "there are " + ", ".join(known)
    raise InvalidArgs(f"unknown option {shown(name)}: {hint}")


def _value(name: str, variant: Variant, wanted: str) -> Any:
    given = variant.signature
    if wanted in _INTEGERS and given in _INTEGERS:
        return _integer(name, variant.value, wanted)
    if given != wanted:
        raise InvalidArgs(f"option {name!r} must be {_EXPECTED[wanted]}, not of type {shown(given)}")
    return capped(f"option {name!r}", variant.value) if wanted == "s" else variant.value


def _integer(name: str, value: int, wanted: str) -> int:
    """Clients differ in the integer type they pick (a shell's ``i``, a language's only one): the value counts."""
    if wanted in "tu" and value < 0:
        raise InvalidArgs(f"option {name!r} must be {_EXPECTED[wanted]}, not {value}")
    return value


def _lifetime(text: str) -> LeaseLifetime:
    try:
        return LeaseLifetime(text)
    except ValueError:
        known = ", ".join(repr(lifetime.value) for lifetime in LeaseLifetime)
        raise InvalidArgs(f"option 'lifetime' must be one of {known}, not {shown(text)}") from None


def _ttl(ttl_usec: int, lifetime: LeaseLifetime) -> float:
    if lifetime is not LeaseLifetime.TTL:
        raise InvalidArgs(f"option 'ttl_usec' is for lifetime 'ttl', not for {lifetime.value!r}")
    if not 0 < ttl_usec <= MAX_TTL_SEC * USEC_PER_SEC:
        raise InvalidArgs(f"ttl_usec must be more than 0 and at most {MAX_TTL_SEC * USEC_PER_SEC:.0f}, not {ttl_usec}")
    return ttl_usec / USEC_PER_SEC


def _timeout(values: Mapping[str, Any]) -> float:
    if "timeout_usec" not in values:
        return DEFAULT_TIMEOUT_SEC
    return min(float(values["timeout_usec"]) / USEC_PER_SEC, MAX_WAIT_SEC)


def _priority(value: int) -> int:
    if not MIN_PRIORITY <= value <= MAX_PRIORITY:
        raise InvalidArgs(f"option 'priority' must be from {MIN_PRIORITY} to {MAX_PRIORITY}, not {value}")
    return value


def _one_line(name: str, text: str) -> str:
    """Refuse what could move a terminal's cursor: the text is shown to others."""
    if any(unicodedata.category(character) in _CONTROL for character in text):
        raise InvalidArgs(f"option {name!r} must be one line without control characters")
    return text
