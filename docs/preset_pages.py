"""Generates one page for each preset from its file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from gpumand.cli.render.presets import CLASSES, route_text
from gpumand.config.presets import Preset, preset, preset_names
from gpumand.config.toml_writer import to_toml

MODELS = {
    "ollama": "llama3.1:8b",
    "speaches": "Systran/faster-whisper-large-v3",
    "llama-cpp-router": "qwen3-8b",
}
MODEL = "my-model"
PORT = 8080
RECIPES = {
    "ollama": ("ollama", "Ollama with Open WebUI"),
    "comfyui": ("comfyui", "ComfyUI"),
    "llama-server": ("llama-server", "llama-server and its router"),
    "llama-cpp-router": ("llama-server", "llama-server and its router"),
    "vllm": ("vllm", "vLLM with sleep mode"),
    "speaches": ("whisper", "Whisper with Home Assistant"),
    "whisper-cpp": ("whisper", "Whisper with Home Assistant"),
    "tei": ("embeddings", "Embeddings"),
    "infinity": ("embeddings", "Embeddings"),
    "a1111": ("stable-diffusion", "Stable Diffusion"),
    "forge": ("stable-diffusion", "Stable Diffusion"),
    "immich-machine-learning": ("immich", "Immich"),
}
"""Preset -> page and title of its recipe."""

ROUTE_CLASSES = {
    "never": "is refused",
    "look": "does not count as use",
    "starts": "does not count as use, and starts the server while it is stopped",
    "job": "holds a lease until the server is idle again",
    "work": "holds a lease until the answer ends",
    "page": "shows a waiting page while the server is stopped",
    "remember": "is answered from memory while the server is stopped",
}
PURPOSES = {
    "health": "health check",
    "busy": "check for work",
    "load": "load",
    "unload": "unload",
    "url": "default address",
}


def preset_pages() -> dict[str, str]:
    """Return the text of all pages by the name of their preset."""
    return {name: page(preset(name)) for name in preset_names()}


def page(one: Preset) -> str:
    """Return the page of a preset in Markdown."""
    about = one.about
    parts = [
        f"# {about.title}",
        f"{about.summary} Preset `{one.name}`, project: <{about.homepage}>.",
        f"The server {CLASSES[about.class_]}." + _early(one),
        *_recipe(one),
        "## Configuration",
        "\n".join(["```toml", *configuration(one), "```"]),
        "Replace the footprint, the unit and the address by those of your host.",
        *_list("## Requirements", about.needs),
        *_list("## Pitfalls", about.notes),
        *_routes(one),
        *_gateway(one),
        *_recognised(one),
        *_list("## Sources", about.sources),
    ]
    return "\n\n".join(parts) + "\n"


def configuration(one: Preset) -> list[str]:
    """Return a table that the configuration reader accepts."""
    keys: dict[str, Any] = one.document.table["consumer"]
    lines = [f"[consumers.{one.name}]", f"preset = {to_toml(one.name)}"]
    if one.about.model != "none":
        lines.append(f"model = {to_toml(MODELS.get(one.name, MODEL))}")
    lines.append(f"unit = {to_toml(f'{one.name}.service')}")
    lines.append(f"url = {to_toml(keys.get('url', f'http://127.0.0.1:{PORT}'))}")
    if "key_header" in keys:
        lines.append(f"key_file = {to_toml(f'/etc/gpumand/keys/{one.name}')}    # if the server has a key")
    return [*lines, "vram_resident_mib = 8192"]


def _early(one: Preset) -> str:
    return " It answers the unload request before the memory is free." if one.about.async_unload else ""


def _recipe(one: Preset) -> Iterator[str]:
    if one.name in RECIPES:
        name, title = RECIPES[one.name]
        yield f"Step by step: {{doc}}`{title} </guide/recipes/{name}>`."


def _list(title: str, entries: Iterable[str]) -> Iterator[str]:
    lines = [f"- {_plain(one)}" for one in entries]
    if lines:
        yield title
        yield "\n".join(lines)


def _routes(one: Preset) -> Iterator[str]:
    """The requests that gpumand sends."""
    keys: dict[str, Any] = one.document.table["consumer"]
    rows = [(PURPOSES[name], _code(route_text(keys[name]))) for name in PURPOSES if name in keys]
    if rows:
        yield "## Requests that gpumand sends"
        yield _table(("purpose", "request"), rows)


def _gateway(one: Preset) -> Iterator[str]:
    """How the gateway treats the routes of the server."""
    rows = [
        (name, meaning, ", ".join(_code(route) for route in getattr(one.routes, name)))
        for name, meaning in ROUTE_CLASSES.items()
        if getattr(one.routes, name)
    ]
    if rows:
        yield "## Routes at the gateway"
        yield "{doc}`/guide/gateway` explains the classes. The first that matches counts."
        yield _table(("class", "a request", "routes"), rows)


def _recognised(one: Preset) -> Iterator[str]:
    detect = one.about.detect
    kinds = {
        "units": detect.units,
        "command lines": detect.commands,
        "ports": detect.ports,
        "images": detect.images,
    }
    rows = [(kind, ", ".join(_code(str(each)) for each in found)) for kind, found in kinds.items() if found]
    if rows:
        yield "## How gpumanctl init recognises it"
        yield _table(("by", "patterns"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _plain(text: str) -> str:
    """Text in which words that Markdown would change, such as names with underscores, are code."""
    return re.sub(r"[^\s,;:()]*[_<>*{][^\s,;:()]*(?<![.])", lambda match: f"`{match[0]}`", text)
