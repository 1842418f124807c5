"""Leases inside leases: those around a request, and the wait until a lease that was given back is restored.

A request that waits for a lease which its own program keeps would wait forever. So the client names the leases around a
request: that of an outer ``gpumanctl run``, and those of enclosing ``lease`` blocks of the same task or thread. Leases
of other tasks and threads may end while the request waits, and are not named.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.client.errors import Mismatch
from gpumand.client.options import checked_text

if TYPE_CHECKING:
    from gpumand.client.calls import Calls

LEASE_VARIABLE = "GPUMAND_LEASE"
"""Environment variable in which ``gpumanctl run`` passes the id of its lease to its command."""

MAX_WITHIN = 64
"""The daemon accepts this many lease ids in one request."""

POLL_SEC = 0.25

_LEASE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Owner = tuple[int, int]

_blocks: ContextVar[tuple[tuple[Owner, str], ...]] = ContextVar("gpumand_lease_blocks", default=())


def nesting_options(
    exclusive: bool = False, yield_lease: str = "", within: Iterable[str] = ()
) -> dict[str, tuple[str, Any]]:
    """The options of Acquire about other leases, without those that do not apply. Raises InvalidArgs.

    Args:
        exclusive: nothing else is leased on the device.
        yield_lease: id of the lease whose consumer is given back; "" = none.
        within: ids of leases that the caller keeps until the request is answered.
    """
    options: dict[str, tuple[str, Any]] = {"exclusive": ("b", True)} if exclusive else {}
    options |= {"yield_lease": ("s", checked_text("yield_lease", yield_lease))} if yield_lease else {}
    leases = list(dict.fromkeys(checked_text("within", one) for one in within))[-MAX_WITHIN:]
    return options | ({"within": ("as", leases)} if leases else {})


def enclosing_leases() -> list[str]:
    """Ids of the leases that this task or thread keeps until a request that it makes now is answered."""
    outer = os.environ.get(LEASE_VARIABLE, "")
    ids = [outer] if _LEASE_ID.fullmatch(outer) else []
    return ids + [lease for owner, lease in _blocks.get() if owner == _current()]


def enter_block(lease: str) -> None:
    """Note that a ``lease`` block of this task or thread begins."""
    _blocks.set((*_blocks.get(), (_current(), lease)))


def leave_block(lease: str) -> None:
    """Note that a ``lease`` block ends; it may end in another context than it began."""
    _blocks.set(tuple(block for block in _blocks.get() if block[1] != lease))


async def wait_returned(calls: Calls, lease: str) -> None:
    """Wait until a lease that was given back has its consumer again, or has ended."""
    while True:
        try:
            leases = (await calls.status())["leases"]
        except (BusError, BusLost, Mismatch):
            return
        if not any(one.get("id") == lease and one.get("yielded") for one in leases):
            return
        await asyncio.sleep(POLL_SEC)


def _current() -> Owner:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return threading.get_ident(), id(task) if task is not None else 0
