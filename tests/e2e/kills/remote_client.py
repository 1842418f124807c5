"""A D-Bus client inside the machine that stays connected while the daemon is killed, and is controlled from outside.

It reads commands as lines of JSON, ``{"id": 1, "do": "call", …}``, and answers each with one line, ``{"id": 1,
"result": …}`` or ``{"id": 1, "error": name, "message": text}``, in the order in which they finish. Its first line
contains its pid. It exits when its standard input is closed, and its leases end with it.
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
from tests.e2e.kills import observations

CALL_SEC = 120.0
POLL_SEC = 0.01


class RemoteClient:
    """One bus connection and the commands for it: the method ``do_X`` carries out the command ``X``."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus
        self._owners: list[tuple[float, str]] = []
        self._owner_changed = asyncio.Event()

    async def listen(self) -> None:
        """Record from now on when the owner of gpumand's bus name changes."""
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
        self._owner_changed.set()

    async def do_call(self, member: str, signature: str = "", body: list[Any] | None = None) -> tuple[Any, ...]:
        """Call a method of the Manager; options are given as key: [signature, value]."""
        plain = [to_variants(part) if isinstance(part, Mapping) else part for part in body or []]
        where = (names.BUS_NAME, names.ROOT_PATH, names.MANAGER, member)
        return await self._bus.call(*where, signature, plain, timeout_sec=CALL_SEC)

    async def do_await(self, consumer: str, residency: str, within_sec: float) -> str:
        """Wait until a consumer has this residency, at most ``within_sec``. Returns its residency."""
        deadline = time.monotonic() + within_sec
        while True:
            (status,) = await self.do_call("GetStatus")
            (now,) = [one["residency"] for one in status["consumers"] if one["name"] == consumer]
            if now == residency or time.monotonic() > deadline:
                return str(now)
            await asyncio.sleep(POLL_SEC)

    async def do_observe(self, units: list[str], ports: dict[str, int], vram_dir: str) -> dict[str, Any]:
        """Return the state of the host from other sources than the daemon: see ``observations``."""
        return await observations.observe(self._bus, units, ports, vram_dir)

    async def do_service(self) -> dict[str, Any]:
        """Return the properties of the daemon's unit."""
        return await observations.service(self._bus)

    async def do_kill(
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
        """End the daemon and measure the time until it serves again.

        Args:
            before: pids to kill immediately before the daemon.
            argv: the command that ends the daemon; empty if a signal ends it.
            pid, number: the daemon's process and the signal.
            meanwhile: pids to kill while the daemon is down.
            again_sec: kill the restarted daemon too, so long after its start; None = do not.
            calls: call the daemon as soon as it is gone, so that the bus starts it; otherwise wait for systemd.
            delay_sec: delay before the kill.

        Returns:
            Seconds from the kill, and from the loss of the name, to the first answer; and that answer, a status.
        """
        await asyncio.sleep(delay_sec)
        seen, killed_at = len(self._owners), time.monotonic()
        _kill(before)
        command = await _start(argv) if argv else None
        if pid:
            os.kill(pid, number)
        lost_at = await self._await_owner_change(seen, gone=True)
        _kill(meanwhile)
        if again_sec is not None:
            successor = await self._successor(pid)
            await asyncio.sleep(again_sec)
            _kill([successor])
        if not calls:
            await self._await_owner_change(seen, gone=False)
        status = await self._first_answer()
        served_at = time.monotonic()
        if command is not None and await command.wait():
            raise BusError("command.failed", f"{' '.join(argv)} ended with {command.returncode}")
        return {"kill_to_answer_sec": served_at - killed_at, "gap_sec": served_at - lost_at, "status": status}

    async def _await_owner_change(self, seen: int, *, gone: bool) -> float:
        """Return when the name was lost, or when it had an owner again after that."""
        while True:
            lost = [at for at, owner in self._owners[seen:] if not owner]
            found = [at for at, owner in self._owners[seen:] if owner and lost and at >= lost[0]]
            if changes := lost if gone else found:
                return changes[0]
            self._owner_changed.clear()
            await self._owner_changed.wait()

    async def _successor(self, pid: int) -> int:
        """Return the pid of the process that systemd starts as a replacement."""
        while True:
            now: int = (await observations.service(self._bus))["MainPID"]
            if now not in (0, pid):
                return now
            await asyncio.sleep(POLL_SEC)

    async def _first_answer(self) -> dict[str, Any]:
        while True:
            try:
                (status,) = await self.do_call("GetStatus")
            except BusError:
                await asyncio.sleep(POLL_SEC)  # the daemon was killed again, or the bus could not start it
            else:
                return dict(status)


async def _start(argv: list[str]) -> asyncio.subprocess.Process:
    nothing = asyncio.subprocess.DEVNULL  # standard output is reserved for answers
    return await asyncio.create_subprocess_exec(*argv, stdin=nothing, stdout=nothing)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, 9)


async def _answer(client: RemoteClient, request: dict[str, Any]) -> None:
    number, do = request.pop("id"), request.pop("do")
    try:
        answer = {"id": number, "result": await getattr(client, f"do_{do}")(**request)}
    except BusError as error:
        answer = {"id": number, "error": error.name, "message": error.message}
    print(json.dumps(answer), flush=True)


async def _main() -> None:
    bus = await BusConnection.connect("system")
    client = RemoteClient(bus)
    await client.listen()
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(client, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(_main())
