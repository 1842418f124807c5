"""Determines which consumer serves a model, and builds the merged lists of models; without I/O."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gpumand.gateway.catalog import Catalog, Document, Lists
from gpumand.gateway.entrance_config import ModelRule
from gpumand.gateway.requests import Client
from gpumand.gateway.visibility import may_see

LATEST = ":latest"
"""The tag that Ollama adds to names without one."""

UNKNOWN_OLLAMA: Document = {
    "name": "",
    "model": "",
    "modified_at": "1970-01-01T00:00:00Z",
    "size": 0,
    "digest": "",
    "details": {
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    },
}
"""The keys of an entry of Ollama's /api/tags, for a model that its server has not listed yet."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A consumer that the entrance offers.

    Attributes:
        consumer: its name.
        is_resident: whether it is in memory.
        lists: what it has listed.
        is_listed: whether its own list is merged into that of the gateway.
        speaks_ollama: whether it has the API of Ollama.
        is_unique: whether it may be loaded on one host of a fleet only.
    """

    consumer: str
    is_resident: bool
    lists: Lists
    is_listed: bool = True
    speaks_ollama: bool = False
    is_unique: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Where requests for a model go.

    Attributes:
        consumer: name of the consumer.
        name: name of the model there.
    """

    consumer: str
    name: str


def rules_for(client: Client, rules: Sequence[ModelRule]) -> list[ModelRule]:
    """The rules that apply to a client: those of consumers that it may use."""
    return [one for one in rules if may_see(client, one.consumer)]


def choose(model: str, rules: Sequence[ModelRule], offers: Sequence[Offer]) -> Choice | None:
    """The consumer of a model; None if no consumer is known to serve it.

    Rules come first: an exact name before patterns, patterns in their order. Then ``consumer/model``, then the lists of
    the consumers in their order, and at last a consumer whose name is that of the model.
    """
    rule = _rule_of(model, rules, offers)
    if rule is not None:
        return Choice(rule.consumer, rule.as_ or model)
    listed = [one for one in offers if one.is_listed]
    # An id that a server has listed as it is, before one that only lacks the tag latest.
    found = next((one for one in listed if model in one.lists.ids), None)
    found = found or next((one for one in listed if serves(one.lists, model)), None)
    prefix, slash, rest = model.partition("/")
    named = next((one for one in offers if one.consumer == prefix), None) if slash and rest else None
    # Ids such as qwen/qwen3-8b begin with the name of an organisation, which a consumer may have too.
    if named is not None and (found is None or serves(named.lists, rest)):
        return Choice(prefix, rest)
    found = found or next((one for one in listed if _serves_in_other_case(one.lists, model)), None)
    if found is not None:
        return Choice(found.consumer, model)
    return Choice(model, model) if any(one.consumer == model for one in offers) else None


def _rule_of(model: str, rules: Sequence[ModelRule], offers: Sequence[Offer]) -> ModelRule | None:
    """The rule of a model. Programs add the tag latest to names of Ollama, or leave it out: Open WebUI adds it."""
    exact = next((one for one in rules if one.pattern == model), None)
    if exact is None:
        with_tags = _names_of_ollama(offers)
        same = (one for one in rules if not one.is_glob and tagged(one.pattern) == tagged(model))
        exact = next((one for one in same if one.consumer in with_tags), None)
    return exact or next((one for one in rules if one.is_glob and fnmatchcase(model, one.pattern)), None)


def _names_of_ollama(offers: Sequence[Offer]) -> frozenset[str]:
    """The consumers that have the API of Ollama."""
    return frozenset(one.consumer for one in offers if one.speaks_ollama or one.lists.ollama)


def tagged(model: str) -> str:
    """The name of a model of Ollama with its tag."""
    return model if ":" in model.rpartition("/")[2] else f"{model}{LATEST}"


def _shown(
    name: str, consumer: str, rules: Sequence[ModelRule], found: Container[str], offers: Sequence[Offer]
) -> str | None:
    """The name under which a model of a consumer is listed; None if no request for it would reach that consumer."""
    names = (f"{consumer}/{name}",) if name in found else (name, f"{consumer}/{name}")
    return next(
        (one for one in names if (rule := _rule_of(one, rules, offers)) is None or rule.consumer == consumer), None
    )


def serves(lists: Lists, model: str) -> bool:
    """Whether a consumer has listed a model; Ollama accepts a name without the tag latest."""
    return model in lists.ids or tagged(model) in lists.ids


def _serves_in_other_case(lists: Lists, model: str) -> bool:
    """Whether a consumer has listed a model of Ollama, which ignores upper and lower case."""
    wanted = tagged(model).casefold()
    return any(str(one["name"]).casefold() == wanted for one in lists.ollama)


