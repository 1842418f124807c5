"""Minimal ComfyUI and ollama servers, each a process that holds simulated VRAM.

``python -m tests.integration.pair_servers comfyui --mib 13312 --simulator-dir DIR --device-total 16384`` prints
``READY port=NNNN``. Both answer and free as the real ones do: ollama's ``keep_alive = 0`` answers before the memory is
free, ComfyUI's ``/free`` only sets a flag, models load with the first job, and what does not fit fails as CUDA does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from aiohttp import web

from gpumand.testing.consumer_model import Model, ModelSettings, OutOfMemory

JOB_SEC = 0.3


class Server:
    """Base of both servers: a model, and work that continues after the answer."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._later: set[asyncio.Task[None]] = set()

    def do_later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def free(self) -> None:
        """Free the model when no work is left."""
        await self.model.idle.wait()
        await self.model.unload()


class Ollama(Server):
    """``/api/generate`` and ``/api/ps``."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/ps", self._ps)
        app.router.add_post("/api/generate", self._generate)
        return app

    async def _ps(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": "llama3.1:8b"}] if self.model.loaded else []})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        answer: dict[str, Any] = {"model": body["model"], "done": True}
        if body.get("keep_alive") == 0:
            self.do_later(self.free())
            return web.json_response(answer | {"response": "", "done_reason": "unload"})
        try:
            await self.model.work(JOB_SEC if body.get("prompt") else 0)
        except OutOfMemory as error:
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response(answer | {"response": f"prompt: {body['prompt']}" if body.get("prompt") else ""})


class ComfyUI(Server):
    """``/prompt``, ``/history``, ``/free`` and ``/system_stats``."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._numbers = itertools.count(1)
        self._history: dict[str, Any] = {}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/system_stats", self._system_stats)
        app.router.add_get("/prompt", self._queue)
        app.router.add_post("/prompt", self._prompt)
        app.router.add_get("/history/{job}", self._done)
        app.router.add_post("/free", self._free)
        return app

    async def _system_stats(self, _: web.Request) -> web.Response:
        return web.json_response({"system": {}, "devices": []})

    async def _queue(self, _: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": self.model.working}})

    async def _prompt(self, request: web.Request) -> web.Response:
        workflow = (await request.json())["prompt"]
        if not any(node["class_type"] == "SaveImage" for node in workflow.values()):
            return web.json_response({"error": {"type": "prompt_no_outputs"}}, status=400)
        job = f"job-{next(self._numbers)}"
        self.do_later(self._execute(job))
        return web.json_response({"prompt_id": job, "number": 1, "node_errors": {}})

    async def _execute(self, job: str) -> None:
        try:
            await self.model.work(JOB_SEC)
        except OutOfMemory as error:
            status = {"status_str": "error", "completed": False, "messages": [str(error)]}
            self._history[job] = {"outputs": {}, "status": status}
            return
        images = [{"filename": f"pair_{job}.png", "subfolder": "", "type": "output"}]
        status = {"status_str": "success", "completed": True, "messages": []}
        self._history[job] = {"outputs": {"saved": {"images": images}}, "status": status}

    async def _done(self, request: web.Request) -> web.Response:
        job = request.match_info["job"]
        return web.json_response({job: self._history[job]} if job in self._history else {})

    async def _free(self, _: web.Request) -> web.Response:
        self.do_later(self.free())
        return web.Response()


async def serve(args: argparse.Namespace) -> None:
    """Serve until killed."""
    size = {"mib": args.mib, "device_total_mib": args.device_total}
    model = Model(ModelSettings(args.server, args.server, args.simulator_dir, **size))
    runner = web.AppRunner((ComfyUI if args.server == "comfyui" else Ollama)(model).app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", args.port).start()
    print(f"READY port={runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("server", choices=["comfyui", "ollama"])
    flags.add_argument("--mib", type=int, required=True)
    flags.add_argument("--device-total", type=int, required=True)
    flags.add_argument("--port", type=int, default=0)
    flags.add_argument("--simulator-dir", type=Path, required=True)
    asyncio.run(serve(flags.parse_args()))


if __name__ == "__main__":
    main()
