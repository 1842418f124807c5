"""Changes that belong together: Ctrl-C during them takes effect afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Run the block to its end. A signal that arrives meanwhile raises KeyboardInterrupt at the end of the block.

    Returns:
        The signals that have arrived, for a long wait in the block that ends early with an error of its own.
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived  # signals arrive in the main thread only
        return

    def note(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt
