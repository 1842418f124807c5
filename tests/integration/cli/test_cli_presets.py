"""``gpumanctl preset``, which needs no bus."""

from __future__ import annotations

import json

import pytest

from gpumand.config.presets import preset_names
from tests.integration.cli.ctl import Ctl


@pytest.fixture
def ctl() -> Ctl:
    return Ctl("unix:path=/nonexistent/bus")


async def test_preset_list_shows_every_preset(ctl: Ctl) -> None:
    listed = json.loads((await ctl("preset", "list", "--json")).out)

    assert [one["name"] for one in listed] == list(preset_names())
    assert (await ctl("--json", "preset")).out == (await ctl("preset", "--json", "list")).out
    lines = (await ctl("preset")).out.splitlines()
    assert lines[0].split() == ["PRESET", "CLASS", "MODEL", "SERVER"]
    assert len(lines) == 1 + len(listed)


async def test_preset_show_prints_routes_notes_and_configuration(ctl: Ctl) -> None:
    shown = await ctl("preset", "show", "koboldcpp")

    assert (shown.code, shown.err) == (0, "")
    for words in (
        "Class restart: unloads by restarting without its model",
        "The unload route answers before the memory is free.",
        'unload  POST /api/admin/reload_config { filename = "unload_model" }; success: /success',
        "busy    GET /api/extra/perf; busy: /idle = 0",
        "flag --admin",
        "koboldcpp.py 1.102",
        'preset = "koboldcpp"',
    ):
        assert words in shown.out
    one = json.loads((await ctl("preset", "show", "koboldcpp", "--json")).out)
    assert (one["class"], one["async_unload"], one["detect"]["ports"]) == ("restart", True, [5001])
    assert one["consumer"]["unload"]["success"] == "/success"


async def test_an_unknown_preset_comes_with_the_nearest_name(ctl: Ctl) -> None:
    wrong = await ctl("preset", "show", "comfy")

    assert (wrong.code, wrong.out) == (4, "")
    assert wrong.err == "gpumanctl: no preset is named comfy; did you mean comfyui?\n"
    other_case = await ctl("preset", "show", "ComfyUI")
    assert other_case.err == "gpumanctl: no preset is named ComfyUI; did you mean comfyui?\n"
    assert (await ctl("preset", "frob")).code == 2
    assert "no such command: preset vlm; did you mean preset show vllm?" in (await ctl("preset", "vlm")).err
