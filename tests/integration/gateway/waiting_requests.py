"""Requests that wait in the gateway, and conditions to wait for."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.integration.gateway.conftest import Front
from tests.integration.live import wait_until

IMPATIENT = "patience_sec = 0.4\ndrip_sec = 0.2"
COMFYUI = 'preset = "comfyui"'
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def has_queue(made: Front) -> bool:
    return bool((await made.control.status())["queue"])


async def has_leases(made: Front, count: int) -> bool:
    return len((await made.control.status())["leases"]) == count


async def asked(made: Front, path: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    async with made.session.request(more.pop("method", "POST"), made.url + path, **more) as answer:
        return answer.status, dict(answer.headers), await answer.read()


async def held(made: Front, path: str, body: dict[str, Any], seconds: float = 1.2) -> tuple[int, dict[str, str], bytes]:
    """Send a request that waits for a while, and return its answer."""
    lease = await made.block()
    waiting = asyncio.create_task(asked(made, path, json=body))
    await wait_until("the request waits", lambda: has_queue(made))
    await asyncio.sleep(seconds)
    assert not waiting.done()
    await made.control.release(lease)
    return await waiting
