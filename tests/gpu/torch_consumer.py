"""A consumer that holds real VRAM: an HTTP service whose model is a PyTorch tensor of a given size.

``GET /health`` returns ``model_loaded``; ``POST /api/admin/load`` and ``/api/admin/unload`` answer when done;
``GET /events`` returns the times (CLOCK_MONOTONIC seconds) of the last load and unload. With ``--device shim`` the
memory, including a context, is announced to the fake NVML, so that everything except the driver runs without a GPU.
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
    """The memory of a model; all methods block."""

    def allocate(self, mib: int) -> None:
        """Allocate this many MiB. Raises RuntimeError if there is not enough memory."""

    def free(self) -> None:
        """Free the memory, except the part that only the end of the process frees."""


class CudaMemory:
    """A tensor in VRAM; the first one loads PyTorch and creates the CUDA context, which stays."""

    def __init__(self) -> None:
        self._tensor: Any = None

    def allocate(self, mib: int) -> None:
        torch: Any = importlib.import_module("torch")  # takes seconds, so it runs after the routes are served
        self._tensor = torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")
        self._tensor[:MIB].fill_(1)
        torch.cuda.synchronize()

    def free(self) -> None:
        self._tensor = None
        gc.collect()
        torch: Any = importlib.import_module("torch")
        torch.cuda.empty_cache()


class ShimMemory:
    """An announcement in the directory that the fake NVML reads."""

    def __init__(self, directory: Path) -> None:
        from gpumand.testing.vram_announcement import Announcement

        self._announcement = Announcement(directory)

    def allocate(self, mib: int) -> None:
        self._announcement.set(mib + SHIM_CONTEXT_MIB)

    def free(self) -> None:
        self._announcement.set(SHIM_CONTEXT_MIB)


class Consumer:
    """The model and its HTTP routes."""

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
        app.router.add_get("/events", self._send_events)
        app.router.add_post("/api/admin/load", self._load)
        app.router.add_post("/api/admin/unload", self._unload)
        return app

    async def load(self) -> None:
        if not self._loaded:
            await self._do(self._memory.allocate, self._mib)
            self._record("loaded", is_loaded=True)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"model_loaded": self._loaded})

    async def _send_events(self, _: web.Request) -> web.Response:
        return web.json_response(self._events)

    async def _load(self, _: web.Request) -> web.Response:
        try:
            await self.load()
        except RuntimeError as error:  # includes torch.cuda.OutOfMemoryError
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response({"status": "ok"})

    async def _unload(self, _: web.Request) -> web.Response:
        if self._loaded:
            await self._do(self._memory.free)
            self._record("freed", is_loaded=False)
        return web.json_response({"status": "ok"})

    async def _do(self, call: Any, *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _record(self, event: str, *, is_loaded: bool) -> None:
        self._loaded = is_loaded
        self._events[event] = time.monotonic()


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM; the end of the process frees its memory."""
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
    """Run the consumer from the command line."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--mib", type=int, required=True)
    flags.add_argument("--device", choices=["cuda", "shim"], default="cuda")
    flags.add_argument("--shim-dir", type=Path, default=Path("/nonexistent"))
    flags.add_argument("--load-at-start", action="store_true")
    asyncio.run(serve(flags.parse_args()))


if __name__ == "__main__":
    main()
