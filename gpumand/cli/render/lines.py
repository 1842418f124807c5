"""Grants, outcomes of commands and signals as one line of plain text each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpumand.bus.names import ROOT_PATH
from gpumand.bus.object_paths import unescape_label
from gpumand.cli.render.format import ahead, clean, gpus, join_names, mib, usec, user_label
from gpumand.cli.render.reservation import lease_label
from gpumand.cli.render.residency import loads_on_first_request

Entry = Mapping[str, Any]


def grant_line(grant: Entry, now_usec: int, consumer: Entry | None = None) -> str:
    """A grant as one line: device, whether the consumer was loaded, wait, evictions, expiry and endpoint.

    Args:
        grant: the answer of Acquire.
        now_usec: the current time.
        consumer: the consumer's entry of a status taken after the grant; None when no status was requested.
    """
    device = f" on {gpus(grant['device'])}" if grant.get("device") else ""
    if not grant["consumer"]:
        reserved = f"{lease_label(grant)}{device}: reserved after {usec(grant.get('waited_usec', 0))}"
        return "; ".join([reserved, *_after(grant, now_usec)])
    how = "loaded" if grant.get("loaded") else "already resident"
    how = "its first request loads the model" if _is_only_reserved(grant.get("loaded"), consumer) else how
    first = f"{clean(grant['consumer'])}{device}: {how}, granted after {usec(grant.get('waited_usec', 0))}"
    return "; ".join([first, *_after(grant, now_usec)]) + _warning(consumer)


def _warning(consumer: Entry | None) -> str:
    """What is wrong with a consumer that is granted or loaded all the same; "" = nothing."""
    error = clean((consumer or {}).get("error") or "")
    return f". Warning: {error.rstrip('.')}" if error else ""


def _after(grant: Entry, now_usec: int) -> list[str]:
    """Evictions, expiry and endpoint of a grant, as far as it has them."""
    words = [f"evicted {_names(grant['evicted'])}"] if grant.get("evicted") else []
    if grant.get("expires_usec"):
        words.append(f"ends {ahead(grant['expires_usec'], now_usec)}")
    if grant.get("endpoint"):
        words.append(clean(grant["endpoint"]))
    return words


def load_line(outcome: Entry, consumer: Entry | None = None) -> str:
    """The outcome of ``load`` as one line.

    Args:
        outcome: the answer of Load.
        consumer: the consumer's entry of a status taken after the load; None when no status was requested.
    """
    name = clean(outcome["consumer"])
    device = f" on {gpus(outcome['device'])}" if outcome.get("device") else ""
    if _is_only_reserved(outcome.get("changed"), consumer):
        line = f"VRAM is free for {name}{device}; its first request loads the model, and a lease keeps the VRAM free"
    elif not outcome.get("changed"):
        return f"{name} is already resident{device}{_warning(consumer)}"
    else:
        line = f"{name} loaded{device} in {usec(outcome.get('duration_usec', 0))}"
    line += f"; evicted {_names(outcome['evicted'])}" if outcome.get("evicted") else ""
    return line + _warning(consumer)


def lease_line(lease: Entry, now_usec: int) -> str:
    """A lease as one line without its id: owner, reason and end.

    Args:
        lease: a lease entry of GetStatus.
        now_usec: the current time.
    """
    words = [user_label(int(lease["owner_uid"])), clean(lease.get("owner") or "")]
    words.append(f"'{clean(lease['reason'])}'" if lease.get("reason") else "")
    end = lease_end(lease, now_usec)
    return ", ".join(filter(None, [*words, f"ends {end}" if end else "", *lease_notes(lease)]))


def lease_notes(lease: Entry) -> list[str]:
    """What is special about a lease: it is exclusive, or its consumer is given back at the moment."""
    exclusive = ["exclusive"] if lease.get("exclusive") else []
    return exclusive + (["given back for a nested lease"] if lease.get("yielded") else [])


def lease_end(lease: Entry, now_usec: int) -> str:
    """The time, or the event, that ends a lease: "in 14 min", "with its owner"; "" when it is unknown."""
    if lease.get("expires_usec"):
        return ahead(lease["expires_usec"], now_usec)
    return {"connection": "with its owner", "unit": "with its unit"}.get(str(lease.get("lifetime")), "")


def _is_only_reserved(was_changed: Any, consumer: Entry | None) -> bool:
    """Whether a load only made VRAM free for a lazy consumer and left loading the model to its first request."""
    if not consumer:
        return False
    is_unseen = consumer.get("lazy") and consumer.get("used_mib") is None
    return bool(was_changed and is_unseen) or loads_on_first_request(consumer)


def evict_line(outcome: Entry) -> str:
    """The outcome of ``evict`` as one line."""
    consumer = clean(outcome["consumer"])
    if not outcome.get("changed"):
        return f"{consumer} is not loaded"
    line, took = f"{consumer} evicted by {clean(outcome.get('method') or '?')}", f"in {usec(outcome['duration_usec'])}"
    if not outcome.get("freed_mib"):
        return f"{line} {took}; no freed VRAM was measured"
    return f"{line}, {mib(outcome['freed_mib'])} freed {took}"


def signal_line(member: str, arguments: Entry) -> str:
    """A signal as one line without its time; "" for a change that another signal reports as well.

    Signals that this version does not know are shown as their name and arguments.
    """
    formatter = _SIGNAL_FORMATTERS.get(member)
    return formatter(arguments) if formatter else f"{clean(member)} {clean(dict(arguments))}"


def _eviction(arguments: Entry) -> str:
    details = arguments.get("details") or {}
    freed = f"{mib(arguments['freed_mib'])} freed" if details.get("verified", True) else "not verified"
    took = f" in {usec(details['duration_usec'])}" if details.get("duration_usec") else ""
    line = f"evicted {clean(arguments['consumer'])}{_place(arguments)} by {clean(arguments['method'])}: {freed}{took}"
    return line + _trigger(arguments)


def _eviction_failed(arguments: Entry) -> str:
    details = arguments.get("details") or {}
    tried = f" (tried {_names(details['tried'])})" if details.get("tried") else ""
    error = f": {clean(details['error'])}" if details.get("error") else ""
    line = f"could not evict {clean(arguments['consumer'])}{_place(arguments)}{tried}{error}"
    return line + _trigger(arguments)


def _eviction_deferred(arguments: Entry) -> str:
    details = arguments.get("details") or {}
    error = f": {clean(details['error'])}" if details.get("error") else ""
    return f"unload of {clean(arguments['consumer'])}{_place(arguments)} put off{error}{_trigger(arguments)}"


def _place(arguments: Entry) -> str:
    return f" from {gpus(arguments['device'])}" if arguments.get("device") else ""


def _trigger(arguments: Entry) -> str:
    trigger = clean(arguments.get("trigger") or "")
    words = {"": "", "manual": "; requested manually", "idle": "; idle timeout"}
    return words.get(trigger, f"; to make room for {'a reservation' if trigger == 'reservation' else trigger}")


def _lease_granted(arguments: Entry) -> str:
    return f"{_lease_kind(arguments)} granted: {clean(arguments['lease'])}"


def _lease_ended(arguments: Entry) -> str:
    return f"{_lease_kind(arguments)} ended ({clean(arguments['reason'])}): {clean(arguments['lease'])}"


def _lease_degraded(arguments: Entry) -> str:
    return f"warning: {_lease_kind(arguments)} is degraded: {clean(arguments['reason'])}: {clean(arguments['lease'])}"


def _lease_restored(arguments: Entry) -> str:
    return f"{_lease_kind(arguments)} is restored: {clean(arguments['lease'])}"


def _lease_kind(arguments: Entry) -> str:
    """What was leased; a reservation has no consumer."""
    return f"lease on {clean(arguments['consumer'])}" if arguments["consumer"] else "reservation"


def _changed_properties(arguments: Entry) -> str:
    """Changed properties of the Manager or of one object, without those that other signals report."""
    changed = arguments["changed"]
    changes = [formatter(changed[name]) for name, formatter in _PROPERTY_FORMATTERS.items() if name in changed]
    return f"{_subject(str(arguments['object']))} {join_names(changes)}" if changes else ""


_PROPERTY_FORMATTERS: dict[str, Callable[[Any], str]] = {
    "Residency": lambda value: f"is {clean(value)}",
    "Pinned": lambda value: "is pinned" if value else "is not pinned",
    "Degraded": lambda value: f"is degraded: {clean(value)}" if value else "is no longer degraded",
    "Error": lambda value: f"reports an error: {clean(value)}" if value else "no longer reports an error",
}


def _subject(path: str) -> str:
    """The consumer or device that an object path names; "gpumand" for the Manager."""
    kind, _, label = path.removeprefix(ROOT_PATH).lstrip("/").partition("/")
    if not label:
        return "gpumand"
    try:
        name = unescape_label(label)
    except ValueError:
        name = label
    return clean(name) if kind == "consumer" else f"{'GPU' if kind == 'device' else clean(kind)} {clean(name)}"


def _owner_changed(arguments: Entry) -> str:
    return "gpumand is on the bus" if arguments.get("running") else "gpumand left the bus"


def _names(names: Sequence[str]) -> str:
    return join_names([clean(name) for name in names])


def _lease_yielded(arguments: Entry) -> str:
    return f"{clean(arguments['consumer'])} is given back for a nested lease: {clean(arguments['lease'])}"


def _lease_returned(arguments: Entry) -> str:
    return f"{clean(arguments['consumer'])} is resident again for lease {clean(arguments['lease'])}"


def _lease_wanted(arguments: Entry) -> str:
    by = clean(arguments["by"]) or "a reservation"
    return f"a request for {by} waits for the end of lease {clean(arguments['lease'])}"


_SIGNAL_FORMATTERS = {
    "EvictionOccurred": _eviction,
    "EvictionFailed": _eviction_failed,
    "EvictionDeferred": _eviction_deferred,
    "LeaseGranted": _lease_granted,
    "LeaseEnded": _lease_ended,
    "LeaseDegraded": _lease_degraded,
    "LeaseRestored": _lease_restored,
    "LeaseWanted": _lease_wanted,
    "LeaseYielded": _lease_yielded,
    "LeaseReturned": _lease_returned,
    "PropertiesChanged": _changed_properties,
    "NameOwnerChanged": _owner_changed,
}
