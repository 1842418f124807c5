"""Events that end a calibration early."""

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
    """Grants a lease, and sends its LeaseEnded signal before the reply to Acquire."""

    async def listen_for_lease_ends(self, callback: Callable[[Signal], None]) -> None:
        self._callback = callback

    async def status(self) -> dict[str, Any]:
        return samples.status(consumers=[samples.consumer("comfyui")])

    async def acquire(self, *_: object) -> tuple[str, dict[str, Any]]:
        for lease, reason in (("another", "expired"), ("ours", "revoked")):
            self._callback(Signal(":1.2", "/", "", "LeaseEnded", (lease, "comfyui", reason)))
        return "ours", {"loaded": True}


async def test_a_lease_that_ends_before_the_acquire_reply_ends_the_calibration() -> None:
    calibrator = Calibrator(
        cast(Client, Daemon()), "comfyui", 600.0, lambda _: None, lambda _: None, GlobalOptions(quiet=True)
    )

    with pytest.raises(Failure, match=r"the lease has ended \(revoked\)"):
        async with asyncio.timeout(30):
            await calibrator.run()
