"""gpumand from Python: hold a lease while a block runs, ask what is going on, and do by hand what ``gpumanctl`` does.

::

    from gpumand.client import InsufficientVram, lease

    async with lease("comfyui", timeout_sec=300) as held:
        await render(held.endpoint)

``lease`` and ``Client`` are for ``async`` programs, ``lease_sync`` and ``SyncClient`` are the same without ``await``.
What they answer are the values of ``gpumand.client.values``; what they raise is in ``gpumand.client.errors``, and here.
To try a program without a GPU, see ``gpumand.testing.daemon``.

What is named here is stable: it only grows, as the D-Bus interface ``org.gpumand1`` does. Nothing of the D-Bus binding
shows, and importing this imports none. What holds leases is imported when it is first named: ``gpumanctl`` is made of
the modules below, and starts without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpumand.client import errors
from gpumand.client.errors import *  # noqa: F403

if TYPE_CHECKING:
    from gpumand.client.client import Client
    from gpumand.client.events import Events
    from gpumand.client.held_lease import Held, lease
    from gpumand.client.lease_watch import Ended
    from gpumand.client.sync import SyncClient, SyncEnded, SyncHeld, lease_sync

__all__ = [
    "Client",
    "Ended",
    "Events",
    "Held",
    "SyncClient",
    "SyncEnded",
    "SyncHeld",
    "lease",
    "lease_sync",
]
__all__ += errors.__all__

_MODULES = {
    "Client": "client",
    "Ended": "lease_watch",
    "Events": "events",
    "Held": "held_lease",
    "lease": "held_lease",
    "SyncClient": "sync",
    "SyncEnded": "sync",
    "SyncHeld": "sync",
    "lease_sync": "sync",
}


if not TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name: str) -> Any:
        """Import what holds leases when it is named."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
