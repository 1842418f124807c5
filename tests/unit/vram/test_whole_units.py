"""Sources that list units as a whole, and units that a source does not see."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import pytest

from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.domain.reservation import Holder, ProcessKey
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.unit_rows import joined
from tests.unit.vram.attribution_setup import ME, Systemd


class Listed:
    """A source with one device and a fixed list of processes."""

    name = "dmem"

    def __init__(self, *processes: ProcessUse, blind: Iterable[str] = ()) -> None:
        self.processes, self.blind = processes, frozenset(blind)

    async def read(self, only: Devices = ()) -> Reading:
        used_mib = sum(one.used_mib or 0 for one in self.processes)
        blank = Sample(0, "PCI-0000:03:00.0", "Radeon", self.name, 24560, used_mib, 24560 - used_mib, self.processes)
        return Reading((replace(blank, attributed=True, blind=self.blind),))

    def reopen(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def read_listed(*processes: ProcessUse, blind: Iterable[str] = ()) -> Sample:
    source = AttributedSource(Listed(*processes, blind=blind), Systemd({ME: "comfyui.service"}))
    units = {"comfyui.service": "comfyui", "llama@a.service": "llama", "ollama.service": "ollama"}
    source.set_units(units, shared={"shared.service": ("one", "two")})
    try:
        return (await source.read()).devices[0]
    finally:
        await source.close()


async def test_unit_as_a_whole_belongs_to_its_consumer_and_systemd_is_not_asked_for_pid_0() -> None:
    sample = await read_listed(
        ProcessUse(0, 13210, unit="ollama.service"), ProcessUse(0, 900, unit="user@1000.service")
    )
    assert [(one.consumer, one.used_mib) for one in sample.processes] == [("ollama", 13210), ("", 900)]
    assert (sample.held_by("ollama"), sample.held_by("comfyui")) == (13210, 0)


@pytest.mark.parametrize(
    ("whole_mib", "process_mib", "held_mib"),
    [(13210, 13100, 13210), (13100, 13210, 13210), (0, 13100, 13100), (13210, None, 13210), (None, 13100, None)],
)
async def test_larger_of_the_unit_and_its_processes_counts(
    whole_mib: int | None, process_mib: int | None, held_mib: int | None
) -> None:
    sample = await read_listed(ProcessUse(ME, process_mib), ProcessUse(0, whole_mib, unit="comfyui.service"))
    assert sample.held_by("comfyui") == held_mib


@pytest.mark.parametrize(("process_mib", "held_mib"), [(9000, 9000), (None, 9400)])
def test_processes_that_nvidias_driver_names_count_before_the_unit_as_a_whole(
    process_mib: int | None, held_mib: int
) -> None:
    rows = [
        ProcessUse(1, process_mib, unit="comfyui.service"),
        ProcessUse(0, 9400, unit="comfyui.service"),
        ProcessUse(0, 5000, unit="docker-1.scope"),
    ]
    found = joined(rows, processes_count_first=True)
    assert sum(one.used_mib or 0 for one in found if one.unit == "comfyui.service") == held_mib
    assert [one.used_mib for one in found if one.unit == "docker-1.scope"] == [5000]


async def test_processes_without_a_unit_as_a_whole_stay_as_they_are() -> None:
    sample = await read_listed(ProcessUse(ME, None), ProcessUse(0, 7, unit="ollama.service"))
    assert (sample.held_by("comfyui"), sample.held_by("ollama")) == (None, 7)


async def test_absence_proves_nothing_for_a_unit_that_the_source_does_not_see() -> None:
    sample = await read_listed(blind=["llama@a.service", "shared.service", "unrelated.service"])
    unknown = {name for name in ("llama", "comfyui", "ollama", "one", "two") if sample.held_by(name) is None}
    assert unknown == {"llama", "one", "two"}


async def test_reservation_in_an_unseen_place_is_not_taken_for_empty() -> None:
    by_process, by_unit = Holder(ProcessKey(os.getppid(), 1)), Holder(unit="job.service")
    for processes, blind, unknown in (
        ((), (), set()),
        ((), ["other.service"], {"tree"}),
        ((), ["job.service"], {"tree", "unit"}),
        ((ProcessUse(0, 500, unit="user@1000.service"),), (), {"tree"}),
        ((ProcessUse(0, 500, unit="ollama.service"),), (), set()),
    ):
        source = AttributedSource(Listed(*processes, blind=blind), Systemd({}))
        source.set_units({"ollama.service": "ollama"})
        source.follow({"tree": by_process, "unit": by_unit})
        sample = (await source.read()).devices[0]
        await source.close()
        assert {name for name in ("tree", "unit") if sample.held_by(name) is None} == unknown, (processes, blind)


async def test_memory_of_a_unit_as_a_whole_counts_for_a_reservation_of_that_unit() -> None:
    source = AttributedSource(Listed(ProcessUse(0, 4000, unit="job.service")), Systemd({}))
    source.follow({"job": Holder(unit="job.service")})
    sample = (await source.read()).devices[0]
    await source.close()
    assert sample.held_by("job") == 4000
