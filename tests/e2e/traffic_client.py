"""Traffic through the installed gateway: ``python3 -m tests.e2e.traffic_client probes|transfers|drip URL``.

It prints what it got as JSON. It needs Debian's python3-aiohttp, which the package gpumand depends on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.integration.gateway.probes import CLOSE, PROBES, VALID, head

DEADLINE_SEC = 30.0
CHUNK = bytes(1 << 20)
UPLOAD_MIB = 64
CHAT = {"model": "any", "messages": [], "stream": True}


async def exchange(url: str, sent: bytes) -> list[int]:
    """The statuses of all answers to bytes that are sent over a connection of their own."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(DEADLINE_SEC):
            writer.write(sent)
            answer = await reader.read()
    finally:
        writer.close()
    return [int(line.split(b" ")[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]


async def probes(url: str) -> dict[str, Any]:
    """The probes that were not refused, and the answers to valid requests."""
    found = {name: await exchange(url, sent) for name, sent in PROBES.items()}
    valid = [await exchange(url, sent) for sent in VALID.values()]
    again = await exchange(url, head(CLOSE, first="GET /after HTTP/1.1"))
    return {"not refused": {name: one for name, one in found.items() if one != [400]}, "valid": valid, "after": again}


async def transfers(url: str) -> dict[str, Any]:
    """An upload in chunks, a stream, a WebSocket, and several requests over one connection."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(UPLOAD_MIB):
            yield CHUNK

    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/upload", data=body()) as answer:
            uploaded = (await answer.json())["bytes"]
        async with session.post(f"{url}/stream?chunks=10&pause=0.02") as answer:
            lines = (await answer.text()).split()
        async with session.ws_connect(f"{url}/ws", protocols=("chat",)) as socket:
            await socket.send_str("hello")
            echo = (await socket.receive()).data
            protocol = socket.protocol
    return {"aiohttp": aiohttp.__version__, "uploaded": uploaded, "lines": lines, "echo": [echo, protocol]}


async def reuse(url: str) -> dict[str, Any]:
    """Several requests over one connection."""
    started = await exchange(url, head("Content-Length: 0", CLOSE))
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    answers = []
    for number in range(5):
        writer.write(head(first=f"GET /reuse/{number} HTTP/1.1"))
        answers.append(int((await reader.readuntil(b"\r\n\r\nok")).split(b" ")[1]))
    writer.close()
    return {"statuses": started + answers}


async def drip(url: str) -> dict[str, Any]:
    """A streamed chat; the first line is printed as soon as it arrives."""
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
        first = (await answer.content.readline()).decode()
        print(json.dumps(first), flush=True)
        rest = (await answer.read()).decode()
    return {"words": [line for line in rest.splitlines() if line.startswith("data: ")]}


if __name__ == "__main__":
    work = {"probes": probes, "transfers": transfers, "reuse": reuse, "drip": drip}[sys.argv[1]]
    print(json.dumps(asyncio.run(work(sys.argv[2]))), flush=True)
