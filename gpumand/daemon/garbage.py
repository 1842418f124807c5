"""Settings of Python's garbage collector for a process that must answer within milliseconds."""

from __future__ import annotations

import gc

FULL_EVERY = 120
"""Every so many collections are of all objects: every ten minutes. The others are of the objects since the last one."""


class GarbageCollections:
    """Collects garbage at chosen times instead of after a number of allocations.

    Nearly all objects of the daemon are freed by their reference counts, so that collections find little. Python starts
    them while most objects exist, such as in the middle of a large GetStatus, and looks through all of those: 10 ms and
    more, in which no call is answered. Between two iterations of the event loop, hardly any are left.
    """

    def __init__(self) -> None:
        self._collections = 0

    def begin(self) -> None:
        """Leave the objects of the start out of all later collections, and end the automatic ones.

        The modules and the configuration stay until the end of the process. Looking through them takes 25 ms.
        """
        gc.collect()
        gc.freeze()
        gc.disable()

    def collect(self) -> None:
        """Collect the garbage of the last seconds, and sometimes all; call it every few seconds."""
        self._collections += 1
        gc.collect(2 if self._collections % FULL_EVERY == 0 else 1)
