"""The reason of a failed load names the memory that others took meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.rival_growth import describe

TOTAL_MIB = 24000


def sample(*processes: ProcessUse) -> Sample:
    used_mib = sum(one.used_mib or 0 for one in processes)
    return Sample(
        0,
        "FAKE-0",
        "fake",
        "simulated",
        total_mib=TOTAL_MIB,
        used_mib=used_mib,
        free_mib=TOTAL_MIB - used_mib,
        processes=processes,
        attributed=True,
        attributable=frozenset({"llm", "old"}),
    )


def game(mib: int | None) -> ProcessUse:
    return ProcessUse(77, mib, "game")


def model(name: str, mib: int) -> ProcessUse:
    return ProcessUse(5, mib, "python", consumer=name)


def whole(unit: str, mib: int) -> ProcessUse:
    return ProcessUse(0, mib, unit=f"{unit}.service")


def test_program_and_service_that_took_the_memory_are_named_the_largest_first() -> None:
    text = describe({0: sample()}, {0: sample(game(4000), model("old", 9000))}, "llm", (0,), 20000)

    assert text.startswith("Meanwhile old took 8.8 GiB, game (pid 77) took 3.9 GiB on device 0, which left 10.7 GiB")
    assert text.endswith("send them through the gateway")


def test_program_alone_is_no_reason_for_advice_about_clients() -> None:
    text = describe({0: sample()}, {0: sample(game(8000))}, "llm", (0,), 20000)

    assert text == "Meanwhile game (pid 77) took 7.8 GiB on device 0, which left 15.6 GiB for the load"


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (sample(), sample(model("llm", 12000))),
        (sample(), sample(game(200))),
        (sample(game(8000)), sample(game(8100))),
        (sample(game(None)), sample(game(9000))),
        (sample(game(3000)), sample(game(3300))),
        (sample(model("llm", 12000)), sample(model("llm", 14000), game(3000))),
        (Sample(0, "FAKE-0", "fake", "simulated", None, None, None), sample(game(9000))),
        (replace(sample(), attributed=False), sample(game(9000))),
        (sample(whole("a", 8000), whole("b", 100)), sample(whole("a", 8000), whole("b", 100))),
        (sample(model("old", 3000)), sample(game(3000))),
    ],
    ids=[
        "its own",
        "noise",
        "there before",
        "unknown before",
        "still fits",
        "its own memory counts",
        "no reading",
        "incomplete list before",
        "units as a whole",
        "others freed as much",
    ],
)
def test_growth_that_is_not_the_reason_is_not_named(first: Sample, last: Sample) -> None:
    assert describe({0: first}, {0: last}, "llm", (0,), 20000) == ""


def test_device_that_is_gone_is_passed_over() -> None:
    assert describe({0: sample()}, {}, "llm", (0, 1), 20000) == ""
