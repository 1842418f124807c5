"""Finds the hosts for a request in the table, and asks the best of them what the request would do there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from gpumand.domain.errors import GpumandError, InvalidArgs, NoSuchConsumer
from gpumand.fleet import placement
from gpumand.fleet.attempts import Attempt, describe_state, now, quote_of
from gpumand.fleet.calls import AcquireCall, PlanCall
from gpumand.fleet.errors import HostLost, NoHost, NoSuchHost
from gpumand.fleet.hosts import FleetHost
from gpumand.fleet.placement import Candidate
from gpumand.fleet.rows import HostRow
from gpumand.fleet.table import HostTable

QUOTE_SEC = 1.0
NO_HOST_SEC = 10.0
"""How long a request waits for a host that has the consumer, while all of them are lost or drained."""

GetHost = Callable[[HostRow], FleetHost]


class Placer:
    """Places requests, and sends none.

    Args:
        table: the router's table.
        host: returns the host of a row.
        replicas_at: see ``placement.candidates``; read at every request.
    """

    def __init__(self, table: HostTable, host: GetHost, replicas_at: Callable[[], int]) -> None:
        self._table, self._host, self._replicas_at = table, host, replicas_at

    def candidates(self, consumer: str, without: Collection[str]) -> list[Candidate]:
        """The hosts that can serve a request, the best first, by the rows alone."""
        if self._is_unique_and_absent(consumer):
            return []
        view = self._table.view()
        holder = self.holder(consumer)
        if holder is not None and any(one.machine_id == holder.machine_id for one in view.usable()):
            view = replace(view, hosts={holder.machine_id: holder})
        return placement.candidates(view, consumer, replicas_at=self._replicas_at(), without=without)

    def holder(self, consumer: str) -> HostRow | None:
        """The host that holds a unique consumer, whether its row shows the consumer yet or not; None = none is known.

        Other hosts would refuse the consumer.
        """
        known = self._table.rows.get(self._table.holders.of(consumer))
        if known is None or not (known.row.is_away or consumer in known.row.consumers):
            return None
        having = (one.row.consumers.get(consumer) for one in self._table.rows.values())
        return known.row if any(one is not None and one.unique for one in having) else None

    def _is_unique_and_absent(self, consumer: str) -> bool:
        """Whether the only host that may have a consumer loaded has it, and its gpumand restarts."""
        if (holder := self.holder(consumer)) is not None and holder.is_away:
            return True
        absences = self._table.absences
        having = [one for one in absences.having(consumer) if one.has_agent and absences.left_sec(one) > 0]
        rows = [one.row.consumers[consumer] for one in having]
        return any(one.unique and one.residency in placement.PRESENT for one in rows)

    def every(self, consumer: str) -> list[Candidate]:
        """Each host that has the consumer, even if it is drained or another one has it loaded."""
        view = self._table.view()
        alone = [replace(view, hosts={name: row}, drained=frozenset()) for name, row in view.hosts.items()]
        return [one for each in alone for one in placement.candidates(each, consumer)]

    async def placed(self, attempt: Attempt, without: Collection[str]) -> list[Candidate]:
        """The candidates in order; the best two were asked if it matters. Raises NoSuchConsumer, NoHost."""
        call = attempt.call
        found = self.candidates(call.consumer, without)
        give_up = now() + NO_HOST_SEC
        # A host that has refused is excluded, so that its return would not end the wait.
        while not found and not without and attempt.may_wait:
            self.check_known(call.consumer)
            until = min(attempt.deadline, max(give_up, now() + self._table.absences.wait_sec(call.consumer)))
            if not await self._table.wait_changed(until - now()):
                raise self.no_host(call.consumer)
            found = self.candidates(call.consumer, without)
        return await self._with_quotes(found, call) if placement.needs_quotes(found) else found

    async def _with_quotes(self, found: list[Candidate], call: AcquireCall) -> list[Candidate]:
        asked = found[: placement.ASKED_HOSTS]
        plans = await self.ask_all(asked, PlanCall(call.consumer, call.priority, call.device))
        answers = zip([one.row.machine_id for one in asked], plans, strict=True)
        quotes = {name: quote_of(plan) for name, plan in answers if not isinstance(plan, HostLost)}
        lost = self._table.view().lost
        return placement.with_quotes([one for one in found if one.row.machine_id not in lost] or found, quotes)

    async def ask_all(self, asked: list[Candidate], call: PlanCall) -> list[dict[str, Any] | GpumandError]:
        """The plans of hosts, in their order; an error where a host has none."""
        return await asyncio.gather(*(self._ask(one, call) for one in asked))

    async def _ask(self, candidate: Candidate, call: PlanCall) -> dict[str, Any] | GpumandError:
        try:
            async with asyncio.timeout(QUOTE_SEC):
                return await self._host(candidate.row).plan(call)
        except TimeoutError:
            return NoHost(f"{candidate.row.name} did not answer within {QUOTE_SEC:g} s")
        except HostLost as error:
            self._table.note_lost(candidate.row.machine_id, error.message)
            return error
        except GpumandError as error:
            return error

    async def required_soon(self, name: str, attempt: Attempt) -> HostRow:
        """As ``required``; a host that was there a moment ago is waited for, within the time of the request."""
        absences = self._table.absences
        while not self._answers(name) and (absence := absences.of_host(name)) is not None:
            if not await self._table.wait_changed(min(attempt.left_sec, absences.left_sec(absence))):
                break
        return self.required(name)

    def _answers(self, name: str) -> bool:
        """Whether a host of this name is there; one that was installed again has another machine id than before."""
        known = self._table.find(name)
        return known is not None and not known.row.is_away

    def required(self, name: str) -> HostRow:
        """The host of a name. Raises NoSuchHost, NoHost if it is absent or its agent is too old, InvalidArgs."""
        if not name:
            raise InvalidArgs('on is missing: send the name of a host, such as {"on": "gpu2"}')
        if (known := self._table.find(name)) is None:
            if (absence := self._table.absences.of_host(name)) is not None:
                raise NoHost(
                    f"{self._table.absences.describe(absence)} is not reachable at the moment. Try again later."
                )
            there = ", ".join(sorted(one.row.name for one in self._table.rows.values())) or "none"
            raise NoSuchHost(f"the fleet has no host {name!r}; it has {there}")
        if known.row.outdated:
            raise NoHost(f"{known.row.name} {known.row.outdated}.")
        if name != known.row.machine_id and len(same := self._table.named(name)) > 1:
            ids = ", ".join(sorted(one.machine_id for one in same))
            raise InvalidArgs(f"{len(same)} hosts are named {name}. Use a machine id ({ids}), or rename one of them.")
        return known.row

    def returning(self, consumer: str, without: Collection[str]) -> HostRow | None:
        """The host to use if no other one can be: its gpumand restarts, and its gateway waits for that.

        None where another host can be used, or none is expected back.
        """
        if self.candidates(consumer, without):
            return None
        absences, holder = self._table.absences, self.holder(consumer)
        names = [one.row.machine_id for one in absences.having(consumer) if absences.left_sec(one) > 0]
        if holder is not None and holder.is_away:
            names = [holder.machine_id]
        unusable = {*self._table.losses(), *without}
        found = (self._table.rows[one].row for one in names if one in self._table.rows and one not in unusable)
        return next((row for row in found if row.gateway), None)

    def check_known(self, consumer: str) -> None:
        """Raise NoSuchConsumer if all consumers of all hosts are known, and this one is not among them.

        Hosts that were there a moment ago count with the consumers that they had.
        """
        rows = [one.row for one in self._table.rows.values()]
        remembered = [one.row for one in self._table.absences.current()]
        may_have = any(consumer in row.consumers or row.omitted for row in (*rows, *remembered))
        if rows and not may_have and not self._unknown():
            there = ", ".join(sorted(row.name for row in rows))
            raise NoSuchConsumer(f"no host of the fleet has a consumer {consumer!r}; the hosts that answer: {there}")

    def no_host(self, consumer: str) -> GpumandError:
        """The error of a request that no host can serve now, with the state of each host that has the consumer."""
        rows = [one.row for one in self._table.rows.values() if consumer in one.row.consumers]
        if (holder := self.holder(consumer)) is not None and holder.is_away:
            return NoHost(f"{consumer} may be loaded on one host only: {self._describe_away(holder)}.")
        absences = self._table.absences
        absent = [absences.describe(one) for one in absences.having(consumer)]
        if not rows and absent:
            which = f"the host that has {consumer} is" if len(absent) == 1 else f"the hosts that have {consumer} are"
            return NoHost(f"{which} not reachable at the moment: {', '.join(absent)}. Try again later.")
        if not rows:
            reason = self._table.interruption or self._unknown() or "no host has published it"
            return NoHost(f"no host of the fleet is known that has {consumer}: {reason}")
        losses, drained = self._table.losses(), self._table.drained
        states = [f"{row.name} {describe_state(row, losses, drained)}" for row in rows]
        states += [f"{one} is not reachable" for one in absent]
        return NoHost(f"no host of the fleet can serve {consumer} now: {', '.join(states)}")

    def _describe_away(self, row: HostRow) -> str:
        """A host whose gpumand gives no answer, with what to do."""
        if (absence := self._table.absences.of_host(row.machine_id)) is None:
            return f"{row.name} (its gpumand gives no answer). Try again later"
        return f"{self._table.absences.describe(absence)}. Try again later"

    def _unknown(self) -> str:
        """The hosts of which no consumers are known, because their gpumand gives no answer; "" = none."""
        remembered = {one.row.machine_id for one in self._table.absences.current()}
        rows = (one.row for one in self._table.rows.values())
        names = sorted(row.name for row in rows if row.is_away and row.machine_id not in remembered)
        return (
            f"the consumers of {', '.join(names)} are not known, because gpumand gives no answer there" if names else ""
        )
