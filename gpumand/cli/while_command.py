"""The command of ``gpumanctl calibrate --while``: it uses a consumer while its memory is measured."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

TERMINATE_SEC = 5.0
"""Time from SIGTERM to SIGKILL for a command that is no longer needed, in seconds."""


@asynccontextmanager
async def running_command(command: str, variables: Mapping[str, str]) -> AsyncIterator[Process]:
    """Run a shell command; leaving ends it and its children if it still runs.

    Its output goes to standard error, since the standard output of calibrate is a configuration to paste.

    Args:
        command: the command line for ``sh -c``.
        variables: environment variables in addition to the inherited ones.
    """
    process = await asyncio.create_subprocess_shell(
        command, stdin=DEVNULL, stdout=sys.stderr.fileno(), env=os.environ | variables, process_group=0
    )
    try:
        yield process
    finally:
        await asyncio.shield(_end(process))


async def _end(process: Process) -> None:
    """End the process group of the command."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(TERMINATE_SEC):
                await process.wait()
