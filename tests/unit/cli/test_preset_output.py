"""preset show prints every preset, with the positions of all values that its routes read."""

from __future__ import annotations

import json

import pytest

from gpumand.cli.render.presets import preset_json, show_lines
from gpumand.cli.render.theme import Theme
from gpumand.config.presets import preset, preset_names


def shown(name: str) -> str:
    return "\n".join(line.plain for line in show_lines(preset(name), Theme()))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_shown(name: str) -> None:
    text = shown(name)
    for table in preset(name).document.table["consumer"].values():
        for key in ("path", "loaded", "failed", "sleeping", "success", "error") if isinstance(table, dict) else ():
            assert str(table.get(key, "")) in text
    assert json.loads(json.dumps(preset_json(preset(name))))["name"] == name


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tabbyapi", 'health      GET /v1/model; loaded: /id = "{model}"; not loaded: status 503'),
        ("koboldcpp", 'loaded: /result is not "inactive"'),
        ("koboldcpp", "success: /success; error: /error; answers early"),
        ("llama-server", "sleeping: /is_sleeping of GET /props"),
        ("llama-server", "Asking this wakes the server or keeps it awake: busy."),
        ("ollama", "Without model:\n  health  GET /api/ps; loaded: /models"),
    ],
)
def test_new_keys_of_routes_are_shown(name: str, line: str) -> None:
    assert line in shown(name)
