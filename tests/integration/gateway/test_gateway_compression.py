"""Compressed bodies pass in both directions as they are: the gateway neither unpacks nor packs anything."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.fake_service import PACKED, PACKED_HEADERS
from tests.integration.live import wait_until

UPLOAD = gzip.compress(bytes(range(256)) * 4096, mtime=0)
ACCEPTED = {"Accept-Encoding": "gzip, br;q=0.5"}
LIST = "/object_info"
"""The gateway shares its answer between clients, and keeps it for the time when ComfyUI is stopped."""


@contextlib.asynccontextmanager
async def unpacked_client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that gets bodies as they were sent."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
        yield session


def kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The headers of the service's answer that have arrived."""
    return {name: answer.headers[name] for name in PACKED_HEADERS if name in answer.headers}


async def is_queued(made: Front) -> bool:
    return bool((await made.control.status())["queue"])


@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("waits", [True, False])
async def test_compressed_upload_and_answer_arrive_as_they_were_sent(
    tmp_path: Path, has_length: bool, waits: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(UPLOAD), 1000):
            yield UPLOAD[begin : begin + 1000]

    headers = ACCEPTED | {"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"}
    async with front(tmp_path) as made, unpacked_client() as client:
        lease = await made.block() if waits else ""
        body = UPLOAD if has_length else pieces()
        sent = asyncio.create_task(client.post(f"{made.url}/packed", data=body, headers=headers))
        if waits:
            await wait_until("the upload waits", is_queued, made)
            await made.control.release(lease)
        async with await sent as answer:
            received = await answer.read()
        (seen,) = [headers for _, path, headers in made.service.seen if path == "/packed"]

    assert made.service.bodies_as_sent == [UPLOAD]
    assert (seen["Content-Encoding"], seen["Accept-Encoding"]) == ("gzip", ACCEPTED["Accept-Encoding"])
    assert (seen.get("Content-Length") == str(len(UPLOAD))) is has_length
    assert (answer.status, received) == (200, PACKED)
    assert kept(answer) == PACKED_HEADERS
    assert answer.headers["Content-Length"] == str(len(PACKED))


async def test_answer_that_several_clients_share_stays_compressed_also_when_its_server_is_stopped(
    tmp_path: Path,
) -> None:
    async with front(tmp_path, 'preset = "comfyui"') as made, unpacked_client() as client:

        async def get() -> tuple[int, bytes, dict[str, str], str]:
            async with client.get(made.url + LIST, headers=ACCEPTED) as answer:
                body = await answer.read()
                return answer.status, body, kept(answer), answer.headers["Content-Length"]

        together = await asyncio.gather(*(get() for _ in range(5)))
        await made.service.stop()
        remembered = await get()
        requests = made.service.paths().count(f"GET {LIST}")

    wanted = 200, PACKED, PACKED_HEADERS, str(len(PACKED))
    assert [*together, remembered] == [wanted] * 6
    assert requests < 5
