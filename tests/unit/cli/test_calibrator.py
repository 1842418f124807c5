"""What ends a measurement before it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from gpumand.bus.signal_matches import Signal
from gpumand.cli.calibration import Calibrator
from gpumand.cli.client import Client
from gpumand.cli.errors import Failure
from gpumand.cli.options import GlobalOptions
from tests.unit.cli import samples


class Daemon:
    """Grants a lease, and says that it has ended before whoever asked has heard of the grant."""

    async def listen_for_ends(self, callback: Callable[[Signal], None]) -> None:
        self._tell = callback

    async def status(self) -> dict[str, Any]:
        return samples.status(consumers=[samples.consumer("comfyui")])

    async def acquire(self, *_: object) -> tuple[str, dict[str, Any]]:
        for lease, reason in (("another", "expired"), ("ours", "revoked")):
            self._tell(Signal(":1.2", "/", "", "LeaseEnded", (lease, "comfyui", reason)))
        return "ours", {"loaded": True}


async def test_a_lease_that_ends_before_its_grant_is_heard_of_is_not_waited_for() -> None:
    calibrator = Calibrator(
        cast(Client, Daemon()), "comfyui", 600.0, lambda _: None, lambda _: None, GlobalOptions(quiet=True)
    )

    with pytest.raises(Failure, match=r"the lease has ended \(revoked\)"):
        async with asyncio.timeout(30):
            await calibrator.run()
