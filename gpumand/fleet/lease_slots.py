"""Counts the leases that this host has granted through the fleet, so that one caller cannot use up all of them.

gpumand allows 64 leases of one user, and all leases of the fleet belong to the user of gpumand-fleet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gpumand.domain.errors import LimitsExceeded

MAX_LEASES = 56
"""Leases of all callers; below the limit of gpumand, whose message would name the user of gpumand-fleet."""

MAX_OF_ONE = MAX_LEASES // 2


class LeaseSlots:
    """The leases of this host by caller."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def check(self, caller: str) -> None:
        """Return if a caller may have one more lease.

        Args:
            caller: another host or a user of this host, as in "host gpu2" or "user alice".

        Raises:
            LimitsExceeded: it has half of all leases, or all callers together have all.
        """
        if self._taken[caller] >= MAX_OF_ONE:
            raise LimitsExceeded(
                f"{caller} has {MAX_OF_ONE} leases of the fleet on this host, which is the limit; release one first"
            )
        if self._taken.total() >= MAX_LEASES:
            raise LimitsExceeded(f"the fleet has {MAX_LEASES} leases on this host, which is the limit; try again later")

    def take(self, caller: str) -> Callable[[], None]:
        """Count a lease; return a function that ends it and may be called repeatedly. Raises as ``check``."""
        self.check(caller)
        self._taken[caller] += 1
        return _Slot(self._taken, caller).free


class _Slot:
    """A lease that is counted."""

    def __init__(self, taken: Counter[str], caller: str) -> None:
        self._taken, self._caller = taken, caller
        self._is_free = False

    def free(self) -> None:
        if self._is_free:
            return
        self._is_free = True
        self._taken[self._caller] -= 1
        if not self._taken[self._caller]:
            del self._taken[self._caller]
