"""A client that closes its sending side after its request, as ``nc -N`` does."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.entrance import Entrance
from tests.integration.gateway.live_gateway import LiveGateway
from tests.integration.gateway.test_gateway_http import established
from tests.integration.live import wait_until

DEADLINE_SEC = 30.0
POST = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"


async def half_closed(gateway: LiveGateway, listener: str, request: str) -> tuple[int, str]:
    """Send a request, close the sending side at once, and read to the end; returns status and body."""
    async with asyncio.timeout(DEADLINE_SEC):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ports[listener])
        writer.write(request.encode())
        writer.write_eof()
        answer = (await reader.read()).decode("latin-1")
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/gateway/v1/session", "/metrics"])
async def test_requests_that_need_no_lease_are_answered(door: Entrance, path: str) -> None:
    for _ in range(5):
        status, body = await half_closed(door.gateway, "gateway", f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status == 200
        assert body


async def test_answer_of_the_service_to_a_look_passes_completely(tmp_path: Path) -> None:
    async with front(tmp_path, 'preset = "comfyui"') as made:
        request = "GET /object_info HTTP/1.1\r\nHost: localhost\r\n\r\n"
        status, body = await half_closed(made.gateway, "fake", request)

    assert status == 200
    assert body


async def test_refusals_reach_the_client(door: Entrance) -> None:
    body = json.dumps({"model": "unknown"})
    request = "POST /v1/chat/completions HTTP/1.1\r\n" + POST.format(len(body), body)
    status, answer = await half_closed(door.gateway, "gateway", request)

    assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")


async def test_request_that_waits_is_withdrawn_and_its_client_learns_why(door: Entrance) -> None:
    lease = await door.block()
    body = json.dumps({"model": "qwen3", "messages": []})
    request = "POST /v1/chat/completions HTTP/1.1\r\n" + POST.format(len(body), body)
    status, answer = await half_closed(door.gateway, "gateway", request)
    await wait_until("the queue is empty", lambda: has_no_queue(door))
    await door.control.release(lease)

    assert (status, json.loads(answer)["error"]["code"]) == (400, "sending_side_closed")
    assert "nc without -N" in answer
    assert door.llama.bodies == []
    assert 'class="work",status="499"' in await metrics(door)


async def has_no_queue(made: Entrance) -> bool:
    return not (await made.control.status())["queue"]


async def metrics(made: Entrance) -> str:
    async with made.session.get(f"{made.url}/metrics") as answer:
        return await answer.text()


async def test_client_that_has_left_while_the_service_works_ends_the_work(tmp_path: Path) -> None:
    """A full close looks the same: the work must not go on for a client that is not there."""
    async with front(tmp_path) as made, asyncio.timeout(DEADLINE_SEC):
        began = time.monotonic()
        _, writer = await asyncio.open_connection("127.0.0.1", made.gateway.ports["fake"])
        writer.write(b"POST /slow?sec=60 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await wait_until("the service works", lambda: is_working(made))
        writer.close()
        await wait_until("the work has ended", lambda: has_ended(made))

    assert time.monotonic() - began < 50


async def is_working(made: Front) -> bool:
    return bool(made.service.seen)


async def has_ended(made: Front) -> bool:
    return not established(made.service.port)


async def test_body_that_ends_early_gets_no_answer(door: Entrance) -> None:
    request = "POST /v1/chat/completions HTTP/1.1\r\n" + POST.format(100, "{")
    assert await half_closed(door.gateway, "gateway", request) == (0, "")
