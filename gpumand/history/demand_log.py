"""The demand log: one JSON line per use of a consumer, which ``gpumanctl simulate`` can replay."""

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
"""A log that exceeds this size is renamed to ``NAME.1``, replacing an earlier one, and a new log is started."""

MAX_UNWRITTEN = 10_000
CLOSE_TIMEOUT_SEC = 1.0


@dataclass(frozen=True, slots=True)
class DemandEntry:
    """One use of a consumer.

    Attributes:
        t: arrival of the request, in seconds since 1970.
        consumer: the requested consumer.
        hold_sec: duration of the lease in seconds.
        client: user id of the client.
        priority: priority of the request; None = unknown.
    """

    t: float
    consumer: str
    hold_sec: float
    client: str
    priority: int | None

    def to_json_line(self) -> str:
        """The entry as one line of JSON, without the line break."""
        entry = {
            "t": round(self.t, 3),
            "consumer": self.consumer,
            "hold_sec": round(self.hold_sec, 3),
            "client": self.client,
        }
        return json.dumps(entry if self.priority is None else entry | {"priority": self.priority})


class DemandLog:
    """Appends to the log file in a thread; lines that cannot be written are lost, with one warning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: deque[str] = deque(maxlen=MAX_UNWRITTEN)
        self._worker = Worker("gpumand-demand")
        self._write_task: asyncio.Task[None] | None = None
        self._error = ""

    def append(self, demand: DemandEntry) -> None:
        """Append one entry, soon."""
        self._lines.append(demand.to_json_line())
        if self._write_task is None:
            self._write_task = asyncio.get_running_loop().create_task(self._write_all())

    async def close(self) -> None:
        """Write what is pending, with a time limit in case the disk hangs."""
        try:
            if self._write_task is not None:
                await asyncio.wait_for(self._write_task, timeout=CLOSE_TIMEOUT_SEC)
            await asyncio.wait_for(self._worker.close(), timeout=CLOSE_TIMEOUT_SEC)
        except TimeoutError:
            log.warning("the last lines of the demand log %s may be lost: the disk does not respond", self.path)

    async def _write_all(self) -> None:
        try:
            # One write at a time, so that lines stay in order; lines added during a write are written by the next one.
            while self._lines:
                text = "".join(f"{to_json_line}\n" for to_json_line in self._lines)
                self._lines.clear()
                await self._write(text)
        finally:
            self._write_task = None

    async def _write(self, text: str) -> None:
        try:
            await self._worker.run(lambda: _append(self.path, text.encode()))
        except OSError as error:
            if not self._error:
                reason = error.strerror or error
                log.warning(
                    "cannot write the demand log %s: %s. Lines are lost until it can be written", self.path, reason
                )
            self._error = str(error)
        else:
            self._error = ""


def _append(path: Path, content: bytes) -> None:
    """Append whole lines, and rotate a full log. Raises OSError."""
    # Only a regular file is written: O_NOFOLLOW refuses a symbolic link, and O_NONBLOCK makes opening a named pipe
    # without a reader fail instead of blocking the thread.
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
