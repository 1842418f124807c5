"""Two hosts, each with a gpumand, an agent and a gateway; each has a model of its own, and both have another one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gpumand.testing.daemon import PrivateGpumand
from tests.integration.fleet.live_fleet import Host, agent_config, until_all_up
from tests.integration.fleet.tls_etcd import free_port
from tests.integration.gateway.live_gateway import http
from tests.integration.gateway.model_service import ModelService, model_service
from tests.integration.live import wait_until

KEY = "sk-fleet"


@dataclass
class Side:
    """One host.

    Attributes:
        host: its daemon and its agent.
        url: its gateway.
        services: its services by consumer.
        gateway: the process of its gateway.
        log: the log of its gateway.
    """

    host: Host
    url: str
    services: dict[str, ModelService]
    folder: Path
    gateway: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    def start_gateway(self) -> None:
        """Start the gateway, which uses the fleet."""
        file = self.folder / "gateway.toml"
        listen = self.url.removeprefix("http://")
        text = f'[gateway]\nlisten = "{listen}"\nstate_dir = "{self.folder}"\nlinger_sec = 0.1\n'
        text += f'[gateway.fleet]\nenabled = true\nsocket = "{self.host.socket}"\nkey_file = "{self.folder}/key"\n'
        text += "".join(f'[gateway.listeners.{name}]\npreset = "llama-server"\n' for name in self.services)
        (self.folder / "key").write_text(f"{KEY}\n", encoding="ascii")
        file.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "gpumand.gateway", "--config", str(file), "--log-level", "debug"]
        command += ["--bus-address", self.host.gpumand.address]
        with self.log.open("ab") as log:
            self.gateway = subprocess.Popen(command, stderr=log, env=os.environ)

    def stop_gateway(self) -> None:
        """End the gateway at once."""
        if self.gateway is not None:
            self.gateway.kill()
            self.gateway.wait()

    def requests(self) -> int:
        """Number of requests for models that reached the services of the host."""
        return sum(len(one.bodies) for one in self.services.values())


@dataclass
class Pair:
    """Both hosts."""

    one: Side
    two: Side
    session: aiohttp.ClientSession

    async def get(self, side: Side, path: str, **more: Any) -> tuple[int, Any]:
        async with self.session.get(side.url + path, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def chat(self, side: Side, model: str, **more: Any) -> tuple[int, Any]:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        async with self.session.post(f"{side.url}/v1/chat/completions", json=body, **more) as answer:
            return answer.status, await answer.json(content_type=None)


def _tables(services: dict[str, ModelService], unique: str) -> str:
    lines = []
    for name, service in services.items():
        lines += [f"[consumers.{name}]", "vram_resident_mib = 6000", f'url = "{service.url}"']
        lines += ['unload = { path = "/unload" }', 'fleet = "unique"' if name == unique else "", ""]
    return "\n".join(lines)


@contextlib.asynccontextmanager
async def pair_of_gateways(folder: Path, etcd_url: str, *, unique: str = "") -> AsyncIterator[Pair]:
    """Run both hosts; the consumer ``unique`` may be loaded on one of them only."""
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        models = ({"small": "small-model", "shared": "shared-model"}, {"big": "big-model", "shared": "shared-model"})
        for number, names in enumerate(models, start=1):
            place = folder / str(number)
            place.mkdir()
            services = {name: await stack.enter_async_context(model_service(model)) for name, model in names.items()}
            gpumand = await stack.enter_async_context(PrivateGpumand({}, config=_tables(services, unique)))
            url = f"http://127.0.0.1:{free_port()}"
            host = Host(f"gpu{number}", gpumand, place / "a.sock", url, place / "agent.log")
            side = Side(host, f"http://127.0.0.1:{free_port()}", services, place)
            host.config = agent_config(host, number, [etcd_url]) | {"gateway_url": side.url}
            host.start_agent()
            stack.callback(host.stop_agent)
            side.start_gateway()
            stack.callback(side.stop_gateway)
            sides.append(side)
        session = await stack.enter_async_context(http())
        one, two = sides
        pair = Pair(one, two, session)
        for one in sides:
            await asyncio.to_thread(until_all_up, one.host, {"gpu1", "gpu2"})
            await _until_listening(pair, one)
        yield pair


async def _until_listening(pair: Pair, side: Side) -> None:
    async def listens() -> bool:
        assert side.gateway is not None
        assert side.gateway.poll() is None, side.log.read_text(encoding="utf-8")
        try:
            return (await pair.get(side, "/gateway/v1/state"))[0] == 200
        except aiohttp.ClientError:
            return False

    await wait_until("the gateway listens", listens)
