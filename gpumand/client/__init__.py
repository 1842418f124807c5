"""Python client of gpumand: hold leases, read the status, and load, evict or pin consumers.

::

    from gpumand.client import InsufficientVram, lease

    async with lease("comfyui", timeout_sec=300) as held:
        await render(held.endpoint)

``lease`` and ``Client`` are for ``async`` programs, ``lease_sync`` and ``SyncClient`` are the same without ``await``.
They return the values of ``gpumand.client.values`` and raise the errors of ``gpumand.client.errors``, which are also
available here. To try a program without a GPU, see ``gpumand.testing.daemon``.

The names exported here are stable: names may be added, as in the D-Bus interface ``org.gpumand1``, but not removed.

Importing the package loads neither the D-Bus library, which is no part of the interface, nor the daemon: it must not
import ``arbiter``, ``cli``, ``daemon`` or ``testing``. The classes that hold leases are imported on first use, because
``gpumanctl`` is built on the modules below and must start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpumand.client import errors
from gpumand.client.errors import *  # noqa: F403 - each error of that module is a part of the interface

if TYPE_CHECKING:
    from gpumand.client.client import Client
    from gpumand.client.events import Events
    from gpumand.client.held_lease import Held, lease
    from gpumand.client.lease_options import LeaseOptions
    from gpumand.client.lease_watch import Degraded, Ended
    from gpumand.client.sync import SyncClient, SyncDegraded, SyncEnded, SyncHeld, lease_sync
    from gpumand.client.wanted import SyncWanted, Wanted

__all__ = [
    "Client",
    "Degraded",
    "Ended",
    "Events",
    "Held",
    "LeaseOptions",
    "SyncClient",
    "SyncDegraded",
    "SyncEnded",
    "SyncHeld",
    "SyncWanted",
    "Wanted",
    "lease",
    "lease_sync",
]
__all__ += errors.__all__

_MODULES = {
    "Client": "client",
    "Degraded": "lease_watch",
    "Ended": "lease_watch",
    "Events": "events",
    "Held": "held_lease",
    "LeaseOptions": "lease_options",
    "lease": "held_lease",
    "SyncClient": "sync",
    "SyncDegraded": "sync",
    "SyncEnded": "sync",
    "SyncHeld": "sync",
    "SyncWanted": "wanted",
    "Wanted": "wanted",
    "lease_sync": "sync",
}


if not TYPE_CHECKING:  # with __getattr__ a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a class or function on first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
