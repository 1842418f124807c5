"""Requests for a named host, and loads, while the host or its gpumand restarts: they wait, or go to another host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gpumand.client.errors import NoAnswer, NotRunning
from gpumand.domain.errors import GpumandError, InvalidArgs, ShuttingDown
from gpumand.fleet.calls import AcquireCall, LoadCall
from gpumand.fleet.errors import HostDrained, HostLost
from gpumand.fleet.named_host import AGAIN_SEC
from tests.unit.fleet.fleet_rows import COLD, RESIDENT, consumer, host, machine_id
from tests.unit.fleet.scripted_fleet import FleetRouter, ScriptedFleet, ScriptedHost, lost

DEADLINE_SEC = 30.0

RESTARTS = [ShuttingDown("gpumand-fleet is stopping"), lost("gpu2"), NotRunning("it does not run"), NoAnswer("it left")]
"""The answers of a host whose agent or gpumand restarts."""

FINAL = [HostDrained("gpu2 is drained"), HostLost("gpu2 has another authority", is_refusal=True)]
"""Answers that no wait changes."""


@pytest.fixture
async def fleet() -> AsyncIterator[ScriptedFleet]:
    """gpu1 has chat, and only gpu2 has big."""
    made = ScriptedFleet(
        host(1, version="1", chat=consumer(COLD)),
        host(2, version="1", big=consumer(RESIDENT), chat=consumer(COLD)),
    )
    await made.start()
    yield made
    await made.close()


class LoadingHost(ScriptedHost):
    """A host whose answers are those to loads."""

    async def load(self, call: LoadCall) -> dict[str, object]:
        self.loaded.append(call)
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        return {"changed": True}


@pytest.mark.parametrize("answer", RESTARTS, ids=lambda one: type(one).__name__)
async def test_request_for_a_named_host_waits_while_it_restarts(fleet: ScriptedFleet, answer: GpumandError) -> None:
    router, stopped = await fleet.router(), fleet.hosts["gpu2"]
    stopped.answers = [answer] * 2
    async with asyncio.timeout(DEADLINE_SEC):
        lease = await router.acquire(AcquireCall("big", 60.0, on="gpu2"))
    assert lease.grant["host"] == "gpu2"
    assert len(stopped.acquired) == 3
    assert stopped.acquired[2].wait_sec < 60.0, "the time of the request goes on"
    assert not router.table.losses()


@pytest.mark.parametrize("answer", FINAL, ids=lambda one: type(one).__name__)
async def test_request_for_a_named_host_does_not_wait_where_that_is_pointless(
    fleet: ScriptedFleet, answer: GpumandError
) -> None:
    router, refusing = await fleet.router(), fleet.hosts["gpu2"]
    refusing.answers = [answer] * 50
    async with asyncio.timeout(DEADLINE_SEC):
        with pytest.raises(type(answer)):
            await router.acquire(AcquireCall("big", 600.0, on="gpu2"))
    assert len(refusing.acquired) == 1


async def test_request_that_was_in_the_queue_for_long_waits_while_its_host_restarts(
    fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.fleet.named_host.RETURN_SEC", 0.02)
    router, restarting = await fleet.router(), fleet.hosts["gpu2"]
    restarting.before = lambda: asyncio.sleep(0.1)  # longer than the wait for a host that restarts
    restarting.answers = [ShuttingDown("gpumand is stopping")]
    async with asyncio.timeout(DEADLINE_SEC):
        lease = await router.acquire(AcquireCall("big", 600.0, on="gpu2"))
    assert lease.grant["host"] == "gpu2"


async def test_request_that_must_not_wait_is_refused_at_once(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    fleet.hosts["gpu2"].answers = [ShuttingDown("gpumand-fleet is stopping")]
    async with asyncio.timeout(DEADLINE_SEC):
        with pytest.raises(ShuttingDown):
            await router.acquire(AcquireCall("big", 0.0, on="gpu2"))


@pytest.mark.parametrize("on", ["", "gpu2"])
@pytest.mark.parametrize("answer", RESTARTS, ids=lambda one: type(one).__name__)
async def test_load_waits_while_the_only_host_restarts(
    fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch, answer: GpumandError, on: str
) -> None:
    monkeypatch.setattr("gpumand.fleet.table.LOST_SEC", 0.1)
    router = await loading(fleet, [answer] * 2)
    loading_there = asyncio.ensure_future(router.load(LoadCall("big", 60.0, on=on)))
    async with asyncio.timeout(DEADLINE_SEC):
        while not loading_there.done():
            await asyncio.sleep(0.05)
            await fleet.publish("gpu2")  # a lost host needs a new row
    assert loading_there.result()["host"] == "gpu2"


async def test_load_goes_to_another_host_while_one_restarts(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    first = router._placer.candidates("chat", ())[0].row.name
    fleet.hosts[first].load_error = NotRunning("it does not run")
    async with asyncio.timeout(DEADLINE_SEC):
        assert (await router.load(LoadCall("chat", 60.0)))["host"] != first


async def test_load_is_given_up_in_time_and_notes_the_loss(fleet: ScriptedFleet) -> None:
    router = await loading(fleet, [lost("gpu2")] * 10_000)
    async with asyncio.timeout(DEADLINE_SEC):
        with pytest.raises(HostLost):
            await router.load(LoadCall("big", 2 * AGAIN_SEC, on="gpu2"))
    assert machine_id(2) in router.table.losses()


async def loading(fleet: ScriptedFleet, answers: list[GpumandError]) -> FleetRouter:
    """A router whose gpu2 gives these answers to loads."""
    fleet.hosts["gpu2"] = LoadingHost("gpu2", answers=list(answers))
    return await fleet.router()


async def test_name_of_two_hosts_is_refused_and_their_machine_ids_are_not() -> None:
    twin = host(3, name="gpu2", version="1", big=consumer(COLD))
    made = ScriptedFleet(host(2, version="1", big=consumer(COLD)))
    await made.start()
    try:
        await made.memory.store().join(twin)
        router = await made.router()
        with pytest.raises(InvalidArgs, match=rf"2 hosts are named gpu2\. Use a machine id \({machine_id(2)}, "):
            await router.acquire(AcquireCall("big", 60.0, on="gpu2"))
        lease = await router.acquire(AcquireCall("big", 60.0, on=machine_id(2)))
        assert lease.grant["host"] == "gpu2"
    finally:
        await made.close()
