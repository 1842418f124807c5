"""Runs the real NvmlSource in a process: JSON commands on stdin, JSON answers on stdout, one per line.

A separate process is needed because the fake library is found by LD_LIBRARY_PATH, which is read only at process start.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from gpumand.host.clock import SystemClock
from gpumand.vram.detection import host_root
from gpumand.vram.nvml import NvmlSource


class ShiftedClock(SystemClock):
    """The real clock with an offset that a test can increase, so that no test waits for a back-off."""

    def __init__(self) -> None:
        self.shift_sec = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.shift_sec


class Worker:
    """One source and its commands."""

    def __init__(self, call_timeout_sec: float) -> None:
        self.clock = ShiftedClock()
        self.source = NvmlSource(self.clock, host_root(), call_timeout_sec=call_timeout_sec)

    async def do(self, command: str, argument: float) -> Any:
        if command == "read":
            return await self.read()
        if command == "read_device":
            return asdict(await self.source.read((int(argument),)))
        if command == "read_many":
            return await asyncio.gather(*(self.read() for _ in range(int(argument))))
        if command == "advance":
            self.clock.shift_sec += argument
            return None
        if command in ("close", "release"):
            return await (self.source.close() if command == "close" else self.source.release_driver())
        immediate: dict[str, Callable[[], Any]] = {
            "reopen": self.source.reopen,
            "needs_new_process": lambda: self.source.needs_new_process,
            "busy": lambda: self.source.busy_sec,
            "progressed": lambda: time.monotonic() - self.source.progressed_at,
        }
        return immediate[command]()

    async def read(self) -> Any:
        requested_at = self.clock.monotonic()
        started = time.monotonic()
        reading = await self.source.read()
        answer = asdict(reading)
        answer["took_sec"] = time.monotonic() - started
        answer["stale"] = any(sample.taken_at < requested_at for sample in reading.devices)
        return answer


async def main() -> None:
    worker = Worker(float(sys.argv[1]))
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, argument = json.loads(line)
        print(json.dumps(await worker.do(command, argument), default=sorted), flush=True)


asyncio.run(main())
