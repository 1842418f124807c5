"""Properties of every plan on random hosts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain import budget, victims
from gpumand.domain.decision import Requirement
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View
from tests.unit.domain.build import absent, resident, view

NAMES = "abcdefgh"


def _state(name: str, mib: int, kind: str, used_at: int, exempt: str) -> ConsumerState:
    more: dict[str, object] = {"vram_managed": exempt == "vram_managed"}
    if exempt == "no-method":
        more |= {"evict": (), "unload": None}
    if kind == "absent":
        return absent(name, mib, **more)
    state = resident(name, mib, used_at=used_at, leases=kind == "leased", pinned=exempt == "pinned", **more)
    if kind == "loading":
        return ConsumerState(state.spec, residency=Residency.LOADING, devices=(0,), claimed_at=1.0)
    return state


states = st.builds(
    _state,
    st.sampled_from(NAMES),
    st.integers(1, 12000),
    st.sampled_from(["absent", "resident", "leased", "loading"]),
    st.integers(0, 5),
    st.sampled_from(["", "pinned", "vram_managed", "no-method"]),
)


@st.composite
def hosts(draw: st.DrawFn) -> View:
    drawn = draw(st.lists(states, min_size=1, max_size=8, unique_by=lambda one: one.name))
    target = absent(
        "target", draw(st.integers(1, 24564)), can_coexist_with=frozenset(draw(st.sets(st.sampled_from(NAMES))))
    )
    held: dict[str, int] = {}
    left_mib = 24564
    for one in drawn:
        if one.residency in (Residency.RESIDENT, Residency.LOADING):
            held[one.name] = min(left_mib, draw(st.integers(0, one.footprint_mib)))
            left_mib -= held[one.name]
    return view(
        *drawn,
        target,
        held=held,
        foreign_mib=min(left_mib, draw(st.integers(0, 6000))),
        attributed=draw(st.booleans()),
        known=draw(st.booleans()),
        concurrent_leases=draw(st.sampled_from([0, 1, 2, 5])),
        cushion_mib=draw(st.sampled_from([0, 256, 1024])),
    )


@settings(max_examples=400)
@given(hosts())
def test_a_plan_frees_enough_and_evicts_no_exempt_consumer(host: View) -> None:
    decision = decide(host, Requirement("target"))
    if decision.verdict is not Verdict.GRANT or not decision.load:
        assert decision.evictions == ()
        return
    names = [one.consumer for one in decision.evictions]
    freed = victims.freeable_by_consumer(host, 0, [host.consumers[name] for name in names])
    free_mib = budget.free_mib(host, 0, "target")
    assert free_mib is not None
    assert free_mib + sum(freed.values()) >= budget.need_mib(host, 0, "target")
    target = host.consumers["target"].spec
    for name in names:
        state = host.consumers[name]
        assert not any([state.leases, state.pinned, state.spec.vram_managed, name in target.can_coexist_with])
        assert state.spec.evict
        assert state.residency is Residency.RESIDENT


@settings(max_examples=400)
@given(hosts())
def test_no_victim_of_a_plan_is_superfluous(host: View) -> None:
    decision = decide(host, Requirement("target"))
    names = [one.consumer for one in decision.evictions]
    if not names or not host.devices[0].attributed:
        return
    freed = victims.freeable_by_consumer(host, 0, [host.consumers[name] for name in names])
    short_mib = budget.need_mib(host, 0, "target") - (budget.free_mib(host, 0, "target") or 0)
    for name in names:
        assert sum(mib for other, mib in freed.items() if other != name) < short_mib


@settings(max_examples=400)
@given(hosts())
def test_granted_and_reserved_footprints_never_exceed_the_device(host: View) -> None:
    for name in host.consumers:
        decision = decide(host, Requirement(name))
        if decision.verdict is Verdict.GRANT:
            promised_mib = budget.committed_mib(host, 0, excluding=name) + host.consumers[name].footprint_mib
            assert promised_mib <= 24564


@settings(max_examples=200)
@given(hosts())
def test_every_decision_has_one_verdict_and_a_one_line_message(host: View) -> None:
    decision = decide(host, Requirement("target"))

    assert decision.message
    assert "\n" not in decision.message
    assert (decision.error is None) == (decision.verdict is Verdict.GRANT)
    assert not (decision.resident and decision.load)
