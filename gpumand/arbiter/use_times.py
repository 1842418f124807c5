"""Learns how long consumers are leased and how long they are idle, from requests and ends of leases.

No reply has to wait for what is learned, so requests and ends are only noted where ``postpone`` was called. The daemon
learns from them after it has written the replies of an iteration of the event loop.
"""

from __future__ import annotations

from collections.abc import Callable

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.events import LeaseEnded
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.view import ConsumerState

Noted = ConsumerState | LeaseEnded
"""A consumer that is requested, as it is before the request, or the end of a lease."""


class UseTimes:
    """Notes requests and ends of leases, and learns from them in their order.

    Args:
        state: has the consumers with their learned times.
        learn: stores the new learned times of a consumer.
    """

    def __init__(self, state: ArbiterState, learn: Callable[[str, LearnedTimes], None]) -> None:
        self._state, self._learn = state, learn
        self._schedule: Callable[[], None] = self.learn_noted
        self._noted: list[Noted] = []
        self._requested: set[str] = set()
        self._ended_at: dict[str, float] = {}

    def postpone(self, schedule: Callable[[], None]) -> None:
        """Leave the learning to ``learn_noted``, instead of learning at once.

        Args:
            schedule: lets ``learn_noted`` be called within milliseconds; learned times are inaccurate by as much.
        """
        self._schedule = schedule

    def note_request(self, name: str) -> None:
        """Note a request for a consumer; the first one after its last lease ends an idle period."""
        self._note(self._state.consumer(name))

    def note_end(self, end: LeaseEnded) -> None:
        """Note the end of a lease."""
        self._note(end)

    def _note(self, noted: Noted) -> None:
        self._noted.append(noted)
        if len(self._noted) == 1:
            self._schedule()

    def learn_noted(self) -> None:
        """Learn from all that has been noted."""
        noted, self._noted = self._noted, []
        learned: dict[str, LearnedTimes] = {}
        for one in noted:
            name = one.lease.consumer if isinstance(one, LeaseEnded) else one.name
            consumer = self._state.ledger.consumers.get(name)
            if consumer is not None:
                learned[name] = self._after(one, learned.get(name, consumer.times))
        for name, times in learned.items():
            if times is not self._state.consumer(name).times:
                self._learn(name, times)

    def _after(self, one: Noted, times: LearnedTimes) -> LearnedTimes:
        """The learned times after a request or the end of a lease."""
        if isinstance(one, LeaseEnded):
            self._requested.discard(one.lease.consumer)
            self._ended_at[one.lease.consumer] = self._boot_sec()
            return times.observe_hold(one.duration_sec(self._state.clock.realtime_usec()))
        if not one.lease_ended_usec or one.leases or one.name in self._requested:
            return times
        self._requested.add(one.name)
        return times.observe_idle(self._idle_sec(one))

    def _idle_sec(self, consumer: ConsumerState) -> float:
        """Seconds since its last lease, including suspends.

        Over a restart of the daemon only the wall clock can tell, although it may have been changed.
        """
        if consumer.name in self._ended_at:
            return self._boot_sec() - self._ended_at[consumer.name]
        return (self._state.clock.realtime_usec() - consumer.lease_ended_usec) / 1e6

    def _boot_sec(self) -> float:
        return self._state.clock.monotonic() + self._state.clock.suspended_sec()
