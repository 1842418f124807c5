"""The end of a job's work is found from the answers of a busy check."""

from __future__ import annotations

import pytest

from gpumand.domain.consumer import BusyReport
from gpumand.gateway.job_ends import BusyWatch, JobEnd

REFUSED, SILENT = BusyReport(None, refused=True), BusyReport(None, error="busy route: HTTP status 401")


def end_after(*answers: BusyReport | int, grace_sec: float = 60.0) -> tuple[int, JobEnd | None]:
    """How many answers, one each second, were needed for the end, and what the end was."""
    watch = BusyWatch(0.0, grace_sec)
    for number, answer in enumerate(answers, start=1):
        if (
            end := watch.record(float(number), answer if isinstance(answer, BusyReport) else BusyReport(answer))
        ) is not None:
            return number, end
    return len(answers), None


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((0, 0), (2, JobEnd.IDLE)),
        ((2, 1, 0, 0), (4, JobEnd.IDLE)),
        ((0, 1, 0, 0), (4, JobEnd.IDLE)),
        ((0, SILENT, 0, 0), (4, JobEnd.IDLE)),
        ((1,) * 100000, (100000, None)),
        ((REFUSED, REFUSED), (2, JobEnd.GONE)),
        ((1, REFUSED, 1, REFUSED), (4, None)),
        ((1, 0, REFUSED), (3, JobEnd.GONE)),
    ],
)
def test_work_ends_with_two_idle_answers_in_a_row_or_with_the_server(
    answers: tuple[BusyReport | int, ...], expected: tuple[int, JobEnd | None]
) -> None:
    assert end_after(*answers) == expected


def test_server_without_usable_answers_is_assumed_to_work_for_the_grace_period_after_the_last_usable_one() -> None:
    assert end_after(*[SILENT] * 59) == (59, None)
    assert end_after(*[SILENT] * 60) == (60, JobEnd.NO_ANSWER)
    assert end_after(*[SILENT] * 50, 1, *[SILENT] * 59) == (110, None)
    assert end_after(*[SILENT] * 50, 1, *[SILENT] * 60) == (111, JobEnd.NO_ANSWER)
    assert end_after(SILENT, grace_sec=0.0) == (1, JobEnd.NO_ANSWER)


def test_reason_of_the_holding_is_shown() -> None:
    watch = BusyWatch(0.0, 60.0)
    assert watch.shown(0.0, "comfyui") == "the busy check of comfyui"
    watch.record(1.0, BusyReport(2))
    assert watch.shown(1.0, "comfyui") == "comfyui reports 2 jobs"
    assert watch.is_busy
    watch.record(13.0, SILENT)
    assert watch.shown(13.0, "comfyui") == (
        "busy route: HTTP status 401 (for 12 s, held for at most 60 s without an answer)"
    )
    assert not watch.is_busy
