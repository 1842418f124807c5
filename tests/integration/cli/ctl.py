"""Runs the real gpumanctl as a process, with pipes or on a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass, field

COMMAND = (sys.executable, "-m", "gpumand.cli")
LIMIT_SEC = 40


@dataclass(frozen=True)
class Result:
    """Exit code and output of a run of gpumanctl."""

    code: int
    out: str
    err: str


@dataclass
class Ctl:
    """gpumanctl against one bus."""

    address: str
    environment: dict[str, str] = field(default_factory=dict)

    def env(self, changes: Mapping[str, str] = {}) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "PAGER")}
        return kept | {"GPUMAND_BUS_ADDRESS": self.address, "TERM": "xterm"} | self.environment | dict(changes)

    def with_environment(self, changes: Mapping[str, str]) -> Ctl:
        """The same with more environment variables."""
        return Ctl(self.address, self.environment | dict(changes))

    async def start(self, *args: str, **changes: str) -> asyncio.subprocess.Process:
        """Start it, in a process group of its own, with pipes."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            env=self.env(changes),
            start_new_session=True,
        )

    async def __call__(self, *args: str, **changes: str) -> Result:
        """Run it and wait for its end."""
        return await finished(await self.start(*args, **changes))


async def failure(ctl: Ctl, *args: str) -> tuple[int, str]:
    """Exit code and error line of a command that fails, which has no other output, with or without --json."""
    plain, document = await ctl(*args), await ctl(*args, "--json")
    assert plain.out == document.out == ""
    assert plain.err == document.err
    assert plain.code == document.code
    (line,) = plain.err.splitlines()
    assert line.startswith("gpumanctl: ")
    return plain.code, line


async def finished(process: asyncio.subprocess.Process) -> Result:
    """Wait for a process; kill it after ``LIMIT_SEC``."""
    try:
        async with asyncio.timeout(LIMIT_SEC):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"gpumanctl did not end; stdout {out!r}, stderr {err!r}") from None
    return Result(process.returncode or 0, out.decode(), err.decode())


class Screen:
    """gpumanctl as the foreground job of a pseudo-terminal, which is its stdin, stdout and stderr."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.master = master
        self.seen = b""
        self._more = asyncio.Event()
        self._closed = False
        asyncio.get_running_loop().add_reader(master, self._read)

    @classmethod
    async def start(
        cls, ctl: Ctl, *args: str, argv: tuple[str, ...] = COMMAND, columns: int = 80, rows: int = 24, **changes: str
    ) -> Screen:
        """Start it, or another program, on a screen of this size."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        helper = (
            "import fcntl,os,sys,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            helper,
            *argv,
            *args,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=ctl.env(changes),
            start_new_session=True,
        )
        os.close(slave)
        return cls(process, master)

    def _read(self) -> None:
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the last process has closed the terminal
            data = b""
        if not data:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self.master)
        self.seen += data
        self._more.set()

    async def wait_for(self, text: str) -> None:
        """Return when the terminal has shown this text."""
        try:
            async with asyncio.timeout(LIMIT_SEC):
                while text.encode() not in self.seen and not self._closed:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            self.process.kill()
        assert text.encode() in self.seen, f"{text!r} was never shown, but: {self.seen!r}"

    def type(self, keys: bytes) -> None:
        """Send keys to the terminal."""
        os.write(self.master, keys)

    async def end(self) -> int:
        """Wait for its end and return the exit code, negative for a signal."""
        async with asyncio.timeout(LIMIT_SEC):
            code = await self.process.wait()
            while not self._closed:
                self._more.clear()
                await self._more.wait()
        os.close(self.master)
        return code

    @property
    def text(self) -> str:
        """Everything that the terminal has shown."""
        return self.seen.decode()
