"""A process that drives the real NvmlSource: one JSON command a line on stdin, one JSON answer a line on stdout.

NVML's library is found by LD_LIBRARY_PATH, which counts only before a process starts: hence a process.
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
from gpumand.vram.nvml import NvmlSource


class ShiftedClock(SystemClock):
    """The real time, which a test may move on, so that no test waits for a back-off."""

    def __init__(self) -> None:
        self.shift_sec = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.shift_sec


class Worker:
    """One source and the commands about it."""

    def __init__(self, call_timeout_sec: float) -> None:
        self.clock = ShiftedClock()
        self.source = NvmlSource(self.clock, call_timeout_sec=call_timeout_sec)

    async def do(self, command: str, argument: float) -> Any:
        if command == "read":
            return await self.read()
        if command == "read_many":
            return await asyncio.gather(*(self.read() for _ in range(int(argument))))
        if command == "advance":
            self.clock.shift_sec += argument
            return None
        if command == "close":
            return await self.source.close()
        at_once: dict[str, Callable[[], Any]] = {
            "renew": self.source.renew,
            "outlived": lambda: self.source.outlived,
            "busy": lambda: self.source.busy_sec,
            "progressed": lambda: time.monotonic() - self.source.progressed_at,
        }
        return at_once[command]()

    async def read(self) -> Any:
        asked_at = self.clock.monotonic()
        begun = time.monotonic()
        reading = await self.source.read()
        answer = asdict(reading)
        answer["took_sec"] = time.monotonic() - begun
        answer["stale"] = any(sample.taken_at < asked_at for sample in reading.devices)
        return answer


async def main() -> None:
    worker = Worker(float(sys.argv[1]))
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, argument = json.loads(line)
        print(json.dumps(await worker.do(command, argument), default=sorted), flush=True)


asyncio.run(main())