def openai_list(rules: Sequence[ModelRule], offers: Sequence[Offer]) -> list[Document]:
    """The entries of the merged /v1/models, each with its status."""
    by_name = {one.consumer: one for one in offers}
    found: dict[str, Document] = {}
    renamed = {(one.as_ or one.pattern, one.consumer) for one in rules if not one.is_glob}
    for rule in rules:
        if not rule.is_glob and (offer := by_name.get(rule.consumer)) is not None:
            known = {one["id"]: one for one in offer.lists.openai}.get(rule.as_ or rule.pattern, {})
            found.setdefault(rule.pattern, _openai_entry(known, rule.pattern, offer, rule.as_ or rule.pattern))
    for offer in (one for one in offers if one.is_listed):
        for name, entry in _openai_entries(offer):
            if (name, offer.consumer) in renamed:
                continue
            if (shown := _shown(name, offer.consumer, rules, found, offers)) is not None:
                found.setdefault(shown, _openai_entry(entry, shown, offer, name))
    return list(found.values())


def _openai_entries(offer: Offer) -> Iterator[tuple[str, Document]]:
    known = {str(one["id"]): one for one in offer.lists.openai}
    yield from known.items()
    yield from ((name, {}) for name in offer.lists.ids if name not in known)
    if offer.lists.is_empty:
        # Its server did not run yet. Its name is accepted as that of a model, so that it can be chosen in a program.
        yield offer.consumer, {}


def _openai_entry(entry: Document, shown: str, offer: Offer, name: str) -> Document:
    is_loaded = offer.is_resident and (not offer.lists.ollama or any(_is(one, name) for one in offer.lists.running))
    status = entry.get("status") if offer.is_resident else None
    default = {"object": "model", "created": 0, "owned_by": offer.consumer}
    own = {"id": shown, "status": status or {"value": "loaded" if is_loaded else "unloaded"}}
    return default | entry | own


def anthropic_list(entries: Sequence[Document]) -> Document:
    """The entries of the merged /v1/models as one page of the API of Anthropic."""
    data = [anthropic_entry(one) for one in entries]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def anthropic_entry(entry: Document) -> Document:
    """An entry of the merged /v1/models in the form of the API of Anthropic."""
    name = str(entry["id"])
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def ollama_list(rules: Sequence[ModelRule], offers: Sequence[Offer]) -> list[Document]:
    """The entries of the merged /api/tags; the names of rules come first, and what they rename is listed too.

    All names have a tag, as in lists of Ollama: Open WebUI adds it to a name without one, and then looks for it there.
    """
    found = _ollama_aliases(rules, offers)
    unchanged = {
        (tagged(one.pattern), one.consumer) for one in rules if tagged(one.as_ or one.pattern) == tagged(one.pattern)
    }
    for offer in (one for one in offers if one.is_listed):
        for entry in offer.lists.ollama:
            name = str(entry["name"])
            if name in found and (name, offer.consumer) in unchanged:
                continue
            if (shown := _shown(name, offer.consumer, rules, found, offers)) is not None:
                found.setdefault(shown, entry if shown == name else _renamed(entry, shown))
    return list(found.values())


def _ollama_aliases(rules: Sequence[ModelRule], offers: Sequence[Offer]) -> dict[str, Document]:
    """The entries for names of rules whose consumer has the API of Ollama."""
    with_tags = _names_of_ollama(offers)
    by_name = {one.consumer: one for one in offers if one.consumer in with_tags}
    found: dict[str, Document] = {}
    for rule in rules:
        if not rule.is_glob and (offer := by_name.get(rule.consumer)) is not None:
            name, shown = rule.as_ or rule.pattern, tagged(rule.pattern)
            known = next((one for one in offer.lists.ollama if _is(one, name)), UNKNOWN_OLLAMA)
            found.setdefault(shown, _renamed(known, shown))
    return found


def _renamed(entry: Document, shown: str) -> Document:
    return entry | {"name": shown, "model": shown}


def running_list(offers: Sequence[Offer]) -> list[Document]:
    """The entries of the merged /api/ps: the models in memory."""
    return [entry for offer in offers if offer.is_listed for entry in offer.lists.running]


def _is(entry: Document, name: str) -> bool:
    return entry.get("name") in (name, f"{name}{LATEST}")


def known_ids(rules: Sequence[ModelRule], offers: Sequence[Offer]) -> list[str]:
    """The ids and patterns of all models, for messages."""
    ids = [one.pattern for one in rules] + [str(one["id"]) for one in openai_list((), offers)]
    return list(dict.fromkeys(ids))


def offers_of(catalog: Catalog, consumers: Sequence[Offer]) -> list[Offer]:
    """The same offers with the lists that are known now."""
    return [replace(one, lists=catalog.of(one.consumer)) for one in consumers]
