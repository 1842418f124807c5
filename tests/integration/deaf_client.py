"""Calls gpumand ten thousand times and never reads an answer: ``python -m … ADDRESS SEED``."""

from __future__ import annotations

import asyncio
import random
import signal
import sys

from dbus_fast import Message, Variant

from gpumand.bus import names
from gpumand.bus.connection import BusConnection

CALLS = 10_000
WAITING = {"timeout_usec": Variant("t", 3_600_000_000), "lifetime": Variant("s", "connection")}


async def shout(address: str, seed: int) -> None:
    """Everything happens within one turn of the event loop, so nothing is read."""
    rng = random.Random(seed)
    connection = await BusConnection.connect(address)
    sock = connection._outbox._sock
    sock.setblocking(True)
    for serial in range(2, CALLS + 2):
        member, signature, body = rng.choice(
            [
                ("GetStatus", "", []),
                ("Acquire", "sa{sv}", ["nobody", {}]),
                ("Acquire", "sa{sv}", ["voice", WAITING]),
                ("Plan", "sa{sv}", ["voice", {}]),
                ("Release", "s", ["0" * 20]),
                ("Acquire", "u", [1]),
                ("Nonsense", "s", ["x" * 100]),
            ]
        )
        call = Message(
            names.BUS_NAME, names.ROOT_PATH, names.MANAGER, member, signature=signature, body=body, serial=serial
        )
        sock.sendall(call._marshall(False))
    print("SENT", flush=True)
    signal.pause()


if __name__ == "__main__":
    asyncio.run(shout(sys.argv[1], int(sys.argv[2])))
