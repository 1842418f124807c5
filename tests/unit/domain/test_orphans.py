"""Orphans of units whose memory is known only as a whole: what the stopped run left, and what the next run adds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.decision_messages import backing_off
from gpumand.domain.device import ProcessUse, Reading, Sample
from gpumand.domain.orphans import Orphans, describe_orphans
from gpumand.domain.wording import describe_process
from tests.unit.domain.build import absent, view

LLM, OTHER = "llm.service", "other.service"


def whole(mib: int | None, unit: str = LLM, consumer: str = "llm") -> ProcessUse:
    return ProcessUse(0, mib, unit=unit, consumer=consumer)


def reading(*processes: ProcessUse, device: int = 0) -> Reading:
    return Reading((Sample(device, "", "", "dmem", 24000, 9000, 15000, processes, attributed=True),))


def held(orphans: Orphans, *processes: ProcessUse) -> dict[str, list[int | None]]:
    [sample] = orphans.separate(reading(*processes)).devices
    found: dict[str, list[int | None]] = {}
    for one in sample.processes:
        found.setdefault(one.consumer, []).append(one.used_mib)
    return found


def left(*processes: ProcessUse) -> Orphans:
    orphans = Orphans()
    orphans.add("llm", reading(*processes).devices)
    return orphans


def test_memory_that_a_stopped_unit_still_holds_is_foreign_and_other_units_keep_theirs() -> None:
    orphans = left(whole(15000))
    assert orphans.belong_to("llm")
    assert not orphans.belong_to("other")
    assert held(orphans, whole(15000), whole(700, OTHER, "other")) == {"": [15000], "other": [700]}


def test_what_the_next_run_adds_belongs_to_the_consumer_again() -> None:
    orphans = left(whole(6000))
    assert held(orphans, whole(9000)) == {"": [6000], "llm": [3000]}


def test_orphans_that_release_memory_do_not_take_it_from_the_next_run_later() -> None:
    orphans = left(whole(6000))
    assert held(orphans, whole(1000)) == {"": [1000]}
    assert held(orphans, whole(9000)) == {"": [1000], "llm": [8000]}


@pytest.mark.parametrize("ended", [(), (whole(0),)])
def test_orphans_are_forgotten_when_the_unit_holds_nothing(ended: tuple[ProcessUse, ...]) -> None:
    orphans = left(whole(6000))
    held(orphans, *ended)
    assert not orphans.belong_to("llm")
    assert held(orphans, whole(9000)) == {"llm": [9000]}


def test_reading_that_was_separated_before_is_not_separated_twice() -> None:
    orphans = left(whole(6000))
    once = orphans.separate(reading(whole(9000)))
    assert orphans.separate(once) == once


def test_orphans_with_an_unknown_amount_are_foreign_as_long_as_they_are_listed() -> None:
    orphans = left(whole(None))
    assert held(orphans, whole(None)) == {"": [None]}


def test_processes_and_units_on_another_device_are_not_confused() -> None:
    orphans = left(whole(6000), ProcessUse(7, 100, consumer="llm", unit=LLM))
    assert held(orphans, whole(6000), ProcessUse(7, 100, consumer="llm"), ProcessUse(8, 50, consumer="llm")) == {
        "": [6000, 100],
        "llm": [50],
    }
    [elsewhere] = orphans.separate(reading(whole(6000), device=1)).devices
    assert elsewhere.held_by("llm") == 6000


def test_messages_name_no_pid_0() -> None:
    assert "pid" not in describe_orphans(LLM, [whole(6000)])
    assert "processes that hold 6000 MiB" in describe_orphans(LLM, [whole(6000)])
    assert describe_process(whole(5, "user@1000.service", "")) == "processes of user@1000.service"
    assert describe_process(ProcessUse(0, 5)) == "a process"


@pytest.mark.parametrize(("left_behind", "advises_start"), [(False, True), (True, False)])
def test_a_start_of_the_unit_is_no_advice_beside_what_its_last_run_left(left_behind: bool, advises_start: bool) -> None:
    state = replace(absent("llm", 9000), retry_at=1060.0, error="llm: out of memory")
    seen = view(state)
    if left_behind:
        orphan = ProcessUse(99, 12000, "llama-server", "llm.service")
        seen = replace(seen, devices={0: replace(seen.devices[0], processes=(orphan,))})

    message = backing_off(seen, state)

    assert ("start llm.service yourself" in message) is advises_start
    assert message.startswith("llm failed to load: out of memory. Fix the cause, then retry in 60 s")
