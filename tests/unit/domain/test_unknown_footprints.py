"""A consumer of unknown footprint: it is refused, and takes no memory away from others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain import budget, victims
from gpumand.domain.consumer import UNKNOWN_MIB, Policy
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.errors import ConfigInvalid
from gpumand.domain.footprint import Footprint
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import describe_holders
from tests.unit.domain.build import absent, resident, view

VOICE = absent("voice", 2867)


def unmeasured(state: ConsumerState) -> ConsumerState:
    """The consumer with a footprint that is to be measured, and no measurement."""
    return replace(state, spec=replace(state.spec, vram_resident_mib=UNKNOWN_MIB, vram_auto=True))


LEASED = unmeasured(resident("image", 9000, leases=1))
"""A consumer with a restored lease and an unknown footprint."""


def ask(view: View, consumer: str) -> Decision:
    return decide(view, Requirement(consumer))


@pytest.mark.parametrize("state", [absent("image", 9000), resident("image", 9000)])
@pytest.mark.parametrize("total_mib", [24564, None])
def test_a_consumer_of_unknown_footprint_is_refused_resident_or_not(
    state: ConsumerState, total_mib: int | None
) -> None:
    decision = ask(view(unmeasured(state), held={"image": 9000}, total_mib=total_mib), "image")
    assert (decision.verdict, decision.error) == (Verdict.REFUSE, ConfigInvalid)
    assert "vram_resident_mib" in decision.message
    assert "vram_guess_mib" in decision.message


def test_a_measured_consumer_is_granted() -> None:
    measured = replace(unmeasured(absent("image", 9000)), memory=Footprint().with_stay(8000, 9000))
    assert ask(view(measured), "image").verdict is Verdict.GRANT


def test_a_leased_consumer_of_unknown_footprint_reserves_the_whole_device() -> None:
    seen = view(replace(LEASED, footprint_seen=False), VOICE, held={"image": 9000}, concurrent_leases=0)
    decision = ask(seen, "voice")
    assert decision.verdict is Verdict.WAIT
    assert decision.message == "voice needs 2.8 GiB, but an unknown part of 24.0 GiB on device 0 is reserved for image"
    free_mib = budget.free_mib(seen, 0, "voice")
    assert free_mib is not None
    assert free_mib < 0


def test_an_eviction_is_expected_to_free_the_measured_use() -> None:
    decision = ask(view(unmeasured(resident("image", 9000)), VOICE, held={"image": 9000}, foreign_mib=14000), "voice")
    assert [(one.consumer, one.expected_mib) for one in decision.evictions] == [("image", 9000)]


@pytest.mark.parametrize("policy", list(Policy))
def test_an_unknown_use_counts_as_nothing_to_free(policy: Policy) -> None:
    hidden = unmeasured(resident("image", 9000))
    blind = view(hidden, VOICE, held={"image": 9000}, foreign_mib=14000, attributed=False, policy=policy)
    assert victims.freeable_by_consumer(blind, 0, [hidden]) == {"image": 0}
    decision = ask(blind, "voice")
    assert (decision.verdict, decision.evictions) == (Verdict.REFUSE, ())


def test_without_readings_it_can_be_evicted_for_an_unknown_amount() -> None:
    decision = ask(view(unmeasured(resident("image", 9000)), VOICE, held={"image": 9000}, known=False), "voice")
    assert [(one.consumer, one.expected_mib) for one in decision.evictions] == [("image", None)]


def test_holders_of_unknown_amounts_are_listed_without_a_number() -> None:
    assert describe_holders(view(LEASED, held={"image": 9000}), 0) == "8.8 GiB or more by image (leased)"
    assert describe_holders(view(LEASED, known=False), 0) == "an unknown amount by image (leased)"


def test_a_leased_holder_is_listed_with_its_lease_owner_and_program() -> None:
    owner = Owner(":1.5", 1000, 4711, user="alice", program="python3")
    lease = Lease("38a640ff", "image", "0", owner, LeaseLifetime.CONNECTION, 1)
    seen = replace(view(resident("image", 9000, leases=1), held={"image": 9000}), consumer_leases={"image": (lease,)})
    assert describe_holders(seen, 0) == (
        "8.8 GiB by image (lease 38a640, user alice, python3, until its client disconnects)"
    )
