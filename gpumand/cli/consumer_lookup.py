"""Looks up one consumer in the daemon's status, for messages that report the result of a call."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.client import Client


async def consumer_entry(client: Client, consumer: str) -> Mapping[str, Any]:
    """The consumer's entry in the current status; {} when it has none or the daemon does not answer.

    The call whose result is reported has already succeeded, so a failure here must not turn it into an error.
    """
    with suppress(BusError, BusLost):
        status = await client.status()
        return next((one for one in status["consumers"] if one["name"] == consumer), {})
    return {}
