"""The end of a lease reconciles its consumer where something was observed during the lease, and only there."""

from __future__ import annotations

import pytest

from gpumand.arbiter.reconciler import Reconciler
from gpumand.domain.consumer import Health
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed


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
