"""A calibration stops the container again that it has started."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gpumand.cli.client import Client
from gpumand.cli.restoring import FormerState, Restorer

RESIDENT = {"name": "comfyui", "residency": "resident", "evict": ["container"], "unit": ""}


class RecordingClient:
    """A daemon with one consumer; records evictions."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self._entry = entry
        self.evicted_by: list[str] = []

    async def status(self) -> dict[str, Any]:
        return {"consumers": [self._entry]}

    async def evict(self, name: str, options: dict[str, tuple[str, Any]], timeout_sec: float) -> None:
        self.evicted_by.append(options["method"][1])


@pytest.mark.parametrize(
    ("former", "changes", "evicted_by"),
    [
        ("unloaded", {}, ["container"]),
        ("resident", {}, []),
        ("unloaded", {"leases": 1}, []),
        ("unloaded", {"lazy": True}, []),
        ("unloaded", {"unit": "comfyui.service"}, []),
        ("unloaded", {"evict": ["http"]}, []),
        ("unloaded", {"residency": "unloaded"}, []),
    ],
)
async def test_container_that_was_not_running_is_stopped(
    former: str, changes: dict[str, Any], evicted_by: list[str]
) -> None:
    client = RecordingClient(RESIDENT | changes)
    restorer = Restorer(cast("Client", client), "comfyui", 10.0, lambda line: None)

    await restorer.restore(FormerState(former, None), [])

    assert client.evicted_by == evicted_by
