"""Evictions with presets: the real arbiter and real routes against servers with their documented quirks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.config.presets import preset, preset_names
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, SchedulerSettings, Settings, UnitActivity
from gpumand.domain.errors import Busy
from gpumand.domain.events import Event, EvictionFailed, EvictionOccurred, EvictionReport
from gpumand.domain.gpu_settings import GpuSettings
from gpumand.domain.request import AcquireOptions
from gpumand.host.clock import SystemClock
from gpumand.ports import Ports
from gpumand.testing.archive import MemoryArchive
from gpumand.testing.memory import FakeMemory
from gpumand.testing.owners import FakeOwners
from gpumand.testing.store import MemoryStore
from gpumand.testing.units import FakeUnit, FakeUnits
from gpumand.testing.vram import FakeVram
from gpumand.testing.world import client
from tests.integration.service_manager.host import until

from .known_servers import FACTS, Server, serving
from .test_presets_routes import KEYS, spec_of

HELD_MIB, WANTED_MIB, RESIDUAL_MIB = 8000, 20000, 400
SETTLE_SEC = 0.5
UNLOADS = [name for name, keys in KEYS.items() if "unload" in keys]
LATE = [name for name in preset_names() if preset(name).about.async_unload]


class EvictionSetup:
    """An arbiter and one server with its model loaded, on a device where another consumer needs the memory.

    The server has a unit that can be stopped.
    """

    def __init__(self, server: Server, spec: ConsumerSpec) -> None:
        self.server, self.spec = server, spec
        self.clock = SystemClock()
        self.vram = FakeVram(self.clock, 24564)
        other = ConsumerSpec("other", WANTED_MIB, unit="other.service", evict=(EvictionMethod.UNIT_STOP,))
        consumers = {one.name: one for one in (spec, other)}
        self.vram.attributable |= set(consumers)
        server.held = self._hold
        self._hold(True)
        unit = FakeUnit(spec.unit, UnitActivity.ACTIVE, invocation=1, stopped=self._end)
        other_unit = FakeUnit("other.service", started=self._hold_other, stopped=lambda: self.vram.release(9))
        self.units = FakeUnits(self.clock, [unit, other_unit])
        self.routes = HttpRoutes(self.clock)
        self.events: list[Event] = []
        scheduler = SchedulerSettings(settle_timeout_sec=SETTLE_SEC, health_interval_sec=0.2)
        settings = Settings(scheduler, GpuSettings(source="simulated"), consumers)
        world = Ports(
            self.clock,
            self.vram,
            self.units,
            self.routes,
            MemoryStore(),
            FakeOwners(),
            MemoryArchive(),
            FakeMemory(),
            self.vram,
        )

        async def unchanged() -> Settings:
            return settings

        self.arbiter = Arbiter(settings, world, self.events.append, unchanged)
        self.housekeeping = Housekeeping(self.arbiter, self.units, self.routes)

    def _hold(self, is_loaded: bool) -> None:
        self.vram.hold(7, HELD_MIB if is_loaded else RESIDUAL_MIB, consumer=self.spec.name)

    def _hold_other(self) -> None:
        self.vram.hold(9, WANTED_MIB, consumer="other")

    def _end(self) -> None:
        self.vram.release(7)

    def reports(self, kind: type[EvictionOccurred] | type[EvictionFailed]) -> list[EvictionReport]:
        """Return the reports of evictions that succeeded or failed, in order."""
        return [event.report for event in self.events if isinstance(event, kind)]

    async def evict_for_other(self, timeout_sec: float = 20.0) -> EvictionReport:
        """Acquire the other consumer, which needs the server's memory; return the report of the eviction."""
        grant = await self.arbiter.acquire(client(), "other", AcquireOptions(timeout_sec=timeout_sec))
        assert grant.evicted == (self.spec.name,)
        (report,) = self.reports(EvictionOccurred)
        return report


@contextlib.asynccontextmanager
async def eviction_setup(name: str, folder: Path, *, more: str = "", **server: object) -> AsyncIterator[EvictionSetup]:
    one = Server(FACTS[name], **server)  # type: ignore[arg-type]  # fields of Server, as the test names them
    async with serving(one) as url:
        setup = EvictionSetup(one, spec_of(name, url, folder, more=f"residual_mib = {RESIDUAL_MIB}\n{more}"))
        await setup.arbiter.start()
        await setup.housekeeping.refresh_all()
        housekeeping = asyncio.create_task(setup.housekeeping.run())
        try:
            yield setup
        finally:
            housekeeping.cancel()
            await setup.arbiter.stop("the test is over")
            await setup.routes.close()


