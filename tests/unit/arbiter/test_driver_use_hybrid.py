"""An NVIDIA card beside an integrated GPU: its driver rests while consumers use only the integrated GPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.domain.device import Devices, Reading
from gpumand.domain.driver_power import CardPower, CardState, DriverPower
from gpumand.domain.errors import GpumandError
from gpumand.domain.request import AcquireOptions
from gpumand.domain.telemetry import NO_TELEMETRY, Telemetry
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, routed

CARD, IGPU = 0, 1
ADDRESS = "0000:01:00.0"
AWAKE = DriverPower((CardPower(ADDRESS, CardState.ACTIVE, can_sleep=True),))
ASLEEP = DriverPower((CardPower(ADDRESS, CardState.ASLEEP, can_sleep=True),))
DESKTOP = DriverPower((CardPower(ADDRESS, CardState.ACTIVE, can_sleep=False),))


class Laptop:
    """A world with both GPUs, ``chat`` for the integrated GPU, and ``llm`` for the card."""

    def __init__(self) -> None:
        chat = routed("chat", 4000, devices=("FAKE-1",))
        self.world = FakeWorld([chat, by_unit("llm", 8000)], total_mib=(24000, 32000))
        self.world.routes.consumer("chat").device = IGPU
        self.vram = self.world.vram
        self.vram.describe(CARD, source="nvml", aliases=(ADDRESS,))
        self.vram.describe(IGPU, source="amdgpu", integrated=True)
        self.vram.telemetry = Telemetry(30, 50)
        self.vram.power_state = AWAKE
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.world.start()
        self._task = asyncio.create_task(self.world.housekeeping.run())

    async def use_chat(self) -> str:
        """Lease the consumer of the integrated GPU, and wait until the driver of the card is closed."""
        lease = await self.acquire("chat", ttl_sec=50000.0)
        await self.world.clock.sleep(70)
        assert not self.vram.is_open
        return lease

    async def acquire(self, consumer: str, **options: object) -> str:
        return (await self.world.arbiter.acquire(client(1), consumer, AcquireOptions(**options))).lease.id  # type: ignore[arg-type]

    async def reads_in(self, seconds: float) -> tuple[int, int]:
        """Readings of the card and of the integrated GPU in this time."""
        before = self.vram.device_reads.copy()
        await self.world.clock.sleep(seconds)
        return self.vram.device_reads[CARD] - before[CARD], self.vram.device_reads[IGPU] - before[IGPU]

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


@pytest.fixture
async def laptop() -> AsyncIterator[Laptop]:
    one = Laptop()
    yield one
    await one.end()


async def test_lease_on_the_integrated_gpu_lets_the_card_sleep_and_is_watched(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.use_chat()
    card, igpu = await laptop.reads_in(600)
    assert card == 0
    assert igpu >= 250
    assert laptop.vram.releases == 1
    assert laptop.world.arbiter.consumer_status("chat").used_mib == 4000


async def test_requests_for_the_integrated_gpu_do_not_wake_the_card(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.world.arbiter.release(await laptop.use_chat())
    before = laptop.vram.device_reads[CARD]
    for _ in range(20):
        await laptop.world.arbiter.release(await laptop.acquire("chat"))
        await laptop.world.clock.sleep(30)
    await laptop.world.arbiter.evict("chat", False, 10.0)
    await laptop.world.arbiter.plan(client(1), "chat", AcquireOptions())
    await laptop.acquire("chat")
    assert laptop.vram.device_reads[CARD] == before
    assert not laptop.vram.is_open


async def test_request_for_the_card_is_decided_on_a_new_reading(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.use_chat()
    laptop.vram.hold(7, 20000, device=CARD, name="game")
    with pytest.raises(GpumandError, match="game"):
        await laptop.acquire("llm", timeout_sec=0.0)
    assert laptop.vram.is_open
    laptop.vram.release(7)
    await laptop.world.clock.sleep(1)
    await laptop.acquire("llm")
    assert (await laptop.reads_in(20))[0] >= 9, "a leased consumer is watched"


async def test_reading_that_began_before_a_request_for_the_card_does_not_decide_it(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await laptop.start()
    await laptop.use_chat()
    laptop.vram.hold(7, 20000, device=CARD, name="game")
    read = laptop.vram.read

    async def read_late(only: Devices = ()) -> Reading:
        """Read the integrated GPU a second after it was decided which devices are read."""
        found = await read(only)
        await laptop.world.clock.sleep(1.0)
        now = laptop.world.clock.monotonic()
        return replace(found, devices=tuple(replace(one, taken_at=now) if one.index else one for one in found.devices))

    monkeypatch.setattr(laptop.vram, "read", read_late)
    reading = asyncio.create_task(laptop.world.arbiter.state.sample())
    await laptop.world.clock.sleep(0.5)
    with pytest.raises(GpumandError, match="game"):
        await laptop.acquire("llm", timeout_sec=5.0)
    await reading


async def test_request_for_the_card_leaves_a_running_request_its_new_reading(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading that the request for the integrated GPU has begun does not count; it must not be decided without."""
    await laptop.start()
    await laptop.world.arbiter.release(await laptop.use_chat())
    await laptop.world.arbiter.evict("chat", False, 10.0)
    read, slow = laptop.vram.read, asyncio.Event()

    async def read_slowly(only: Devices = ()) -> Reading:
        found = await read(only)
        if not only:
            slow.set()
            await laptop.world.clock.sleep(0.5)
        return found

    monkeypatch.setattr(laptop.vram, "read", read_slowly)
    laptop.vram.hold(7, 31000, device=IGPU, name="game")
    chat = asyncio.create_task(laptop.acquire("chat", timeout_sec=0.0))
    await asyncio.wait_for(slow.wait(), 30)
    llm = asyncio.create_task(laptop.acquire("llm"))
    with pytest.raises(GpumandError, match="game"):
        await chat
    await llm


