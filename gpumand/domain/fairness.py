"""A fair share for every user: who asks for a lot at once waits behind what others ask for meanwhile.

Every user has a clock of its own (a virtual clock). A request counts as having come when its user's clock says so, and
moves it on by the work that it brings. One who asks now and then has a clock that is always behind the time, and loses
nothing; of a hundred requests at once the last one counts as having come when the first ninety-nine would be done. The
order of one user's requests never changes, and nobody is put back by more than ``limit_sec``.
"""

from __future__ import annotations

MAX_USERS = 4096


class FairShare:
    """The users' clocks. Owned by whoever keeps the queue."""

    def __init__(self) -> None:
        self._clocks: dict[str, float] = {}

    def put_back_sec(self, user: str, now: float, work_sec: float, limit_sec: float) -> float:
        """How much later than now a request counts as having come.

        Args:
            user: whose it is.
            now: when it came, in seconds of a clock that only goes on.
            work_sec: how long it is expected to be worked for.
            limit_sec: the most that it is put back.
        """
        comes = max(now, self._clocks.get(user, now))
        if len(self._clocks) >= MAX_USERS:
            self._clocks = {name: clock for name, clock in self._clocks.items() if clock > now}
            if len(self._clocks) >= MAX_USERS:
                return min(comes - now, limit_sec)  # more than there are users of any host: no clocks for newcomers
        # A clock beyond the limit would only be a debt to be worked off by requests that nobody competes with.
        self._clocks[user] = min(comes + work_sec, now + limit_sec)
        return min(comes - now, limit_sec)

    def give_back(self, user: str, work_sec: float) -> None:
        """A request was not served after all: its work does not count. Who asks again and again pays once."""
        if user in self._clocks:
            self._clocks[user] -= work_sec
