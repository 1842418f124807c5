"""The model of a simulated consumer: announces its memory to the simulated device step by step."""

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
    """The simulated device does not have enough free memory."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Settings of a model, in MiB and seconds.

    Attributes:
        name: name of the consumer.
        announced_as: consumer that the announcement names; "" leaves the attribution to the unit.
        directory: the directory of announcements.
        device: index of the device.
        also_on: indices of further devices that hold the same amount.
        device_total_mib: size of the device; 0 = loads always fit.
        mib: VRAM of the model, reached in ``load_steps`` steps.
        load_sec, unload_sec: duration of a load and of an unload.
        residual_mib: VRAM that stays in use after an unload.
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
    """A model that loads, unloads and works, and reports its state correctly.

    Attributes:
        loaded: True if it is completely in VRAM.
        held_mib: MiB that are announced.
        oom: number of loads that did not fit.
        working: number of requests in progress; ``idle`` is set while it is 0.
        interrupted: number of unloads that arrived during work.
        last_used: CLOCK_REALTIME seconds of the last work; None = never.
        events: (CLOCK_MONOTONIC seconds, event word) of the newest ``MAX_EVENTS`` events.
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
        """Record an event at the current time."""
        self.events.append((time.monotonic(), what))

    async def load(self, *, die_at: int = 0, at_once: bool = False) -> None:
        """Load the model unless it is loaded. Raises OutOfMemory.

        Args:
            die_at: the step after which the process crashes; 0 = none.
            at_once: load without delay.
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
        """Unload the model and free all memory except the residual; with ``free_mib``, free only that amount."""
        self.interrupted += bool(self.working)
        async with self._busy:
            await asyncio.sleep(self.settings.unload_sec)
            left = min(self.held_mib, self.settings.residual_mib) if free_mib is None else self.held_mib - free_mib
            self._announce(max(left, 0))
            self.loaded = False
            self.note("freed")

    async def work(self, seconds: float) -> None:
        """Work for this many seconds, after loading the model if necessary. Raises OutOfMemory."""
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
        """Return the MiB that all living processes hold on the device, including this one."""
        announced, _ = self._reader.read()
        return sum(entry.mib for entry in announced if entry.device == self.settings.device)

    def close(self) -> None:
        """Release all memory."""
        self._announcement.clear()

    def _grow(self, mib: int) -> None:
        """Allocate memory up to this amount. Raises OutOfMemory."""
        # The lock makes check and announcement atomic among processes that allocate at the same time.
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
    """End this process without any cleanup, as in a crash."""
    os._exit(70)
