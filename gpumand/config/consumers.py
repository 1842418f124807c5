"""From a ``[consumers.NAME]`` table and its preset to a ConsumerSpec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from gpumand.config.consumer_schema import ConsumerTable
from gpumand.config.files import read_key
from gpumand.config.presets import Preset, preset, preset_names
from gpumand.config.problems import Place, ProblemList, shown
from gpumand.config.table_schema import FAULTY, filled, note_missing, read_keys
from gpumand.config.validators import CONSUMER_NAME, KEY, KEY_HEADER
from gpumand.domain.consumer import UNKNOWN_MIB, BusyRoute, ConsumerSpec, EvictionMethod
from gpumand.domain.name_suggestions import nearest

_NOT_IN_SPEC = ("model", "key_file", "key_header")
_ROUTES = ("health", "busy", "load", "unload")
_UNIT_ONLY = "unit-only"
_UNKNOWN: dict[str, Any] = {"unit": FAULTY, "url": FAULTY, "unload": FAULTY}
"""What a preset that is not known may have had: not to be called missing."""


@attrs.frozen
class Written:
    """A consumer as it was written.

    Attributes:
        name: its name.
        place: its table.
        keys: what was given, by its preset too, converted; FAULTY where it was refused.
    """

    name: str
    place: Place
    keys: dict[str, Any]

    def spec(self) -> ConsumerSpec | None:
        """The consumer; None when any of its keys was refused. A footprint that is not written is ``UNKNOWN_MIB``."""
        if FAULTY in self.keys.values():
            return None
        keys = filled(ConsumerTable, self.keys)
        keys["evict"] = keys["evict"] or _default_methods(self.keys)
        declared_mib, guess_mib = keys.pop("vram_resident_mib"), keys.pop("vram_guess_mib")
        devices, count = keys.pop("device"), keys.pop("device_count")
        keys |= {"devices": devices, "device_count": count or len(devices) or 1}
        keys |= {"vram_resident_mib": declared_mib or guess_mib or UNKNOWN_MIB, "vram_auto": declared_mib is None}
        return ConsumerSpec(self.name, **{key: value for key, value in keys.items() if key not in _NOT_IN_SPEC})


def read_consumer(name: str, raw: object, place: Place, faults: ProblemList) -> Written:
    """Read one consumer's table, put its preset under it, and note what is wrong in it by itself."""
    if not CONSUMER_NAME.fullmatch(name):
        faults.add(
            place,
            f"{shown(name)} is no name of a consumer: up to 64 letters, digits, dots, dashes and underscores, "
            "the first a letter or digit",
        )
    own = read_keys(ConsumerTable, raw, place, faults)
    if not isinstance(raw, dict):
        return Written(name, place, {"vram_resident_mib": FAULTY})
    written = Written(name, place, {**_from_preset(own, place, faults), **own})
    _put_key_in(written, faults)
    note_missing(ConsumerTable, written.keys, place, faults)
    _note_conflicts(written, faults)
    return written


def _from_preset(own: dict[str, Any], place: Place, faults: ProblemList) -> dict[str, Any]:
    name, model = own.get("preset", ""), own.get("model", "")
    if name is FAULTY:
        return dict(_UNKNOWN)
    if not name:
        if model:
            faults.add(place.at("model"), "is of use only to a preset")
        return {}
    if name not in preset_names():
        words = f"{shown(name)} is no preset (gpumanctl preset list has them)"
        faults.add(place.at("preset"), words, nearest(name, preset_names()))
        return dict(_UNKNOWN)
    return _keys_of(preset(name), model, place, faults)


def _keys_of(chosen: Preset, model: Any, place: Place, faults: ProblemList) -> dict[str, Any]:
    wants = chosen.about.model
    if wants == "none" and model:
        faults.add(place.at("model"), f'is of no use: the preset "{chosen.name}" names no model')
    if wants == "required" and not model:
        faults.add(place.at("model"), f'is missing: the preset "{chosen.name}" needs to know which model')
    # A refused model must not make its routes missing too.
    put_in = "model" if model is FAULTY or (wants == "required" and not model) else model
    return read_keys(ConsumerTable, chosen.consumer(put_in), Place(chosen.document, ("consumer",)), faults)


def _put_key_in(written: Written, faults: ProblemList) -> None:
    """Make the header that carries the key; it takes the place of a written one of its name."""
    keys, place = written.keys, written.place
    file, header = keys.get("key_file"), keys.get("key_header", KEY_HEADER)
    headers = keys.get("headers", ())
    if not file:
        if "key_header" in _raw(written) and header is not FAULTY:
            faults.add(place.at("key_header"), "is of use only to a key_file")
        return
    if FAULTY in (file, header, headers):
        return
    secret = read_key(Path(file), place.at("key_file"), faults)
    name, _, value = header.partition(": ")
    others = tuple(pair for pair in headers if pair[0].lower() != name.lower())
    keys["headers"] = (*others, (name, value.replace(KEY, secret))) if secret else FAULTY


