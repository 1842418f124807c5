"""Output of ``preset list`` and ``preset show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.render.wrap import wrapped
from gpumand.config.presets import WITHOUT_MODEL, Preset
from gpumand.config.toml_writer import to_toml

Keys = Mapping[str, Any]

CLASSES = {
    "full-rest": "loads and unloads through HTTP routes",
    "unload-only": "unloads through an HTTP route, and loads on its first request",
    "sleep-wake": "parks and wakes through HTTP routes; parked weights stay in host RAM",
    "restart": "unloads by restarting without its model, and loads by restarting with it",
    "unit-only": "has no load or unload route: its unit is stopped and started",
}
"""Description of each preset class."""

ROUTES = ("health", "busy", "load", "unload")
MODEL = "MODEL NAME"


def summary_json(preset: Preset) -> dict[str, Any]:
    """A preset's entry of ``preset list --json``."""
    about = preset.about
    return {"name": preset.name, "title": about.title, "class": about.class_, "model": about.model}


def preset_json(preset: Preset) -> dict[str, Any]:
    """A whole preset, for ``preset show --json``."""
    about = preset.about
    detect = about.detect
    return {
        **summary_json(preset),
        "summary": about.summary,
        "homepage": about.homepage,
        "async_unload": about.async_unload,
        "side_effects": list(about.side_effects),
        "needs": list(about.needs),
        "notes": list(about.notes),
        "sources": list(about.sources),
        "detect": {"units": list(detect.units), "commands": list(detect.commands), "ports": list(detect.ports)},
        "consumer": _keys(preset),
        "example": example(preset),
    }


def list_lines(presets: Sequence[Preset], theme: Theme) -> list[Text]:
    """One line for each preset."""
    columns = (
        Column("PRESET"),
        Column("CLASS", drop_priority=1),
        Column("MODEL", drop_priority=2),
        Column("SERVER", min_width=12),
    )
    return table(columns, [_row(one) for one in presets], theme)


def _row(preset: Preset) -> list[Text | str]:
    about = preset.about
    model = "" if about.model == "none" else about.model
    return [Text(preset.name, style="bold"), about.class_, model, about.title]


def show_lines(preset: Preset, theme: Theme) -> list[Text]:
    """A preset's description: summary, class, routes, requirements, notes, sources and an example configuration."""
    about = preset.about
    lines = [Text.assemble((about.title, "bold"), f"  ({preset.name}, {about.homepage})")]
    lines += wrapped(about.summary, theme)
    lines += wrapped(f"Class {about.class_}: {CLASSES[about.class_]}.", theme)
    if about.async_unload:
        lines += wrapped("The unload route answers before the memory is free.", theme)
    lines += _section("Routes", _route_lines(_keys(preset)))
    lines += _section("Without model", _route_lines(preset.document.table.get(WITHOUT_MODEL, {})))
    if about.side_effects:
        lines += [
            Text(),
            *wrapped(f"Asking this wakes the server or keeps it awake: {', '.join(about.side_effects)}.", theme),
        ]
    lines += _section("Needs", _bullets(about.needs, theme))
    lines += _section("Notes", _bullets(about.notes, theme))
    lines += _section("Sources", _bullets(about.sources, theme))
    return lines + _section("Example configuration", [Text(f"  {line}") for line in example(preset)])


def example(preset: Preset) -> list[str]:
    """Configuration lines that use the preset, with placeholders for the values that depend on the host."""
    keys, about = _keys(preset), preset.about
    lines = [f"[consumers.{preset.name}]", f"preset = {to_toml(preset.name)}"]
    lines += [f"model = {to_toml(MODEL)}"] if about.model == "required" else []
    lines += [f"# model = {to_toml(MODEL)}"] if about.model == "optional" else []
    if "url" in keys:
        lines.append(f"# url = {to_toml(keys['url'])}")
    elif any(route in keys for route in ROUTES):
        lines.append('url = "http://127.0.0.1:PORT"')
    unit = f"unit = {to_toml(f'{preset.name}.service')}"
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
    return [Text(f"  {name:<{width}}  {route_text(value)}") for name, value in rows]


def route_text(value: Any) -> str:
    """A route as one line, for example ``POST /free {...}; success: /success``."""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else to_toml(value)
    words = [f"{value.get('method', 'GET')} {value['path']}"] if "path" in value else []
    if "json" in value:
        words[0] += f" {to_toml(value['json'])}"
    for key in ("loaded", "last_used", "failed", "sleeping", "pointers", "metrics", "success", "error"):
        if key in value:
            places = value[key] if isinstance(value[key], str) else ", ".join(value[key])
            words.append(f"{key if key not in ('pointers', 'metrics') else 'busy'}: {places}" + _equals(value, key))
    if "unloaded_status" in value:
        words.append(f"not loaded: status {', '.join(map(str, value['unloaded_status']))}")
    if value.get("connections"):
        words.append("busy: clients connected to its port")
    if value.get("async_load"):
        words.append("answers early")
    return "; ".join(words)


def _equals(route: Keys, key: str) -> str:
    name = "equals" if key == "pointers" else f"{key}_equals"
    equals = f" = {to_toml(route[name])}" if name in route else ""
    if key == "loaded" and "unloaded_equals" in route:
        equals = f" is not {to_toml(route['unloaded_equals'])}"
    return equals + (f" of GET {route['sleeping_path']}" if key == "sleeping" and "sleeping_path" in route else "")


def _bullets(sentences: Sequence[str], theme: Theme) -> list[Text]:
    return [line for one in sentences for line in wrapped(one, theme, first="  - ", rest="    ")]


def _section(title: str, lines: list[Text]) -> list[Text]:
    return [Text(), Text(f"{title}:", style="bold"), *lines] if lines else []
