"""The fixture of a host with two engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.root_helpers.helper_host import Host


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    one = Host(tmp_path)
    one.configure("comfyui")
    await one.docker.listen(one.paths["docker"])
    await one.podman.listen(one.paths["podman"])
    yield one
    await one.docker.close()
    await one.podman.close()
