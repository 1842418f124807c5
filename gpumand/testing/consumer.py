"""A simulated consumer process, for tests, demonstrations, and trying gpumand without a GPU.

``python -m gpumand.testing.consumer --name comfyui --mib 13312 --simulator-dir DIR`` serves HTTP on 127.0.0.1 and
prints ``READY port=NNNN pid=NNNN`` when it is ready. It announces its memory to the simulated device.

====================================  ================================================================================
``GET /health``                       ``model_loaded``, ``last_used``, ``vram_mib``, and counters: ``oom`` (loads that
                                      did not fit the device), ``interrupted`` (unloads while it was working)
``POST /api/admin/load``, ``unload``  answers when done (with ``--async-load``, ``--async-unload``: at once)
``POST /work {"seconds": 1}``         works, after loading the model if necessary
``POST /free``, ``GET /system_stats``, as in ComfyUI; /free answers at once and frees memory when all work is done
``GET /queue``, ``GET /prompt``
``POST /fault {"kind": "hang"}``      sets a fault (see ``gpumand.testing.consumer_faults``); "none" clears all faults
``/v1/…``, ``/api/…``                 see ``gpumand.testing.chat_routes``
``GET /events``                       ``[[monotonic seconds, word], …]``: load-called, loaded, unload-called, freed, oom
====================================  ================================================================================
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from gpumand.testing.chat_routes import ChatRoutes
from gpumand.testing.consumer_faults import BadFault, Faults, Kind, parse_flag
from gpumand.testing.consumer_model import Model, ModelSettings, OutOfMemory, crash

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MIB = 1 << 20


class Consumer:
    """The HTTP server of a simulated model; faults may change its answers."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model = Model(
            ModelSettings(
                name=args.name,
                announced_as="" if args.anonymous else args.name,
                directory=args.simulator_dir,
                device=args.device,
                also_on=tuple(args.also_device),
                device_total_mib=args.device_total,
                mib=args.mib,
                load_sec=args.load_sec,
                load_steps=args.load_steps,
                unload_sec=args.unload_sec,
                residual_mib=args.residual_mib,
            )
        )
        self.faults = Faults()
        self._args = args
        self._handling: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[None]] = set()

    def app(self) -> web.Application:
        """Return the application with all routes."""
        app = web.Application(middlewares=[self._track])
        app.router.add_get("/health", self._health)
        if not self._args.lazy:
            app.router.add_post("/api/admin/load", self._load)
        app.router.add_post("/api/admin/unload", self._unload)
        app.router.add_post("/free", self._free)
        app.router.add_post("/work", self._work)
        app.router.add_post("/fault", self._fault)
        app.router.add_get("/system_stats", self._system_stats)
        app.router.add_get("/queue", self._queue)
        app.router.add_get("/prompt", self._prompt)
        app.router.add_get("/events", self._events)
        ChatRoutes(self.model).add_to(app)
        return app

    async def stop(self) -> None:
        """Cancel all requests in progress and all background work."""
        tasks = [*self._handling, *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0) if tasks else None

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        try:
            return await handler(request)
        except OutOfMemory as error:
            return web.json_response({"error": str(error)}, status=500)
        finally:
            self._handling.discard(task)

    async def _health(self, request: web.Request) -> web.StreamResponse:
        await self.faults.before("health")
        model = self.model
        answer = {
            "name": model.settings.name,
            "model_loaded": model.loaded or self.faults.on(Kind.STUCK_LOADED, "health") is not None,
            "last_used": self._last_used(),
            "vram_mib": model.held_mib,
            "working": model.working,
            "oom": model.oom,
            "interrupted": model.interrupted,
        }
        return await self.faults.after("health", request, answer)

    def _last_used(self) -> str | float | None:
        used = self.model.last_used
        if used is None or self._args.last_used == "seconds":
            return used
        return datetime.fromtimestamp(used, UTC).isoformat()

    async def _load(self, request: web.Request) -> web.StreamResponse:
        self.model.note("load-called")
        await self.faults.before("load")
        die_at = 1 if self.faults.on(Kind.CRASH, "load") else 0
        await self._do(self.model.load(die_at=die_at), self._args.async_load)
        return await self.faults.after("load", request, {"status": "ok"})

    async def _unload(self, request: web.Request) -> web.StreamResponse:
        self.model.note("unload-called")
        await self.faults.before("unload")
        if self.faults.on(Kind.CRASH, "unload"):
            crash()
        await self._do(self.model.unload(free_mib=self._freed_mib()), self._args.async_unload)
        return await self.faults.after("unload", request, {"status": "ok"})

    async def _free(self, request: web.Request) -> web.StreamResponse:
        self.model.note("unload-called")
        await self.faults.before("unload")
        wanted = await request.json()
        if wanted.get("unload_models") or wanted.get("free_memory"):
            await self._do(self._free_when_idle(), is_async=True)
        return await self.faults.after("unload", request, {})

    async def _free_when_idle(self) -> None:
        await self.model.idle.wait()
        await self.model.unload(free_mib=self._freed_mib())

    def _freed_mib(self) -> int | None:
        if self.faults.on(Kind.LYING_UNLOAD, "unload"):
            return 0
        partial = self.faults.on(Kind.PARTIAL_UNLOAD, "unload")
        return partial.mib if partial else None

    async def _work(self, request: web.Request) -> web.StreamResponse:
        await self.faults.before("work")
        body = await request.json() if request.can_read_body else {}
        await self.model.work(float(body.get("seconds", 0.0)))
        return await self.faults.after("work", request, {"status": "ok"})

    async def _fault(self, request: web.Request) -> web.StreamResponse:
        try:
            self.faults.set(await request.json())
        except BadFault as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"faults": sorted(self.faults.by_kind)})

    async def _system_stats(self, request: web.Request) -> web.StreamResponse:
        await self.faults.before("health")
        settings = self.model.settings
        total_mib = settings.device_total_mib
        device = {
            "name": "Simulated GPU",
            "type": "cuda",
            "index": settings.device,
            "vram_total": total_mib * MIB,
            "vram_free": max(total_mib - self.model.used_mib(), 0) * MIB if total_mib else 0,
            "torch_vram_total": self.model.held_mib * MIB,
            "torch_vram_free": 0,
        }
        return await self.faults.after("health", request, {"system": {"os": "posix"}, "devices": [device]})

    async def _prompt(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"exec_info": {"queue_remaining": self.model.working}})

    async def _queue(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"queue_running": [0] * self.model.working, "queue_pending": []})

    async def _events(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(list(self.model.events))

    async def _do(self, work: Coroutine[Any, Any, None], is_async: bool) -> None:
        """Run the work, and wait for it unless ``is_async``; a client that disconnects does not cancel it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        if not is_async:
            await asyncio.shield(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"{self.model.settings.name}: {error}", file=sys.stderr, flush=True)


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, then release the memory."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    consumer = Consumer(args)
    for flag in args.fault:
        consumer.faults.set(parse_flag(flag))
    if args.loaded_at_start:
        await consumer.model.load(at_once=True)
    runner = web.AppRunner(consumer.app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", args.port).start()
        print(f"READY port={runner.addresses[0][1]} pid={os.getpid()}", flush=True)
        await stopping.wait()
        await asyncio.sleep(args.stop_sec)
    finally:
        await consumer.stop()
        consumer.model.close()
        await runner.cleanup()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    flags = argparse.ArgumentParser(prog="python -m gpumand.testing.consumer", description="A simulated consumer.")
    flags.add_argument("--name", required=True, help="name of the consumer")
    flags.add_argument("--mib", type=int, required=True, help="VRAM of the model")
    flags.add_argument("--simulator-dir", type=Path, required=True, help="directory of the simulated device")
    flags.add_argument("--port", type=int, default=0, help="TCP port; 0, the default, chooses a free one")
    flags.add_argument("--device", type=int, default=0, help="index of the device")
    flags.add_argument(
        "--also-device", type=int, action="append", default=[], help="further device; can be given several times"
    )
    flags.add_argument(
        "--device-total", type=int, default=0, metavar="MIB", help="size of the device: loads above it fail as in CUDA"
    )
    flags.add_argument("--load-sec", type=float, default=0.2)
    flags.add_argument("--load-steps", type=int, default=4, help="number of steps in which the memory grows")
    flags.add_argument("--unload-sec", type=float, default=0.05)
    flags.add_argument("--stop-sec", type=float, default=0.0, help="duration of stopping")
    flags.add_argument("--residual-mib", type=int, default=0, help="VRAM that stays in use after an unload")
    flags.add_argument("--async-load", action="store_true", help="answer before loading")
    flags.add_argument("--async-unload", action="store_true", help="answer before freeing")
    flags.add_argument("--lazy", action="store_true", help="have no load route; load with the first work")
    flags.add_argument("--loaded-at-start", action="store_true")
    flags.add_argument("--anonymous", action="store_true", help="announce no name; the unit identifies the consumer")
    flags.add_argument("--last-used", choices=("iso", "seconds"), default="iso", help="format in /health")
    flags.add_argument(
        "--fault", action="append", default=[], metavar="KIND[:key=value,…]", help="fault; can be given several times"
    )
    return flags


def main() -> None:
    """Run the consumer."""
    args = parser().parse_args()
    try:
        asyncio.run(serve(args))
    except (BadFault, OutOfMemory, OSError) as error:
        sys.exit(f"{args.name}: {error}")


if __name__ == "__main__":
    main()
