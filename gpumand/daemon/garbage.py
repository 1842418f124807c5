"""Settings of Python's garbage collector for a process that must answer within milliseconds."""

from __future__ import annotations

import gc

THRESHOLDS = (20_000, 20, 100)
"""Allocations before the youngest generation is collected, and collections before the next older ones are. Nearly all
objects of the daemon are freed by their reference counts, so that collections find little."""


def freeze_startup_objects() -> None:
    """Leave the objects of the start out of all later collections.

    The modules and the configuration stay until the end of the process. Looking through them takes 25 ms, in which no
    call is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
