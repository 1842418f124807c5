"""Checks the arguments of calls and converts them to D-Bus options; omitted ones are left to the daemon."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gpumand.domain.errors import InvalidArgs

if TYPE_CHECKING:
    from datetime import datetime

Options = Mapping[str, tuple[str, Any]]
"""Options of a call by name: D-Bus signature and value."""

MAX_TTL_SEC = 100 * 365 * 86400.0
"""Maximum time to live: more than a century is a mistake, and would overflow elsewhere."""

MAX_ENTRIES = 1000
"""Maximum number of history entries in one answer."""


def to_usec(seconds: float) -> int:
    """Convert seconds to the microseconds that D-Bus options use."""
    return round(seconds * 1_000_000)


def wait_sec(timeout_sec: float | None) -> float:
    """The time to wait in seconds; None stands for the maximum of a day. Raises InvalidArgs."""
    from gpumand.domain.request_limits import MAX_WAIT_SEC

    if timeout_sec is None:
        return MAX_WAIT_SEC
    if not _is_number(timeout_sec) or math.isnan(timeout_sec) or timeout_sec < 0:
        raise InvalidArgs(f"timeout_sec must be 0 or more, not {timeout_sec!r}")
    return min(timeout_sec, MAX_WAIT_SEC)


def checked_text(name: str, value: str) -> str:
    """The value, if it is a string that D-Bus can carry. Raises InvalidArgs."""
    if not isinstance(value, str):
        raise InvalidArgs(f"{name} must be a string, not {value!r}")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidArgs(f"{name} contains characters that D-Bus cannot carry: {value!r}")
    return value


def acquire_options(
    lifetime: str,
    timeout_sec: float,
    *,
    ttl_sec: float | None = None,
    priority: int | None = None,
    **texts: str,
) -> dict[str, tuple[str, Any]]:
    """Options of Acquire; Load takes some of them.

    Args:
        lifetime: "ttl", "connection" or "unit"; "" = omitted.
        timeout_sec: seconds to wait, from 0 (do not wait) to a day.
        ttl_sec: time to live in seconds for "ttl"; None = as configured.
        priority: -100 to 100; None = the consumer's priority.
        texts: ``device``, ``reason``, ``token``, ``on_behalf``; "" = omitted.

    Raises:
        InvalidArgs: an argument is out of range.
    """
    options: dict[str, tuple[str, Any]] = {"lifetime": ("s", lifetime)} if lifetime else {}
    options["timeout_usec"] = ("t", to_usec(timeout_sec))
    if ttl_sec is not None:
        options["ttl_usec"] = ("t", ttl_usec(ttl_sec))
    return options | selection_options(priority, **texts)


def vram_options(vram_mib: int | None = None, whole_device: bool = False) -> dict[str, tuple[str, Any]]:
    """Options of a reservation; {} for a lease on a consumer. Raises InvalidArgs."""
    from gpumand.domain.reservation import MAX_VRAM_MIB

    if vram_mib is None:
        return {"all": ("b", True)} if whole_device else {}
    if whole_device:
        raise InvalidArgs("vram_mib and all exclude each other; give one of them")
    if not isinstance(vram_mib, int) or isinstance(vram_mib, bool) or not 1 <= vram_mib <= MAX_VRAM_MIB:
        raise InvalidArgs(f"vram_mib must be a number of MiB from 1 to {MAX_VRAM_MIB}, not {vram_mib!r}")
    return {"vram_mib": ("u", vram_mib)}


def restore_option(restore: bool) -> dict[str, tuple[str, Any]]:
    """The option that loads a consumer again after a loss; {} where it is not requested."""
    return {"restore": ("b", True)} if restore else {}


def checked_request(consumer: str, vram_mib: int | None, whole_device: bool) -> tuple[str, dict[str, tuple[str, Any]]]:
    """The consumer of a request and the options of its reservation. Raises InvalidArgs unless it has one of the two."""
    options = vram_options(vram_mib, whole_device)
    if checked_text("consumer", consumer) and options:
        raise InvalidArgs(f"a lease on {consumer} takes no {'/'.join(options)}; leave out the consumer to reserve VRAM")
    if not consumer and not options:
        raise InvalidArgs("a lease needs a consumer, or vram_mib or all to reserve VRAM without one")
    return consumer, options


def selection_options(priority: int | None = None, **texts: str) -> dict[str, tuple[str, Any]]:
    """Options for priority and strings, without the omitted ones. Raises InvalidArgs."""
    from gpumand.domain.request_limits import MAX_PRIORITY, MIN_PRIORITY

    options: dict[str, tuple[str, Any]] = {}
    if priority is not None:
        if not isinstance(priority, int) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
            raise InvalidArgs(f"priority must be from {MIN_PRIORITY} to {MAX_PRIORITY}, not {priority!r}")
        options["priority"] = ("i", priority)
    # Only "" and None are omitted: the number 0 as a device must be an error, not "any".
    given = {name: value for name, value in texts.items() if value not in ("", None)}
    return options | {name: ("s", checked_text(name, value)) for name, value in given.items()}


def ttl_usec(ttl_sec: float) -> int:
    """A time to live in microseconds. Raises InvalidArgs if it rounds to 0 or exceeds a century."""
    if not _is_number(ttl_sec) or not 0 < ttl_sec <= MAX_TTL_SEC or to_usec(ttl_sec) == 0:
        raise InvalidArgs(f"ttl_sec must be more than 0, not {ttl_sec!r}")
    return to_usec(ttl_sec)


def history_options(
    since: datetime | None, until: datetime | None, consumer: str, kinds: Iterable[str], limit: int
) -> dict[str, tuple[str, Any]]:
    """Options of GetHistory. Raises InvalidArgs."""
    if not isinstance(limit, int) or not 1 <= limit <= MAX_ENTRIES:
        raise InvalidArgs(f"limit must be from 1 to {MAX_ENTRIES}, not {limit!r}")
    options: dict[str, tuple[str, Any]] = {"limit": ("u", limit)} | selection_options(consumer=consumer)
    bounds = {"since": since, "until": until}
    options |= {f"{name}_usec": ("t", _usec_of(name, bound)) for name, bound in bounds.items() if bound is not None}
    wanted = [checked_text("kinds", kind) for kind in kinds]
    return options | ({"kinds": ("as", wanted)} if wanted else {})


def _usec_of(name: str, moment: datetime) -> int:
    usec = to_usec(moment.timestamp())
    if usec < 0:
        raise InvalidArgs(f"{name} is before 1970: {moment}")
    return usec


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