@pytest.mark.parametrize("name", UNLOADS)
async def test_unload_route_frees_the_memory(name: str, tmp_path: Path) -> None:
    async with eviction_setup(name, tmp_path) as setup:
        report = await setup.evict_for_other()

    assert (report.method, report.freed_mib, report.tried) == ("http", HELD_MIB - RESIDUAL_MIB, ("http",))
    assert ("stop", setup.spec.unit) not in setup.units.calls


@pytest.mark.parametrize("name", LATE)
async def test_eviction_waits_for_memory_that_is_freed_after_the_answer(name: str, tmp_path: Path) -> None:
    async with eviction_setup(name, tmp_path, free_sec=SETTLE_SEC / 2) as setup:
        report = await setup.evict_for_other()

    assert (report.method, report.tried) == ("http", ("http",))
    assert report.duration_usec >= SETTLE_SEC / 2 * 1e6


@pytest.mark.parametrize("name", UNLOADS)
async def test_unit_is_stopped_if_a_successful_unload_frees_nothing(name: str, tmp_path: Path) -> None:
    async with eviction_setup(name, tmp_path, lies=True) as setup:
        report = await setup.evict_for_other()

    assert (report.method, report.tried) == ("unit-stop", ("http", "unit-stop"))
    assert setup.server.done == ["unload"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("koboldcpp", (200, {"success": False})),
        ("llama-cpp-router", (400, {"error": {"message": "model is not running"}})),
        ("lemonade", (200, {"status": "error"})),
        ("speaches", (409, {"detail": "model is in use"})),
        ("tabbyapi", (503, {"detail": "no models are loaded"})),
        ("xinference", (400, {"detail": "model not found"})),
        ("chatterbox", (500, b"CUDA error")),
    ],
)
async def test_unit_is_stopped_at_once_if_the_unload_is_refused(
    name: str, answer: tuple[int, object], tmp_path: Path
) -> None:
    async with eviction_setup(name, tmp_path, refuses=answer) as setup:
        report = await setup.evict_for_other()

    assert (report.method, report.tried) == ("unit-stop", ("http", "unit-stop"))
    assert setup.server.done == []


async def test_error_answer_is_ignored_if_the_memory_is_free(tmp_path: Path) -> None:
    # Xinference may answer 400 although the model is gone.
    async with eviction_setup("xinference", tmp_path, bad_answer=(400, {"detail": "not found"})) as setup:
        report = await setup.evict_for_other()

    assert (report.method, report.tried, setup.server.done) == ("http", ("http",), ["unload"])


async def test_load_route_restarts_a_server_that_stopped_serving_after_its_unload(tmp_path: Path) -> None:
    # Chatterbox answers 503 to every speech request until /restart_server, so its preset has a load route.
    async with eviction_setup("chatterbox", tmp_path) as setup:
        assert (await setup.evict_for_other()).method == "http"
        assert setup.server.dead
        (lease,) = setup.arbiter.status().leases
        await setup.arbiter.release(lease.id)

        grant = await setup.arbiter.acquire(client(), "chatterbox", AcquireOptions())

        assert (grant.loaded, setup.server.dead, setup.server.done) == (True, False, ["unload", "load"])


BUSY_AND_UNLOAD = [name for name, keys in KEYS.items() if {"busy", "unload"} <= keys]
BY_CONNECTIONS = {"infinity", "tei", "whisper-cpp"}
"""Busy checks by connections need a server in another process: test_busy_connections.py has them."""

BUSY_BY_UNIT = [
    name for name, keys in KEYS.items() if "busy" in keys and "unload" not in keys and name not in BY_CONNECTIONS
]


@pytest.mark.parametrize("name", [*BUSY_AND_UNLOAD, *BUSY_BY_UNIT])
async def test_consumer_that_reports_work_is_not_evicted(name: str, tmp_path: Path) -> None:
    async with eviction_setup(name, tmp_path, jobs=2) as setup:
        with pytest.raises(Busy, match=f"{name} is busy"):
            await setup.arbiter.evict(name, force=False, timeout_sec=5)
        acquire = asyncio.create_task(setup.evict_for_other())
        await until(lambda: any(f"{name} is busy" in one.waiting_for for one in setup.arbiter.status().queue))
        assert (setup.server.done, setup.units.calls) == ([], [])
        assert setup.arbiter.consumer_status(name).busy is True
        setup.server.jobs = 0

        report = await acquire

    assert report.method == ("http" if name in BUSY_AND_UNLOAD else "unit-stop")


async def test_busy_consumer_is_evicted_after_its_grace_with_busy_after_evict(tmp_path: Path) -> None:
    more = 'busy_after = "evict"\nbusy_grace_sec = 1'
    async with eviction_setup("comfyui", tmp_path, jobs=2, more=more) as setup:
        began = setup.clock.monotonic()
        await setup.evict_for_other()
        assert setup.clock.monotonic() - began >= 1
