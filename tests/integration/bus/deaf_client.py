"""Sends ten thousand calls and never reads a reply: ``python -m … ADDRESS DESTINATION SEED``."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from typing import Any

from dbus_fast import Message

from gpumand.bus.connection import BusConnection
from tests.integration.bus.adapter import INTERFACE

CALLS = 10_000
ARGUMENTS: list[tuple[str, list[Any]]] = [("s", ["x" * 100]), ("", []), ("u", [1])]


async def send_calls(address: str, destination: str, seed: int) -> None:
    """Send all calls within one iteration of the event loop, so that no reply is read."""
    rng = random.Random(seed)
    connection = await BusConnection.connect(address)
    sock = connection._send_queue._sock
    sock.setblocking(True)
    for serial in range(2, CALLS + 2):
        member = rng.choice(["Echo", "Slow", "Busy", "Nope"])
        signature, body = rng.choice(ARGUMENTS)
        call = Message(destination, "/", INTERFACE, member, signature=signature, body=body, serial=serial)
        sock.sendall(call._marshall(False))
    print("SENT", flush=True)
    signal.pause()


if __name__ == "__main__":
    asyncio.run(send_calls(sys.argv[1], sys.argv[2], int(sys.argv[3])))
