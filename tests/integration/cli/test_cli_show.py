"""``show`` and ``history`` against a real daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gpumand.cli.render.format import user_name
from tests.integration.cli.ctl import Ctl
from tests.integration.cli.world import world
from tests.integration.live import table, wait_until


async def done(ctl: Ctl, *args: str) -> str:
    """The output of a command. Raises AssertionError when it fails."""
    result = await ctl(*args)
    assert (result.code, result.err) == (0, ""), result
    return result.out


async def document(ctl: Ctl, *args: str) -> Any:
    return json.loads(await done(ctl, *args, "--json"))


async def test_show_describes_state_leases_loads_and_plan(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await done(ctl, "load", "comfyui")
        lease = (await done(ctl, "acquire", "llm", "--reason", "chat")).strip()
        text = await done(ctl, "show", "llm")
        await done(ctl, "release", lease)
        evicted = await done(ctl, "show", "comfyui")
    lines = text.splitlines()
    assert lines[0] == "● llm: resident on GPU 0, holds 14.0 GiB"
    assert any(line.startswith("  footprint   14.0 GiB (declared)") for line in lines)
    assert any(line.startswith("  loads in    ") for line in lines)
    assert "  evicted by  http" in lines
    assert f"  url         {host.consumers['llm'].url}" in lines
    leases = text.partition("\nLeases:\nLEASE ")[2]
    assert lease in leases
    assert "chat" in leases
    assert "llm: would be granted on GPU 0: it is already resident" in text
    assert "unloads in" in evicted
    assert "for llm; by http" in evicted


async def test_show_as_json_has_the_keys_of_the_bus(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        await done(ctl, "load", "mvoice")
        shown = await document(ctl, "show", "mvoice")
    assert list(shown) == ["consumer", "learned", "leases", "queue", "history", "plan"]
    assert shown["consumer"]["evict"] == ["http"]
    assert [entry["kind"] for entry in shown["history"]] == ["load"]
    assert shown["plan"]["verdict"] == "grant"


async def test_show_of_an_unknown_consumer_exits_4_with_the_nearest_name(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        near, far = await ctl("show", "comfyu"), await ctl("show", "qqq")
    assert (near.code, near.out) == (4, "")
    assert near.err == "gpumanctl: no consumer is named 'comfyu'; did you mean comfyui?\n"
    assert far.err == "gpumanctl: no consumer is named 'qqq'; list the configured consumers with: gpumanctl list\n"


async def test_show_warns_of_a_footprint_that_differs_from_the_measured_one(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await host.end()
        host.configure(table(host.consumers["mvoice"], 2000), gpu=f"{GPU}\nsimulated_dir = {str(host.simulator)!r}")
        await host.start()
        await done(ctl, "load", "mvoice")
        await wait_until("its memory is stable and measured", is_measured, ctl)
        text = await done(ctl, "show", "mvoice")
    assert "  footprint   2.0 GiB (declared)" in text
    assert "warning     uses 43 % more VRAM than declared; set vram_resident_mib = 2867" in text


GPU = 'source = "simulated"\nsimulated_total_mib = [24564]\nsample_interval_sec = 0.25'


async def is_measured(ctl: Ctl) -> bool:
    learned = (await document(ctl, "show", "mvoice"))["learned"]
    return "peak_mib" in learned


async def test_history_is_newest_first_and_survives_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        lease = (await done(ctl, "acquire", "comfyui", "--reason", "poster")).strip()
        await done(ctl, "release", lease)
        await done(ctl, "load", "llm")
        await host.end()
        await host.start()
        entries = await document(ctl, "history")
        text = await done(ctl, "history")
        of_comfyui = await document(ctl, "history", "--consumer", "comfyui", "--kind", "grant", "--kind", "end")
        none = await document(ctl, "history", "--until", "1h ago")
        newest = await document(ctl, "history", "-n", "1", "--since", "1h")
        empty = await done(ctl, "history", "--until", "yesterday")
    assert [entry["kind"] for entry in entries] == ["load", "eviction", "end", "grant", "load"]
    assert [entry["kind"] for entry in of_comfyui] == ["end", "grant"]
    assert (none, newest) == ([], entries[:1])
    assert empty == "No matching entries.\n"
    lines = text.splitlines()
    assert lines[0].split() == ["TIME", "WHAT", "CONSUMER", "GPU", "TOOK", "FREED", "DETAILS"]
    assert [word in lines[2] for word in ("evicted", "13.0 GiB", "for llm; by http")] == [True] * 3
    assert f"poster; {user_name(os.getuid())}, lease {lease}" in lines[4]


async def test_history_refuses_an_invalid_timestamp(tmp_path: Path, ctl: Ctl) -> None:
    result = await ctl("history", "--since", "soonish")
    assert (result.code, result.out) == (2, "")
    assert "'soonish' is not a time; write, for example, 10:30, yesterday or '2h ago'" in result.err
