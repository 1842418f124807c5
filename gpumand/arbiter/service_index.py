"""Finds the consumers that run in a unit or container: systemd reports thousands of units, one by one, at a start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import service_of
from gpumand.domain.view import ConsumerState


class ServiceIndex:
    """The names of the consumers by the unit and the container they run in.

    It is rebuilt after every change of the configuration: nothing else changes where a consumer runs, and leases
    without a consumer run in no unit.

    Args:
        state: the arbiter's state.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._configured: Mapping[str, ConsumerSpec] | None = None
        self._names: Mapping[str, list[str]] = {}

    def consumers_in(self, service: str) -> list[ConsumerState]:
        """The consumers that run in a unit, or in a container by its name as a service, in the order of the ledger.

        They include a consumer that was removed from the configuration while it was leased.
        """
        if self._configured is not self._state.settings.consumers:
            self._configured, self._names = self._state.settings.consumers, self._by_service()
        consumers = self._state.ledger.consumers
        return [consumers[name] for name in self._names.get(service, ()) if name in consumers]

    def _by_service(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = defaultdict(list)
        for name, consumer in self._state.ledger.consumers.items():
            spec = consumer.spec
            for service in {spec.unit, service_of(spec.controlled_container)} - {""}:
                names[service].append(name)
        return dict(names)
