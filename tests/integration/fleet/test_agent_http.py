"""The agent over HTTP: streams of leases, refusals with words, and the rules of the fleet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain.errors import Busy, InsufficientVram, LoadFailed, TimedOut
from gpumand.domain.residency_states import Residency
from gpumand.fleet.keys import Keys
from gpumand.fleet.row_json import encode_intent
from gpumand.fleet.rows import ConsumerRow, Intent
from gpumand.fleet.settings import Right
from gpumand.fleet.store import Entry, Listing, Removed, Written
from tests.integration.fleet.agent_server import CHAT, MACHINE_ID, STREAM_HEAD, AgentServer, chunk, head, read_head
from tests.integration.fleet.fleet_hosts import until


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """The next chunk of an answer; b"" at its end."""
    async with asyncio.timeout(30):
        size = int(await reader.readline(), 16)
        data = await reader.readexactly(size)
        await reader.readexactly(2)
        return data


async def next_object(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next line of an answer that is no sign of life."""
    while not (data := await read_chunk(reader)).strip():
        assert data, "the answer ended early"
    return dict(json.loads(data))


# -- leases ----------------------------------------------------------------------------------------------------------


async def test_grant_is_the_first_line_and_newlines_follow_until_the_client_closes(agent: AgentServer) -> None:
    body = json.dumps({**CHAT, "user": "alice"}).encode()
    reader, writer = await agent.send(head("/v1/acquire", len(body)) + body)
    status, _ = await read_head(reader)
    grant = json.loads(await read_chunk(reader))

    assert status == 200
    assert grant == {
        "lease": "ab12",
        "host": "gpu1",
        "machine_id": "1" * 32,
        "consumer": "chat",
        "device": "0",
        "endpoint": "http://gpu1:8770",
        "evicted": ["image"],
        "loaded": True,
        "waited_sec": 1.5,
    }
    assert [await read_chunk(reader) for _ in range(2)] == [b"\n", b"\n"]
    assert not agent.gpumand.leases[0].released
    assert agent.gpumand.acquired[0][1] == "alice@unknown"
    writer.close()
    await until(lambda: agent.gpumand.leases[0].released, "the lease is released")
    await until(lambda: agent.agent.lease_count == 0, "it is not counted any more")


async def test_client_that_gives_signs_of_life_keeps_its_lease_and_ends_it_with_a_line(agent: AgentServer) -> None:
    reader, writer = await agent.send(STREAM_HEAD + chunk(json.dumps(CHAT).encode() + b"\n"))
    await read_head(reader)
    assert "lease" in await next_object(reader)
    for _ in range(8):
        await asyncio.sleep(0.5)
        writer.write(chunk(b"\n"))
    (lease,) = agent.gpumand.leases
    assert not lease.released
    writer.write(chunk(b"release\n"))
    assert await next_object(reader) == {"ended": "released"}
    assert all(one.released for one in agent.gpumand.leases)
    writer.close()


async def test_end_of_the_body_ends_the_lease(agent: AgentServer) -> None:
    reader, writer = await agent.send(STREAM_HEAD + chunk(json.dumps(CHAT).encode() + b"\n"))
    await read_head(reader)
    await next_object(reader)
    writer.write(b"0\r\n\r\n")
    assert await next_object(reader) == {"ended": "released"}
    writer.close()


async def test_silent_client_is_lost_after_three_seconds_although_its_connection_stands(agent: AgentServer) -> None:
    reader, writer = await agent.send(STREAM_HEAD + chunk(json.dumps(CHAT).encode() + b"\n"))
    await read_head(reader)
    await next_object(reader)
    await until(lambda: agent.gpumand.leases[0].released, "the lease is released")
    writer.close()


async def test_end_of_a_lease_is_the_last_line(agent: AgentServer) -> None:
    body = json.dumps(CHAT).encode()
    reader, writer = await agent.send(head("/v1/acquire", len(body)) + body)
    await read_head(reader)
    await next_object(reader)
    agent.gpumand.leases[0].ended.set("revoked")
    assert await next_object(reader) == {"ended": "revoked"}
    assert await read_chunk(reader) == b""
    writer.close()


async def test_client_that_leaves_while_it_waits_withdraws_its_request(agent: AgentServer) -> None:
    agent.gpumand.before = asyncio.Event().wait
    body = json.dumps(CHAT).encode()
    reader, writer = await agent.send(head("/v1/acquire", len(body)) + body)
    await read_head(reader)
    assert await read_chunk(reader) == b"\n", "signs of life come during the wait too"
    writer.close()
    await until(lambda: agent.gpumand.cancelled == 1, "the request is withdrawn")
    assert not agent.gpumand.leases


async def test_grant_that_comes_when_the_client_has_just_left_is_released(agent: AgentServer) -> None:
    reached, may_grant = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        # A grant that cannot be cancelled any more.
        await asyncio.shield(asyncio.ensure_future(may_grant.wait()))

    agent.gpumand.before = hold
    body = json.dumps(CHAT).encode()
    _, writer = await agent.send(head("/v1/acquire", len(body)) + body)
    await reached.wait()
    may_grant.set()
    writer.transport.abort()
    await until(lambda: agent.agent.lease_count == 0, "the request is over")
    assert all(one.released for one in agent.gpumand.leases)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Busy("leased"), 503),
        (TimedOut("too long"), 504),
        (InsufficientVram("no room"), 507),
        (LoadFailed("exit 1"), 500),
    ],
)
async def test_refusal_has_a_status_and_the_words_of_gpumand(agent: AgentServer, error: Any, status: int) -> None:
    agent.gpumand.error = error
    assert await agent.post("/v1/acquire", CHAT) == (status, {"error": error.dbus_name, "message": error.message})