def _note_conflicts(written: Written, faults: ProblemList) -> None:
    keys, place = written.keys, written.place
    if not keys.get("url"):
        _note_without_url(written, faults)
    if keys.get("vram_guess_mib") and keys.get("vram_resident_mib"):
        faults.add(place.at("vram_guess_mib"), "is of use only where vram_resident_mib does not say it")
    devices, count = keys.get("device"), keys.get("device_count")
    if isinstance(devices, tuple) and isinstance(count, int) and count > len(devices):
        faults.add(place.at("device_count"), f"is {count}, and device names {len(devices)}")
    if isinstance(devices, tuple) and len(set(devices)) < len(devices):
        faults.add(place.at("device"), "names a device twice")
    if keys.get("parks") is True and not keys.get("unload"):
        faults.add(place.at("parks"), "needs an unload route: that is what parks it")
    if "parked_host_mib" in _raw(written) and keys.get("parks") in (None, False):
        faults.add(place.at("parked_host_mib"), "is of use only where parks is true")
    _note_methods(written, faults)
    _note_busy(written, faults)
    _note_unit_only(written, faults)
    _note_itself(written, faults)
    residual, resident = keys.get("residual_mib"), keys.get("vram_resident_mib")
    if isinstance(residual, int) and isinstance(resident, int) and residual >= resident:
        faults.add(place.at("residual_mib"), f"is not less than vram_resident_mib ({resident})")


def _note_busy(written: Written, faults: ProblemList) -> None:
    busy = written.keys.get("busy")
    if isinstance(busy, BusyRoute) and not (busy.pointers or busy.metrics):
        faults.add(written.place.at("busy"), "needs pointers or metrics: where its answer says whether it works")


def _note_unit_only(written: Written, faults: ProblemList) -> None:
    """Who chose such a preset means to have it evicted, unless the consumer is never to be."""
    keys = written.keys
    name = keys.get("preset")
    if name not in preset_names() or preset(name).about.class_ != _UNIT_ONLY:
        return
    if not any(keys.get(key) for key in ("unit", "unload", "vram_managed", "pinned")):
        faults.add(written.place.at("unit"), f'is missing: with the preset "{name}" only stopping its unit frees VRAM')


def _note_without_url(written: Written, faults: ProblemList) -> None:
    own = _raw(written)
    routes = [route for route in _ROUTES if route in written.keys]
    for route in routes:
        if route in own:
            faults.add(written.place.at(route), "needs the consumer's url")
    if not own.keys() >= set(routes):
        faults.add(written.place.at("url"), f'is missing: the preset "{written.keys["preset"]}" has no default')
    elif not routes and not written.keys.get("unit"):
        faults.add(written.place, "needs a unit, a url, or both")


def _note_methods(written: Written, faults: ProblemList) -> None:
    methods = written.keys.get("evict", ())
    for index, method in enumerate(() if methods is FAULTY else methods):
        if method is EvictionMethod.HTTP and not written.keys.get("unload"):
            faults.add(written.place.at("evict", index), '"http" needs an unload route')
        if method is EvictionMethod.UNIT_STOP and not written.keys.get("unit"):
            faults.add(written.place.at("evict", index), '"unit-stop" needs a unit')


def _note_itself(written: Written, faults: ProblemList) -> None:
    others = written.keys.get("can_coexist_with", ())
    if others is not FAULTY and written.name in others:
        faults.add(place_in_list(written, "can_coexist_with", written.name), "names the consumer itself")


def place_in_list(written: Written, key: str, element: str) -> Place:
    """Where an element stands in a list that the consumer's own table has."""
    raw = _raw(written).get(key, [])
    return written.place.at(key, raw.index(element)) if element in raw else written.place.at(key)


def _raw(written: Written) -> dict[str, Any]:
    raw: Any = written.place.document.table
    for part in written.place.path:
        raw = raw[part]
    return raw if isinstance(raw, dict) else {}


def _default_methods(keys: dict[str, Any]) -> tuple[EvictionMethod, ...]:
    by_route = (EvictionMethod.HTTP,) if keys.get("unload") else ()
    by_unit = (EvictionMethod.UNIT_STOP,) if keys.get("unit") else ()
    return (*by_route, *by_unit)
