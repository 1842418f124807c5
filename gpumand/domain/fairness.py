"""Fair share between users: a user with many queued requests cannot starve the others.

Every user has a virtual clock. A request counts as having arrived when its user's clock says so, and advances that
clock by the work that it brings. The clock of a user with occasional requests is always behind the real time and costs
nothing; of a hundred requests at once the last one counts as having arrived when the first ninety-nine would be done.
The order of one user's requests never changes, and no request is delayed by more than ``limit_sec``.
"""

from __future__ import annotations

MAX_USERS = 4096


class FairShare:
    """The virtual clocks of all users."""

    def __init__(self) -> None:
        self._clocks: dict[str, float] = {}

    def delay_sec(self, user: str, now: float, work_sec: float, limit_sec: float) -> float:
        """How many seconds later than now a request counts as having arrived.

        Args:
            user: the user that it belongs to.
            now: its arrival, in monotonic seconds.
            work_sec: how long it is expected to use its consumer.
            limit_sec: the largest delay.
        """
        arrival = max(now, self._clocks.get(user, now))
        if len(self._clocks) >= MAX_USERS:
            self._clocks = {name: clock for name, clock in self._clocks.items() if clock > now}
            if len(self._clocks) >= MAX_USERS:
                return min(arrival - now, limit_sec)  # a bound on memory: no clocks for further users
        # A clock beyond the limit would be a debt that later delays requests which compete with no other user's.
        self._clocks[user] = min(arrival + work_sec, now + limit_sec)
        return min(arrival - now, limit_sec)

    def lag_sec(self, user: str, now: float, limit_sec: float) -> float:
        """What ``delay_sec`` would return for the next request of a user, which is not charged."""
        return min(max(now, self._clocks.get(user, now)) - now, limit_sec)

    def refund(self, user: str, work_sec: float) -> None:
        """Return the work of a request that was not served, so that repeated attempts are charged only once."""
        if user in self._clocks:
            self._clocks[user] -= work_sec
