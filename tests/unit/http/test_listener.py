"""The HTTP listener creates its endpoints once, on first use."""

from __future__ import annotations

import asyncio

from gpumand.domain.status import Status
from gpumand.http.listener import HttpListener


def _status() -> Status:
    raise AssertionError("no request asks for the status")


async def test_concurrent_first_uses_share_their_endpoints() -> None:
    listener = HttpListener(_status, [])

    first, second = await asyncio.gather(listener._get_endpoints(), listener._get_endpoints())

    assert first is second
    await listener.close()
