"""One line for one thing that happened: a grant, an outcome, a signal. Plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpumand.bus.names import ROOT_PATH
from gpumand.bus.object_paths import unescape_label
from gpumand.cli.render.format import ahead, clean, listed, mib, usec
from gpumand.domain.residency import CONTEXT_MIB

Entry = Mapping[str, Any]


def awaits_request(consumer: Entry) -> bool:
    """Whether its place is kept and its model is not there: only a request of its own loads it.

    Args:
        consumer: an entry of a status.
    """
    used_mib = consumer.get("used_mib")
    if not consumer.get("lazy") or consumer.get("residency") != "resident" or used_mib is None:
        return False
    return bool(used_mib <= min(CONTEXT_MIB, (consumer.get("vram_resident_mib") or 0) // 4))


def grant_line(grant: Entry, now_usec: int, consumer: Entry | None = None) -> str:
    """What a grant came to: where, how, at whose cost, until when.

    Args:
        grant: as on the bus.
        now_usec: the time.
        consumer: its entry of a status after that; None where it was not asked for.
    """
    device = f" on GPU {clean(grant['device'])}" if grant.get("device") else ""
    how = "was loaded" if grant.get("loaded") else "was resident"
    how = "its first request loads it" if _made_room(grant.get("loaded"), consumer) else how
    words = [f"{clean(grant['consumer'])}{device}: {how}, took {usec(grant.get('waited_usec', 0))}"]
    if grant.get("evicted"):
        words.append(f"evicted {_names(grant['evicted'])}")
    if grant.get("expires_usec"):
        words.append(f"ends {ahead(grant['expires_usec'], now_usec)}")
    if grant.get("endpoint"):
        words.append(clean(grant["endpoint"]))
    return "; ".join(words)


def load_line(outcome: Entry, consumer: Entry | None = None) -> str:
    """What ``load`` did.

    Args:
        outcome: as on the bus.
        consumer: its entry of a status after that; None where it was not asked for.
    """
    name = clean(outcome["consumer"])
    device = f" on GPU {clean(outcome['device'])}" if outcome.get("device") else ""
    if _made_room(outcome.get("changed"), consumer):
        line = f"there is room for {name}{device}; its first request loads it, and a lease keeps the room until then"
    elif not outcome.get("changed"):
        return f"{name} is resident{device} already"
    else:
        line = f"{name} loaded{device} in {usec(outcome.get('duration_usec', 0))}"
    return f"{line}; evicted {_names(outcome['evicted'])}" if outcome.get("evicted") else line


def _made_room(was_changed: Any, consumer: Entry | None) -> bool:
    """Whether that it was made resident means no more than that there is room for it now."""
    if not consumer:
        return False
    is_unseen = consumer.get("lazy") and consumer.get("used_mib") is None
    return bool(was_changed and is_unseen) or awaits_request(consumer)


def evict_line(outcome: Entry) -> str:
    """What ``evict`` did."""
    consumer = clean(outcome["consumer"])
    if not outcome.get("changed"):
        return f"{consumer} is not loaded"
    line, took = f"{consumer} evicted by {clean(outcome.get('method') or '?')}", f"in {usec(outcome['duration_usec'])}"
    if not outcome.get("freed_mib"):
        return f"{line} {took}; no VRAM was seen to become free"
    return f"{line}, {mib(outcome['freed_mib'])} freed {took}"


def signal_line(member: str, arguments: Entry) -> str:
    """A signal as one line without its time; "" for what other signals have told already.

    Signals that this version does not know are shown as they are.
    """
    teller = _TELLERS.get(member)
    return teller(arguments) if teller else f"{clean(member)} {clean(dict(arguments))}"


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


def _place(arguments: Entry) -> str:
    return f" from GPU {clean(arguments['device'])}" if arguments.get("device") else ""


def _trigger(arguments: Entry) -> str:
    trigger = clean(arguments.get("trigger") or "")
    words = {"": "", "manual": "; asked for by hand", "idle": "; it was idle"}
    return words.get(trigger, f"; to make room for {trigger}")


def _granted(arguments: Entry) -> str:
    return f"lease on {clean(arguments['consumer'])} granted: {clean(arguments['lease'])}"


def _ended(arguments: Entry) -> str:
    return f"lease on {clean(arguments['consumer'])} ended ({clean(arguments['reason'])}): {clean(arguments['lease'])}"


def _properties(arguments: Entry) -> str:
    """What changed of the Manager or of one object, as far as no other signal has told it."""
    changed = arguments["changed"]
    told = [teller(changed[name]) for name, teller in _PROPERTY_TELLERS.items() if name in changed]
    return f"{_subject(str(arguments['object']))} {listed(told)}" if told else ""


_PROPERTY_TELLERS: dict[str, Callable[[Any], str]] = {
    "Residency": lambda value: f"is {clean(value)}",
    "Pinned": lambda value: "is pinned" if value else "is not pinned",
    "Degraded": lambda value: f"is degraded: {clean(value)}" if value else "is no longer degraded",
    "Error": lambda value: f"has a problem: {clean(value)}" if value else "has no problem any more",
}


def _subject(path: str) -> str:
    """Who a path is about."""
    kind, _, label = path.removeprefix(ROOT_PATH).lstrip("/").partition("/")
    if not label:
        return "gpumand"
    try:
        name = unescape_label(label)
    except ValueError:
        name = label
    return clean(name) if kind == "consumer" else f"{'GPU' if kind == 'device' else clean(kind)} {clean(name)}"


def _owner(arguments: Entry) -> str:
    return "gpumand is on the bus" if arguments.get("running") else "gpumand left the bus"


def _names(names: Sequence[str]) -> str:
    return listed([clean(name) for name in names])


_TELLERS = {
    "EvictionOccurred": _eviction,
    "EvictionFailed": _eviction_failed,
    "LeaseGranted": _granted,
    "LeaseEnded": _ended,
    "PropertiesChanged": _properties,
    "NameOwnerChanged": _owner,
}
