"""The demand log."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from gpumand.history import demand_log as module
from gpumand.history.demand_log import Demand, DemandLog

USE = Demand(1.25, "llm", 30.0, "1000", -5)


async def test_every_use_is_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "demand.jsonl"
    for _ in range(2):
        log = DemandLog(path)
        log.note(USE)
        await log.close()
    expected = {"t": 1.25, "consumer": "llm", "hold_sec": 30.0, "client": "1000", "priority": -5}
    assert [json.loads(line) for line in path.read_text().splitlines()] == [expected, expected]


def test_a_priority_that_nobody_knows_is_not_said() -> None:
    assert "priority" not in json.loads(Demand(1.25, "llm", 30.0, "1000", None).line())


async def test_full_log_makes_room_for_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    path = tmp_path / "demand.jsonl"
    for _ in range(3):
        log = DemandLog(path)
        log.note(USE)
        await log.close()
    assert len(path.read_text().splitlines()) == 1
    assert len((tmp_path / "demand.jsonl.1").read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
async def test_what_is_no_file_is_left_alone_and_told_once(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "demand.jsonl"
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda one: os.symlink("/dev/null", one)}[kind](path)
    log = DemandLog(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            log.note(USE)
            while log._writing is not None:
                await log._writing
        await log.close()
    assert len(caplog.records) == 1
