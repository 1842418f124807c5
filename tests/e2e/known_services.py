"""Servers that behave like Ollama, ComfyUI and llama-server, as far as gpumand and their clients see them.

Their memory is that of the simulated device, announced without a name, so that it is attributed by pid.
The name of the script says which server it is: ``ollama serve``, ``ComfyUI/main.py`` or ``llama-server``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gpumand.testing.consumer_model import Model, ModelSettings
from tests.e2e.installation import ENVIRONMENT

if TYPE_CHECKING:
    from tests.e2e.machine import Machine

VRAM_DIR = Path("/run/gpumand-simulated")
MIB = {"ollama": 6000, "comfyui": 7000, "llama-server": 8000}
SERVICES = "/opt/services"
COMMANDS = {
    "ollama": "ollama serve",
    "comfyui": "ComfyUI/main.py",
    "llama-server": "llama-server -m /srv/models/gemma-3-12b.gguf --port 8080",
}
PORTS = (11434, 8188, 8080)
SCRIPT = "from tests.e2e.known_services import main\nmain()\n"
GPU = f"""[gpu]
source = "simulated"
simulated_total_mib = [24564]
simulated_dir = "{VRAM_DIR}"
"""
MODELS = {"ollama": "qwen3:8b", "llama-server": "gemma-3-12b"}


class Service:
    """One server.

    Args:
        kind: "ollama", "comfyui" or "llama-server".
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._name = MODELS.get(kind, "")
        self.model = Model(ModelSettings(kind, "", VRAM_DIR, mib=MIB[kind]))

    def app(self) -> web.Application:
        """The routes of the server, with its model loaded at the start, unless WITHOUT_MODEL is set."""
        app = web.Application()
        app.on_startup.append(self._load)
        add = {"ollama": self._add_ollama, "comfyui": self._add_comfyui, "llama-server": self._add_llama}
        add[self._kind](app.router)
        return app

    async def _load(self, _: web.Application) -> None:
        if not os.environ.get("WITHOUT_MODEL"):
            await self.model.load()

    def _add_ollama(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", _answer("Ollama is running"))
        router.add_get("/api/version", _answer({"version": "0.12.0"}))
        router.add_get("/api/tags", _answer({"models": [{"name": self._name, "model": self._name}]}))
        router.add_get("/api/ps", self._ps)
        router.add_post("/api/generate", self._generate)
        router.add_post("/api/chat", self._chat)

    def _add_comfyui(self, router: web.UrlDispatcher) -> None:
        router.add_get("/system_stats", _answer({"system": {"os": "posix"}, "devices": []}))
        router.add_get("/prompt", _answer({"exec_info": {"queue_remaining": 0}}))
        router.add_post("/free", self._free)

    def _add_llama(self, router: web.UrlDispatcher) -> None:
        router.add_get("/health", _answer({"status": "ok"}))
        router.add_get("/props", _answer({"is_sleeping": False, "total_slots": 1}))
        router.add_get("/slots", _answer([{"id": 0, "is_processing": False}]))
        router.add_get("/v1/models", _answer({"object": "list", "data": [{"id": self._name, "object": "model"}]}))
        router.add_post("/v1/chat/completions", self._completions)

    async def _ps(self, _: web.Request) -> web.Response:
        loaded = [{"name": self._name, "model": self._name}] if self.model.loaded else []
        return web.json_response({"models": loaded})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        await (self.model.unload() if body.get("keep_alive") == 0 else self.model.load())
        return web.json_response({"model": self._name, "response": "", "done": True})

    async def _chat(self, _: web.Request) -> web.Response:
        await self.model.work(0.1)
        message = {"role": "assistant", "content": "hello from ollama"}
        return web.json_response({"model": self._name, "message": message, "done": True})

    async def _completions(self, _: web.Request) -> web.Response:
        await self.model.work(0.1)
        message = {"role": "assistant", "content": "hello from llama-server"}
        return web.json_response({"object": "chat.completion", "choices": [{"index": 0, "message": message}]})

    async def _free(self, _: web.Request) -> web.Response:
        await self.model.unload()
        return web.Response()


def _answer(value: Any) -> Any:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=value) if isinstance(value, str) else web.json_response(value)

    return handle


def add_to(machine: Machine, without_model: str = "") -> None:
    """Give a machine a GPU and the three services as units, and start them.

    Args:
        machine: the machine.
        without_model: name of a service whose model is not loaded.
    """
    # In place of a driver: the size of the card, and where programs announce what they hold of it.
    machine.write_file("/etc/gpumand/conf.d/gpu.toml", GPU)
    machine.run(["mkdir", "--parents", "--mode=1777", str(VRAM_DIR)])
    for name, command in COMMANDS.items():
        machine.write_file(f"{SERVICES}/{command.split()[0]}", SCRIPT)
        environ = f"Environment={ENVIRONMENT}{' WITHOUT_MODEL=1' if name == without_model else ''}"
        unit = f"[Service]\nType=exec\n{environ}\nExecStart=/usr/bin/python3 {SERVICES}/{command}\n"
        machine.write_file(f"/etc/systemd/system/{name}.service", unit)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", *COMMANDS)
    for port in PORTS:
        machine.wait_until(partial(_answers, machine, port), f"a service at port {port}")


def _answers(machine: Machine, port: int) -> bool:
    return machine.run(["curl", "-sSo", "/dev/null", f"http://127.0.0.1:{port}/"], check=False).returncode == 0


def kind_of(script: Path) -> str:
    """Which server a script with this path is."""
    return "comfyui" if script.parent.name == "ComfyUI" else script.name


def address(kind: str, arguments: list[str]) -> tuple[str, int]:
    """Where the server listens: as the real one, by its environment or its options."""
    if kind == "ollama":
        host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
        return host, int(port)
    options = argparse.ArgumentParser()
    options.add_argument("--host", "--listen", default="127.0.0.1")
    options.add_argument("--port", type=int, default={"comfyui": 8188, "llama-server": 8080}[kind])
    found, _ = options.parse_known_args(arguments)
    return found.host, found.port


async def serve(kind: str, arguments: list[str]) -> None:
    """Serve until the process is ended."""
    host, port = address(kind, arguments)
    runner = web.AppRunner(Service(kind).app())
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Run the server that the script is named after."""
    asyncio.run(serve(kind_of(Path(sys.argv[0])), sys.argv[1:]))
