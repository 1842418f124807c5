"""A program inside the machine that stays on the bus over all the daemon's lives, and does as it is told.

It is told by lines of JSON, ``{"id": 1, "do": "call", …}``, and answers each by one, ``{"id": 1, "result": …}`` or
``{"id": 1, "error": name, "message": text}``, in whatever order they are done. Its first line says who it is. It ends
with its standard input, and its leases with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from gpumand.bus import names
from gpumand.bus.connection import BusConnection, BusError, Signal
from gpumand.bus.variants import to_variants
from tests.e2e.kills import witness

CALL_SEC = 120.0
POLL_SEC = 0.01


class Agent:
    """One connection, and what can be asked of it; every ``do_…`` is a command, its arguments are the command's."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus
        self._owners: list[tuple[float, str]] = []
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """Note from now on when gpumand's name changes hands."""
        await self._bus.subscribe(
            callback=self._on_owner,
            sender=names.DBUS,
            path=names.DBUS_PATH,
            interface=names.DBUS,
            member="NameOwnerChanged",
            arg0=names.BUS_NAME,
        )

    def _on_owner(self, signal: Signal) -> None:
        self._owners.append((time.monotonic(), str(signal.body[2])))
        self._news.set()

    async def do_call(self, member: str, signature: str = "", body: list[Any] | None = None) -> tuple[Any, ...]:
        """Call the Manager; options are written as key: [signature, value]."""
        plain = [to_variants(part) if isinstance(part, Mapping) else part for part in body or []]
        where = (names.BUS_NAME, names.ROOT_PATH, names.MANAGER, member)
        return await self._bus.call(*where, signature, plain, timeout_sec=CALL_SEC)

    async def do_await(self, consumer: str, residency: str, within_sec: float) -> str:
        """Return when a consumer is what it should be, or when the time is up: what it is."""
        deadline = time.monotonic() + within_sec
        while True:
            (status,) = await self.do_call("GetStatus")
            (now,) = [one["residency"] for one in status["consumers"] if one["name"] == consumer]
            if now == residency or time.monotonic() > deadline:
                return str(now)
            await asyncio.sleep(POLL_SEC)

    async def do_truth(self, units: list[str], ports: dict[str, int], vram_dir: str) -> dict[str, Any]:
        """What is so, whatever the daemon says of it: see ``witness``."""
        return await witness.truth(self._bus, units, ports, vram_dir)

    async def do_service(self) -> dict[str, Any]:
        """What systemd says of the daemon."""
        return await witness.service(self._bus)

    async def do_strike(
        self,
        before: list[int],
        argv: list[str],
        pid: int,
        number: int,
        meanwhile: list[int],
        again_sec: float | None,
        calls: bool,
        delay_sec: float,
    ) -> dict[str, Any]:
        """End the daemon, and see when it serves again.

        Args:
            before: pids to kill at once before it.
            argv: the command that ends it; empty where it is a signal.
            pid, number: the daemon and the signal.
            meanwhile: pids to kill while it is down.
            again_sec: how long after its start the next daemon is killed too; None = not.
            calls: call it as soon as it is gone, which makes the bus start it; else wait until systemd has.
            delay_sec: the moment of the blow.

        Returns:
            Seconds from the blow, and from the loss of the name, to the first answer; and that answer, a status.
        """
        await asyncio.sleep(delay_sec)
        seen, struck_at = len(self._owners), time.monotonic()
        _kill(before)
        command = await _start(argv) if argv else None
        if pid:
            os.kill(pid, number)
        lost_at = await self._owner_change(seen, gone=True)
        _kill(meanwhile)
        if again_sec is not None:
            successor = await self._successor(pid)
            await asyncio.sleep(again_sec)
            _kill([successor])
        if not calls:
            await self._owner_change(seen, gone=False)
        status = await self._first_answer()
        served_at = time.monotonic()
        if command is not None and await command.wait():
            raise BusError("command.failed", f"{' '.join(argv)} ended with {command.returncode}")
        return {"blow_sec": served_at - struck_at, "gap_sec": served_at - lost_at, "status": status}

    async def _owner_change(self, seen: int, *, gone: bool) -> float:
        """When the name was lost, or (behind that) found again."""
        while True:
            lost = [at for at, owner in self._owners[seen:] if not owner]
            found = [at for at, owner in self._owners[seen:] if owner and lost and at >= lost[0]]
            if changes := lost if gone else found:
                return changes[0]
            self._news.clear()
            await self._news.wait()

    async def _successor(self, pid: int) -> int:
        """The process that systemd starts in its place."""
        while True:
            now: int = (await witness.service(self._bus))["MainPID"]
            if now not in (0, pid):
                return now
            await asyncio.sleep(POLL_SEC)

    async def _first_answer(self) -> dict[str, Any]:
        while True:
            try:
                (status,) = await self.do_call("GetStatus")
            except BusError:
                await asyncio.sleep(POLL_SEC)  # it was lost again, or the bus could not start it
            else:
                return dict(status)


async def _start(argv: list[str]) -> asyncio.subprocess.Process:
    nothing = asyncio.subprocess.DEVNULL  # our own standard output is for answers
    return await asyncio.create_subprocess_exec(*argv, stdin=nothing, stdout=nothing)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, 9)


async def _answer(agent: Agent, told: dict[str, Any]) -> None:
    number, do = told.pop("id"), told.pop("do")
    try:
        answer = {"id": number, "result": await getattr(agent, f"do_{do}")(**told)}
    except BusError as error:
        answer = {"id": number, "error": error.name, "message": error.message}
    print(json.dumps(answer), flush=True)


async def _main() -> None:
    bus = await BusConnection.connect("system")
    agent = Agent(bus)
    await agent.listen()
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(agent, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(_main())
