"""The agent over HTTP: clients that send what is no request or nothing at all, and the limits for all others."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from gpumand.fleet import agent as agent_module
from gpumand.fleet import http_server, lease_slots
from gpumand.fleet.calls import MAX_BODY_BYTES
from tests.integration.fleet.agent_server import CHAT, STREAM_HEAD, AgentServer, chunk, head, read_head
from tests.integration.fleet.fleet_hosts import until


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b"[" * 9000, b'{"consumer": 1}', b"\xff\xfe", b'{"consumer":"chat","x":1}', b"{}"],
)
@pytest.mark.parametrize("path", ["/v1/acquire", "/v1/plan", "/v1/load"])
async def test_invalid_bodies_are_refused_with_words(agent: AgentServer, path: str, body: bytes) -> None:
    status, answer = await agent.post(path, body)
    assert status == 400
    assert answer["message"].isprintable()
    assert len(answer["message"]) > 10


async def test_too_large_body_is_refused(agent: AgentServer) -> None:
    status, answer = await agent.post("/v1/plan", b" " * (MAX_BODY_BYTES + 1))
    assert (status, answer["message"]) == (429, f"the body is larger than {MAX_BODY_BYTES} bytes")
    endless = STREAM_HEAD + chunk(b"x" * MAX_BODY_BYTES) * 8
    assert (await agent.exchange(endless))[0] in (400, 429)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/plan HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/plan HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/plan HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /v1/row HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_closes_the_connection_and_harms_no_other(
    agent: AgentServer, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await agent.send(data)
    async with asyncio.timeout(30):
        answer = await reader.read()
    assert not answer or answer.startswith(b"HTTP/1.")
    assert b"Traceback" not in answer
    writer.close()
    assert (await agent.exchange(head("/v1/row", 0, "GET")))[0] == 200
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR and one.name.startswith("gpumand")]


async def test_unknown_paths_and_methods_name_the_known_ones(agent: AgentServer) -> None:
    status, answer = await agent.exchange(head("/v1/leases", 0, "GET"))
    assert status == 404
    assert "/v1/acquire" in answer["message"]
    status, answer = await agent.exchange(head("/v1/acquire", 0, "GET"))
    assert (status, answer["message"]) == (405, "method not allowed: use POST")


async def test_body_that_does_not_arrive_is_not_waited_for(agent: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "BODY_SEC", 0.2)
    status, answer = await agent.exchange(head("/v1/plan", 100) + b"{")
    assert status == 504
    assert "did not arrive" in answer["message"]


async def test_client_that_sends_no_request_is_closed(agent: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_SEC", 0.2)
    for data in (b"", b"GET /v1/row HT"):
        reader, writer = await agent.send(data)
        async with asyncio.timeout(30):
            assert not (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_number_of_connections_is_limited(agent: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)
    writers = [(await agent.send(b""))[1] for _ in range(3)]
    await until(lambda: len(agent.server._connections) == 3, "all are open")
    reader, writer = await agent.send(head("/v1/row", 0, "GET"))
    async with asyncio.timeout(30):
        assert await _read_or_reset(reader) == b""
    for one in (*writers, writer):
        one.close()
    await until(lambda: not agent.server._connections, "all are closed")
    assert (await agent.exchange(head("/v1/row", 0, "GET")))[0] == 200


async def _read_or_reset(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_leases_of_one_caller_are_limited_also_when_they_are_granted_at_the_same_time(
    agent: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_slots, "MAX_OF_ONE", 2)
    granting = asyncio.Event()
    agent.gpumand.before = granting.wait
    body = json.dumps(CHAT).encode()
    opened = [await agent.send(head("/v1/acquire", len(body)) + body) for _ in range(3)]
    await until(lambda: len(agent.gpumand.acquired) == 3, "all wait")
    granting.set()
    await until(lambda: [one.released for one in agent.gpumand.leases].count(True) == 1, "the third one is released")
    status, answer = await agent.post("/v1/acquire", CHAT)
    assert (status, "has 2 leases of the fleet on this host" in answer["message"]) == (429, True), answer
    assert len(agent.gpumand.acquired) == 3, "gpumand is not asked for it"
    for _, writer in opened:
        writer.close()
    await until(lambda: all(one.released for one in agent.gpumand.leases), "all have ended")
    reader, _ = await agent.send(head("/v1/acquire", len(body)) + body)
    assert (await read_head(reader))[0] == 200


async def test_number_of_remote_leases_is_limited(agent: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "MAX_REMOTE", 2)
    body = json.dumps(CHAT).encode()
    opened = [await agent.send(head("/v1/acquire", len(body)) + body) for _ in range(2)]
    for reader, _ in opened:
        await read_head(reader)
    status, answer = await agent.post("/v1/acquire", CHAT)
    assert (status, answer["error"]) == (429, "org.freedesktop.DBus.Error.LimitsExceeded")
    for _, writer in opened:
        writer.close()
    await until(lambda: agent.agent.lease_count == 0, "all have ended")
