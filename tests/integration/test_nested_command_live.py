"""A command under gpumanctl run requests, by plain D-Bus, what its own lease keeps in use."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from tests.integration.cli.world import world

REQUEST = """
import asyncio, sys
from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.variants import to_variants

async def main():
    bus = await BusConnection.connect(sys.argv[1])
    options = to_variants({"timeout_usec": ("t", 60_000_000)})
    try:
        target = ("org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager", "Acquire")
        await bus.call(*target, "sa{sv}", ("comfyui", options), timeout_sec=60)
    except BusError as error:
        print(error.name)

asyncio.run(main())
"""


async def test_plain_request_below_the_holder_is_refused_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl), asyncio.timeout(60):
        began = time.monotonic()
        program = tmp_path / "request.py"
        program.write_text(REQUEST)
        nested = ("sh", "-c", '"$@"; exit 0', "sh", sys.executable, str(program), host.bus.address)
        result = await ctl("run", "llm", "--", *nested)

    assert result.out.splitlines() == ["org.gpumand1.Error.WouldDeadlock"]
    assert time.monotonic() - began < 30.0
