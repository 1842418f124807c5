"""The model of a consumer process: memory that it announces to the simulated device, step by step."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gpumand.testing.vram_announcement import Announcement
from gpumand.vram.simulated_files import AnnouncementReader

MAX_DEVICES = 64
MAX_EVENTS = 1000


class OutOfMemory(Exception):
    """The device has not got what was asked for."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the model is like; MiB and seconds.

    Attributes:
        name: the consumer's.
        announced_as: the consumer that the announcement names; "" leaves it to the unit.
        directory: the simulator's.
        device: index of the device.
        device_total_mib: what the device has; 0 = loads always fit.
        mib: what the model takes, reached in ``load_steps`` steps.
        residual_mib: what stays after an unload.
    """

    name: str
    announced_as: str
    directory: Path
    device: int = 0
    also_on: tuple[int, ...] = ()
    device_total_mib: int = 0
    mib: int = 1024
    load_sec: float = 0.2
    load_steps: int = 4
    unload_sec: float = 0.05
    residual_mib: int = 0


class Model:
    """Loads, unloads, works; tells nothing but the truth.

    Attributes:
        loaded: it is in VRAM, whole.
        held_mib: what is announced.
        oom: how often it did not fit.
        working: requests being worked on; ``idle`` is set while there are none.
        interrupted: unloads that came while it was working.
        last_used: CLOCK_REALTIME seconds of the last work; None = never.
        events: (CLOCK_MONOTONIC seconds, what happened), the newest ``MAX_EVENTS``.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.loaded = False
        self.held_mib = 0
        self.oom = 0
        self.working = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.interrupted = 0
        self.last_used: float | None = None
        self.events: deque[tuple[float, str]] = deque(maxlen=MAX_EVENTS)
        self._announcement = Announcement(
            settings.directory, settings.announced_as, settings.device, name=settings.name, also_on=settings.also_on
        )
        self._reader = AnnouncementReader(settings.directory, MAX_DEVICES)
        self._busy = asyncio.Lock()

    def note(self, what: str) -> None:
        """Remember that something happened just now."""
        self.events.append((time.monotonic(), what))

    async def load(self, *, die_at: int = 0, at_once: bool = False) -> None:
        """Take the memory, if it is not loaded yet. Raises OutOfMemory.

        Args:
            die_at: the step after which the process ends, as a crash would end it; 0 = none.
            at_once: without taking time.
        """
        async with self._busy:
            if self.loaded:
                return
            steps = self.settings.load_steps
            for step in range(1, steps + 1):
                await asyncio.sleep(0 if at_once else self.settings.load_sec / steps)
                self._grow(max(self.settings.residual_mib, self.settings.mib * step // steps))
                if step == die_at:
                    crash()
            self.loaded = True
            self.note("loaded")

    async def unload(self, *, free_mib: int | None = None) -> None:
        """Give the memory back but for the residual; with ``free_mib`` only so much of it (0 = none)."""
        self.interrupted += bool(self.working)
        async with self._busy:
            await asyncio.sleep(self.settings.unload_sec)
            left = min(self.held_mib, self.settings.residual_mib) if free_mib is None else self.held_mib - free_mib
            self._announce(max(left, 0))
            self.loaded = False
            self.note("freed")

    async def work(self, seconds: float) -> None:
        """Work for so long, loading first where needed. Raises OutOfMemory."""
        self.working += 1
        self.idle.clear()
        try:
            await self.load()
            await asyncio.sleep(seconds)
        finally:
            self.working -= 1
            if not self.working:
                self.idle.set()
        self.last_used = time.time()

    def used_mib(self) -> int:
        """What all living processes hold on the device, itself included."""
        announced, _ = self._reader.read()
        return sum(entry.mib for entry in announced if entry.device == self.settings.device)

    def close(self) -> None:
        """Hold nothing any more."""
        self._announcement.clear()

    def _grow(self, mib: int) -> None:
        """One allocation: it succeeds or it fails, however many processes allocate at once."""
        total_mib = self.settings.device_total_mib
        with self._allocator():
            if total_mib and self.used_mib() - self.held_mib + mib > total_mib:
                self.oom += 1
                self.note("oom")
                self._announce(0)
                raise OutOfMemory(f"CUDA out of memory: tried to hold {mib} of {total_mib} MiB")
            self._announce(mib)

    def _announce(self, mib: int) -> None:
        self.held_mib = mib
        if mib:
            self._announcement.set(mib)
        else:
            self._announcement.clear()

    @contextmanager
    def _allocator(self) -> Iterator[None]:
        self.settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.settings.directory / ".allocator").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def crash() -> NoReturn:
    """End this process as a crash ends it: nothing is cleaned up."""
    os._exit(70)
