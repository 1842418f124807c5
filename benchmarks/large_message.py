"""The worst delay of another client's call while a client sends a message of 14 MB that is slow to parse."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from struct import pack

from dbus_fast import Message
from dbus_fast.aio import MessageBus

from benchmarks.cpu_time import cpu_msec
from benchmarks.environment import MANAGER, NAME, PATH, RunningDaemon, running_daemon
from benchmarks.table import Row

ENTRIES = 600_000
MESSAGES = 3
MAX_DELAY_MSEC = 100.0
"""How much later than a call to the bus itself another client's call may be answered."""

ORDERS = {"little endian": "<", "big endian": ">"}
CALL = 1
REPLY_SEC = 60.0
PAUSE_SEC = 0.5


async def measure(folder: Path) -> list[Row]:
    """A row for each byte order, with the worst of several messages."""
    async with running_daemon(folder, '[consumers.a]\nvram_resident_mib = 1024\nunit = "a.service"\n') as running:
        bus = await MessageBus(bus_address=running.address).connect()
        try:
            return [await _measure(running, bus, name, order) for name, order in ORDERS.items()]
        finally:
            bus.disconnect()


async def _measure(running: RunningDaemon, bus: MessageBus, name: str, order: str) -> Row:
    message = _acquire_with_many_options(order)
    runs = [await _while_sending(running, bus, message) for _ in range(MESSAGES)]
    worst_msec, answers = max(run.daemon_msec for run in runs), {run.answer for run in runs}
    own_msec = max(run.daemon_msec - run.bus_msec for run in runs)
    cpu_msec = max(run.cpu_msec for run in runs)
    return Row(
        f"worst Ping while a client sends {len(message) / 1e6:.0f} MB, {name}",
        f"{worst_msec:.0f} ms, of it gpumand {own_msec:.0f}, its CPU {cpu_msec:.0f}; {', '.join(sorted(answers))}",
        f"Ping of the bus itself: {max(run.bus_msec for run in runs):.0f} ms",
        goal=f"gpumand {MAX_DELAY_MSEC:g} ms or less, refused",
        met=answers == {"LimitsExceeded"} and own_msec <= MAX_DELAY_MSEC,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One message: the answer, the worst Ping of gpumand and of the bus meanwhile, and gpumand's processor time."""

    answer: str
    daemon_msec: float
    bus_msec: float
    cpu_msec: float


async def _while_sending(running: RunningDaemon, bus: MessageBus, message: bytes) -> _Run:
    before_msec = cpu_msec(running.pid)
    sending = asyncio.create_task(asyncio.to_thread(_send, running.address, message))
    daemon, bus_itself = await asyncio.gather(
        _worst(running.client.ping, sending), _worst(partial(_ping, bus), sending)
    )
    await asyncio.sleep(PAUSE_SEC)
    return _Run(sending.result(), daemon, bus_itself, cpu_msec(running.pid) - before_msec)


async def _worst(ping: Callable[[], Awaitable[None]], sending: asyncio.Task[str]) -> float:
    worst_sec = 0.0
    while not sending.done():
        started = time.perf_counter()
        await ping()
        worst_sec = max(worst_sec, time.perf_counter() - started)
    return worst_sec * 1e3


async def _ping(bus: MessageBus) -> None:
    """One round trip to the bus daemon: it checks and copies every message, so that its own callers wait as well."""
    await bus.call(Message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.Peer", "Ping"))


def _send(address: str, message: bytes) -> str:
    """Send the message over a connection of its own; return the last part of the error's name, "" for no error."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(REPLY_SEC)
        connection.connect(address.partition("path=")[2].partition(",")[0])
        connection.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        connection.recv(1024)
        connection.sendall(b"BEGIN\r\n" + _message("<", 1, "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello"))
        connection.sendall(message)
        received = b""
        while not (error := re.search(rb"org\.freedesktop\.DBus\.Error\.(\w+)", received)):
            received += connection.recv(65536)
    return error[1].decode()


def _acquire_with_many_options(order: str) -> bytes:
    # "sa{sv}": the name, the length of the array, and entries of 24 bytes: a key of seven characters, and a number.
    entries = b"".join(pack(f"{order}I7sx3sxI4x", 7, b"k%06d" % number, b"\1u\0", number) for number in range(ENTRIES))
    # The array ends with its last value, without the padding after it.
    entries = entries[:-4]
    body = pack(f"{order}I2s2xI4x", 1, b"a\0", len(entries)) + entries
    return _message(order, 2, PATH, MANAGER, "Acquire", NAME, "sa{sv}", body)


def _message(
    order: str,
    serial: int,
    path: str,
    interface: str,
    member: str,
    destination: str = "org.freedesktop.DBus",
    signature: str = "",
    body: bytes = b"",
) -> bytes:
    """A method call; dbus-fast can only send messages in the byte order of this machine."""
    fields = b""
    for code, kind, text in ((1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", destination)):
        fields += bytes(-len(fields) % 8) + pack("BB2s", code, 1, f"{kind}\0".encode())
        fields += pack(f"{order}I", len(text)) + text.encode() + b"\0"
    if signature:
        fields += bytes(-len(fields) % 8) + pack("BB2sB", 8, 1, b"g\0", len(signature)) + signature.encode() + b"\0"
    start = b"l" if order == "<" else b"B"
    header = start + pack(f"{order}BBBIII", CALL, 0, 1, len(body), serial, len(fields)) + fields
    return header + bytes(-len(header) % 8) + body
