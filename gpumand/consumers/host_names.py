"""Lookups of host names, which never delay anything but the requests to the same host.

``getaddrinfo`` blocks its thread for as long as the name servers do not answer, and cannot be interrupted. The event
loop's default threads also read VRAM and files, so lookups have threads of their own, and each name has one lookup at
a time, for however many requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gpumand.consumers.answers import NoAnswer, one_line

THREADS = 16
"""Simultaneous lookups of different names. A host has few names that hang at the same time; threads start on demand."""

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]


class HostNames:
    """Resolves host names, with threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="host-names")
        self._lookups: dict[str, asyncio.Future[Sequence[Address] | Exception]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host; those written as numbers need no thread.

        Raises:
            NoAnswer: the name cannot be resolved.
            ValueError: the name is none.
        """
        with contextlib.suppress(socket.gaierror):
            return _with_port(_look_up(host, socket.AI_NUMERICHOST), port)
        # A request that times out leaves the lookup to the others, and to later requests.
        found = await asyncio.shield(self._lookup_of(host))
        if isinstance(found, socket.gaierror):
            reason = one_line(found.strerror or str(found))
            raise NoAnswer(f"host name {host!r} cannot be resolved: {reason}")
        if isinstance(found, Exception):
            raise found
        return _with_port(found, port)

    def close(self) -> None:
        """Start no further lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _lookup_of(self, host: str) -> asyncio.Future[Sequence[Address] | Exception]:
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _look_up_or_error, host)
            self._lookups[host] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(host, None))
        return lookup


def _look_up(host: str, flags: int = 0) -> Sequence[Address]:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)


def _look_up_or_error(host: str) -> Sequence[Address] | Exception:
    """Look a name up; an error is a result, because nothing may be left that waits for it."""
    try:
        return _look_up(host)
    except (OSError, ValueError) as error:
        return error


def _with_port(found: Sequence[Address], port: int) -> list[Address]:
    return [(*one, (address[0], port, *address[2:])) for *one, address in found]  # type: ignore[misc]  # five each
