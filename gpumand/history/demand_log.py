"""The demand log: who wanted what, when, and for how long, as JSON lines that ``gpumanctl simulate`` replays."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from gpumand.state.worker import Worker

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024 * 1024
"""A log that has grown so large is renamed to ``NAME.1``, in place of an earlier one, and a new one begun."""

MAX_GATHERED = 10_000
CLOSE_SEC = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """One use of a consumer.

    Attributes:
        t: when it was asked for, seconds since 1970.
        consumer: what for.
        hold_sec: for how long the lease stood.
        client: whose it was: a uid.
        priority: the request's; None = unknown.
    """

    t: float
    consumer: str
    hold_sec: float
    client: str
    priority: int | None

    def line(self) -> str:
        """As a line of the log."""
        entry = {
            "t": round(self.t, 3),
            "consumer": self.consumer,
            "hold_sec": round(self.hold_sec, 3),
            "client": self.client,
        }
        return json.dumps(entry if self.priority is None else entry | {"priority": self.priority})


class DemandLog:
    """Appends to a file, in a thread; what cannot be written is told once and lost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: deque[str] = deque(maxlen=MAX_GATHERED)
        self._worker = Worker("gpumand-demand")
        self._writing: asyncio.Task[None] | None = None
        self._fault = ""

    def note(self, demand: Demand) -> None:
        """Append one, soon."""
        self._lines.append(demand.line())
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def close(self) -> None:
        """Finish what was asked for, as far as the disk lets us."""
        try:
            if self._writing is not None:
                await asyncio.wait_for(self._writing, timeout=CLOSE_SEC)
            await asyncio.wait_for(self._worker.close(), timeout=CLOSE_SEC)
        except TimeoutError:
            log.warning("the last lines of %s are not kept: the disk does not answer", self.path)

    async def _write_all(self) -> None:
        try:
            while self._lines:
                text = "".join(f"{line}\n" for line in self._lines)
                self._lines.clear()
                await self._write(text)
        finally:
            self._writing = None

    async def _write(self, text: str) -> None:
        try:
            await self._worker.run(lambda: _append(self.path, text.encode()))
        except OSError as error:
            if not self._fault:
                log.warning("the demand log %s cannot be written: %s", self.path, error.strerror or error)
            self._fault = str(error)
        else:
            self._fault = ""


def _append(path: Path, content: bytes) -> None:
    """Append, whole lines at a time; what is no regular file is left alone."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o640)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        is_full = os.fstat(descriptor).st_size > MAX_BYTES
    finally:
        os.close(descriptor)
    if is_full:
        path.replace(path.with_name(f"{path.name}.1"))