async def test_reading_at_the_moment_of_a_request_for_the_card_does_not_decide_it(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.use_chat()
    laptop.vram.hold(7, 20000, device=CARD, name="game")
    await laptop.world.arbiter.state.sample()
    with pytest.raises(GpumandError, match="game"):
        await laptop.acquire("llm", timeout_sec=5.0)


async def test_reservation_without_a_device_is_made_on_the_card(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.use_chat()
    laptop.vram.hold(7, 20000, device=CARD, name="game")
    with pytest.raises(GpumandError, match="game"):
        await laptop.world.arbiter.acquire(client(1), "", AcquireOptions(vram_mib=8000, timeout_sec=0.0))
    assert laptop.vram.is_open


async def test_unit_that_is_started_by_another_program_opens_the_driver(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.use_chat()
    laptop.vram.hold(9, 8000, device=CARD, consumer="llm", unit="llm.service")
    laptop.world.arbiter.record_unit(UnitState("llm.service", UnitActivity.ACTIVE))
    await laptop.world.clock.sleep(10)
    assert laptop.vram.is_open
    assert laptop.world.arbiter.consumer_status("llm").used_mib == 8000


async def test_card_whose_consumer_is_loaded_stays_awake(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.world.arbiter.release(await laptop.acquire("llm"))
    await laptop.acquire("chat", ttl_sec=5000.0)
    await laptop.world.clock.sleep(600)
    assert laptop.vram.releases == 0
    await laptop.world.arbiter.evict("llm", False, 10.0)
    await laptop.world.clock.sleep(70)
    assert not laptop.vram.is_open


@pytest.mark.parametrize(("power", "idle_sec"), [(DESKTOP, 60.0), (DriverPower(), 60.0), (AWAKE, 0.0)])
async def test_driver_stays_open_where_no_card_can_sleep_or_the_configuration_says_so(
    laptop: Laptop, power: DriverPower, idle_sec: float
) -> None:
    laptop.vram.power_state = power
    gpu = replace(laptop.world.settings.gpu, idle_release_sec=idle_sec)
    laptop.world.settings = laptop.world.arbiter.state.settings = replace(laptop.world.settings, gpu=gpu)
    await laptop.start()
    await laptop.acquire("chat", ttl_sec=5000.0)
    await laptop.world.clock.sleep(600)
    assert laptop.vram.releases == 0


async def test_status_shows_a_card_that_sleeps_without_old_telemetry(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.acquire("chat", ttl_sec=5000.0)
    assert laptop.world.arbiter.status().devices[CARD].telemetry == Telemetry(30, 50)
    await laptop.world.clock.sleep(70)
    laptop.vram.power_state = ASLEEP
    await laptop.world.clock.sleep(20)
    status = laptop.world.arbiter.status()
    card, igpu = status.devices
    assert (card.asleep, card.telemetry, card.total_mib) == (True, NO_TELEMETRY, 24000)
    assert (igpu.asleep, status.driver_state, status.degraded) == (False, "open", "")
    assert laptop.vram.device_reads[CARD] < laptop.vram.device_reads[IGPU]


async def test_driver_that_cannot_be_closed_is_read_on(laptop: Laptop) -> None:
    laptop.vram.release_error = "a driver call has not returned for 5 s"
    await laptop.start()
    await laptop.acquire("chat", ttl_sec=5000.0)
    await laptop.world.clock.sleep(200)
    assert (await laptop.reads_in(20))[0] >= 9


async def test_card_that_fails_is_read_on(laptop: Laptop) -> None:
    await laptop.start()
    await laptop.acquire("chat", ttl_sec=5000.0)
    laptop.vram.fail_device(CARD, "nvml-error: 999")
    await laptop.world.clock.sleep(200)
    assert laptop.vram.releases == 0


async def test_lease_without_a_device_counts_for_the_card(laptop: Laptop) -> None:
    await laptop.start()
    lease = await laptop.use_chat()
    ledger = laptop.world.arbiter.state.ledger
    ledger.leases[lease] = replace(ledger.leases[lease], device="")  # type: ignore[index]
    await laptop.world.clock.sleep(10)
    assert laptop.vram.is_open
