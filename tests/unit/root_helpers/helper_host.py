"""Two engines and a configuration, for the operations of the container helper."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from gpumand.root_helpers.container_engine import Engine, Refused
from gpumand.root_helpers.containers import Operations
from gpumand.testing.container_engine import FakeEngine


class Host:
    """Two engines, a configuration, and the operations of the helper on them."""

    def __init__(self, folder: Path) -> None:
        self.docker, self.podman = FakeEngine(), FakeEngine()
        self.paths = {"docker": str(folder / "docker.sock"), "podman": str(folder / "podman.sock")}
        self.config = folder / "gpumand.toml"
        self.engines = [Engine(name, path) for name, path in self.paths.items()]
        self.operations = Operations(lambda: [self.config], self.engines, os.getuid())

    def configure(self, *names: str) -> None:
        tables = (f'[consumers.c{number}]\ncontainer = "{name}"\n' for number, name in enumerate(names))
        self.config.write_text("".join(tables))
        self.config.chmod(0o644)

    async def do(self, operation: str, container: Any = "comfyui", **more: Any) -> Any:
        return await asyncio.to_thread(self.operations.carry_out, {"do": operation, "container": container, **more})

    async def refusal(self, operation: str, container: Any = "comfyui", **more: Any) -> Refused:
        with pytest.raises(Refused) as refused:
            await self.do(operation, container, **more)
        return refused.value
