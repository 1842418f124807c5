"""Shows the progress of a waiting call: a live line on a terminal, otherwise (with ``-v``) one line per change."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client
from gpumand.cli.option_names import with_bus_option
from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import is_screen
from gpumand.cli.render.progress import progress_line, wait_status

T = TypeVar("T")

QUIET_START_SEC = 0.3
"""Calls that end within this time show no progress, in seconds."""

POLL_SEC = 0.5

_REMAINING = re.compile(r", ends in \d+ \w+")
"""The remaining time of a lease, which changes without a change of the stage."""


class Display(Protocol):
    """A place to show progress."""

    def show(self, text: str, elapsed_sec: float) -> None:
        """Show the current stage and the time since the call started, in seconds."""

    def close(self) -> None:
        """End the display; progress that is out of date is removed."""


class LiveLine:
    """One line on a terminal (stderr) that is overwritten with each update and cleared at the end."""

    def show(self, text: str, elapsed_sec: float) -> None:
        """Overwrite the line."""
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
    """Prints a line on stderr whenever the stage changes."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, text: str, elapsed_sec: float) -> None:
        """Print the line, unless the stage is the one that was printed last."""
        stage = _REMAINING.sub("", text)
        if stage != self._last:
            print(progress_line(text, elapsed_sec, 1000), file=sys.stderr, flush=True)
        self._last = stage

    def close(self) -> None:
        """Nothing to remove: printed lines stay."""


def display_for(options: GlobalOptions) -> Display | None:
    """The display that suits the options and stderr; None to show nothing."""
    if options.quiet:
        return None
    if is_screen(sys.stderr):
        return LiveLine()
    return ChangeLog() if options.verbose else None


async def with_progress(client: Client, consumer: str, call: Coroutine[Any, Any, T], options: GlobalOptions) -> T:
    """Await a call and show its progress meanwhile.

    Cancelling this cancels the call. The caller then has to close the connection, which withdraws the request.

    Args:
        client: a connection to the daemon, also used to read the status.
        consumer: the consumer that the call is about.
        call: the call to await.
        options: whether and how progress is shown.
    """
    display = display_for(options)
    if display is None:
        return await call
    task = asyncio.ensure_future(call)
    watcher = asyncio.ensure_future(_watch(client, consumer, display, options))
    try:
        return await task
    finally:
        task.cancel()  # a task of its own, which would go on when only this coroutine is cancelled
        watcher.cancel()
        await asyncio.wait([watcher])  # before close(): the watcher could draw the line once more
        display.close()


async def _watch(client: Client, consumer: str, display: Display, options: GlobalOptions) -> None:
    """Poll the status and show the stage of the call, until cancelled; a failed poll is skipped."""
    started = time.monotonic()
    await asyncio.sleep(QUIET_START_SEC)
    while True:
        # No poll while the daemon is away: the call would make the bus start a daemon that was stopped on purpose.
        if client.is_waiting_for_daemon:
            display.show(f"{consumer}: waiting: gpumand left the bus and may be restarting", time.monotonic() - started)
            await asyncio.sleep(POLL_SEC)
            continue
        try:
            status = await client.status()
        except BusError:
            await asyncio.sleep(POLL_SEC)
            continue
        elapsed = time.monotonic() - started
        display.show(with_bus_option(wait_status(status, consumer, os.getuid(), elapsed), options), elapsed)
        await asyncio.sleep(POLL_SEC)
