"""A consumer of which nobody knows how much it needs: it is promised nothing, and costs nobody else what is theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain import budget, victims
from gpumand.domain.consumer import UNKNOWN_MIB, Policy
from gpumand.domain.errors import ConfigInvalid
from gpumand.domain.footprint import Footprint
from gpumand.domain.planning import Decision, Requirement, decide
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import holders_line
from tests.unit.domain.build import absent, resident, view

VOICE = absent("voice", 2867)


def lost(state: ConsumerState) -> ConsumerState:
    """With its footprint left to be measured, and nothing measured."""
    return replace(state, spec=replace(state.spec, vram_resident_mib=UNKNOWN_MIB, vram_auto=True))


LENT = lost(resident("image", 9000, leases=1))
"""Its lease was taken up again; what it holds is not known."""


def ask(view: View, consumer: str) -> Decision:
    return decide(view, Requirement(consumer))


@pytest.mark.parametrize("state", [absent("image", 9000), resident("image", 9000)])
@pytest.mark.parametrize("total_mib", [24564, None])
def test_it_is_not_lent_whether_it_is_there_or_not(state: ConsumerState, total_mib: int | None) -> None:
    decision = ask(view(lost(state), held={"image": 9000}, total_mib=total_mib), "image")
    assert (decision.verdict, decision.error) == (Verdict.REFUSE, ConfigInvalid)
    assert "vram_resident_mib" in decision.message
    assert "vram_guess_mib" in decision.message


def test_once_it_was_measured_it_is_lent() -> None:
    measured = replace(lost(absent("image", 9000)), memory=Footprint().with_stay(8000, 9000))
    assert ask(view(measured), "image").verdict is Verdict.GRANT


def test_while_it_is_lent_nothing_of_its_device_is_promised_to_others() -> None:
    seen = view(replace(LENT, shown=False), VOICE, held={"image": 9000}, concurrent_leases=0)
    decision = ask(seen, "voice")
    assert decision.verdict is Verdict.WAIT
    assert decision.message == "an unknown part of device 0 is promised to image"
    free_mib = budget.free_mib(seen, 0, "voice")
    assert free_mib is not None
    assert free_mib < 0


def test_it_is_evicted_for_what_it_is_seen_to_hold() -> None:
    decision = ask(view(lost(resident("image", 9000)), VOICE, held={"image": 9000}, foreign_mib=14000), "voice")
    assert [(one.consumer, one.expected_mib) for one in decision.evictions] == [("image", 9000)]


@pytest.mark.parametrize("policy", list(Policy))
def test_what_nobody_sees_of_it_is_not_counted_on(policy: Policy) -> None:
    hidden = lost(resident("image", 9000))
    blind = view(hidden, VOICE, held={"image": 9000}, foreign_mib=14000, attributed=False, policy=policy)
    assert victims.yields(blind, 0, [hidden]) == {"image": 0}
    decision = ask(blind, "voice")
    assert (decision.verdict, decision.evictions) == (Verdict.REFUSE, ())


def test_where_nothing_can_be_read_it_may_be_evicted_and_everything_is_free_then() -> None:
    decision = ask(view(lost(resident("image", 9000)), VOICE, held={"image": 9000}, known=False), "voice")
    assert [(one.consumer, one.expected_mib) for one in decision.evictions] == [("image", None)]


def test_who_holds_what_is_told_without_a_figure_that_nobody_has() -> None:
    assert holders_line(view(LENT, held={"image": 9000}), 0) == "8.8 GiB or more by image (leased)"
    assert holders_line(view(LENT, known=False), 0) == "an unknown amount by image (leased)"
