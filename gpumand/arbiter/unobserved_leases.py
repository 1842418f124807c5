"""Finds ends of leases that leave nothing to reconcile.

The residency of a consumer is derived from its observations whenever there is a new one. While the consumer has another
lease, its claim stands, and observations mean what they meant. The end of its last lease ends its claim as well, which
may give older observations another meaning. A short lease mostly begins and ends between two observations. Then the
consumer is again as it was when it was reconciled last.
``tests/unit/arbiter/test_unobserved_leases.py`` reconciles beside each such end, on random demand, and finds no change.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.device import Sample
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState

Known = tuple[object, ...]


class UnobservedLeases:
    """Remembers what was known of each leased consumer when the first of its leases began.

    Args:
        state: the arbiter's state.
        reconciler: counts the observations.
    """

    def __init__(self, state: ArbiterState, reconciler: Reconciler) -> None:
        self._state, self._reconciler = state, reconciler
        self._known: dict[str, tuple[Known, Mapping[int, Sample]]] = {}

    def begin(self, name: str) -> None:
        """Note that a lease begins, before it is in the ledger."""
        consumer = self._state.consumer(name)
        if consumer.leases:
            return
        self._known.pop(name, None)
        # A claim of another kind, such as that of a load, makes the last observations mean something else already.
        if consumer.residency is Residency.RESIDENT and consumer.footprint_seen and not consumer.claimed:
            self._known[name] = self._what_is_known(consumer), self._state.ledger.devices

    def leaves_nothing_to_reconcile(self, name: str) -> bool:
        """Whether the end of a lease, which is not in the ledger any more, changes nothing but counts and times."""
        consumer = self._state.consumer(name)
        if consumer.leases:
            return True  # the claim stands, and with it what the observations mean
        known = self._known.pop(name, None)
        if known is None or consumer.claimed or known[1] is not self._state.ledger.devices:
            return False
        return known[0] == self._what_is_known(consumer)

    def _what_is_known(self, consumer: ConsumerState) -> Known:
        times = (consumer.changed_at, consumer.unit_changed_at, self._reconciler.observation_count)
        return *times, consumer.residency, consumer.footprint_seen, consumer.devices, consumer.spec
