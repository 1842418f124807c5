"""The end of a lease reconciles its consumer where something was observed during the lease, and only there."""

from __future__ import annotations

import contextlib
import random

import pytest

from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.unobserved_leases import UnobservedLeases
from gpumand.domain.consumer import Health
from gpumand.domain.errors import GpumandError
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import drop_model, hold_foreign_memory, kill_consumer, routed


async def loaded(world: FakeWorld, name: str) -> None:
    """Load a consumer by a first lease, and read its memory afterwards, so that its footprint is seen."""
    await world.start()
    grant = await world.arbiter.acquire(client(1), name, AcquireOptions())
    world.routes.place(name, 4000)
    await world.arbiter.state.sample()
    world.arbiter.reconciler.reconcile_all()
    await world.arbiter.release(grant.lease.id)
    await world.clock.sleep(30.0)
    await world.arbiter.state.sample()
    world.arbiter.reconciler.reconcile_all()


def count_reconciling(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reconciled: list[str] = []
    reconcile = Reconciler.reconcile

    def counted(self: Reconciler, name: str) -> None:
        reconciled.append(name)
        reconcile(self, name)

    monkeypatch.setattr(Reconciler, "reconcile", counted)
    return reconciled


async def test_lease_without_an_observation_reconciles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = FakeWorld([routed("tts", 4000)])
    await loaded(world, "tts")
    reconciled = count_reconciling(monkeypatch)
    grant = await world.arbiter.acquire(client(1), "tts", AcquireOptions())
    await world.arbiter.release(grant.lease.id)
    assert reconciled == []


@pytest.mark.parametrize("observation", ["reading", "health", "unit"])
async def test_lease_with_an_observation_reconciles_its_consumer(
    monkeypatch: pytest.MonkeyPatch, observation: str
) -> None:
    world = FakeWorld([routed("tts", 4000)])
    await loaded(world, "tts")
    grant = await world.arbiter.acquire(client(1), "tts", AcquireOptions())
    if observation == "reading":
        await world.arbiter.state.sample()
    elif observation == "health":
        world.arbiter.reconciler.record_health("tts", Health(reachable=True, loaded=True), world.clock.monotonic())
    else:
        world.arbiter.reconciler.record_unit(await world.units.state("other.service"))
    reconciled = count_reconciling(monkeypatch)
    await world.arbiter.release(grant.lease.id)
    assert reconciled == ["tts"]


async def test_end_of_one_of_several_leases_reconciles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = FakeWorld([routed("tts", 4000)])
    await loaded(world, "tts")
    first, second = [await world.arbiter.acquire(client(number), "tts", AcquireOptions()) for number in (1, 2)]
    await world.arbiter.state.sample()
    reconciled = count_reconciling(monkeypatch)
    await world.arbiter.release(first.lease.id)
    assert reconciled == []
    await world.arbiter.release(second.lease.id)
    assert reconciled == ["tts"], "the claim has ended"


class Story:
    """Random leases on three consumers, with observations of every kind, losses and evictions between and during them.

    One consumer has an HTTP route for loads, one a unit, and the last one is loaded by the first request to its server.
    """

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        specs = [routed("a", 4000), routed("b", 6000, unit="b.service", load=None), routed("c", 5000, load=None)]
        self.world = FakeWorld(specs, total_mib=self._draw.choice(((24564,), (16384, 16384))))
        self._names = [spec.name for spec in specs]
        self._leases: list[str] = []

    async def play(self) -> None:
        await self.world.start()
        for number in range(150):
            await (self._release() if self._leases and self._draw.random() < 0.7 else self._acquire(number))
            if self._draw.random() < 0.4:
                await self._observe_or_change(self._draw.choice(self._names))
            await self.world.clock.sleep(self._draw.choice((0.0, 0.0, 0.01, 0.5, 20.0)))
        while self._leases:
            await self._release()
        await self.world.arbiter.stop("end")

    async def _acquire(self, number: int) -> None:
        with contextlib.suppress(GpumandError):
            name = self._draw.choice(self._names)
            grant = await self.world.arbiter.acquire(client(number), name, AcquireOptions(timeout_sec=2.0))
            self._leases.append(grant.lease.id)

    async def _release(self) -> None:
        with contextlib.suppress(GpumandError):
            await self.world.arbiter.release(self._leases.pop(self._draw.randrange(len(self._leases))))

    async def _observe_or_change(self, name: str) -> None:
        arbiter, what = self.world.arbiter, self._draw.randrange(9)
        if what < 2:
            await self.world.housekeeping.refresh_all()
            arbiter.reconciler.reconcile_all()
        elif what < 4:
            loaded, sleeping = self._draw.choice((True, False, None)), self._draw.random() < 0.2
            health = Health(reachable=True, loaded=loaded, sleeping=sleeping)
            arbiter.reconciler.record_health(name, health, self.world.clock.monotonic())
        elif what == 4:
            drop_model(self.world, name)
        elif what == 5:
            kill_consumer(self.world, name)
        elif what == 6:
            self.world.routes.place(name, 6000).running = True
        elif what == 7:
            hold_foreign_memory(self.world, self._draw.choice((100, 3000)))
        else:
            with contextlib.suppress(GpumandError):
                await arbiter.evict(name, self._draw.random() < 0.5, 1.0)


async def test_reconciling_at_the_ends_that_are_left_out_would_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On random demand, the plain form is carried out beside each end of a last lease that the short form leaves out.

    While other leases stand, an end is no reason to reconcile: the next observation is.
    """
    left_out = carried_out = 0
    leaves_nothing = UnobservedLeases.leaves_nothing_to_reconcile

    def compared(self: UnobservedLeases, name: str) -> bool:
        nonlocal left_out, carried_out
        if not leaves_nothing(self, name):
            carried_out += 1
            return False
        if not self._state.consumer(name).leases:
            left_out += 1
            before, published = dict(self._state.ledger.consumers), len(story.world.events)
            self._reconciler.reconcile(name)
            assert dict(self._state.ledger.consumers) == before
            assert len(story.world.events) == published
        return True

    monkeypatch.setattr(UnobservedLeases, "leaves_nothing_to_reconcile", compared)
    for seed in range(20):
        story = Story(seed)
        await story.play()
    assert min(left_out, carried_out) > 100, "both forms were used often"
