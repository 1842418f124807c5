"""Presets: routes of well-known servers that ship with gpumand, as TOML beside ``gpumand.consumers``.

A preset's file has a ``[preset]`` table (see ``PresetTable``) and a ``[consumer]`` table with keys of a consumer. Where
a text of the latter has ``{model}``, the consumer's ``model`` is put in, escaped as its place wants it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import attrs

from gpumand.config.files import parse
from gpumand.config.preset_schema import PresetTable
from gpumand.config.problems import Document, Place, ProblemList
from gpumand.config.table_schema import filled, note_missing, read_keys

MODEL = "{model}"
_SUFFIX = ".toml"


@attrs.frozen
class Preset:
    """One preset.

    Attributes:
        name: as a consumer's ``preset`` names it.
        about: its ``[preset]`` table.
        document: its file; the ``[consumer]`` table is in it.
    """

    name: str
    about: PresetTable
    document: Document

    def consumer(self, model: str) -> dict[str, Any]:
        """The keys of the consumer, as tomllib would give them, with the model put in.

        Args:
            model: "" for none: the keys that need one are left out.
        """
        keys: dict[str, Any] = self.document.table["consumer"]
        if model:
            return {key: _with_model(value, key, model) for key, value in keys.items()}
        return {key: value for key, value in keys.items() if not _names_model(value)}


@cache
def preset_names() -> tuple[str, ...]:
    """The names of all presets, sorted."""
    folder = files("gpumand") / "consumers" / "presets"
    return tuple(sorted(one.name.removesuffix(_SUFFIX) for one in folder.iterdir() if one.name.endswith(_SUFFIX)))


@cache
def preset(name: str) -> Preset:
    """A preset that ships with gpumand.

    Args:
        name: one of ``preset_names()``.

    Raises:
        ConfigProblems: the file is faulty, which no release has.
    """
    file = files("gpumand") / "consumers" / "presets" / f"{name}{_SUFFIX}"
    faults = ProblemList()
    document = parse(str(file), file.read_bytes(), faults)
    about = _about(document, faults) if document else {}
    faults.raise_any([str(file)])
    assert document is not None  # else there was a fault
    return Preset(name, PresetTable(**{"class_" if key == "class" else key: about[key] for key in about}), document)


def _about(document: Document, faults: ProblemList) -> dict[str, Any]:
    place = Place(document)
    for key in ("preset", "consumer"):
        if not isinstance(document.table.get(key), dict):
            faults.add(place.at(key), "is missing: a preset has the tables preset and consumer")
            return {}
    about = read_keys(PresetTable, document.table["preset"], place.at("preset"), faults)
    note_missing(PresetTable, about, place.at("preset"), faults)
    return filled(PresetTable, about)


def _names_model(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_names_model, value.values()))
    if isinstance(value, list):
        return any(map(_names_model, value))
    return isinstance(value, str) and MODEL in value


def _with_model(value: Any, key: str, model: str) -> Any:
    if isinstance(value, dict):
        # A body's keys are the server's, whatever they are called.
        return {name: _with_model(one, key if key == "json" else name, model) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_model(one, key, model) for one in value]
    return value.replace(MODEL, _escaped(model, key)) if isinstance(value, str) else value


def _escaped(model: str, key: str) -> str:
    if key == "path":
        return quote(model, safe="")
    if key in {"loaded", "last_used", "pointers", "success"}:  # JSON pointers; "~" first, or "/" would be escaped twice
        return model.replace("~", "~0").replace("/", "~1")
    return model
