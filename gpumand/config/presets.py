"""Reads the presets: routes of well-known servers, which ship as TOML files in ``gpumand/consumers/presets``.

A preset's file has a ``[preset]`` table (see ``PresetTable``), a ``[consumer]`` table with keys of a consumer, and a
``[routes]`` table for the gateway (see ``RoutesTable``). In the strings of ``[consumer]``, ``{model}`` is replaced by
the consumer's ``model``, escaped for its position (URL path, JSON pointer or plain text), and ``{tagged_model}`` by the
model with the tag ``latest`` if it names none. A preset whose model is optional may have a table ``[without_model]``,
whose keys replace those of ``[consumer]`` that need one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gpumand.config.files import parse
from gpumand.config.preset_schema import PresetTable
from gpumand.config.problems import Document, Place, ProblemList
from gpumand.config.routes_schema import RoutesTable
from gpumand.config.table_schema import check_required, read_keys, with_defaults

MODEL = "{model}"
TAGGED_MODEL = "{tagged_model}"
DEFAULT_TAG = ":latest"
DEFAULT_PREFIXES = ("https://", "registry.ollama.ai/", "library/")
WITHOUT_MODEL = "without_model"
_PLACEHOLDER = re.compile(r"\{(?:tagged_)?model\}")
_FOLDER = Path(__file__).parents[1] / "consumers" / "presets"
_SUFFIX = ".toml"
_POINTERS = {
    "loaded",
    "last_used",
    "failed",
    "loading",
    "sleeping",
    "pointers",
    "success",
    "error",
    "size",
    "size_vram",
}
"""Keys whose values are JSON pointers."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset as shipped.

    Attributes:
        name: the name that a consumer's ``preset`` key refers to.
        about: its ``[preset]`` table.
        document: its parsed file, which also contains the ``[consumer]`` table.
        routes: its ``[routes]`` table.
    """

    name: str
    about: PresetTable
    document: Document
    routes: RoutesTable = field(default_factory=RoutesTable)

    def consumer(self, model: str) -> dict[str, Any]:
        """Return the consumer's keys, as parsed by tomllib, with the model substituted.

        Args:
            model: name of the model; "" leaves out the keys that contain ``{model}``.
        """
        keys: dict[str, Any] = self.document.table["consumer"]
        if model:
            return {key: _with_model(value, key, model) for key, value in keys.items()}
        general: dict[str, Any] = self.document.table.get(WITHOUT_MODEL, {})
        return {key: value for key, value in keys.items() if not _names_model(value)} | general


@cache
def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    return tuple(sorted(one.name.removesuffix(_SUFFIX) for one in _FOLDER.iterdir() if one.name.endswith(_SUFFIX)))


@cache
def preset(name: str) -> Preset:
    """Read a preset that ships with gpumand.

    Args:
        name: one of ``preset_names()``.

    Raises:
        ConfigProblems: the preset's file has errors; tests exclude that for every released preset.
    """
    file = _FOLDER / f"{name}{_SUFFIX}"
    problems = ProblemList()
    document = parse(str(file), file.read_bytes(), problems)
    about = _about(document, problems) if document else {}
    routes = (
        read_keys(RoutesTable, document.table.get("routes", {}), Place(document, ("routes",)), problems)
        if document
        else {}
    )
    problems.raise_any([str(file)])
    assert document is not None  # raise_any has raised otherwise
    table = PresetTable(**{"class_" if key == "class" else key: about[key] for key in about})
    return Preset(name, table, document, RoutesTable(**with_defaults(RoutesTable, routes)))


def _about(document: Document, problems: ProblemList) -> dict[str, Any]:
    place = Place(document)
    for key in ("preset", "consumer"):
        if not isinstance(document.table.get(key), dict):
            problems.add(place.at(key), "is missing: a preset needs the tables preset and consumer")
            return {}
    about = read_keys(PresetTable, document.table["preset"], place.at("preset"), problems)
    check_required(PresetTable, about, place.at("preset"), problems)
    return with_defaults(PresetTable, about)


def _names_model(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_names_model, value.values()))
    if isinstance(value, list):
        return any(map(_names_model, value))
    return isinstance(value, str) and (MODEL in value or TAGGED_MODEL in value)


def _with_model(value: Any, key: str, model: str) -> Any:
    if isinstance(value, dict):
        # Keys inside a JSON body belong to the server's API, so a key named "path" there is not a URL path.
        return {name: _with_model(one, key if key == "json" else name, model) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_model(one, key, model) for one in value]
    if not isinstance(value, str):
        return value
    tagged, plain = _escaped(_with_tag(model), key), _escaped(model, key)
    # One pass, so that a model whose name contains a placeholder is not replaced again.
    return _PLACEHOLDER.sub(lambda match: tagged if match[0] == TAGGED_MODEL else plain, value)


def _with_tag(model: str) -> str:
    """Return the name under which Ollama lists a model: with the tag ``latest`` unless it names another one.

    It leaves out its own registry and namespace, which a name may spell out.
    """
    for prefix in DEFAULT_PREFIXES:
        model = model.removeprefix(prefix)
    return model if ":" in model.rpartition("/")[2] else model + DEFAULT_TAG


def _escaped(model: str, key: str) -> str:
    if key in {"path", "sleeping_path"}:
        return quote(model, safe="")
    if key in _POINTERS:
        # "~" is replaced first; otherwise the "~" of "~1" would be escaped again.
        return model.replace("~", "~0").replace("/", "~1")
    return model
