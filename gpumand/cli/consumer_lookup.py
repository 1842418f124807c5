"""What the daemon knows of one consumer, for a line that tells what came of something."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.client import Client


async def entry_of(client: Client, consumer: str) -> Mapping[str, Any]:
    """Its entry of the status as it is now; {} where there is none, or nobody answers any more.

    What is to be told has happened already: that no more can be said of it is no failure.
    """
    with suppress(BusError, BusLost):
        status = await client.status()
        return next((one for one in status["consumers"] if one["name"] == consumer), {})
    return {}
