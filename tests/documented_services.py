"""The services that the documentation names, as one small program: their routes, with models that hold simulated VRAM.

``python -m tests.documented_services --preset ollama --port 11434 --model llama3.1:8b=6144 --simulator-dir DIR``
answers as the server of a preset does, as far as gpumand, the gateway and the commands of the documentation ask it.
Models load with the first request unless the server holds its models while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from gpumand.testing.vram_announcement import Announcement

LOAD_SEC = 0.3
PORT_VARIABLES = ("OLLAMA_HOST", "UVICORN_PORT", "IMMICH_PORT")
RESIDENT = ("llama-server", "whisper-cpp", "tei", "infinity", "")
"""Presets of servers that hold their models while they run."""

Answer = Callable[["Service", web.Request, Any], Awaitable[Any]]


class Service:
    """One server with its models.

    Attributes:
        models: VRAM in MiB by name.
        loaded: the models in VRAM.
    """

    def __init__(self, preset: str, models: dict[str, int], simulator: Path) -> None:
        self.models = models
        self.loaded: set[str] = set(models) if preset in RESIDENT else set()
        self._preset = preset
        self._announcement = Announcement(simulator, name=preset or "server")
        self._announce()

    async def load(self, model: str = "") -> None:
        """Load a model, or the only one."""
        name = self._known(model)
        if name not in self.loaded:
            await asyncio.sleep(LOAD_SEC)
            self.loaded.add(name)
            self._announce()

    def unload(self, model: str = "") -> None:
        """Unload a model, or all of them."""
        self.loaded -= {self._known(model)} if model else set(self.models)
        self._announce()

    def close(self) -> None:
        """Release all memory."""
        self._announcement.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body = await request.json() if "json" in request.content_type else {}
        known = ROUTES.get(self._preset, {})
        route = next((one for key, one in known.items() if _matches(key, request)), None)
        if route is None and request.method == "GET":
            found = request.path in ("/", "/health", "/ping")
            return web.json_response(
                {"status": "ok"} if found else {"error": "not found"}, status=200 if found else 404
            )
        answer = await (route or _work)(self, request, body)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    def _known(self, model: str) -> str:
        return model if model in self.models else next(iter(self.models))

    def _announce(self) -> None:
        held = sum(self.models[name] for name in self.loaded)
        if held:
            self._announcement.set(held)
        else:
            self._announcement.clear()


def _matches(key: str, request: web.Request) -> bool:
    method, path = key.split()
    return request.method == method and (
        request.path == path or (path.endswith("*") and request.path.startswith(path[:-1]))
    )


def _answer(make: Callable[[Service], Any]) -> Answer:
    async def answer(service: Service, _: web.Request, __: Any) -> Any:
        return make(service)

    return answer


async def _load(service: Service, request: web.Request, body: Any) -> Any:
    await service.load(str(body.get("model") or request.path.rpartition("/")[2]))
    return {"success": True}


async def _unload(service: Service, request: web.Request, body: Any) -> Any:
    named = request.match_info["path"].removeprefix("api/ps/") if request.method == "DELETE" else ""
    service.unload(str(body.get("model", named)))
    return {"success": True}


async def _work(service: Service, request: web.Request, body: Any) -> Any:
    """Any request that uses the model, in the forms of the APIs of OpenAI and Ollama."""
    await service.load(str(body.get("model", "")))
    if request.path.endswith("/completions"):
        message = {"role": "assistant", "content": "hello"}
        return {"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    if "audio" in request.path or request.path == "/inference":
        return {"text": "hello"}
    return {"model": body.get("model", ""), "response": "hello", "done": True}


async def _generate(service: Service, request: web.Request, body: Any) -> Any:
    if body.get("keep_alive") == 0:
        service.unload(body["model"])
        return {"model": body["model"], "done": True, "done_reason": "unload"}
    return await _work(service, request, body)


async def _prompt(service: Service, _: web.Request, __: Any) -> Any:
    await service.load()
    return {"prompt_id": "1", "number": 1, "node_errors": {}}


def _names(service: Service) -> list[dict[str, str]]:
    return [{"name": name, "model": name, "id": name} for name in service.models]


def _router_models(service: Service) -> Any:
    return {
        "data": [
            {"id": name, "status": {"value": "loaded" if name in service.loaded else "unloaded"}}
            for name in service.models
        ]
    }


_LISTED = _answer(lambda service: {"object": "list", "data": _names(service)})
_STABLE_DIFFUSION: dict[str, Answer] = {
    "GET /sdapi/v1/memory": _answer(lambda _: {"cuda": {"system": {"free": 1, "used": 2, "total": 3}}}),
    "GET /sdapi/v1/progress": _answer(lambda _: {"progress": 0, "state": {"job": "", "job_count": 0}}),
    "POST /sdapi/v1/unload-checkpoint": _unload,
    "POST /sdapi/v1/reload-checkpoint": _load,
}
ROUTES: dict[str, dict[str, Answer]] = {
    "ollama": {
        "GET /api/version": _answer(lambda _: {"version": "0.6.1"}),
        "GET /api/ps": _answer(lambda one: {"models": [entry for entry in _names(one) if entry["name"] in one.loaded]}),
        "GET /api/tags": _answer(lambda one: {"models": _names(one)}),
        "GET /v1/models": _LISTED,
        "POST /api/generate": _generate,
    },
    "comfyui": {
        "GET /system_stats": _answer(lambda _: {"system": {}, "devices": []}),
        "GET /prompt": _answer(lambda _: {"exec_info": {"queue_remaining": 0}}),
        "POST /prompt": _prompt,
        "POST /free": _unload,
    },
    "llama-cpp-router": {
        "GET /models": _answer(_router_models),
        "GET /v1/models": _answer(_router_models),
        "GET /slots": _answer(lambda _: [{"id": 0, "is_processing": False}]),
        "POST /models/load": _load,
        "POST /models/unload": _unload,
    },
    "llama-server": {
        "GET /v1/models": _LISTED,
        "GET /props": _answer(lambda _: {"is_sleeping": False}),
        "GET /slots": _answer(lambda _: [{"id": 0, "is_processing": False}]),
    },
    "vllm": {
        "GET /is_sleeping": _answer(lambda one: {"is_sleeping": not one.loaded}),
        "GET /metrics": _answer(
            lambda _: web.Response(text="vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n")
        ),
        "GET /v1/models": _LISTED,
        "POST /sleep": _unload,
        "POST /wake_up": _load,
    },
    "speaches": {
        "GET /api/ps": _answer(lambda one: {"models": sorted(one.loaded)}),
        "GET /v1/models": _LISTED,
        "POST /api/ps/*": _load,
        "DELETE /api/ps/*": _unload,
    },
    "infinity": {
        "GET /models": _answer(
            lambda one: {
                "data": [entry | {"stats": {"queue_absolute": 0, "results_pending": 0}} for entry in _names(one)]
            }
        ),
    },
    "immich-machine-learning": {"GET /ping": _answer(lambda _: web.Response(text="pong"))},
    "tei": {"GET /info": _answer(lambda one: {"model_id": next(iter(one.models))})},
    "a1111": _STABLE_DIFFUSION,
    "forge": _STABLE_DIFFUSION,
}
"""Preset -> method and path -> answer. Every other POST request uses the model."""


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    models = {name: int(mib) for name, _, mib in (one.rpartition("=") for one in args.model)}
    service = Service(args.preset, models, args.simulator_dir)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        if port := _port(args):
            await web.TCPSite(runner, "127.0.0.1", port).start()
        await stopping.wait()
    finally:
        service.close()
        await runner.cleanup()


def _port(args: argparse.Namespace) -> int:
    """The port of the server, which the environment may move, as for the real servers."""
    moved = next((os.environ[name] for name in PORT_VARIABLES if name in os.environ), "")
    return int(moved.rpartition(":")[2]) if moved else int(args.port)


def main() -> None:
    """Run the service."""
    flags = argparse.ArgumentParser(description="A service of the documentation.")
    flags.add_argument("--preset", default="", help="the preset whose server this is")
    flags.add_argument("--port", type=int, default=0, help="TCP port; 0, the default, for none")
    flags.add_argument("--model", action="append", required=True, metavar="NAME=MIB")
    flags.add_argument("--simulator-dir", type=Path, required=True)
    asyncio.run(serve(flags.parse_args()))


if __name__ == "__main__":
    main()
