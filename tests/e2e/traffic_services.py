"""Servers behind the gateway of an e2e test: ``python3 -m tests.e2e.traffic_services KIND PORT FILE``.

``fake`` is the server of the integration tests, with streams, uploads and WebSockets. ``recorder`` writes each request
that reaches it to the file, as a strict parser understands it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.integration.gateway.fake_service import FakeService
from tests.integration.gateway.recording_service import Recorded, recording_service


async def serve(kind: str, port: int, file: Path) -> None:
    if kind == "fake":
        service = FakeService()
        service.port = port
        await service.start()
        await asyncio.Event().wait()
    async with recording_service(port) as recorded:
        while True:
            write(recorded, file)
            await asyncio.sleep(0.05)


def write(recorded: Recorded, file: Path) -> None:
    """Write what has arrived."""
    requests = [[method, target, body.decode()] for method, target, body in recorded.requests]
    found = {"requests": requests, "begun": recorded.begun, "errors": recorded.errors}
    text = json.dumps(found | {"connections": recorded.connections})
    # Replaced as a whole, since it is read at any time.
    fresh = file.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
