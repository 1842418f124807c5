"""The row of this host, made of gpumand's status and of what it has learned about its consumers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpumand.domain.assumed_times import Start
from gpumand.domain.fleet import UNIQUE
from gpumand.domain.residency_states import Residency
from gpumand.fleet.json_fields import is_integer
from gpumand.fleet.keys import is_consumer_name
from gpumand.fleet.lease_limits import lease_limits
from gpumand.fleet.row_json import MAX_CONSUMERS, MAX_DEVICES
from gpumand.fleet.rows import ConsumerRow, DeviceRow, HostRow


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a row says about the host apart from gpumand's status.

    Attributes:
        machine_id: 32 hex digits.
        name: name of the host.
        url: URL of its agent.
        gateway_url: URL of its gateway; "" = none.
    """

    machine_id: str
    name: str
    url: str
    gateway_url: str = ""


def host_row(
    facts: HostFacts,
    status: Mapping[str, Any],
    learned: Mapping[str, Mapping[str, Any]],
    *,
    draining: bool = False,
    ram_mib: int | None = None,
) -> HostRow:
    """Build the row of this host; the publisher assigns its epoch and number.

    Args:
        facts: the host.
        status: the answer of GetStatus as plain values; {} while gpumand cannot be reached.
        learned: the property ``Learned`` of consumers, by name.
        draining: the host takes no new requests from other hosts.
        ram_mib: available RAM; None = unknown.
    """
    queue = _dicts(status, "queue")
    waiting = Counter(str(one.get("consumer", "")) for one in queue)
    entries = [one for one in _dicts(status, "consumers")[:MAX_CONSUMERS] if is_consumer_name(str(one.get("name", "")))]
    limits = lease_limits(status, entries, _dicts(status, "leases"))
    consumers = {
        name: replace(_consumer(one, waiting[name], learned.get(name, {})), limit=limits.get(name))
        for one in entries
        if (name := str(one["name"]))
    }
    return HostRow(
        machine_id=facts.machine_id,
        name=facts.name,
        url=facts.url,
        gateway=facts.gateway_url,
        version=_line(status.get("version", ""), 64),
        devices=tuple(_device(one) for one in _dicts(status, "devices")[:MAX_DEVICES]),
        ram_mib=ram_mib,
        consumers=consumers,
        queue=len(queue),
        draining=draining,
    )


def _dicts(status: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = status.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _device(entry: Mapping[str, Any]) -> DeviceRow:
    free = _number(entry.get("free_mib"))
    reserved = _number(entry.get("reserved_mib")) or 0
    # Memory of a consumer that is loading is promised, although the readings still show it as free.
    return DeviceRow(
        uuid=_line(entry.get("uuid", ""), 128),
        total_mib=_number(entry.get("total_mib")),
        free_mib=None if free is None else max(0, free - reserved),
    )


def _consumer(entry: Mapping[str, Any], queue: int, learned: Mapping[str, Any]) -> ConsumerRow:
    loads = _means(learned.get("loads"), "start")
    unloads = _means(learned.get("unloads"), "method")
    return ConsumerRow(
        residency=_residency(entry.get("residency")),
        need_mib=_number(entry.get("vram_resident_mib")),
        leases=_number(entry.get("leases")) or 0,
        queue=queue,
        load_ms=loads.get(Start.COLD, loads.get(Start.PARKED)),
        wake_ms=loads.get(Start.PARKED),
        park_ms=_first_method(entry.get("evict"), unloads),
        hold_ms=_mean(learned.get("holds")),
        device=_index(entry.get("device")),
        unique=entry.get("fleet") == UNIQUE,
    )


def _residency(word: object) -> Residency:
    try:
        return Residency(str(word))
    except ValueError:
        return Residency.UNKNOWN


def _first_method(methods: object, unloads: Mapping[str, int]) -> int | None:
    """The time of the eviction method that is tried first among those that were observed."""
    known = [str(one) for one in methods] if isinstance(methods, Sequence) and not isinstance(methods, str) else []
    return next((unloads[one] for one in known if one in unloads), None)


def _means(entries: object, key: str) -> dict[str, int]:
    """Mean milliseconds of the entries with a name, by name."""
    found: dict[str, int] = {}
    for one in entries if isinstance(entries, list) else ():
        if isinstance(one, dict) and (mean := _mean(one)) is not None:
            found[str(one.get(key, ""))] = mean
    return found


def _mean(entry: object) -> int | None:
    """Mean milliseconds of an entry; None before the first observation."""
    if not isinstance(entry, dict) or not entry.get("count"):
        return None
    usec = _number(entry.get("mean_usec"))
    return None if usec is None else usec // 1000


def _index(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 9 else None


def _line(value: object, at_most: int) -> str:
    """A text as readers of a row accept it: they ignore the whole row of a host otherwise."""
    return "".join(one for one in str(value) if one.isprintable())[:at_most]


def _number(value: object) -> int | None:
    return value if is_integer(value) else None
