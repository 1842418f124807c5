"""A terminal taken over for a while: alternate screen, keys one by one, frames without flicker, and back as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gpumand.cli.top.keys import Decoder

ENTER, PREPARE = "\x1b[?1049h", "\x1b[?25l\x1b[2J"
LEAVE = "\x1b[0m\x1b[2J\x1b[?25h\x1b[?1049l"

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
"""Terminals that know it show what is between them at once; the others ignore it."""

ESCAPE_SEC = 0.05
"""How long after an Escape the rest of a sequence may come."""

IFLAG, LFLAG, CC = 0, 3, 6
"""Places in what termios gives."""

SIZE = (80, 24)


class Terminal:
    """Standard input and output, which must be terminals.

    Args:
        on_key: called with the name of each key; "" when the terminal has gone.
        on_change: called when the size has changed, or everything must be painted anew.
    """

    def __init__(self, on_key: Callable[[str], None], on_change: Callable[[], None]) -> None:
        self._on_key = on_key
        self._on_change = on_change
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._decoder = Decoder()
        self._escape: asyncio.TimerHandle | None = None
        self._saved: list[Any] | None = None
        self._shown: list[str] = []

    def __enter__(self) -> Terminal:
        """Take it over, in the running loop."""
        loop = asyncio.get_running_loop()
        self._take()
        loop.add_reader(self._input, self._read)
        for number, handler in self._handlers().items():
            loop.add_signal_handler(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back as it was, whatever happened."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._input)
        if self._escape is not None:
            self._escape.cancel()
        for number in self._handlers():
            loop.remove_signal_handler(number)
        self._give_back()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        try:
            columns, lines = os.get_terminal_size(self._output)
        except OSError:
            return SIZE
        return (columns, lines) if columns and lines else SIZE

    def show(self, lines: Sequence[str]) -> None:
        """Write those lines that are others than before, each where it belongs."""
        changed = [
            f"\x1b[{place};1H{line}\x1b[0m\x1b[K"
            for place, line in enumerate(lines, start=1)
            if place > len(self._shown) or self._shown[place - 1] != line
        ]
        self._shown = list(lines)
        if changed:
            self._write(BEGIN + "".join(changed) + END)

    def _handlers(self) -> dict[signal.Signals, Callable[[], None]]:
        return {
            signal.SIGWINCH: self._repaint,
            signal.SIGCONT: self._resume,
            signal.SIGTSTP: self._stop,
            signal.SIGINT: lambda: self._on_key("interrupt"),
        }

    def _take(self) -> None:
        """Keys one by one and unechoed; Ctrl-C and Ctrl-Z stay signals, Ctrl-S does not stop our output."""
        enter = "" if self._saved else ENTER
        if self._saved is None:
            self._saved = termios.tcgetattr(self._input)
        mode = [*self._saved[:CC], list(self._saved[CC])]
        mode[LFLAG] &= ~(termios.ICANON | termios.ECHO)
        mode[IFLAG] &= ~termios.IXON
        mode[CC][termios.VMIN], mode[CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)
        self._shown = []
        self._write(enter + PREPARE)

    def _give_back(self) -> None:
        """What was typed and not read is dropped: the shell should not run it."""
        with suppress(OSError):
            self._write(LEAVE)
        if self._saved is not None:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._input, termios.TCSAFLUSH, self._saved)
            self._saved = None

    def _stop(self) -> None:
        """Ctrl-Z: stop as everybody else does, and go on when we are continued.

        Where there is no shell to continue us (a window that runs nothing else), the kernel does not stop us at all.
        """
        loop = asyncio.get_running_loop()
        self._give_back()
        loop.remove_signal_handler(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._resume()

    def _resume(self) -> None:
        """Whoever stopped us, the terminal may be in any state now. In the background this stops us again."""
        with suppress(termios.error):
            self._take()
        self._on_change()

    def _repaint(self) -> None:
        self._shown = []
        with suppress(OSError):
            self._write("\x1b[2J")
        self._on_change()

    def _read(self) -> None:
        try:
            octets = os.read(self._input, 1024)
        except OSError:
            octets = b""
        if not octets:
            asyncio.get_running_loop().remove_reader(self._input)
            self._on_key("")
            return
        self._press(self._decoder.feed(octets))
        if self._escape is not None:
            self._escape.cancel()
        if self._decoder.waits:
            self._escape = asyncio.get_running_loop().call_later(ESCAPE_SEC, self._flush)

    def _flush(self) -> None:
        self._press(self._decoder.flush())

    def _press(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._on_key(key)

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
