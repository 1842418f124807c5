"""Bytes on their way to the bus.

The binding's own writer takes EAGAIN for the end of the connection (all versions), and writes what had to wait in
reverse order (1.84, Debian 12). So it is given this instead of its socket: something that takes whatever it is given
at once, keeps the order, and waits for the socket on its own. What comes in one turn of the loop goes out in one
system call: each one wakes the bus daemon, which is most of what an Acquire costs.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from dbus_fast.aio import MessageBus

MAX_UNSENT_BYTES = 64 * 1024 * 1024
CHUNKS_A_WRITE = 64


class SendQueue:
    """Stands in for the socket of the binding's writer."""

    def __init__(self, sock: socket.socket, failed: Callable[[str], None], limit_bytes: int = MAX_UNSENT_BYTES) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._failed = failed
        self._limit_bytes = limit_bytes
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._stopped = False
        self._is_waiting = False
        self._empty = asyncio.Event()
        self._empty.set()

    @classmethod
    def install(cls, bus: MessageBus, failed: Callable[[str], None]) -> SendQueue:
        """Put an outbox between the writer of a connected bus and its socket.

        ``failed`` is called once, with one line, when no more can be sent.
        """
        # Private to the binding, as is what opening.py closes; a test pins it down for each version.
        writer: Any = bus._writer
        outbox = cls(writer.sock, failed)
        writer.sock = outbox
        # 1.84 to 5.x leave a writer callback behind that would take ours away.
        outbox._loop.remove_writer(outbox._fd)
        return outbox

    @property
    def unsent_bytes(self) -> int:
        """What the socket has not taken yet."""
        return self._unsent_bytes

    def send(self, data: memoryview) -> int:
        """Take all of it, always; called by the binding's writer."""
        if self._stopped:
            return len(data)
        self._keep(memoryview(bytes(data)))
        return len(data)

    async def drained(self) -> None:
        """Return when everything is with the bus, or never will be."""
        await self._empty.wait()

    def stop(self) -> None:
        """Drop what is unsent and take no more; closes the socket."""
        if not self._stopped:
            self._stopped = True
            self._chunks.clear()
            self._unsent_bytes = 0
            self._empty.set()
            if self._sock.fileno() == self._fd:
                self._loop.remove_writer(self._fd)
        self._sock.close()

    def _keep(self, chunk: memoryview) -> None:
        if self._unsent_bytes + len(chunk) > self._limit_bytes:
            self._fail(f"the bus takes no messages: {self._unsent_bytes >> 20} MiB are unsent")
            return
        if not self._chunks:
            self._empty.clear()
            self._loop.call_soon(self._drain)
        self._chunks.append(chunk)
        self._unsent_bytes += len(chunk)

    def _drain(self) -> None:
        """This turn of the loop is over, or the socket takes data again."""
        while self._chunks:
            batch = [self._chunks[index] for index in range(min(CHUNKS_A_WRITE, len(self._chunks)))]
            sent = self._write(batch)
            if not sent:
                self._await_socket()
                return
            self._forget(sent)
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._fd)
        self._empty.set()

    def _await_socket(self) -> None:
        if not (self._is_waiting or self._stopped):
            self._is_waiting = True
            self._loop.add_writer(self._fd, self._drain)

    def _write(self, chunks: list[memoryview]) -> int:
        """Bytes that the socket took; 0 when it is full or broken."""
        try:
            return self._sock.sendmsg(chunks)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._fail(f"the connection to the bus broke: {error}")
            return 0

    def _forget(self, sent: int) -> None:
        self._unsent_bytes -= sent
        while sent:
            chunk = self._chunks.popleft()
            if len(chunk) > sent:
                self._chunks.appendleft(chunk[sent:])
                return
            sent -= len(chunk)

    def _fail(self, reason: str) -> None:
        """Say so from the loop: we may be in the middle of somebody's send."""
        if self._stopped:
            return
        self._stopped = True
        self._chunks.clear()
        self._unsent_bytes = 0
        self._empty.set()
        self._loop.remove_writer(self._fd)
        self._loop.call_soon(self._failed, reason)
