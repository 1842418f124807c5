"""Decisions about a loaded consumer that holds less than its footprint."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import resident, view

TOTAL_MIB = 24000


def ask(found: View) -> Decision:
    return decide(found, Requirement("comfy"))


def on_two_devices(held: dict[str, int], second: dict[str, int], *states: ConsumerState) -> View:
    """A view with two devices, and what consumers hold on each."""
    one = view(*states, total_mib=TOTAL_MIB)
    return replace(one, devices={0: sample(0, held), 1: sample(1, second)})


def sample(index: int, held: dict[str, int]) -> Sample:
    processes = tuple(ProcessUse(number, mib, consumer=name) for number, (name, mib) in enumerate(held.items(), 100))
    used_mib = sum(held.values())
    return Sample(
        index,
        f"GPU-{index}",
        "Fake",
        "fake",
        TOTAL_MIB,
        used_mib,
        TOTAL_MIB - used_mib,
        processes=processes,
        attributed=True,
    )


def test_a_consumer_that_is_short_on_one_of_its_devices_keeps_both() -> None:
    comfy = replace(resident("comfy", 16000, device_count=2), devices=(0, 1))
    other = replace(resident("llm", 15000), devices=(1,))
    decision = ask(on_two_devices({"comfy": 16000}, {"comfy": 4000, "llm": 15000}, comfy, other))

    assert (decision.verdict, decision.place) == (Verdict.GRANT, (0, 1))
    assert [one.consumer for one in decision.evictions] == ["llm"]


def test_a_job_on_the_device_is_waited_for_where_an_eviction_can_help() -> None:
    found = view(resident("comfy", 16000), resident("llm", 15000), held={"comfy": 4000}, jobs={0: Job((0,), "other")})

    assert ask(found).verdict is Verdict.WAIT


def test_a_job_on_the_device_is_not_waited_for_where_only_foreign_memory_is_in_the_way() -> None:
    found = view(resident("comfy", 16000), held={"comfy": 4000}, foreign_mib=18000, jobs={0: Job((0,), "other")})

    decision = ask(found)

    assert (decision.verdict, decision.resident) == (Verdict.GRANT, True)
