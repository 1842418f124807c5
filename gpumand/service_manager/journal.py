"""Reads the last lines that a unit logged, for the message about its failure."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

TIMEOUT_SEC = 2.0
MAX_LINES = 5
MAX_LINE_CHARS = 300
MAX_OUTPUT_BYTES = 64 * 1024


def journalctl_command(unit: str, invocation_id: str, user: bool, since_usec: int = 0) -> list[str]:
    """Return the journalctl command for the lines of one run of one unit, without systemd's own lines about it.

    Args:
        unit: name of the unit.
        invocation_id: hex id of the run, "" if it is unknown.
        user: the unit belongs to the user manager.
        since_usec: earliest time of the lines, in CLOCK_REALTIME microseconds, if the run is unknown; 0 = this boot.
    """
    scope = ["--user-unit" if user else "--unit", unit]
    fixed = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={MAX_LINES}"]
    if invocation_id:
        return [*fixed, *scope, f"_SYSTEMD_INVOCATION_ID={invocation_id}"]
    return [*fixed, *scope, f"--since=@{since_usec / 1e6:.6f}" if since_usec else "--boot"]


async def last_lines(command: Sequence[str]) -> tuple[str, ...]:
    """Run journalctl and return its last lines, sanitized; empty if it fails, hangs or is not installed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # A fixed environment, so that settings in the daemon's environment do not change the output.
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"} | _runtime_dir(),
        )
    except OSError:
        return ()
    try:
        async with asyncio.timeout(TIMEOUT_SEC):
            return _clean_lines(await _read(process))
    except TimeoutError:
        return ()
    finally:
        # Also on a timeout and on cancellation: no journalctl may stay behind as a process or as a zombie.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _runtime_dir() -> dict[str, str]:
    """Return the environment variables that journalctl needs to find the user's journal."""
    return {key: os.environ[key] for key in ("XDG_RUNTIME_DIR", "HOME") if key in os.environ}


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """Read up to MAX_OUTPUT_BYTES; the caller kills a process that writes more."""
    assert process.stdout is not None
    output = b""
    while len(output) < MAX_OUTPUT_BYTES and (chunk := await process.stdout.read(MAX_OUTPUT_BYTES)):
        output += chunk
    return output[:MAX_OUTPUT_BYTES]


def _clean_lines(output: bytes) -> tuple[str, ...]:
    lines = (_printable(line) for line in output.decode(errors="replace").splitlines())
    return tuple(line for line in lines if line)[-MAX_LINES:]


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else " " for char in line).strip()[:MAX_LINE_CHARS]
