"""Attribution of processes to units and consumers, with a systemd that is slow, fails or hangs."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.host.clock import SystemClock
from gpumand.testing.vram import FakeVram
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.user_names import ProcessOwner, ProcessOwners
from tests.unit.vram.attribution_setup import ME, Systemd


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
        assert loop.time() - started < 15
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
