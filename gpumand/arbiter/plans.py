"""Dry runs of Acquire: what a request would do now, and why."""

from __future__ import annotations

from dataclasses import replace

from gpumand.arbiter.admission import Admission
from gpumand.arbiter.learning import LearningRecorder
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.reservations import Reservations, check_amount
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.snapshot import report_of
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.decision import Requirement
from gpumand.domain.expected_time import expected_sec, victims_sec
from gpumand.domain.lease import Owner
from gpumand.domain.request import AcquireOptions, PlanReport


class Plans:
    """Answers what Acquire would do, with the same checks and the same decision."""

    def __init__(
        self,
        state: ArbiterState,
        scheduler: Scheduler,
        learning: LearningRecorder,
        admission: Admission,
        reservations: Reservations,
        nested: NestedLeases,
    ) -> None:
        self._state, self._scheduler, self._learning = state, scheduler, learning
        self._admission, self._reservations, self._nested = admission, reservations, nested

    async def plan(self, owner: Owner, consumer: str, options: AcquireOptions) -> PlanReport:
        """Report what Acquire would do now, and why, without changing anything.

        Raises:
            NoSuchConsumer, NoSuchDevice, ShuttingDown, InvalidArgs.
        """
        check_amount(consumer, options)
        if not consumer:
            self._admission.check_accepting()
            async with self._reservations.requested(owner, options) as name:
                return await self._dry_run(owner, name, options)
        await self._learning.restore_if_unknown(consumer)
        self._admission.check_callable(consumer)
        return await self._dry_run(owner, consumer, options)

    async def _dry_run(self, owner: Owner, consumer: str, options: AcquireOptions) -> PlanReport:
        self._admission.check_devices(consumer, options.device)
        self._nested.check(owner, consumer, options)
        devices, spec = self._state.ledger.resolve_devices(options.device), self._state.consumer(consumer).spec
        from_own_unit = bool(owner.unit) and owner.unit == spec.unit
        requirement = Requirement(
            consumer,
            devices,
            from_own_unit=from_own_unit,
            exclusive=options.exclusive,
            gives_back=self._nested.given_back_by(options),
        )
        decision = await self._scheduler.dry_run(requirement)
        # No await between the decision and the view: the plan is estimated on what it was decided on.
        view, report = self._state.view(), report_of(spec, decision, self._state.ledger.devices)
        return replace(
            report,
            expected_sec=expected_sec(view, consumer, decision),
            victims_sec=victims_sec(view, decision),
        )
