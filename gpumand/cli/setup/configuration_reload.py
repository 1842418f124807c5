"""The reload of gpumand's configuration after a command has changed it."""

from __future__ import annotations

import asyncio

from gpumand.cli.errors import ExitCode, Failure
from gpumand.client.client import Client
from gpumand.client.errors import GpumandError


def reload_configuration(bus: str) -> None:
    """Let gpumand load its configuration again. Raises Failure if it refuses, or cannot be called on this bus."""
    try:
        asyncio.run(_reload(bus))
    except GpumandError as error:
        raise Failure(ExitCode.FAILURE, f"gpumand did not load the configuration: {error.message}") from None


async def _reload(bus: str) -> None:
    async with Client(bus) as client:
        await client.reload()
