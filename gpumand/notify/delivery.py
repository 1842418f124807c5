"""Delivers notices: runs a command, or calls a webhook. A failure is logged and ends there."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import suppress

import aiohttp

from gpumand.notify.config import Hook
from gpumand.notify.rate import Delivery

log = logging.getLogger(__name__)

PASSED_ON = (
    *("PATH", "HOME", "LANG", "USER", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"),
)
"""Environment variables of this process that a command gets."""

KILL_SEC = 2.0
MAX_CONTENT = 2000
"""Discord refuses messages with more characters."""


async def deliver(hook: Hook, delivery: Delivery) -> bool:
    """Run the hook's command or call its webhook. Returns whether that succeeded; never raises an error."""
    try:
        if hook.command:
            return await _run(hook, delivery)
        return await _call(hook, delivery)
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
        # The URL of a webhook is often its password, and errors of aiohttp contain it.
        log.warning("hook %s failed: %s", hook.name, type(error).__name__)
        return False


def payload(delivery: Delivery) -> dict[str, object]:
    """The notice as JSON: a text under the names that Slack, Discord and Gotify read, and the events."""
    text = summary(delivery)
    return {
        "title": "gpumand",
        "text": text,
        "content": text if len(text) <= MAX_CONTENT else f"{text[: MAX_CONTENT - 1]}…",
        "message": text,
        "left_out": delivery.left_out,
        "events": [{"event": str(one.kind), "consumer": one.consumer, "text": one.text} for one in delivery.notices],
    }


def summary(delivery: Delivery) -> str:
    """All notices as text, one in a line."""
    lines = [one.text for one in delivery.notices]
    if delivery.left_out:
        lines.append(f"and {delivery.left_out} more events")
    return "\n".join(lines)


async def _run(hook: Hook, delivery: Delivery) -> bool:
    process = await asyncio.create_subprocess_exec(
        *hook.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(delivery),
        start_new_session=True,  # so that its children can be killed too
    )
    try:
        async with asyncio.timeout(hook.timeout_sec):
            # A command need not read what it is given.
            with suppress(BrokenPipeError, ConnectionResetError):
                await process.communicate(json.dumps(payload(delivery)).encode())
            status = await process.wait()
    except TimeoutError:
        log.warning("hook %s was killed: its command did not end within %g s", hook.name, hook.timeout_sec)
        return False
    finally:
        await _kill(process)
    if status != 0:
        log.warning("hook %s failed: its command ended with status %d", hook.name, status)
    return status == 0


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the command's process group, also where the command itself has ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(KILL_SEC):
            await process.wait()


def _environment(delivery: Delivery) -> Mapping[str, str]:
    first = delivery.notices[0]
    own = {"GPUMAND_EVENT": str(first.kind), "GPUMAND_CONSUMER": first.consumer, "GPUMAND_TEXT": summary(delivery)}
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | own


async def _call(hook: Hook, delivery: Delivery) -> bool:
    timeout = aiohttp.ClientTimeout(total=hook.timeout_sec)
    async with (
        aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.post(
            hook.webhook, json=payload(delivery), headers=dict(hook.headers), allow_redirects=False
        ) as response,
    ):
        if response.status >= 300:
            log.warning("hook %s failed: its webhook answered %d", hook.name, response.status)
        return response.status < 300
