"""The queue of bytes that wait to be written to the bus.

The writer of dbus-fast treats EAGAIN as the end of the connection (all versions), and writes delayed messages in
reverse order (1.84, Debian 12). So it gets this queue instead of its socket: the queue accepts all data immediately,
and waits for the socket itself. All messages of one iteration of the event loop are written with one system call, since
each system call takes time and wakes the bus daemon.

Messages have lanes: at the end of an iteration, changes of state are written before signals of events, and these before
replies and calls. Within a lane the order is kept. So changes of state can be collected until the end of the iteration,
and a client still sees state, then event, then reply.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from dbus_fast.aio import MessageBus

MAX_UNSENT_BYTES = 64 * 1024 * 1024
CHUNKS_PER_WRITE = 64


class Lane(IntEnum):
    """The kinds of messages, in the order in which they are written at the end of an iteration of the event loop."""

    STATE = 0
    EVENT = 1
    REPLY = 2


class SendQueue:
    """Replaces the socket of dbus-fast's writer.

    Args:
        sock: the connected socket.
        on_failure: called once from the event loop, with a one-line reason, when no more can be sent.
        limit_bytes: the most unsent bytes; beyond it the connection counts as failed.
    """

    def __init__(
        self, sock: socket.socket, on_failure: Callable[[str], None], limit_bytes: int = MAX_UNSENT_BYTES
    ) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._on_failure = on_failure
        self._limit_bytes = limit_bytes
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[memoryview] = deque()
        self._lanes: tuple[list[bytes], ...] = tuple([] for _ in Lane)
        self._before_write: Callable[[], None] = _do_nothing
        self._after_write: tuple[Callable[[], None], ...] = ()
        self._write_scheduled = False
        self._unsent_bytes = 0
        self._stopped = False
        self._is_waiting = False
        self._empty = asyncio.Event()
        self._empty.set()

    @classmethod
    def install(cls, bus: MessageBus, on_failure: Callable[[str], None]) -> SendQueue:
        """Put a send queue between the writer of a connected bus and its socket.

        ``on_failure`` is called once, with a one-line reason, when no more can be sent.
        """
        # A private attribute of dbus-fast, as are those that connecting.py closes; a test checks it for each version.
        writer: Any = bus._writer
        queue = cls(writer.sock, on_failure)
        writer.sock = queue
        # dbus-fast 1.84 to 5.x leave a writer callback registered, which would later remove the one of this queue.
        queue._loop.remove_writer(queue._fd)
        return queue

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that are not written to the socket yet."""
        return self._unsent_bytes

    def send(self, data: memoryview) -> int:
        """Accept all data; called by dbus-fast's writer in place of the socket's method."""
        # After a failure the data is dropped silently: an error here would make dbus-fast close the connection itself.
        if self._stopped:
            return len(data)
        # A copy, since the buffer belongs to dbus-fast.
        self.put(bytes(data), Lane.REPLY)
        return len(data)

    def put(self, data: bytes, lane: Lane) -> None:
        """Accept one message, to be written at the end of this iteration of the event loop."""
        if self._stopped:
            return
        if self._unsent_bytes + len(data) > self._limit_bytes:
            # A bus that stopped reading must not make the daemon's memory grow without limit.
            self._fail(f"the bus accepts no messages: {self._unsent_bytes >> 20} MiB are unsent")
            return
        self._lanes[lane].append(data)
        self._unsent_bytes += len(data)
        self.schedule_write()

    def schedule_write(self) -> None:
        """Call the ``on_write`` hook and write the messages of this iteration at its end."""
        if not self._write_scheduled:
            self._write_scheduled = True
            self._empty.clear()
            self._loop.call_soon(self._end_iteration)

    def on_write(self, hook: Callable[[], None]) -> None:
        """Call a hook before the messages of an iteration are written; it may put more messages into any lane."""
        self._before_write = hook

    def on_written(self, hook: Callable[[], None]) -> None:
        """Call one more hook after the messages of an iteration are written, or could not be."""
        self._after_write = (*self._after_write, hook)

    async def wait_drained(self) -> None:
        """Wait until the queue is empty, or can no longer be sent."""
        await self._empty.wait()

    def stop(self) -> None:
        """Drop all unsent bytes, accept no more, and close the socket."""
        if not self._stopped:
            self._stopped = True
            self._drop_all()
            # A closed socket's descriptor may belong to another file already, whose callback must stay.
            if self._sock.fileno() == self._fd:
                self._loop.remove_writer(self._fd)
        self._sock.close()

    def _end_iteration(self) -> None:
        self._before_write()
        self._write_scheduled = False
        if self._stopped:
            self._empty.set()  # nothing will be written any more, so that a close need not wait
        else:
            self._write_iteration()
        for hook in self._after_write:
            hook()

    def _write_iteration(self) -> None:
        was_idle = not self._chunks
        # Joined, since most messages are short: one chunk costs more than the copy of a few hundred bytes.
        joined = b"".join([b"".join(lane) for lane in self._lanes])
        for lane in self._lanes:
            lane.clear()
        if joined:
            self._chunks.append(memoryview(joined))
        # While the socket is full, _drain is called once it is writable again.
        if was_idle:
            self._drain()

    def _drain(self) -> None:
        """Write queued bytes; called at the end of an iteration, and when the socket is writable again."""
        while self._chunks:
            batch = [self._chunks[index] for index in range(min(CHUNKS_PER_WRITE, len(self._chunks)))]
            sent = self._write(batch)
            if not sent:
                self._await_socket()
                return
            self._drop_sent(sent)
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._fd)
        if not self._write_scheduled:
            self._empty.set()

    def _await_socket(self) -> None:
        if not (self._is_waiting or self._stopped):
            self._is_waiting = True
            self._loop.add_writer(self._fd, self._drain)

    def _write(self, chunks: list[memoryview]) -> int:
        """Write to the socket and return the number of bytes written; 0 when the socket is full or broken."""
        try:
            return self._sock.send(chunks[0]) if len(chunks) == 1 else self._sock.sendmsg(chunks)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._fail(f"the connection to the bus broke: {error}")
            return 0

    def _drop_sent(self, sent: int) -> None:
        self._unsent_bytes -= sent
        while sent:
            chunk = self._chunks.popleft()
            if len(chunk) > sent:
                self._chunks.appendleft(chunk[sent:])
                return
            sent -= len(chunk)

    def _fail(self, reason: str) -> None:
        """Stop sending and report the failure from the event loop, since a caller may be in the middle of a send."""
        if self._stopped:
            return
        self._stopped = True
        self._drop_all()
        self._loop.remove_writer(self._fd)
        self._loop.call_soon(self._on_failure, reason)

    def _drop_all(self) -> None:
        self._chunks.clear()
        for lane in self._lanes:
            lane.clear()
        self._unsent_bytes = 0
        self._empty.set()


def _do_nothing() -> None:
    """Stand in for a hook that is not set."""
