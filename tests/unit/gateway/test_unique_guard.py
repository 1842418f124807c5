"""Leases of the gateway on a consumer that one host of the fleet only may have loaded."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gpumand.client.errors import Busy, GpumandError
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.refusals import AgentDown, FleetUnavailable, refusal_of
from gpumand.gateway.service import GatewayService, Options
from gpumand.gateway.unique_guard import UniqueGuard

OTHER = Busy("llm may be loaded on one host only, and gpu2 has it. Ask there.")


class World:
    """gpumand and the fleet, which note in one list what they were asked.

    Attributes:
        claims: the answers to claims, in order; None = this host has the consumer, as at the end of the list.
    """

    def __init__(self, *claims: GpumandError | None, is_enabled: bool = True) -> None:
        self.calls: list[str] = []
        self.claims = list(claims)
        self.is_enabled = is_enabled
        self.is_known = True
        self.granting = asyncio.Event()
        self.granting.set()
        world: Any = self
        self.guard = UniqueGuard(world, world, world)

    async def claim(self, consumer: str) -> None:
        self.calls.append(f"claim {consumer}")
        await asyncio.sleep(0)
        if self.claims and (error := self.claims.pop(0)) is not None:
            raise error

    async def get(self) -> Any:
        if not self.is_known:
            return None
        fleet = {"llm": "unique", "tts": ""}
        return SimpleNamespace(consumer=lambda name: SimpleNamespace(fleet=fleet[name]) if name in fleet else None)

    async def acquire(self, consumer: str, priority: int, reason: str) -> Any:
        self.calls.append(f"acquire {consumer}")
        await self.granting.wait()
        return SimpleNamespace(id="l1")

    async def acquire_resident(self, consumer: str, reason: str) -> Any:
        self.calls.append(f"acquire resident {consumer}")
        return SimpleNamespace(id="l2")

    async def release(self, lease: str) -> None:
        self.calls.append(f"release {lease}")


async def test_unique_consumer_is_claimed_before_it_is_acquired_and_once_more_after_the_wait() -> None:
    world = World()
    assert (await world.guard.acquire("llm", 0, "")).id == "l1"
    assert world.calls == ["claim llm", "acquire llm", "claim llm"]


@pytest.mark.parametrize("consumer", ["tts", "unknown"])
async def test_other_consumers_are_not_claimed(consumer: str) -> None:
    world = World()
    await world.guard.acquire(consumer, 0, "")
    assert world.calls == [f"acquire {consumer}"]


async def test_gateway_without_the_fleet_claims_nothing() -> None:
    world = World(is_enabled=False)
    await world.guard.acquire("llm", 0, "")
    assert world.calls == ["acquire llm"]


async def test_restart_of_the_agent_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumand.gateway.unique_guard.RESTART_PAUSE_SEC", 0.0)
    down, starting = AgentDown("it is not running"), FleetUnavailable("not sure of its lease")
    world = World(down, down, starting, None, None)
    assert (await world.guard.acquire("llm", 0, "")).id == "l1"
    assert world.calls == ["claim llm"] * 4 + ["acquire llm", "claim llm"]
    world = World(None, down, None)
    await world.guard.acquire("llm", 0, "")
    assert "release l1" not in world.calls, "a load is not given back for it"


async def test_agent_that_stays_away_and_one_that_cannot_decide_are_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumand.gateway.unique_guard.RESTART_SEC", 0.0)
    for error in (AgentDown("it is not running"), FleetUnavailable("no quorum")):
        world = World(error)
        with pytest.raises(FleetUnavailable) as caught:
            await world.guard.acquire("llm", 0, "")
        assert refusal_of(caught.value, 10).code == "fleet_unavailable"
        assert world.calls == ["claim llm"]
    monkeypatch.undo()
    world = World(FleetUnavailable("no quorum"))
    with pytest.raises(FleetUnavailable):
        await world.guard.acquire("llm", 0, "")
    assert world.calls == ["claim llm"], "only an agent that does not run is waited for"


async def test_consumer_of_another_host_is_not_acquired() -> None:
    world = World(OTHER)
    with pytest.raises(Busy, match="gpu2 has it"):
        await world.guard.acquire("llm", 0, "")
    assert world.calls == ["claim llm"]


async def test_lease_is_given_back_when_the_host_has_lost_the_consumer_meanwhile() -> None:
    world = World(None, OTHER)
    with pytest.raises(Busy):
        await world.guard.acquire("llm", 0, "")
    await world.guard.close()
    assert world.calls[-1] == "release l1"


async def test_lease_is_given_back_when_the_request_ends_during_the_last_claim() -> None:
    world = World()
    world.granting.clear()
    acquiring = asyncio.ensure_future(world.guard.acquire("llm", 0, ""))
    while world.calls != ["claim llm", "acquire llm"]:  # noqa: ASYNC110 - the list of a test
        await asyncio.sleep(0)
    world.granting.set()
    while world.calls[-1] != "claim llm":  # noqa: ASYNC110
        await asyncio.sleep(0)
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    await world.guard.close()
    assert world.calls[-1] == "release l1"


async def test_nothing_is_acquired_before_it_is_known_whether_the_consumer_is_unique(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpumand.gateway.unique_guard.ABSENT_SEC", 0.0)
    world = World()
    world.is_known = False
    acquiring = asyncio.ensure_future(world.guard.acquire("llm", 0, ""))
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.calls == []
    world.is_known = True
    await acquiring
    assert world.calls[0] == "claim llm"


async def test_lease_for_a_job_that_goes_on_is_claimed_like_any_other() -> None:
    world = World()
    assert (await world.guard.acquire_resident("llm", "")).id == "l2"
    assert world.calls == ["claim llm", "acquire resident llm", "claim llm"]
    world = World(OTHER)
    with pytest.raises(Busy, match="gpu2 has it"):
        await world.guard.acquire_resident("llm", "")
    assert world.calls == ["claim llm"]
    world = World()
    await world.guard.acquire_resident("tts", "")
    assert world.calls == ["acquire resident tts"]


async def test_watch_of_a_job_does_not_wait_for_gpumand_to_say_whether_its_consumer_is_unique() -> None:
    world = World()
    world.is_known = False
    with pytest.raises(GpumandError, match="not known whether llm may be loaded here"):
        await asyncio.wait_for(world.guard.acquire_resident("llm", ""), 30)
    assert world.calls == []


async def test_gateway_gets_new_leases_of_jobs_through_the_claims_of_the_fleet() -> None:
    service = GatewayService(Options(None, "unix:path=/nonexistent"), GatewaySettings(), {})
    try:
        assert service._jobs._acquire == service._guard.acquire_resident
    finally:
        await service.stop()


def test_refusals_say_whether_another_host_has_it_or_the_fleet_does_not_answer() -> None:
    assert (refusal_of(OTHER, 10).status, refusal_of(OTHER, 10).code) == (429, "gpu_busy")
    away = refusal_of(FleetUnavailable("llm may be loaded on one host only"), 10)
    assert (away.status, away.code, away.retry_sec) == (503, "fleet_unavailable", 5)
