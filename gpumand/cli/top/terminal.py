"""Takes over the terminal for a full-screen program: alternate screen, single keys, frames without flicker, restore."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gpumand.cli.output import write
from gpumand.cli.top.keys import Decoder

ENTER, PREPARE = "\x1b[?1049h", "\x1b[?25l\x1b[2J"
LEAVE = "\x1b[0m\x1b[2J\x1b[?25h\x1b[?1049l"

MOUSE_ON, MOUSE_OFF = "\x1b[?1000h\x1b[?1006h", "\x1b[?1006l\x1b[?1000l"
"""Reports of buttons and of the wheel, with places in decimal numbers, as every current terminal knows them."""

BEGIN_UPDATE, END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
"""Synchronized update: terminals that support it show the text between the two at once; others ignore them."""

ESCAPE_SEC = 0.05
"""Seconds that the rest of an escape sequence may take after the Escape byte."""

IFLAG, LFLAG, CC = 0, 3, 6
"""Indices into the list that ``termios.tcgetattr`` returns."""

FALLBACK_SIZE = (80, 24)


class Terminal:
    """Standard input and output, which must be terminals.

    Args:
        on_key: called with the name of each key; with "" when the terminal is gone.
        on_change: called when the size changed or the whole screen must be drawn again.
    """

    def __init__(self, on_key: Callable[[str], None], on_change: Callable[[], None]) -> None:
        self._on_key = on_key
        self._on_change = on_change
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._decoder = Decoder()
        self._escape: asyncio.TimerHandle | None = None
        self._saved: list[Any] | None = None
        self._shown: list[str] = []
        self._has_mouse = False

    def __enter__(self) -> Terminal:
        """Take the terminal over and read keys in the running event loop."""
        loop = asyncio.get_running_loop()
        self._take_over()
        loop.add_reader(self._input, self._read)
        for number, handler in self._handlers().items():
            loop.add_signal_handler(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the terminal, also after an error."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._input)
        if self._escape is not None:
            self._escape.cancel()
        for number in self._handlers():
            loop.remove_signal_handler(number)
        self._restore()

    @property
    def size(self) -> tuple[int, int]:
        """The current number of columns and lines."""
        try:
            columns, lines = os.get_terminal_size(self._output)
        except OSError:
            return FALLBACK_SIZE
        return (columns, lines) if columns and lines else FALLBACK_SIZE

    def show(self, lines: Sequence[str]) -> None:
        """Draw the lines that changed since the last call."""
        changed = [
            f"\x1b[{place};1H{line}\x1b[0m\x1b[K"
            for place, line in enumerate(lines, start=1)
            if place > len(self._shown) or self._shown[place - 1] != line
        ]
        self._shown = list(lines)
        if changed:
            write(BEGIN_UPDATE + "".join(changed) + END_UPDATE)

    def use_mouse(self, is_used: bool) -> None:
        """Ask the terminal for mouse events, or leave the mouse to it, so that text can be selected."""
        if is_used != self._has_mouse:
            self._has_mouse = is_used
            write(MOUSE_ON if is_used else MOUSE_OFF)

    def _handlers(self) -> dict[signal.Signals, Callable[[], None]]:
        return {
            signal.SIGWINCH: self._repaint,
            signal.SIGCONT: self._resume,
            signal.SIGTSTP: self._stop,
            signal.SIGINT: lambda: self._on_key("interrupt"),
        }

    def _take_over(self) -> None:
        """Switch to single keys without echo, and to the alternate screen.

        Ctrl-C and Ctrl-Z stay signals; Ctrl-S no longer stops the output.
        """
        enter = "" if self._saved else ENTER
        if self._saved is None:
            self._saved = termios.tcgetattr(self._input)
        mode = [*self._saved[:CC], list(self._saved[CC])]
        mode[LFLAG] &= ~(termios.ICANON | termios.ECHO)
        mode[IFLAG] &= ~termios.IXON
        mode[CC][termios.VMIN], mode[CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)
        self._shown = []
        write(enter + PREPARE + (MOUSE_ON if self._has_mouse else ""))

    def _restore(self) -> None:
        """Restore the saved settings. Unread input is dropped, so that the shell does not run it."""
        with suppress(OSError):
            write((MOUSE_OFF if self._has_mouse else "") + LEAVE)
        if self._saved is not None:
            with suppress(termios.error):  # raised when the terminal is gone
                termios.tcsetattr(self._input, termios.TCSAFLUSH, self._saved)
            self._saved = None

    def _stop(self) -> None:
        """Handle Ctrl-Z: restore the terminal, stop the process, and take the terminal over again when continued.

        The kernel ignores the stop when no shell could continue the process, for example in a window that runs only
        this program; execution then goes on at once.
        """
        loop = asyncio.get_running_loop()
        self._restore()
        # The stop must be the default action, so that the shell sees a stopped job.
        loop.remove_signal_handler(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._resume()

    def _resume(self) -> None:
        """Take the terminal over again after the process was stopped; its settings may have changed meanwhile.

        In the background, changing them stops the process again (SIGTTOU).
        """
        with suppress(termios.error):
            self._take_over()
        self._on_change()

    def _repaint(self) -> None:
        self._shown = []
        with suppress(OSError):
            write("\x1b[2J")
        self._on_change()

    def _read(self) -> None:
        try:
            octets = os.read(self._input, 1024)
        except OSError:
            octets = b""
        if not octets:
            # End of file: the terminal is gone, and reading it again would return at once forever.
            asyncio.get_running_loop().remove_reader(self._input)
            self._on_key("")
            return
        self._press(self._decoder.feed(octets))
        if self._escape is not None:
            self._escape.cancel()
        if self._decoder.has_pending_escape:
            # If nothing follows soon, the byte was the Escape key and not the start of a sequence.
            self._escape = asyncio.get_running_loop().call_later(ESCAPE_SEC, self._flush)

    def _flush(self) -> None:
        self._press(self._decoder.flush())

    def _press(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._on_key(key)
