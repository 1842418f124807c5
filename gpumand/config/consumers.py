"""Converts a ``[consumers.NAME]`` table and its preset to a ConsumerSpec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumand.config.consumer_schema import ConsumerTable
from gpumand.config.container_keys import check_locators
from gpumand.config.files import read_key_file
from gpumand.config.presets import Preset, preset, preset_names
from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.config.route_checks import check_routes
from gpumand.config.table_schema import INVALID, check_required, read_keys, with_defaults
from gpumand.config.validators import CONSUMER_NAME, KEY, KEY_HEADER
from gpumand.domain.consumer import UNKNOWN_MIB, BusyRoute, ConsumerSpec, EvictionMethod
from gpumand.domain.name_suggestions import nearest

_NOT_IN_SPEC = ("model", "key_file", "key_header")
_ROUTES = ("health", "busy", "load", "unload")
_UNIT_ONLY = "unit-only"
_UNKNOWN_PRESET_KEYS: dict[str, Any] = {"unit": INVALID, "url": INVALID, "unload": INVALID}
"""Keys that an unknown preset might have supplied; INVALID keeps later checks from reporting them as missing."""


@dataclass(frozen=True, slots=True)
class ParsedConsumer:
    """A consumer's table after parsing, merged with its preset, before defaults are filled in.

    Attributes:
        name: name of the consumer.
        place: location of its table.
        keys: converted values of the keys that the table or the preset sets; INVALID for a refused value.
    """

    name: str
    place: Place
    keys: dict[str, Any]

    def spec(self) -> ConsumerSpec | None:
        """Return the consumer, or None if a key was refused; an undeclared footprint is ``UNKNOWN_MIB``."""
        if INVALID in self.keys.values():
            return None
        keys = with_defaults(ConsumerTable, self.keys)
        keys["evict"] = keys["evict"] or _default_methods(self.keys)
        declared_mib, guess_mib = keys.pop("vram_resident_mib"), keys.pop("vram_guess_mib")
        devices, count = keys.pop("device"), keys.pop("device_count")
        keys |= {"devices": devices, "device_count": count or len(devices) or 1}
        keys |= {"vram_resident_mib": declared_mib or guess_mib or UNKNOWN_MIB, "vram_auto": declared_mib is None}
        return ConsumerSpec(self.name, **{key: value for key, value in keys.items() if key not in _NOT_IN_SPEC})


def read_consumer(name: str, raw: object, place: Place, problems: ProblemList) -> ParsedConsumer:
    """Read the table of one consumer, merge it with its preset, and report the problems within the table.

    Keys of the table override those of the preset. A nested table such as ``health`` replaces the preset's as a whole.
    """
    if not CONSUMER_NAME.fullmatch(name):
        problems.add(
            place,
            f"{quoted(name)} is not a valid consumer name: use up to 64 letters, digits, dots, dashes and "
            "underscores, starting with a letter or digit",
        )
    own = read_keys(ConsumerTable, raw, place, problems)
    if not isinstance(raw, dict):
        return ParsedConsumer(name, place, {"vram_resident_mib": INVALID})
    parsed = ParsedConsumer(name, place, {**_from_preset(own, place, problems), **own})
    _add_key_header(parsed, problems)
    check_required(ConsumerTable, parsed.keys, place, problems)
    _check_consumer(parsed, problems)
    return parsed


def _from_preset(own: dict[str, Any], place: Place, problems: ProblemList) -> dict[str, Any]:
    name, model = own.get("preset", ""), own.get("model", "")
    if name is INVALID:
        return dict(_UNKNOWN_PRESET_KEYS)
    if not name:
        if model:
            problems.add(place.at("model"), "has no effect without a preset: set preset, or remove this key")
        return {}
    if name not in preset_names():
        message = f"there is no preset {quoted(name)}: see gpumanctl preset list"
        problems.add(place.at("preset"), message, nearest(name, preset_names()))
        return dict(_UNKNOWN_PRESET_KEYS)
    return _preset_keys(preset(name), model, place, problems)


def _preset_keys(chosen: Preset, model: Any, place: Place, problems: ProblemList) -> dict[str, Any]:
    model_rule = chosen.about.model
    if model_rule == "none" and model:
        problems.add(place.at("model"), f'has no effect: the preset "{chosen.name}" takes no model. Remove this key')
    if model_rule == "required" and not model:
        problems.add(place.at("model"), f'is missing: the preset "{chosen.name}" requires the name of a model')
    # With a placeholder for a refused or missing model the preset keeps its routes, and later checks do not report
    # them as missing.
    substitute = "model" if model is INVALID or (model_rule == "required" and not model) else model
    return read_keys(ConsumerTable, chosen.consumer(substitute), Place(chosen.document, ("consumer",)), problems)


def _add_key_header(parsed: ParsedConsumer, problems: ProblemList) -> None:
    """Read the key file and add the header with the key; it replaces a configured header of the same name."""
    keys, place = parsed.keys, parsed.place
    file, header = keys.get("key_file"), keys.get("key_header", KEY_HEADER)
    headers = keys.get("headers", ())
    if not file:
        if "key_header" in _raw_table(parsed) and header is not INVALID:
            problems.add(place.at("key_header"), "has no effect without key_file: set key_file, or remove this key")
        return
    if INVALID in (file, header, headers):
        return
    secret = read_key_file(Path(file), place.at("key_file"), problems)
    name, _, value = header.partition(": ")
    others = tuple(pair for pair in headers if pair[0].lower() != name.lower())
    keys["headers"] = (*others, (name, value.replace(KEY, secret))) if secret else INVALID


def _check_consumer(parsed: ParsedConsumer, problems: ProblemList) -> None:
    keys, place = parsed.keys, parsed.place
    if not keys.get("url"):
        _check_missing_url(parsed, problems)
    if keys.get("vram_guess_mib") and keys.get("vram_resident_mib"):
        problems.add(place.at("vram_guess_mib"), "has no effect when vram_resident_mib is set: remove one of the two")
    devices, count = keys.get("device"), keys.get("device_count")
    if isinstance(devices, tuple) and isinstance(count, int) and count > len(devices):
        problems.add(place.at("device_count"), f"is {count}, but device lists only {len(devices)}")
    if isinstance(devices, tuple) and len(set(devices)) < len(devices):
        problems.add(place.at("device"), "lists a device twice")
    if keys.get("loads_on_request") is True and keys.get("load"):
        problems.add(place.at("loads_on_request"), "has no effect with a load route: remove one of the two")
    if keys.get("parks") is True and not keys.get("unload"):
        problems.add(
            place.at("parks"), "requires an unload route, which parks the consumer: add unload, or remove this key"
        )
    if "parked_host_mib" in _raw_table(parsed) and keys.get("parks") in (None, False):
        problems.add(place.at("parked_host_mib"), "has no effect unless parks = true")
    check_locators(keys, place, problems)
    _check_eviction_methods(parsed, problems)
    _check_busy_route(parsed, problems)
    check_routes(keys, place, problems)
    _check_unit_only_preset(parsed, problems)
    _check_coexists_with_itself(parsed, problems)
    residual, resident = keys.get("residual_mib"), keys.get("vram_resident_mib")
    if isinstance(residual, int) and isinstance(resident, int) and residual >= resident:
        problems.add(place.at("residual_mib"), f"is {residual}, but must be less than vram_resident_mib ({resident})")


def _check_busy_route(parsed: ParsedConsumer, problems: ProblemList) -> None:
    busy = parsed.keys.get("busy")
    if not isinstance(busy, BusyRoute):
        return
    if not busy.path and not busy.connections:
        problems.add(parsed.place.at("busy"), "requires path, or connections = true")
    elif busy.path and not (busy.pointers or busy.metrics):
        problems.add(
            parsed.place.at("busy"), "requires pointers or metrics, which locate the busy state in the response"
        )


def _check_unit_only_preset(parsed: ParsedConsumer, problems: ProblemList) -> None:
    """Require a unit for a preset of class unit-only, which has no other way to be evicted."""
    # A consumer that is never evicted (vram_managed, pinned), or that has an unload route of its own, needs no unit.
    keys = parsed.keys
    name = keys.get("preset")
    if name not in preset_names() or preset(name).about.class_ != _UNIT_ONLY:
        return
    if not any(keys.get(key) for key in ("unit", "container", "unload", "vram_managed", "pinned")):
        message = f'is missing: the preset "{name}" has no unload route, so only stopping the unit frees VRAM'
        problems.add(parsed.place.at("unit"), message)


def _check_missing_url(parsed: ParsedConsumer, problems: ProblemList) -> None:
    own = _raw_table(parsed)
    routes = [route for route in _ROUTES if route in parsed.keys]
    for route in routes:
        if route in own:
            problems.add(parsed.place.at(route), "requires url in the consumer's table")
    if not own.keys() >= set(routes):
        problems.add(parsed.place.at("url"), f'is missing: the preset "{parsed.keys["preset"]}" has no default url')
    elif not routes and not parsed.keys.get("unit") and not parsed.keys.get("container"):
        problems.add(parsed.place, "requires a unit, a container or a url")


def _check_eviction_methods(parsed: ParsedConsumer, problems: ProblemList) -> None:
    methods = parsed.keys.get("evict", ())
    for index, method in enumerate(() if methods is INVALID else methods):
        if method is EvictionMethod.HTTP and not parsed.keys.get("unload"):
            problems.add(parsed.place.at("evict", index), '"http" requires an unload route')
        if method is EvictionMethod.UNIT_STOP and not parsed.keys.get("unit"):
            problems.add(parsed.place.at("evict", index), '"unit-stop" requires unit')
        if method is EvictionMethod.CONTAINER and not parsed.keys.get("container"):
            problems.add(parsed.place.at("evict", index), '"container" requires container')


def _check_coexists_with_itself(parsed: ParsedConsumer, problems: ProblemList) -> None:
    others = parsed.keys.get("can_coexist_with", ())
    if others is not INVALID and parsed.name in others:
        problems.add(
            list_element_place(parsed, "can_coexist_with", parsed.name), "lists the consumer itself: remove it"
        )


def list_element_place(parsed: ParsedConsumer, key: str, element: str) -> Place:
    """Return the place of a list element in the consumer's own table; if it is from the preset, that of the key."""
    raw = _raw_table(parsed).get(key, [])
    return parsed.place.at(key, raw.index(element)) if element in raw else parsed.place.at(key)


def _raw_table(parsed: ParsedConsumer) -> dict[str, Any]:
    raw: Any = parsed.place.document.table
    for part in parsed.place.path:
        raw = raw[part]
    return raw if isinstance(raw, dict) else {}


def _default_methods(keys: dict[str, Any]) -> tuple[EvictionMethod, ...]:
    by_route = (EvictionMethod.HTTP,) if keys.get("unload") else ()
    by_unit = (EvictionMethod.UNIT_STOP,) if keys.get("unit") else ()
    by_container = (EvictionMethod.CONTAINER,) if keys.get("container") else ()
    return (*by_route, *by_unit, *by_container)
