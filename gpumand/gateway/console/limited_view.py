"""Status, history, plans and hosts as a client with a limited API key may see them.

Only what is named here is shown: a key that a later version adds stays hidden until it is known to be harmless. Of the
memory of a device, the sum of everything else is shown, because it decides whether the client's consumers fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpumand.gateway.requests import Client
from gpumand.gateway.visibility import may_see, reason_for, text_for

Fields = dict[str, Any]

OTHERS = "other consumers"
"""What plans show in place of consumers that the client may not see."""

_STATUS = ("version", "configured_usec", "driver_state", "history_usec", "stats")
_DEVICE = (
    *(
        "index",
        "uuid",
        "name",
        "source",
        "total_mib",
        "used_mib",
        "free_mib",
        "reserved_mib",
        "unnamed_mib",
        "unchecked",
    ),
    *("sampled_usec", "error", "pool", "integrated", "attribution", "asleep", "aliases", "history"),
    *("utilization_percent", "temperature_celsius", "temperature_limit_celsius", "power_watts", "power_limit_watts"),
)
_CONSUMER = (
    *("name", "residency", "device", "vram_resident_mib", "used_mib", "used_by_device", "vram_auto", "measured_mib"),
    *(
        "leases",
        "last_used_usec",
        "pinned",
        "vram_managed",
        "since_usec",
        "preset",
        "lazy",
        "busy",
        "unit_state",
        "retry_usec",
    ),
)
_LEASE = ("id", "consumer", "device", "lifetime", "granted_usec", "expires_usec")
_WAITING = ("id", "consumer", "position", "priority", "waited_usec")
_PLAN = (
    *("consumer", "verdict", "device", "resident", "load", "need_mib", "free_mib", "unnamed_mib"),
    *("error", "expected_usec", "victims_usec"),
)
_ERRORS_ABOUT_OTHERS = ("Busy", "InsufficientVram", "EvictionFailed", "TimedOut", "LimitsExceeded")
_HISTORY = ("at_usec", "kind", "consumer", "device", "duration_usec", "mib", "method")
_FAILURES = ("load-failed", "eviction-failed", "eviction-deferred")
_HOST = ("id", "epoch", "seq", "name", "version", "api", "gpus", "drain")


def limited_status(status: Fields, client: Client) -> Fields:
    """The status of gpumand, as ``GetStatus`` answers it."""
    names = names_in(status)
    own = [one for one in _entries(status, "consumers") if may_see(client, str(one.get("name")))]
    return _only(status, _STATUS) | {
        "degraded": text_for(client, str(status.get("degraded", "")), names),
        "devices": [_device(one, own) for one in _entries(status, "devices")],
        "consumers": [_consumer(one, client, names) for one in own],
        "leases": [_only(one, _LEASE) for one in _entries(status, "leases") if _is_visible(one, client)],
        "queue": [_waiting(one, client) for one in _entries(status, "queue") if _is_visible(one, client)],
    }


def limited_plan(plan: Fields, client: Client, names: Iterable[str]) -> Fields:
    """A plan. Consumers that the client may not see are summed up."""
    evictions, message = _entries(plan, "evictions"), str(plan.get("message", ""))
    is_about_others = str(plan.get("error", "")).rpartition(".")[2] in _ERRORS_ABOUT_OTHERS
    shown = [one for one in evictions if _is_visible(one, client)]
    hidden = [one for one in evictions if not _is_visible(one, client)]
    if hidden:
        mib = sum(one.get("expected_mib") or 0 for one in hidden)
        shown.append({"consumer": OTHERS, "expected_mib": mib, "method": "", "why": ""})
    return _only(plan, _PLAN) | {
        "evictions": [_only(one, ("consumer", "expected_mib", "method", "parks")) for one in shown],
        "spared": [
            {"consumer": one.get("consumer", ""), "why": text_for(client, str(one.get("why", "")), names)}
            for one in _entries(plan, "spared")
            if _is_visible(one, client)
        ],
        "message": reason_for(client, message) if is_about_others else text_for(client, message, names),
    }


def limited_history(entries: Iterable[Fields], client: Client, names: Iterable[str]) -> list[Fields]:
    """Entries of the history, without those of other consumers and without texts that name others."""
    known = tuple(names)
    return [
        _only(one, _HISTORY) | {"detail": _detail(one, client, known)} for one in entries if _is_visible(one, client)
    ]


def _detail(entry: Fields, client: Client, names: tuple[str, ...]) -> str:
    """Why a load or an eviction failed. The details of leases and refusals name their clients."""
    return text_for(client, str(entry.get("detail", "")), names, "") if entry.get("kind") in _FAILURES else ""


def limited_fleet(fleet: Fields | None, client: Client) -> Fields | None:
    """All hosts of the fleet, with the consumers that the client may use."""
    if fleet is None or client.consumers is None:
        return fleet
    intents = fleet.get("intents") or {}
    return _only(fleet, ("degraded", "absence")) | {
        "hosts": [_host(one, client) for one in _entries(fleet, "hosts")],
        "intents": {name: one for name, one in intents.items() if may_see(client, name)},
    }


def names_in(status: Fields | None) -> tuple[str, ...]:
    """The names of all consumers in a status."""
    return tuple(str(one.get("name")) for one in _entries(status or {}, "consumers"))


def _is_visible(entry: Fields, client: Client) -> bool:
    # Reservations have no consumer, and belong to other programs.
    return may_see(client, str(entry.get("consumer", "")))


def _device(device: Fields, own: list[Fields]) -> Fields:
    shown = _only(device, _DEVICE) | {"foreign": []}
    used = device.get("used_mib")
    if used is not None:
        mine = sum(_used_on(device, one, own[:place]) for place, one in enumerate(own))
        shown["foreign_mib"] = max(0, used - mine - (device.get("unnamed_mib") or 0))
    return shown


def _used_on(device: Fields, consumer: Fields, before: list[Fields]) -> int:
    """Memory of a consumer on a device; that of a shared unit is counted with its first consumer."""
    if any(one.get("name") in consumer.get("shared_with", ()) for one in before):
        return 0
    index = str(device.get("index"))
    by_device = consumer.get("used_by_device") or {}
    alone = consumer.get("used_mib") if str(consumer.get("device")) == index else 0
    return int(by_device.get(index, alone) or 0)


def _consumer(consumer: Fields, client: Client, names: Iterable[str]) -> Fields:
    texts = {key: text_for(client, str(consumer.get(key, "")), names) for key in ("error", "doing")}
    shared = [one for one in consumer.get("shared_with", ()) if may_see(client, one)]
    return _only(consumer, _CONSUMER) | texts | ({"shared_with": shared} if shared else {})


def _waiting(entry: Fields, client: Client) -> Fields:
    return _only(entry, _WAITING) | {"waiting_for": reason_for(client, str(entry.get("waiting_for", "")))}


def _host(host: Fields, client: Client) -> Fields:
    row = host.get("row") or {}
    own = {name: one for name, one in (row.get("consumers") or {}).items() if may_see(client, name)}
    queue = sum(one.get("queue") or 0 for one in own.values())
    return _only(host, ("state", "local", "why")) | {"row": _only(row, _HOST) | {"consumers": own, "queue": queue}}


def _entries(fields: Fields, name: str) -> list[Fields]:
    found = fields.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _only(fields: Fields, names: Iterable[str]) -> Fields:
    return {name: fields[name] for name in names if name in fields}
