"""Assigning processes to units."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.discovery import scan
from gpumand.discovery.host import Process
from gpumand.domain.device import ProcessUse, Reading, Sample


class Systemd:
    """Knows the units of two processes."""

    def __init__(self, bus: object) -> None:
        pass

    async def unit_of_pid(self, pid: int) -> str:
        return {7: "ollama.service", 8: "user@1000.service"}.get(pid, "")


async def test_a_user_unit_is_not_mistaken_for_the_system_unit_of_the_same_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "Systemd1", Systemd)
    bus: Any = object()
    processes = {pid: Process(pid, unit="ollama.service") for pid in (7, 8, 9)}

    placed = await scan._assign_units(bus, processes, {7: "ollama.service"})

    assert {pid: one.unit for pid, one in placed.items()} == {
        7: "ollama.service",
        8: "user@1000.service",
        9: "ollama.service",
    }


def test_memory_of_a_unit_as_a_whole_is_shown_at_its_main_process() -> None:
    processes = {
        7: Process(7, unit="ollama.service", is_main=True, used_mib={0: 100}),
        8: Process(8, unit="ollama.service"),
    }
    rows = tuple(ProcessUse(0, mib, unit=unit) for unit, mib in (("ollama.service", 13000), ("user@1000.service", 900)))
    sample = Sample(0, "", "", "dmem", 24560, 14000, 10560, rows)

    found = scan._with_whole_units(processes, Reading((sample,)))

    assert {pid: one.used_mib for pid, one in found.items()} == {7: {0: 13100}, 8: {}}
