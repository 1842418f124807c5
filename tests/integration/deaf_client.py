"""A client that calls gpumand ten thousand times and reads no answer: ``python -m … ADDRESS SEED``."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from typing import Any

from dbus_fast import Message, Variant

from gpumand.bus import names
from gpumand.bus.connection import BusConnection

COUNT = 10_000
WAITING = {"timeout_usec": Variant("t", 3_600_000_000), "lifetime": Variant("s", "connection")}
CALLS: list[tuple[str, str, list[Any]]] = [
    ("GetStatus", "", []),
    ("Acquire", "sa{sv}", ["unknown", {}]),
    ("Acquire", "sa{sv}", ["voice", WAITING]),
    ("Plan", "sa{sv}", ["voice", {}]),
    ("Release", "s", ["0" * 20]),
    ("Acquire", "u", [1]),
    ("Nonsense", "s", ["x" * 100]),
]


async def send_calls(address: str, seed: int) -> None:
    """Send all calls in one iteration of the event loop, so that nothing is read."""
    rng = random.Random(seed)
    connection = await BusConnection.connect(address)
    sock = connection._send_queue._sock
    sock.setblocking(True)
    for serial in range(2, COUNT + 2):
        member, signature, body = rng.choice(CALLS)
        call = Message(
            names.BUS_NAME, names.ROOT_PATH, names.MANAGER, member, signature=signature, body=body, serial=serial
        )
        sock.sendall(call._marshall(False))
    print("SENT", flush=True)
    signal.pause()


if __name__ == "__main__":
    asyncio.run(send_calls(sys.argv[1], int(sys.argv[2])))
