"""Shows what a waiting call waits for: a live line on a terminal, else (with ``-v``) a line at each change."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client
from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import is_screen
from gpumand.cli.render.progress import progress_line, stage

T = TypeVar("T")

QUIET_START_SEC = 0.3
"""Nothing is shown for what is over by then."""

POLL_SEC = 0.5


class Display(Protocol):
    """Where progress is shown."""

    def show(self, text: str, elapsed_sec: float) -> None:
        """Show the stage and the seconds so far."""

    def close(self) -> None:
        """Leave nothing behind that is no longer true."""


class LiveLine:
    """One line of a terminal, written over again and again, and gone at the end."""

    def show(self, text: str, elapsed_sec: float) -> None:
        """Write it over what stood there."""
        width = shutil.get_terminal_size((80, 24)).columns
        self._write(f"\r{progress_line(text, elapsed_sec, width)}\x1b[K")

    def close(self) -> None:
        """Clear the line."""
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        encoding = sys.stderr.encoding or "ascii"
        sys.stderr.write(text.encode(encoding, "replace").decode(encoding))
        sys.stderr.flush()


class ChangeLog:
    """A line on stderr whenever the stage is another."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, text: str, elapsed_sec: float) -> None:
        """Write it unless it is what was written last."""
        if text != self._last:
            print(progress_line(text, elapsed_sec, 1000), file=sys.stderr, flush=True)
        self._last = text

    def close(self) -> None:
        """Lines that were written stay."""


def display_for(options: GlobalOptions) -> Display | None:
    """How progress is shown here, or None for not at all."""
    if options.quiet:
        return None
    if is_screen(sys.stderr):
        return LiveLine()
    return ChangeLog() if options.verbose else None


async def watched(client: Client, consumer: str, call: Coroutine[Any, Any, T], options: GlobalOptions) -> T:
    """Await a call and show meanwhile what it waits for.

    When this is cancelled, so is the call; the caller then closes the connection, which is what withdraws the request.
    """
    display = display_for(options)
    if display is None:
        return await call
    task = asyncio.ensure_future(call)
    watcher = asyncio.ensure_future(_watch(client, consumer, display))
    try:
        return await task
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.wait([watcher])
        display.close()


async def _watch(client: Client, consumer: str, display: Display) -> None:
    """Ask for the status every now and then; a status that cannot be had is no reason to fail."""
    started = time.monotonic()
    await asyncio.sleep(QUIET_START_SEC)
    while True:
        if client.is_away:  # asking for the status would have the bus start it, and somebody may have stopped it
            display.show(f"{consumer}: waiting: gpumand left the bus; it may be restarting", time.monotonic() - started)
            await asyncio.sleep(POLL_SEC)
            continue
        try:
            status = await client.status()
        except BusError:
            await asyncio.sleep(POLL_SEC)
            continue
        elapsed = time.monotonic() - started
        display.show(stage(status, consumer, os.getuid(), elapsed), elapsed)
        await asyncio.sleep(POLL_SEC)
