"""The demand log: format, rotation, and unusual file types."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from gpumand.history import demand_log as module
from gpumand.history.demand_log import DemandEntry, DemandLog

USE = DemandEntry(1.25, "llm", 30.0, "1000", -5)


async def test_every_use_is_one_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "demand.jsonl"
    for _ in range(2):
        log = DemandLog(path)
        log.append(USE)
        await log.close()
    expected = {"t": 1.25, "consumer": "llm", "hold_sec": 30.0, "client": "1000", "priority": -5}
    assert [json.loads(to_json_line) for to_json_line in path.read_text().splitlines()] == [expected, expected]


def test_unknown_priority_is_omitted() -> None:
    assert "priority" not in json.loads(DemandEntry(1.25, "llm", 30.0, "1000", None).to_json_line())


async def test_full_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    path = tmp_path / "demand.jsonl"
    for _ in range(3):
        log = DemandLog(path)
        log.append(USE)
        await log.close()
    assert len(path.read_text().splitlines()) == 1
    assert len((tmp_path / "demand.jsonl.1").read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
async def test_other_file_types_are_not_written_and_logged_once(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "demand.jsonl"
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda one: os.symlink("/dev/null", one)}[kind](path)
    log = DemandLog(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            log.append(USE)
            while log._write_task is not None:
                await log._write_task
        await log.close()
    assert len(caplog.records) == 1
