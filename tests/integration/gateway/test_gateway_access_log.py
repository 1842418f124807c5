"""The access log of a running gateway: one line for each request, however it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.gateway.live_gateway import LiveGateway
from tests.integration.gateway.test_gateway_revoked_keys import CHAT, LEAKED, OTHER, bearer, guarded
from tests.integration.live import wait_until

DEADLINE_SEC = 30.0


async def test_each_request_has_a_line_with_its_client_model_status_and_wait(tmp_path: Path) -> None:
    async with guarded(tmp_path, keys="access_log = true") as made, asyncio.timeout(DEADLINE_SEC):
        lease = await made.block()
        waiting = asyncio.create_task(made.post("/v1/chat/completions", CHAT, **bearer(OTHER)))
        await made.wait_for_queue()
        await made.control.release(lease)
        await waiting
        await made.post("/v1/chat/completions?api_key=hidden", CHAT | {"model": "qwen\n9"}, **bearer(LEAKED))
        await made.post("/v1/chat/completions", CHAT, **bearer("gpumand-unknown"))
        leaving = asyncio.create_task(made.post("/c/llama/slow?sec=60", {}))
        await wait_until("the service works", lambda: works(made.llama.paths()))
        leaving.cancel()
        await wait_until("all lines are written", lambda: has_line(made.gateway, " 499: "))
        log = made.gateway.log

    lines = [line for line in log.splitlines() if " at gateway: " in line]
    (served,) = [line for line in lines if "model qwen3, class work" in line]
    assert "INFO    other at gateway: POST /v1/chat/completions 200: consumer llama, model qwen3, class work" in served
    assert ", waited " in served
    assert ", first byte after " in served
    assert any("leaked at gateway: POST /v1/chat/completions 404: model qwen\\n9, " in line for line in lines)
    assert any("127.0.0.1 at gateway: POST /v1/chat/completions 401: " in line for line in lines)
    assert any("127.0.0.1 at gateway: POST /c/llama/slow 499: consumer llama, class work" in line for line in lines)
    assert "hidden" not in "".join(lines)


async def works(paths: list[str]) -> bool:
    return "POST /slow?sec=60" in paths


async def has_line(gateway: LiveGateway, text: str) -> bool:
    return text in gateway.log
