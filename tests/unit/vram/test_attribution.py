"""Units and consumers of processes, whatever systemd does."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

import pytest
import pytest_asyncio

from gpumand.domain.consumer import UnitState
from gpumand.domain.device import ProcessUse, Reading, Sample
from gpumand.host.clock import SystemClock
from gpumand.testing.vram import FakeVram
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.user_names import ProcessOwner, ProcessOwners

ME = os.getpid()


class Systemd:
    """As much of a UnitManager as attribution may use; anything else fails."""

    def __init__(self, units: Mapping[int, str]) -> None:
        self.units = dict(units)
        self.asked: list[int] = []
        self.under_way = self.most_at_once = 0
        self.idle = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.failure: Exception | None = None

    async def unit_of_pid(self, pid: int) -> str:
        self.asked.append(pid)
        self.under_way += 1
        self.idle.clear()
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            await self.answering.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way -= 1
            if not self.under_way:
                self.idle.set()
        if self.failure is not None:
            raise self.failure
        return self.units.get(pid, "")

    async def state(self, unit: str) -> UnitState:
        raise NotImplementedError

    async def start(self, unit: str, timeout_sec: float) -> None:
        raise NotImplementedError

    async def stop(self, unit: str, timeout_sec: float) -> None:
        raise NotImplementedError

    async def failure_lines(self, unit: str) -> tuple[str, ...]:
        raise NotImplementedError

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        raise NotImplementedError


class House:
    """A fake device, a fake systemd, and what is under test between them."""

    def __init__(self) -> None:
        self.vram = FakeVram(SystemClock())
        self.systemd = Systemd({ME: "comfyui.service"})
        self.source = AttributedSource(self.vram, self.systemd, lookup_timeout_sec=20)
        self.source.set_units({"comfyui.service": "comfyui"})

    async def sample(self) -> Sample:
        return (await self.source.read()).devices[0]

    async def process(self) -> ProcessUse:
        [process] = (await self.sample()).processes
        return process


@pytest_asyncio.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.source.close()
    assert house.vram.closed


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def test_unit_and_consumer_are_named(house: House) -> None:
    house.vram.hold(ME, 100)
    sample = await house.sample()
    assert (sample.processes[0].unit, sample.processes[0].consumer) == ("comfyui.service", "comfyui")
    assert sample.held_by("comfyui") == 100
    assert house.source.name == "simulated"


async def test_unit_of_nobody_is_foreign_but_placed(house: House, child: subprocess.Popen[bytes]) -> None:
    house.systemd.units[child.pid] = "session-2.scope"
    house.vram.hold(child.pid, 100)
    sample = await house.sample()
    assert (sample.processes[0].unit, sample.processes[0].consumer) == ("session-2.scope", "")
    assert sample.held_by("comfyui") == 0
    assert sample.held_by("a-consumer-without-unit") is None


async def test_process_that_cannot_be_placed_may_be_anybodys(house: House, child: subprocess.Popen[bytes]) -> None:
    house.vram.hold(child.pid, 100)
    sample = await house.sample()
    assert sample.attributed
    assert sample.held_by("comfyui") is None


async def test_lookup_is_kept_while_the_process_is_listed(house: House) -> None:
    house.vram.hold(ME, 100)
    for _ in range(3):
        await house.source.read()
    assert house.systemd.asked == [ME]
    house.vram.release(ME)
    await house.source.read()
    house.vram.hold(ME, 100)
    await house.source.read()
    assert house.systemd.asked == [ME, ME]


async def test_reused_pid_is_asked_about_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"ticks": 5}
    monkeypatch.setattr("gpumand.vram.attribution.start_ticks", lambda _: started["ticks"])
    house.vram.hold(ME, 100)
    assert (await house.process()).unit == "comfyui.service"
    started["ticks"] = 6
    house.systemd.units[ME] = "other.service"
    assert (await house.process()).unit == "other.service"


async def test_pid_reused_while_systemd_looks_names_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.chain([5], itertools.repeat(6))
    monkeypatch.setattr("gpumand.vram.attribution.start_ticks", lambda _: next(ticks))
    house.vram.hold(ME, 100)
    assert (await house.process()).unit == ""
    assert (await house.process()).unit == "comfyui.service"


async def test_hidden_start_time_is_no_obstacle(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumand.vram.attribution.start_ticks", lambda _: None)
    house.vram.hold(ME, 100)
    assert (await house.process()).consumer == "comfyui"
    await house.process()
    assert house.systemd.asked == [ME]


@pytest.mark.parametrize("failure", [None, OSError("bus gone"), TimeoutError()])
async def test_failed_lookup_is_tried_at_the_next_reading(house: House, failure: Exception | None) -> None:
    house.systemd.failure = failure
    house.systemd.units = {}
    house.vram.hold(ME, 100)
    assert (await house.process()).unit == ""
    house.systemd.failure = None
    house.systemd.units = {ME: "comfyui.service"}
    assert (await house.process()).unit == "comfyui.service"


async def test_hung_systemd_delays_no_figures_and_its_late_answer_counts(house: House) -> None:
    source = AttributedSource(house.vram, house.systemd, lookup_timeout_sec=0.05)
    source.set_units({"comfyui.service": "comfyui"})
    house.systemd.answering.clear()
    house.vram.hold(ME, 100)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        begun = loop.time()
        sample = (await source.read()).devices[0]
        assert loop.time() - begun < 5
        assert (sample.used_mib, sample.processes[0].unit, sample.held_by("comfyui")) == (100, "", None)
    assert house.systemd.asked == [ME], "one question at a time about one process"
    house.systemd.answering.set()
    async with asyncio.timeout(20):
        while (await source.read()).devices[0].held_by("comfyui") != 100:
            pass
    assert house.systemd.asked == [ME]
    await source.close()


async def test_question_about_a_vanished_process_is_dropped(house: House) -> None:
    source = AttributedSource(house.vram, house.systemd, lookup_timeout_sec=0.01)
    house.systemd.answering.clear()
    house.vram.hold(ME, 100)
    await source.read()
    house.vram.release(ME)
    await source.read()
    async with asyncio.timeout(20):
        await house.systemd.idle.wait()
    await source.close()


async def test_lookups_are_concurrent_up_to_a_cap(house: House) -> None:
    source = AttributedSource(house.vram, house.systemd, lookup_timeout_sec=20, max_lookups=4)
    for pid in range(1 << 24, (1 << 24) + 100):
        house.systemd.units[pid] = "comfyui.service"
        house.vram.hold(pid, 1)
    reading = await source.read()
    assert {process.unit for process in reading.devices[0].processes} == {"comfyui.service"}
    assert house.systemd.most_at_once == 4
    await source.close()


async def test_consumer_named_by_the_source_stays(house: House) -> None:
    house.vram.hold(ME, 100, consumer="mvoice")
    process = await house.process()
    assert (process.unit, process.consumer) == ("comfyui.service", "mvoice")


async def test_reload_changes_the_mapping_at_once(house: House) -> None:
    house.vram.hold(ME, 100)
    await house.process()
    house.source.set_units({"comfyui.service": "renamed"})
    assert (await house.process()).consumer == "renamed"
    house.source.set_units({})
    assert (await house.process()).consumer == ""
    assert house.systemd.asked == [ME]


async def test_nobody_asks_about_pid_0(house: House) -> None:
    # systemd takes 0 to mean the caller, which would be us.
    house.vram.hold(0, 100)
    assert (await house.process()).unit == ""
    assert house.systemd.asked == []


async def test_failure_and_time_of_the_source_pass_through(house: House) -> None:
    house.vram.fail("driver-mismatch: x")
    reading = await house.source.read()
    assert reading.error == "driver-mismatch: x"
    assert reading.devices[0].taken_at > 0


async def test_owner_of_a_process_is_named(house: House) -> None:
    house.vram.hold(ME, 100)
    process = await house.process()
    assert (process.uid, process.user) == (os.getuid(), pwd.getpwuid(os.getuid()).pw_name)


async def test_a_directory_that_does_not_answer_keeps_no_unit_from_being_known(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang(people: ProcessOwners, pid: int, unit: str) -> ProcessOwner:
        asked.set()
        answer.wait(20)
        return ProcessOwner(7, "eve")

    monkeypatch.setattr(ProcessOwners, "owner_of", hang)
    source = AttributedSource(house.vram, house.systemd, lookup_timeout_sec=0.01)
    source.set_units({"comfyui.service": "comfyui"})
    house.vram.hold(ME, 100)
    async with asyncio.timeout(20):
        while (await source.read()).devices[0].held_by("comfyui") != 100:
            pass
        assert asked.is_set()
        assert (await source.read()).devices[0].processes[0].user == ""
        answer.set()
        while (await source.read()).devices[0].processes[0].user != "eve":
            pass
    await source.close()


async def test_figures_of_a_source_that_was_swapped_meanwhile_are_those_of_the_new_one(house: House) -> None:
    former, begun, let_go = house.vram, asyncio.Event(), asyncio.Event()
    read = former.read

    async def slowly() -> Reading:
        reading = await read()
        begun.set()
        await let_go.wait()
        return reading

    former.read = slowly  # type: ignore[method-assign]
    reading = asyncio.create_task(house.source.read())
    await begun.wait()
    house.vram = FakeVram(SystemClock(), 8192)

    await house.source.swap(house.vram)
    let_go.set()

    assert [sample.total_mib for sample in (await reading).devices] == [8192]
    assert former.closed