async def test_late_refusal_is_a_line_of_the_stream(agent: AgentServer) -> None:
    agent.gpumand.error, agent.gpumand.before = Busy("leased"), lambda: asyncio.sleep(1.2)
    body = json.dumps(CHAT).encode()
    reader, writer = await agent.send(head("/v1/acquire", len(body)) + body)
    assert (await read_head(reader))[0] == 200
    assert await next_object(reader) == {"error": Busy.dbus_name, "message": "leased"}
    assert await read_chunk(reader) == b""
    writer.close()


# -- the rules of the fleet ------------------------------------------------------------------------------------------


async def test_request_of_a_router_that_slept_is_refused_with_the_revision_to_reach(agent: AgentServer) -> None:
    await closed(agent, {**CHAT, "revision": 20, "basis": "intent"})
    status, answer = await agent.post("/v1/acquire", {**CHAT, "revision": 19, "basis": "intent"})
    assert (status, answer["seen"]) == (409, 20)
    assert answer["error"].endswith("StaleToken")
    assert len(agent.gpumand.acquired) == 1


async def test_consumer_is_not_loaded_for_a_router_that_believed_it_to_be_resident(agent: AgentServer) -> None:
    agent.row = replace(agent.row, consumers={"chat": ConsumerRow(Residency.UNLOADED)})
    status, answer = await agent.post("/v1/acquire", {**CHAT, "basis": "resident"})
    assert status == 409
    assert answer["error"].endswith("NotResident")
    await closed(agent, {**CHAT, "basis": "intent"})
    await closed(agent, CHAT)
    assert len(agent.gpumand.acquired) == 2


async def test_intent_that_was_dropped_on_the_way_loads_nothing(agent: AgentServer) -> None:
    agent.row = replace(agent.row, consumers={"chat": ConsumerRow(Residency.UNLOADED)})
    key, intent = Keys("lab").intent("chat"), Intent(MACHINE_ID, "router", "n")
    agent.table.apply(Listing((Entry(key, encode_intent(intent), 20),), 20))
    await closed(agent, {**CHAT, "basis": "intent", "revision": 20})
    agent.table.apply(Removed(key, 21))
    status, answer = await agent.post("/v1/acquire", {**CHAT, "basis": "intent", "revision": 20})
    assert status == 409
    assert answer["error"].endswith("NotResident")
    other = Entry(key, encode_intent(replace(intent, host="2" * 32)), 22)
    agent.table.apply(Written(other))
    assert (await agent.post("/v1/acquire", {**CHAT, "basis": "intent", "revision": 22}))[0] == 409
    assert len(agent.gpumand.acquired) == 1


async def closed(agent: AgentServer, body: dict[str, Any]) -> None:
    """Acquire a lease and close the connection."""
    count, data = len(agent.gpumand.leases), json.dumps(body).encode()
    reader, writer = await agent.send(head("/v1/acquire", len(data)) + data)
    assert (await read_head(reader))[0] == 200
    writer.close()
    await until(lambda: len(agent.gpumand.leases) > count and agent.gpumand.leases[-1].released, "it is released")


async def test_drained_host_takes_no_new_requests(agent: AgentServer) -> None:
    agent.row = replace(agent.row, draining=True)
    status, answer = await agent.post("/v1/acquire", CHAT)
    assert (status, answer["message"]) == (503, "gpu1 is drained: it takes no new requests of the fleet")


@pytest.mark.parametrize(
    ("path", "right", "body"),
    [
        ("/v1/acquire", Right.ACQUIRE, CHAT),
        ("/v1/plan", Right.PLAN, {"consumer": "chat"}),
        ("/v1/load", Right.LOAD, {"consumer": "chat"}),
        ("/v1/drain", Right.DRAIN, {}),
    ],
)
async def test_each_operation_needs_its_right(
    agent: AgentServer, path: str, right: Right, body: dict[str, Any]
) -> None:
    agent.allow(*(one for one in Right if one is not right))
    status, answer = await agent.post(path, body)
    assert status == 403
    assert f"may not {right} on gpu1" in answer["message"]
    assert f'* = ["{right}"] in [fleet.allow]' in answer["message"]
    assert not agent.gpumand.acquired
    assert not agent.gpumand.loaded
    assert not agent.drains


async def test_plan_load_and_drain_reach_this_host(agent: AgentServer) -> None:
    assert await agent.post("/v1/plan", {"consumer": "chat"}) == (200, {"verdict": "grant", "consumer": "chat"})
    assert await agent.post("/v1/load", {"consumer": "chat", "user": "alice"}) == (200, {"changed": True})
    assert agent.gpumand.loaded[0][1] == "alice@unknown"
    assert await agent.post("/v1/drain", {}) == (200, {"host": "gpu1", "drain": True})
    assert agent.drains == [True]


async def test_row_and_status_can_be_read_without_rights(agent: AgentServer) -> None:
    agent.allow()
    status, row = await agent.exchange(head("/v1/row", 0, "GET"))
    assert (status, row["name"], row["consumers"]) == (200, "gpu1", {"chat": {"r": "resident"}})
    assert await agent.exchange(head("/v1/status", 0, "GET")) == (200, {"version": "1.0"})


# -- the end ---------------------------------------------------------------------------------------------------------


def _released(agent: AgentServer) -> Callable[[], bool]:
    return lambda: all(one.released for one in agent.gpumand.leases)


async def test_end_of_the_agent_ends_all_leases(agent: AgentServer) -> None:
    body = json.dumps(CHAT).encode()
    readers = [(await agent.send(head("/v1/acquire", len(body)) + body))[0] for _ in range(3)]
    for reader in readers:
        await read_head(reader)
    await agent.server.close()
    await until(_released(agent), "all leases are released")
