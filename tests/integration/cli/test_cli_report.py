"""``gpumanctl report`` with a running daemon, and without one."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from tests.integration.cli.world import world


async def test_a_report_of_a_running_daemon_has_its_loads_and_no_names(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        assert (await ctl("load", "mvoice")).code == 0
        assert (await ctl("evict", "mvoice")).code == 0
        result = await ctl("report")
        document = json.loads((await ctl("report", "--json")).out)
    assert (result.code, result.err) == (0, "")
    for name in ("mvoice", "comfyui", str(tmp_path), "127.0.0.1"):
        assert name not in result.out, result.out
    sections = [section for name, section in document.items() if name.startswith("Consumer ")]
    assert [one for one in sections if one.get("history, load", "").startswith("1: shortest")]
    assert [one for one in sections if any(name.startswith("history, eviction by ") for name in one)]
    assert document["Device 0"]["source"] == "simulated"
    assert document["Daemon"]["degraded"] == "none"


async def test_a_report_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "report.txt"
    async with world(tmp_path) as (_, ctl):
        assert (await ctl("report", "--output", str(target))).code == 0
        first = target.read_text()
        again = await ctl("report", "--output", str(target))
        missing = await ctl("report", "--output", str(tmp_path / "none" / "report.txt"))
    assert first.startswith("gpumand report: ")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert (again.code, missing.code) == (1, 1)
    assert "File exists. Name another file with --output" in again.err
    assert "No such file or directory" in missing.err
    assert target.read_text() == first


async def test_a_report_without_a_daemon_starts_none(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await host.end()
        result = await ctl("report")
    assert (result.code, result.err) == (0, "")
    assert "gpumand: not running" in result.out
