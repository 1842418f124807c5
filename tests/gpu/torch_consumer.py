"""A consumer that really holds VRAM: an HTTP service whose model is a PyTorch tensor of so many MiB.

``GET /health`` says ``model_loaded``; ``POST /api/admin/load`` and ``/api/admin/unload`` answer when it is done;
``GET /events`` says when (CLOCK_MONOTONIC seconds) it last loaded and freed. With ``--device shim`` the memory is
announced to the fake NVML instead, context and all, so that everything but the driver can be tried without a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

SHIM_CONTEXT_MIB = 300
MIB = 1 << 20


class Memory(Protocol):
    """Where a model lies. Blocking."""

    def take(self, mib: int) -> None:
        """Hold so much. Raises RuntimeError when there is not so much."""

    def give_back(self) -> None:
        """Hold nothing any more but what only the end of the process frees."""


class CudaMemory:
    """A tensor; PyTorch and the CUDA context come with the first one, and the context stays."""

    def __init__(self) -> None:
        self._tensor: Any = None

    def take(self, mib: int) -> None:
        torch: Any = importlib.import_module("torch")  # seconds, so not before the routes answer
        self._tensor = torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")
        self._tensor[:MIB].fill_(1)
        torch.cuda.synchronize()

    def give_back(self) -> None:
        self._tensor = None
        gc.collect()
        torch: Any = importlib.import_module("torch")
        torch.cuda.empty_cache()


class ShimMemory:
    """A figure in the directory that the fake NVML reads."""

    def __init__(self, directory: Path) -> None:
        from gpumand.testing.vram_announcement import Announcement

        self._announcement = Announcement(directory)

    def take(self, mib: int) -> None:
        self._announcement.set(mib + SHIM_CONTEXT_MIB)

    def give_back(self) -> None:
        self._announcement.set(SHIM_CONTEXT_MIB)


class Consumer:
    """The model and its routes."""

    def __init__(self, memory: Memory, mib: int) -> None:
        self._memory = memory
        self._mib = mib
        self._loaded = False
        self._events: dict[str, float] = {}
        # One thread, so that loads and unloads never overlap; CUDA calls block.
        self._thread = ThreadPoolExecutor(1)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/events", self._tell_events)
        app.router.add_post("/api/admin/load", self._load)
        app.router.add_post("/api/admin/unload", self._unload)
        return app

    async def load(self) -> None:
        if not self._loaded:
            await self._do(self._memory.take, self._mib)
            self._note("loaded", is_loaded=True)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"model_loaded": self._loaded})

    async def _tell_events(self, _: web.Request) -> web.Response:
        return web.json_response(self._events)

    async def _load(self, _: web.Request) -> web.Response:
        try:
            await self.load()
        except RuntimeError as error:  # torch's out of memory is one
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response({"status": "ok"})

    async def _unload(self, _: web.Request) -> web.Response:
        if self._loaded:
            await self._do(self._memory.give_back)
            self._note("freed", is_loaded=False)
        return web.json_response({"status": "ok"})

    async def _do(self, call: Any, *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _note(self, event: str, *, is_loaded: bool) -> None:
        self._loaded = is_loaded
        self._events[event] = time.monotonic()


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM; memory is freed by the end of the process, as with any other."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    consumer = Consumer(ShimMemory(args.shim_dir) if args.device == "shim" else CudaMemory(), args.mib)
    runner = web.AppRunner(consumer.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", args.port).start()
    print(f"serving on port {args.port}", flush=True)
    if args.load_at_start:
        await consumer.load()
    await stopping.wait()
    await runner.cleanup()


def main() -> None:
    """The command line."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--mib", type=int, required=True)
    flags.add_argument("--device", choices=["cuda", "shim"], default="cuda")
    flags.add_argument("--shim-dir", type=Path, default=Path("/nonexistent"))
    flags.add_argument("--load-at-start", action="store_true")
    asyncio.run(serve(flags.parse_args()))


if __name__ == "__main__":
    main()
