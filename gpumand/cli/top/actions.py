"""The keys that act on the selected row: consumers are loaded, evicted and pinned, leases and requests are ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gpumand.cli.render.format import clean, count, join_names
from gpumand.cli.render.reservation import lease_label
from gpumand.cli.top.model import Command, KeyResult, Model, Question, Verb, progress_message
from gpumand.cli.top.sections import Section
from gpumand.cli.top.tables import user_of
from gpumand.domain.short_ids import short_id

Entry = Mapping[str, Any]


def _load(model: Model, consumer: Entry) -> KeyResult:
    command = Command(Verb.LOAD, str(consumer["name"]))
    return KeyResult(model.with_message(progress_message(command)), command)


def _pin(model: Model, consumer: Entry) -> KeyResult:
    command = Command(Verb.UNPIN if consumer.get("pinned") else Verb.PIN, str(consumer["name"]))
    return KeyResult(model, command)


def _evict(model: Model, consumer: Entry) -> KeyResult:
    """Ask for confirmation; a consumer that is leased or pinned can only be evicted by force."""
    name = str(consumer["name"])
    if consumer.get("residency") == "unloaded" and not consumer.get("used_mib"):
        return KeyResult(model.with_message(f"{clean(name)} is not loaded"))
    protected = _protection(model, consumer)
    if protected:
        return KeyResult(model.with_message(f"{clean(name)} {protected}; press E to evict it by force", is_error=True))
    return _ask(model, f"Evict {clean(name)}?", Command(Verb.EVICT, name))


def _force(model: Model, consumer: Entry) -> KeyResult:
    """Ask for confirmation and name the leases that would be revoked."""
    name = str(consumer["name"])
    owners = _owners(model, name)
    text = f"Evict {clean(name)} by force?"
    if owners:
        text = f"Evict {clean(name)} by force and revoke {count(len(owners), 'lease')} held by {_first_names(owners)}?"
    elif consumer.get("pinned"):
        text = f"Evict {clean(name)} by force although it is pinned?"
    return _ask(model, text, Command(Verb.FORCE, name))


def _release(model: Model, lease: Entry) -> KeyResult:
    label = _lease_name(model, lease)
    return _ask(model, f"Release {label} ({_holder(lease)})?", Command(Verb.RELEASE, str(lease["id"]), label))


def _renew(model: Model, lease: Entry) -> KeyResult:
    """Renew a lease for the time it was granted for."""
    label = _lease_name(model, lease)
    if lease.get("lifetime") != "ttl":
        return KeyResult(model.with_message(f"{label} has no end to extend", is_error=True))
    return KeyResult(model, Command(Verb.RENEW, str(lease["id"]), label))


def _cancel(model: Model, request: Entry) -> KeyResult:
    if not request.get("id"):
        return KeyResult(model.with_message("this version of gpumand cannot cancel requests", is_error=True))
    label = f"the request for {lease_label(request)}"
    return _ask(model, f"Cancel {label} ({_holder(request)})?", Command(Verb.CANCEL, str(request["id"]), label))


def _ask(model: Model, text: str, command: Command) -> KeyResult:
    return KeyResult(replace(model, question=Question(text, command)))


def _lease_name(model: Model, lease: Entry) -> str:
    leases = model.status["leases"] if model.status else ()
    return f"lease {clean(short_id(str(lease['id']), [str(one['id']) for one in leases]))} on {lease_label(lease)}"


def _holder(entry: Entry) -> str:
    """The user and the program of a lease or request."""
    program = clean(entry.get("owner_program") or entry.get("owner") or "")
    return ", ".join(filter(None, (user_of(entry), program)))


def _protection(model: Model, consumer: Entry) -> str:
    owners = _owners(model, str(consumer["name"]))
    if owners:
        return f"is leased by {_first_names(owners)}"
    return "is pinned" if consumer.get("pinned") else ""


def _owners(model: Model, name: str) -> list[str]:
    leases = model.status["leases"] if model.status else ()
    return [clean(one.get("owner") or f"uid {one['owner_uid']}") for one in leases if one["consumer"] == name]


def _first_names(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    others = len(names) - 3
    return join_names([*names[:3], f"{count(others, 'other')}"] if others > 0 else names)


ACTIONS: Mapping[str, tuple[Section, Callable[[Model, Entry], KeyResult]]] = {
    "l": (Section.CONSUMERS, _load),
    "e": (Section.CONSUMERS, _evict),
    "E": (Section.CONSUMERS, _force),
    "p": (Section.CONSUMERS, _pin),
    "r": (Section.LEASES, _release),
    "n": (Section.LEASES, _renew),
    "c": (Section.QUEUE, _cancel),
}
"""Key -> the list whose selected row it acts on, and the action. The focus moves to that list."""
