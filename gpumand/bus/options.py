"""Checks the options dictionaries (``a{sv}``) of method calls and converts them into gpumand's types.

Unknown options are refused by name, since an ignored typo in ``timeout_usec`` would be harder to find than an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dbus_fast import Variant

from gpumand.bus.errors import quoted
from gpumand.domain.driver_release import DEFAULT_RELEASE_SEC, MAX_RELEASE_SEC, ReleaseOptions
from gpumand.domain.errors import InvalidArgs, LimitsExceeded
from gpumand.domain.history import MAX_ENTRIES, EntryKind, HistoryQuery
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import DEFAULT_TIMEOUT_SEC, AcquireOptions
from gpumand.domain.request_limits import MAX_PRIORITY, MAX_WAIT_SEC, MIN_PRIORITY
from gpumand.domain.reservation import MAX_VRAM_MIB

MAX_STRING_BYTES = 1024
MAX_TTL_SEC = 366 * 24 * 3600.0
"""The longest ttl. A lease without a time limit has the lifetime ``connection`` or ``unit`` instead."""

USEC_PER_SEC = 1_000_000

MAX_USEC = 2**63 - 1
MAX_KINDS = 64
MAX_WITHIN = 64
DEFAULT_ENTRIES = 100

NO_OPTIONS = AcquireOptions()

Options = Mapping[str, Variant]

ACQUIRE_OPTIONS = {
    "lifetime": "s",
    "ttl_usec": "t",
    "timeout_usec": "t",
    "priority": "i",
    "device": "s",
    "reason": "s",
    "token": "s",
    "vram_mib": "u",
    "all": "b",
    "restore": "b",
    "exclusive": "b",
    "yield_lease": "s",
    "within": "as",
    "on_behalf": "s",
}
LOAD_OPTIONS = {"device": "s", "timeout_usec": "t", "on_behalf": "s"}
EVICT_OPTIONS = {"force": "b", "timeout_usec": "t", "method": "s"}
RELEASE_OPTIONS = {"duration_usec": "t", "timeout_usec": "t", "force": "b", "bound": "b"}
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
    """The options of ``Load``.

    Attributes:
        device: index, UUID or PCI address; "" uses the consumer's configured device.
        timeout_sec: how long to wait for the load.
        on_behalf: as in ``AcquireOptions``.
    """

    device: str = ""
    timeout_sec: float = DEFAULT_TIMEOUT_SEC
    on_behalf: str = ""


@dataclass(frozen=True, slots=True)
class EvictOptions:
    """The options of ``Evict``.

    Attributes:
        force: also evict a consumer that is leased or pinned.
        timeout_sec: how long to wait for the eviction.
        method: the only method to use; "" tries all methods of the consumer in order.
    """

    force: bool = False
    timeout_sec: float = DEFAULT_TIMEOUT_SEC
    method: str = ""


def acquire_options(options: Options) -> AcquireOptions:
    """Check the options of ``Acquire`` and ``Plan``.

    Raises:
        InvalidArgs: an option is unknown, of the wrong type or out of range.
        LimitsExceeded: a string is too long.
    """
    if not options:
        return NO_OPTIONS
    fields: dict[str, Any] = {}
    # Only the given options are converted: nearly every call of a client has one or two of them.
    for name, variant in options.items():
        value = _value(name, variant, _type_of(name, ACQUIRE_OPTIONS))
        convert = _CONVERSIONS.get(name)
        fields[_FIELDS.get(name, name)] = value if convert is None else convert(value)
    if "ttl_usec" in fields:
        fields["ttl_sec"] = _ttl(fields.pop("ttl_usec"), fields.get("lifetime", LeaseLifetime.TTL))
    return AcquireOptions(**fields)


def load_options(options: Options) -> LoadOptions:
    """Check the options of ``Load``; raises like ``acquire_options``."""
    values = _checked(options, LOAD_OPTIONS)
    on_behalf = _one_line("on_behalf", values.get("on_behalf", ""))
    return LoadOptions(values.get("device", ""), _timeout(values), on_behalf)


def evict_options(options: Options) -> EvictOptions:
    """Check the options of ``Evict``; raises like ``acquire_options``."""
    values = _checked(options, EVICT_OPTIONS)
    return EvictOptions(values.get("force", False), _timeout(values), values.get("method", ""))


def release_options(options: Options) -> ReleaseOptions:
    """Check the options of ``ReleaseGpu``; raises like ``acquire_options``."""
    values = _checked(options, RELEASE_OPTIONS)
    duration_usec = values.get("duration_usec", int(DEFAULT_RELEASE_SEC * USEC_PER_SEC))
    most_usec = int(MAX_RELEASE_SEC * USEC_PER_SEC)
    if not 0 < duration_usec <= most_usec:
        raise InvalidArgs(f"option 'duration_usec' must be greater than 0 and at most {most_usec}, not {duration_usec}")
    timeout_sec = _timeout(values) if "timeout_usec" in values else ReleaseOptions().timeout_sec
    return ReleaseOptions(
        duration_usec / USEC_PER_SEC, timeout_sec, values.get("force", False), values.get("bound", False)
    )


def history_query(options: Options) -> HistoryQuery:
    """Check the options of ``GetHistory``; raises like ``acquire_options``."""
    values = _checked(options, HISTORY_OPTIONS)
    return HistoryQuery(
        since_usec=min(values.get("since_usec", 0), MAX_USEC),
        until_usec=min(values.get("until_usec", 0), MAX_USEC),
        consumer=values.get("consumer", ""),
        kinds=frozenset(map(_kind, values.get("kinds", ())[:MAX_KINDS])),
        limit=min(values.get("limit", DEFAULT_ENTRIES), MAX_ENTRIES),
    )


def _within(lease_ids: Sequence[str]) -> tuple[str, ...]:
    if len(lease_ids) > MAX_WITHIN:
        raise LimitsExceeded(f"option 'within' names {len(lease_ids)} leases; the limit is {MAX_WITHIN}")
    return tuple(check_length("a lease id in option 'within'", one) for one in lease_ids)


def _kind(word: str) -> EntryKind:
    try:
        return EntryKind(word)
    except ValueError:
        known = ", ".join(repr(kind.value) for kind in EntryKind)
        raise InvalidArgs(f"option 'kinds' may contain {known}, not {quoted(word)}") from None


def renew_ttl_sec(ttl_usec: int) -> float | None:
    """Return the argument of ``Renew`` in seconds; 0 becomes None, the granted ttl. Raises InvalidArgs."""
    return _ttl(ttl_usec, LeaseLifetime.TTL) if ttl_usec else None


def check_length(what: str, text: str) -> str:
    """Return the text if it is at most MAX_STRING_BYTES long. Raises LimitsExceeded with the noun phrase ``what``."""
    if len(text.encode("utf-8", "replace")) > MAX_STRING_BYTES:
        raise LimitsExceeded(f"{what} is longer than {MAX_STRING_BYTES} bytes")
    return text


def _checked(options: Options, known: Mapping[str, str]) -> dict[str, Any]:
    return {name: _value(name, variant, _type_of(name, known)) for name, variant in options.items()}


def _type_of(name: str, known: Mapping[str, str]) -> str:
    signature = known.get(name)
    if signature is not None:
        return signature
    # The module costs 0.2 MiB, and wrong names are rare.
    from difflib import get_close_matches

    nearest = get_close_matches(name[:64], known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "valid options are " + ", ".join(known)
    raise InvalidArgs(f"unknown option {quoted(name)}: {hint}")


def _value(name: str, variant: Variant, wanted: str) -> Any:
    given = variant.signature
    if wanted in _INTEGERS and given in _INTEGERS:
        return _integer(name, variant.value, wanted)
    if given != wanted:
        raise InvalidArgs(f"option {name!r} must be {_EXPECTED[wanted]}, not of type {quoted(given)}")
    return check_length(f"option {name!r}", variant.value) if wanted == "s" else variant.value


def _integer(name: str, value: int, wanted: str) -> int:
    """Check an integer by its value: clients differ in the type they send, and some languages have only one."""
    if wanted in "tu" and value < 0:
        raise InvalidArgs(f"option {name!r} must be {_EXPECTED[wanted]}, not {value}")
    return value


def _lifetime(text: str) -> LeaseLifetime:
    try:
        return LeaseLifetime(text)
    except ValueError:
        known = ", ".join(repr(lifetime.value) for lifetime in LeaseLifetime)
        raise InvalidArgs(f"option 'lifetime' must be one of {known}, not {quoted(text)}") from None


def _ttl(ttl_usec: int, lifetime: LeaseLifetime) -> float:
    if lifetime is not LeaseLifetime.TTL:
        raise InvalidArgs(f"option 'ttl_usec' needs lifetime 'ttl', not {lifetime.value!r}")
    if not 0 < ttl_usec <= MAX_TTL_SEC * USEC_PER_SEC:
        longest = f"{MAX_TTL_SEC * USEC_PER_SEC:.0f}"
        raise InvalidArgs(f"option 'ttl_usec' must be greater than 0 and at most {longest}, not {ttl_usec}")
    return ttl_usec / USEC_PER_SEC


def _timeout(values: Mapping[str, Any]) -> float:
    return _timeout_sec(values["timeout_usec"]) if "timeout_usec" in values else DEFAULT_TIMEOUT_SEC


def _timeout_sec(timeout_usec: int) -> float:
    return min(float(timeout_usec) / USEC_PER_SEC, MAX_WAIT_SEC)


def _priority(value: int) -> int:
    if not MIN_PRIORITY <= value <= MAX_PRIORITY:
        raise InvalidArgs(f"option 'priority' must be from {MIN_PRIORITY} to {MAX_PRIORITY}, not {value}")
    return value


def _vram(value: int) -> int:
    if not 1 <= value <= MAX_VRAM_MIB:
        raise InvalidArgs(f"option 'vram_mib' must be from 1 to {MAX_VRAM_MIB}, not {value}")
    return value


def _one_line(name: str, text: str) -> str:
    """Refuse control characters: the status shows the text in the terminals of other users."""
    if not text.isprintable() and _has_control_characters(text):
        raise InvalidArgs(f"option {name!r} must be one line without control characters")
    return text


def _has_control_characters(text: str) -> bool:
    # The module costs 0.1 MiB, and hardly any text has a character that may not be printable.
    import unicodedata

    return any(unicodedata.category(character) in _CONTROL for character in text)


_FIELDS = {"timeout_usec": "timeout_sec", "all": "whole_device"}
"""The fields of ``AcquireOptions`` whose name is not that of the option."""

_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "lifetime": _lifetime,
    "timeout_usec": _timeout_sec,
    "priority": _priority,
    "reason": partial(_one_line, "reason"),
    "token": partial(_one_line, "token"),
    "vram_mib": _vram,
    "within": _within,
    "on_behalf": partial(_one_line, "on_behalf"),
}
"""What becomes of the values of ``Acquire``'s options; the lifetime decides what becomes of ``ttl_usec``."""
