"""A terminal emulator with a running ``top``, for tests of its screen."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pyte

from gpumand.bus.connection import Reply
from tests.integration.cli.ctl import LIMIT_SEC, Ctl, Screen


class Emulator:
    """A terminal emulator that shows what a person would see on a Screen."""

    def __init__(self, screen: Screen, columns: int = 80, rows: int = 24) -> None:
        self.screen = screen
        self.display = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.display)
        self._fed = 0

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without spaces at their ends."""
        seen = self.screen.seen
        new, self._fed = seen[self._fed :], len(seen)
        self._stream.feed(new)
        return [line.rstrip() for line in self.display.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def resize(self, columns: int, rows: int) -> None:
        """Resize the terminal window."""
        self.display.resize(rows, columns)
        fcntl.ioctl(self.screen.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def until(self, what: str, condition: Callable[[list[str]], bool]) -> list[str]:
        """The lines as soon as the condition holds. Raises AssertionError after the time limit."""
        deadline = asyncio.get_running_loop().time() + LIMIT_SEC
        while not condition(self.lines):
            assert asyncio.get_running_loop().time() < deadline, f"never seen: {what}. The screen shows:\n{self.text}"
            await asyncio.sleep(0.02)
        return self.lines

    async def shows(self, text: str) -> list[str]:
        return await self.until(text, lambda lines: text in "\n".join(lines))

    async def hides(self, text: str) -> list[str]:
        return await self.until(f"no {text}", lambda lines: text not in "\n".join(lines))


@asynccontextmanager
async def top(ctl: Ctl, *args: str, columns: int = 80, rows: int = 24, **changes: str) -> AsyncIterator[Emulator]:
    """A running ``top`` that shows its first status; it is killed at the end if it still runs."""
    changes = {"LC_ALL": "C.UTF-8"} | changes
    screen = await Screen.start(ctl.with_environment(changes), "top", *args, columns=columns, rows=rows)
    emulator = Emulator(screen, columns, rows)
    try:
        await emulator.shows("CONSUMER")
        yield emulator
    finally:
        if screen.process.returncode is None:
            screen.process.kill()
        await screen.process.wait()


def modes(emulator: Emulator) -> list[Any]:
    """The settings of the terminal."""
    return termios.tcgetattr(emulator.screen.master)


def entered_and_left(seen: bytes) -> tuple[int, int]:
    """How often the alternate screen was entered, and left."""
    return seen.count(b"\x1b[?1049h"), seen.count(b"\x1b[?1049l")


def history_of(entries: list[Any]) -> Any:
    """An answer of GetHistory with these entries."""
    return lambda _: Reply("aa{sv}", (entries,))
