"""The fence: how long this host can be sure that its keys are still in the store.

Only consumers with ``fleet = "unique"`` depend on it. All others stay where they are when the store is gone, since
VRAM is not shared between hosts.
"""

from __future__ import annotations

from gpumand.fleet.clock import Clock

MARGIN_SEC = 1.0
"""The fence falls this long before the lease can end: time to act, and tolerance for clocks of different speed."""


class Fence:
    """Holds while the host's lease in the store certainly exists.

    It is computed from the clock whenever it is asked for: no task has to run first, so a host that resumes from a
    suspend is fenced before it does anything. It counts from the moment at which the last successful renewal was sent,
    not answered: the store may have extended the lease as early as that.

    Args:
        clock: clock that counts time spent suspended.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = float("-inf")
        self._generation = 0

    @property
    def generation(self) -> int:
        """Rises with every lease: keys of an earlier lease are gone, even if the fence stands again."""
        return self._generation

    @property
    def remaining_sec(self) -> float:
        """Seconds that the fence will stand without another renewal; 0 once it has fallen."""
        return max(0.0, self._until - self._clock.boottime())

    @property
    def is_standing(self) -> bool:
        """Whether the keys of the current lease certainly exist."""
        return self.remaining_sec > 0

    def joined(self, sent: float, ttl_sec: float) -> None:
        """A new lease was granted.

        Args:
            sent: ``Clock.boottime`` at which the request was sent.
            ttl_sec: time to live of the lease.
        """
        self._generation += 1
        self._until = sent + ttl_sec - MARGIN_SEC

    def renewed(self, sent: float, ttl_sec: float) -> None:
        """The lease was extended; arguments as in ``joined``. An older renewal does not shorten the fence."""
        self._until = max(self._until, sent + ttl_sec - MARGIN_SEC)

    def drop(self) -> None:
        """The lease has ended, or will be ended."""
        self._until = float("-inf")
