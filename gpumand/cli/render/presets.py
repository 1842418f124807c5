"""``preset list`` and ``preset show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.render.wrap import wrapped
from gpumand.config.presets import Preset
from gpumand.config.toml_writer import written

Keys = Mapping[str, Any]

CLASSES = {
    "full-rest": "loads and unloads by route",
    "unload-only": "unloads by route, loads with its first request",
    "sleep-wake": "parks its weights by route, and takes them back",
    "restart": "starts anew without its model, and anew with it",
    "unit-only": "has no such route: its unit is stopped and started",
}
"""What each class means, in words."""

ROUTES = ("health", "busy", "load", "unload")
MODEL = "NAME OF THE MODEL"


def listed(preset: Preset) -> dict[str, Any]:
    """A preset in the list, for programs."""
    about = preset.about
    return {"name": preset.name, "title": about.title, "class": about.class_, "model": about.model}


def shown(preset: Preset) -> dict[str, Any]:
    """All of a preset, for programs."""
    about = preset.about
    detect = about.detect
    return {
        **listed(preset),
        "summary": about.summary,
        "async_unload": about.async_unload,
        "needs": list(about.needs),
        "notes": list(about.notes),
        "sources": list(about.sources),
        "detect": {"units": list(detect.units), "commands": list(detect.commands), "ports": list(detect.ports)},
        "consumer": _keys(preset),
        "example": example(preset),
    }


def list_lines(presets: Sequence[Preset], look: Theme) -> list[Text]:
    """A line a preset."""
    columns = (Column("PRESET"), Column("CLASS", wanted=1), Column("MODEL", wanted=2), Column("SERVER", least=12))
    return table(columns, [_row(one) for one in presets], look)


def _row(preset: Preset) -> list[Text | str]:
    about = preset.about
    model = "" if about.model == "none" else about.model
    return [Text(preset.name, style="bold"), about.class_, model, about.title]


def show_lines(preset: Preset, look: Theme) -> list[Text]:
    """A preset for people: what it does, its routes, what to know, and what to write."""
    about = preset.about
    lines = [Text.assemble((about.title, "bold"), f"  ({preset.name})")]
    lines += wrapped(about.summary, look)
    lines += wrapped(f"Class {about.class_}: {CLASSES[about.class_]}.", look)
    if about.async_unload:
        lines += wrapped("Its unload route answers before the memory is free.", look)
    lines += _section("Routes", _route_lines(_keys(preset)))
    lines += _section("Needs", _bullets(about.needs, look))
    lines += _section("Notes", _bullets(about.notes, look))
    lines += _section("Sources", _bullets(about.sources, look))
    return lines + _section("To use it", [Text(f"  {line}") for line in example(preset)])


def example(preset: Preset) -> list[str]:
    """What to write into the configuration; figures and names that only the reader knows are left to fill in."""
    keys, about = _keys(preset), preset.about
    lines = [f"[consumers.{preset.name}]", f"preset = {written(preset.name)}"]
    lines += [f"model = {written(MODEL)}"] if about.model == "required" else []
    lines += [f"# model = {written(MODEL)}"] if about.model == "optional" else []
    if "url" in keys:
        lines.append(f"# url = {written(keys['url'])}")
    elif any(route in keys for route in ROUTES):
        lines.append('url = "http://127.0.0.1:PORT"')
    unit = f"unit = {written(f'{preset.name}.service')}"
    lines.append(unit if about.class_ == "unit-only" else f"# {unit}")
    if "key_header" in keys:
        lines.append('key_file = "/etc/gpumand/keys/' + f'{preset.name}"')
    return [*lines, "vram_resident_mib = MIB"]


def _keys(preset: Preset) -> dict[str, Any]:
    keys: dict[str, Any] = preset.document.table["consumer"]
    return keys


def _route_lines(keys: Keys) -> list[Text]:
    rows = [(name, keys[name]) for name in keys]
    width = max((len(name) for name, _ in rows), default=0)
    return [Text(f"  {name:<{width}}  {_route(value)}") for name, value in rows]


def _route(value: Any) -> str:
    """A route as one would say it: ``POST /free {...}; success at /success``."""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else written(value)
    words = [f"{value.get('method', 'GET')} {value['path']}"]
    if "json" in value:
        words[0] += f" {written(value['json'])}"
    for key in ("loaded", "last_used", "pointers", "metrics", "success"):
        if key in value:
            places = value[key] if isinstance(value[key], str) else ", ".join(value[key])
            words.append(f"{key if key not in ('pointers', 'metrics') else 'busy'}: {places}" + _equals(value, key))
    return "; ".join(words)


def _equals(route: Keys, key: str) -> str:
    name = {"loaded": "loaded_equals", "pointers": "equals", "success": "success_equals"}.get(key, "")
    return f" = {written(route[name])}" if name in route else ""


def _bullets(sentences: Sequence[str], look: Theme) -> list[Text]:
    return [line for one in sentences for line in wrapped(one, look, first="  - ", rest="    ")]


def _section(title: str, lines: list[Text]) -> list[Text]:
    return [Text(), Text(f"{title}:", style="bold"), *lines] if lines else []
