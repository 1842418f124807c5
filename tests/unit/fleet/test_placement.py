"""Placement of requests: where a consumer is used, loaded, and not loaded a second time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain.residency_states import Residency
from gpumand.fleet.placement import FleetView, Quote, _missing_mib, candidates, needs_quotes, with_quotes
from gpumand.fleet.rows import ConsumerRow, HostRow, Intent
from tests.unit.fleet.fleet_rows import COLD, FAILED, LOADING, PARKED, RESIDENT, consumer, fleet, host, machine_id


def names(view: FleetView, name: str = "chat", **more: object) -> list[str]:
    return [one.row.name for one in candidates(view, name, **more)]  # type: ignore[arg-type]


def intent(number: int) -> Intent:
    return Intent(machine_id(number), "router", "nonce")


# -- one copy of a consumer ------------------------------------------------------------------------------------------


def test_resident_consumer_is_used_and_not_loaded_on_another_host() -> None:
    assert names(fleet(host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT)))) == ["gpu2"]


def test_long_queue_is_no_reason_for_a_second_load_unless_configured() -> None:
    view = fleet(host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT, queue=9)))
    assert names(view) == ["gpu2"]
    assert names(view, replicas_at=9) == ["gpu2"]
    assert set(names(view, replicas_at=8)) == {"gpu1", "gpu2"}


def test_unique_consumer_is_never_loaded_twice() -> None:
    view = fleet(host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT, queue=99, unique=True)))
    assert names(view, replicas_at=1) == ["gpu2"]


@pytest.mark.parametrize("state", [LOADING, RESIDENT])
def test_consumer_that_is_being_loaded_counts_as_present(state: Residency) -> None:
    assert names(fleet(host(1, chat=consumer(COLD)), host(2, chat=consumer(state)))) == ["gpu2"]


def test_intent_of_another_router_counts_before_the_row_shows_the_load() -> None:
    view = fleet(host(1, chat=consumer()), host(2, chat=consumer()), intents={"chat": (intent(2),)})
    assert names(view) == ["gpu2"]


def test_intent_for_a_host_that_is_lost_does_not_hold_requests_up() -> None:
    rows = host(1, chat=consumer()), host(2, chat=consumer())
    view = fleet(*rows, intents={"chat": (intent(2),)}, lost=frozenset({machine_id(2)}))
    assert names(view) == ["gpu1"]


# -- hosts that are left out -----------------------------------------------------------------------------------------


def test_drained_and_lost_hosts_get_no_requests_even_if_the_consumer_is_resident_there() -> None:
    rows = host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT)), host(3, chat=consumer(RESIDENT))
    view = fleet(*rows, lost=frozenset({machine_id(2)}), drained=frozenset({machine_id(3)}))
    assert names(view) == ["gpu1"]
    draining = fleet(host(1, chat=consumer(RESIDENT), draining=True), host(2, chat=consumer(COLD)))
    assert names(draining) == ["gpu2"]


def test_host_without_the_consumer_or_without_enough_memory_is_no_candidate() -> None:
    view = fleet(host(1, image=consumer()), host(2, total=8192, chat=consumer()), host(3, chat=consumer()))
    assert names(view) == ["gpu3"]
    assert names(view, "video") == []


def test_host_of_unknown_size_is_a_candidate() -> None:
    assert names(fleet(host(1, total=None, free=None, chat=consumer()))) == ["gpu1"]


def test_hosts_that_refused_are_left_out_without_making_a_second_load_possible() -> None:
    view = fleet(host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT)), host(3, chat=consumer(RESIDENT)))
    assert names(view, without={machine_id(2)}) == ["gpu3"]
    assert names(view, without={machine_id(2), machine_id(3)}) == []


def test_pinned_consumer_goes_to_its_host_while_that_is_there() -> None:
    rows = host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT))
    assert names(fleet(*rows, pins={"chat": machine_id(1)})) == ["gpu1"]
    assert names(fleet(*rows, pins={"chat": machine_id(9)})) == ["gpu2"]


def test_host_with_a_newer_protocol_is_used_and_one_with_too_old_a_protocol_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpumand.fleet.rows.OLDEST_API", 2)
    view = fleet(host(1, chat=consumer(RESIDENT), api=1), host(2, chat=consumer(COLD), api=9))
    assert names(view) == ["gpu2"]
    monkeypatch.setattr("gpumand.fleet.rows.OLDEST_API", 1)
    assert names(view) == ["gpu1"]


# -- expected seconds ------------------------------------------------------------------------------------------------


def test_parked_comes_before_cold() -> None:
    assert names(fleet(host(1, chat=consumer(COLD)), host(2, chat=consumer(PARKED)))) == ["gpu2", "gpu1"]


def test_cold_load_on_an_empty_host_comes_before_one_that_has_to_evict() -> None:
    full = host(1, free=10000, image=consumer(RESIDENT), chat=consumer(COLD))
    assert names(fleet(full, host(2, chat=consumer(COLD)))) == ["gpu2", "gpu1"]


def test_memory_of_a_load_is_subtracted_once_whether_the_host_has_begun_it_or_not() -> None:
    begun = host(1, free=26000, total=40000, chat=consumer(COLD), image=consumer(LOADING))
    promised = host(1, free=40000, total=40000, chat=consumer(COLD), image=consumer(COLD))
    for row in (begun, promised):
        view = fleet(row, intents={"image": (intent(1),)})
        assert _missing_mib(view, row, row.consumers["chat"]) == 14000 - 26000, row


def test_idle_consumer_is_evicted_rather_than_a_lease_waited_for() -> None:
    leased = host(1, free=10000, image=consumer(RESIDENT, leases=1), chat=consumer(COLD))
    idle = host(2, free=10000, image=consumer(RESIDENT), chat=consumer(COLD))
    assert names(fleet(leased, idle)) == ["gpu2", "gpu1"]


def test_wake_behind_a_long_queue_is_slower_than_a_cold_load() -> None:
    assert names(fleet(host(1, chat=consumer(COLD)), host(2, queue=3, chat=consumer(PARKED, queue=3)))) == [
        "gpu1",
        "gpu2",
    ]


def test_shortest_queue_of_several_copies_is_used() -> None:
    view = fleet(host(1, chat=consumer(RESIDENT, queue=2)), host(2, chat=consumer(RESIDENT, queue=1)))
    assert names(view) == ["gpu2", "gpu1"]


def test_leases_above_the_limit_count_like_a_queue() -> None:
    view = fleet(
        host(1, chat=consumer(RESIDENT, leases=4, limit=4)), host(2, chat=consumer(RESIDENT, leases=3, limit=4))
    )
    assert names(view)[0] == "gpu2"
    assert [one.expected_sec for one in candidates(view, "chat")] == [0.0, 5.0]


def test_load_of_another_consumer_that_was_just_begun_counts_as_busy_and_as_memory() -> None:
    rows = host(1, chat=consumer(), image=consumer()), host(2, chat=consumer(), image=consumer())
    for busy, free in ((1, "gpu2"), (2, "gpu1")):
        assert names(fleet(*rows, intents={"image": (intent(busy),)}))[0] == free


def test_host_where_the_last_load_failed_comes_last() -> None:
    assert names(fleet(host(1, chat=consumer(FAILED)), host(2, free=1000, chat=consumer(COLD)))) == ["gpu2", "gpu1"]


def test_unmeasured_times_are_estimated_by_size() -> None:
    small, large = ConsumerRow(COLD, need_mib=2000), ConsumerRow(COLD, need_mib=16000)
    assert names(fleet(host(1, chat=large), host(2, chat=small))) == ["gpu2", "gpu1"]


def with_consumer(number: int, name: str) -> HostRow:
    return replace(host(number), consumers={name: consumer()})


def test_equal_hosts_are_chosen_by_consumer_and_always_alike() -> None:
    def rows(name: str) -> list[HostRow]:
        return [with_consumer(number, name) for number in range(1, 4)]

    first = {name: names(fleet(*rows(name)), name)[0] for name in map(str, range(60))}
    assert first == {name: names(fleet(*reversed(rows(name))), name)[0] for name in first}
    assert min(Counter(first.values()).values()) >= 10


def test_host_that_leaves_moves_only_its_own_consumers() -> None:
    for name in map(str, range(30)):
        rows = [with_consumer(number, name) for number in range(1, 5)]
        before = names(fleet(*rows), name)
        assert names(fleet(*rows[:-1]), name) == [one for one in before if one != "gpu4"]


def test_copy_with_a_free_lease_comes_before_one_whose_leases_are_all_taken() -> None:
    full = consumer(RESIDENT, leases=2, limit=2)
    assert names(fleet(host(1, chat=full), host(2, chat=consumer(RESIDENT, leases=1, limit=2)))) == ["gpu2", "gpu1"]
    assert names(fleet(host(1, chat=consumer(RESIDENT, leases=7)), host(2, chat=full))) == ["gpu1", "gpu2"]
    (only,) = candidates(fleet(host(1, chat=full), host(2, chat=consumer(COLD))), "chat")
    assert (only.row.name, only.expected_sec) == ("gpu1", 5.0), "a second copy would cost more than a lease's end"


# -- quotes ----------------------------------------------------------------------------------------------------------


def test_resident_consumer_without_a_queue_needs_no_quote() -> None:
    resident = candidates(fleet(host(1, chat=consumer(RESIDENT)), host(2, chat=consumer(RESIDENT))), "chat")
    assert not needs_quotes(resident)
    assert not needs_quotes(candidates(fleet(host(1, chat=consumer(COLD))), "chat"))
    assert needs_quotes(candidates(fleet(host(1, chat=consumer(COLD)), host(2, chat=consumer(COLD))), "chat"))


def test_value_of_the_victims_decides_between_hosts_that_look_alike() -> None:
    found = candidates(fleet(host(1, chat=consumer()), host(2, chat=consumer())), "chat")
    quotes = {machine_id(1): Quote("grant", 11.0, 30.0), machine_id(2): Quote("grant", 12.0, 2.0)}
    assert [one.row.name for one in with_quotes(found, quotes)] == ["gpu2", "gpu1"]


def test_host_that_would_refuse_comes_last_and_keeps_its_reason() -> None:
    found = candidates(fleet(host(1, chat=consumer()), host(2, chat=consumer(queue=50))), "chat")
    last = with_quotes(found, {machine_id(1): Quote("refuse", None, 0.0, "chat does not fit")})[-1]
    assert (last.row.name, last.expected_sec, last.refusal) == ("gpu1", math.inf, "chat does not fit")


def test_wait_without_a_known_end_is_worse_than_a_load() -> None:
    found = candidates(fleet(host(1, chat=consumer()), host(2, chat=consumer())), "chat")
    quotes = {machine_id(1): Quote("wait", None, 0.0), machine_id(2): Quote("grant", 12.0, 0.0)}
    assert with_quotes(found, quotes)[0].row.name == "gpu2"


# -- any fleet -------------------------------------------------------------------------------------------------------

residencies = st.sampled_from(list(Residency))
counts = st.integers(0, 5)
rows = st.builds(
    lambda residency, leases, queue, need: consumer(residency, leases=leases, queue=queue, need_mib=need),
    residencies,
    counts,
    counts,
    st.sampled_from([None, 2000, 14000, 40000]),
)
hosts = st.lists(st.tuples(rows, rows, st.integers(0, 24000), st.booleans()), max_size=5)


@given(hosts, st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5)), st.integers(0, 3))
def test_any_fleet_gives_usable_hosts_in_order_and_no_second_load(
    drawn: list[tuple[ConsumerRow, ConsumerRow, int, bool]], lost: set[int], refused: set[int], replicas_at: int
) -> None:
    built = [
        host(number, free=free, draining=draining, chat=chat, image=image)
        for number, (chat, image, free, draining) in enumerate(drawn, start=1)
    ]
    view = fleet(*built, lost=frozenset(map(machine_id, lost)))
    found = candidates(view, "chat", replicas_at=replicas_at, without=set(map(machine_id, refused)))
    gone = set(map(machine_id, lost | refused))
    assert not {one.row.machine_id for one in found} & gone
    assert not any(one.row.draining for one in found)
    assert [one.expected_sec for one in found] == sorted(one.expected_sec for one in found)
    usable = [row for row in view.usable() if (row.consumers["chat"].need_mib or 0) <= 24564]
    if replicas_at == 0 and any(row.consumers["chat"].residency in (RESIDENT, LOADING) for row in usable):
        assert all(one.is_present for one in found)
