"""Attribution of processes to units and consumers, with a systemd that is slow, fails or hangs."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import pytest
import pytest_asyncio

from gpumand.domain.consumer import UnitState
from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.domain.reservation import Holder, ProcessKey
from gpumand.host.clock import SystemClock
from gpumand.testing.vram import FakeVram
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.unit_rows import joined
from gpumand.vram.user_names import ProcessOwner, ProcessOwners

ME = os.getpid()


class Systemd:
    """A UnitManager with only the method that attribution may use; all others fail."""

    def __init__(self, units: Mapping[int, str]) -> None:
        self.units = dict(units)
        self.queried: list[int] = []
        self.running = self.max_running = 0
        self.idle = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.failure: Exception | None = None

    async def unit_of_pid(self, pid: int) -> str:
        self.queried.append(pid)
        self.running += 1
        self.idle.clear()
        self.max_running = max(self.max_running, self.running)
        try:
            await self.answering.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
            if not self.running:
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

    async def failure_lines(self, unit: str, invocation_id: str = "") -> tuple[str, ...]:
        raise NotImplementedError

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        raise NotImplementedError


class Setup:
    """The source under test with a fake device and a fake systemd."""

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
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    yield setup
    await setup.source.close()
    assert setup.vram.closed


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def test_unit_and_consumer_of_a_process_are_filled_in(setup: Setup) -> None:
    setup.vram.hold(ME, 100)
    sample = await setup.sample()
    assert (sample.processes[0].unit, sample.processes[0].consumer) == ("comfyui.service", "comfyui")
    assert sample.held_by("comfyui") == 100
    assert setup.source.name == "simulated"


async def test_process_of_an_unconfigured_unit_is_foreign(setup: Setup, child: subprocess.Popen[bytes]) -> None:
    setup.systemd.units[child.pid] = "session-2.scope"
    setup.vram.hold(child.pid, 100)
    sample = await setup.sample()
    assert (sample.processes[0].unit, sample.processes[0].consumer) == ("session-2.scope", "")
    assert sample.held_by("comfyui") == 0
    assert sample.held_by("a-consumer-without-unit") is None


async def test_process_without_a_known_unit_may_belong_to_any_consumer(
    setup: Setup, child: subprocess.Popen[bytes]
) -> None:
    setup.vram.hold(child.pid, 100)
    sample = await setup.sample()
    assert sample.attributed
    assert sample.held_by("comfyui") is None


async def test_lookup_is_cached_while_the_process_is_listed(setup: Setup) -> None:
    setup.vram.hold(ME, 100)
    for _ in range(3):
        await setup.source.read()
    assert setup.systemd.queried == [ME]
    setup.vram.release(ME)
    await setup.source.read()
    setup.vram.hold(ME, 100)
    await setup.source.read()
    assert setup.systemd.queried == [ME, ME]


async def test_reused_pid_is_looked_up_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"ticks": 5}
    monkeypatch.setattr("gpumand.vram.attribution.start_ticks", lambda _: started["ticks"])
    setup.vram.hold(ME, 100)
    assert (await setup.process()).unit == "comfyui.service"
    started["ticks"] = 6
    setup.systemd.units[ME] = "other.service"
    assert (await setup.process()).unit == "other.service"


async def test_lookup_is_discarded_if_the_pid_is_reused_meanwhile(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.chain([5], itertools.repeat(6))
    monkeypatch.setattr("gpumand.vram.attribution.start_ticks", lambda _: next(ticks))
    setup.vram.hold(ME, 100)
    assert (await setup.process()).unit == ""
    assert (await setup.process()).unit == "comfyui.service"


async def test_process_with_hidden_start_time_is_attributed(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumand.vram.attribution.start_ticks", lambda _: None)
    setup.vram.hold(ME, 100)
    assert (await setup.process()).consumer == "comfyui"
    await setup.process()
    assert setup.systemd.queried == [ME]


@pytest.mark.parametrize("failure", [None, OSError("bus gone"), TimeoutError()])
async def test_failed_lookup_is_retried_by_the_next_reading(setup: Setup, failure: Exception | None) -> None:
    setup.systemd.failure = failure
    setup.systemd.units = {}
    setup.vram.hold(ME, 100)
    assert (await setup.process()).unit == ""
    setup.systemd.failure = None
    setup.systemd.units = {ME: "comfyui.service"}
    assert (await setup.process()).unit == "comfyui.service"


async def test_hanging_systemd_does_not_block_readings_and_its_late_answer_is_used(setup: Setup) -> None:
    source = AttributedSource(setup.vram, setup.systemd, lookup_timeout_sec=0.05)
    source.set_units({"comfyui.service": "comfyui"})
    setup.systemd.answering.clear()
    setup.vram.hold(ME, 100)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        started = loop.time()
        sample = (await source.read()).devices[0]
        assert loop.time() - started < 5
        assert (sample.used_mib, sample.processes[0].unit, sample.held_by("comfyui")) == (100, "", None)
    assert setup.systemd.queried == [ME], "one lookup at a time per process"
    setup.systemd.answering.set()
    async with asyncio.timeout(20):
        while (await source.read()).devices[0].held_by("comfyui") != 100:
            pass
    assert setup.systemd.queried == [ME]
    await source.close()


async def test_lookup_of_an_ended_process_is_cancelled(setup: Setup) -> None:
    source = AttributedSource(setup.vram, setup.systemd, lookup_timeout_sec=0.01)
    setup.systemd.answering.clear()
    setup.vram.hold(ME, 100)
    await source.read()
    setup.vram.release(ME)
    await source.read()
    async with asyncio.timeout(20):
        await setup.systemd.idle.wait()
    await source.close()


async def test_number_of_simultaneous_lookups_is_limited(setup: Setup) -> None:
    source = AttributedSource(setup.vram, setup.systemd, lookup_timeout_sec=20, max_lookups=4)
    for pid in range(1 << 24, (1 << 24) + 100):
        setup.systemd.units[pid] = "comfyui.service"
        setup.vram.hold(pid, 1)
    reading = await source.read()
    assert {process.unit for process in reading.devices[0].processes} == {"comfyui.service"}
    assert setup.systemd.max_running == 4
    await source.close()


async def test_consumer_named_by_the_source_is_kept(setup: Setup) -> None:
    setup.vram.hold(ME, 100, consumer="mvoice")
    process = await setup.process()
    assert (process.unit, process.consumer) == ("comfyui.service", "mvoice")


async def test_new_mapping_applies_to_known_units(setup: Setup) -> None:
    setup.vram.hold(ME, 100)
    await setup.process()
    setup.source.set_units({"comfyui.service": "renamed"})
    assert (await setup.process()).consumer == "renamed"
    setup.source.set_units({})
    assert (await setup.process()).consumer == ""
    assert setup.systemd.queried == [ME]


async def test_pid_0_is_not_looked_up(setup: Setup) -> None:
    # systemd takes 0 to mean the calling process, which is gpumand.
    setup.vram.hold(0, 100)
    assert (await setup.process()).unit == ""
    assert setup.systemd.queried == []


async def test_failure_and_time_of_the_source_are_kept(setup: Setup) -> None:
    setup.vram.fail("driver-mismatch: x")
    reading = await setup.source.read()
    assert reading.error == "driver-mismatch: x"
    assert reading.devices[0].taken_at > 0


async def test_user_of_a_process_is_filled_in(setup: Setup) -> None:
    setup.vram.hold(ME, 100)
    process = await setup.process()
    assert (process.uid, process.user) == (os.getuid(), pwd.getpwuid(os.getuid()).pw_name)


async def test_hanging_directory_service_does_not_prevent_attribution(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried, answer = threading.Event(), threading.Event()

    def hang(people: ProcessOwners, pid: int, unit: str) -> ProcessOwner:
        queried.set()
        answer.wait(20)
        return ProcessOwner(7, "eve")

    monkeypatch.setattr(ProcessOwners, "owner_of", hang)
    source = AttributedSource(setup.vram, setup.systemd, lookup_timeout_sec=0.01)
    source.set_units({"comfyui.service": "comfyui"})
    setup.vram.hold(ME, 100)
    async with asyncio.timeout(20):
        while (await source.read()).devices[0].held_by("comfyui") != 100:
            pass
        assert queried.is_set()
        assert (await source.read()).devices[0].processes[0].user == ""
        answer.set()
        while (await source.read()).devices[0].processes[0].user != "eve":
            pass
    await source.close()


async def test_reading_of_a_source_replaced_meanwhile_is_discarded(setup: Setup) -> None:
    former, started, release = setup.vram, asyncio.Event(), asyncio.Event()
    read = former.read

    async def slowly(only: Devices = ()) -> Reading:
        reading = await read()
        started.set()
        await release.wait()
        return reading

    former.read = slowly  # type: ignore[method-assign]
    reading = asyncio.create_task(setup.source.read())
    await started.wait()
    setup.vram = FakeVram(SystemClock(), 8192)

    await setup.source.replace_source(setup.vram)
    release.set()

    assert [sample.total_mib for sample in (await reading).devices] == [8192]
    assert former.closed


# -- units as a whole, and units that the source does not see ----------------------------------------------------------


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
