"""Answers of busy routes are converted to a number of jobs; unknown is not zero."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.config.presets import preset
from gpumand.consumers import answers, busy_answers
from gpumand.consumers.answers import Answer
from gpumand.domain.consumer import BusyRoute, Route

METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b} c"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0 1700000000000
vllm:num_requests_running_total{engine="0"} 90
vllm:num_requests_waiting 0.0
vllm:nan NaN
"""


def jobs(document: Any, *pointers: str, equals: bool | str | int | None = None) -> int | None:
    return busy_answers.parse_busy(
        BusyRoute("/q", pointers, equals), Answer(200, body=json.dumps(document).encode())
    ).jobs


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (True, 1),
        (False, 0),
        (None, 0),
        (3, 3),
        (0.25, 1),
        (0, 0),
        (-1, 0),
        ([], 0),
        ([1, 2], 2),
        ({"a": 1}, 1),
        ({}, 0),
        ("txt2img", 1),
        ("", 0),
        (10**19, busy_answers.MAX_JOBS),
    ],
)
def test_number_of_jobs_of_a_value(value: object, count: int) -> None:
    assert jobs({"work": value}, "/work") == count


@pytest.mark.parametrize(
    ("value", "equals", "count"),
    [(1, 1, 1), (2, 1, 0), (True, 1, None), ("busy", "busy", 1), (0, 0, 1), (None, 1, None)],
)
def test_value_that_equals_the_busy_value_counts_one(
    value: object, equals: bool | str | int, count: int | None
) -> None:
    assert jobs({"state": value}, "/state", equals=equals) == count


def test_values_of_several_pointers_are_added() -> None:
    assert jobs({"running": [1], "pending": [2, 3]}, "/running", "/pending") == 3


def test_wildcard_counts_the_busy_slots() -> None:
    slots = [{"is_processing": True}, {"is_processing": False}, {"is_processing": True}]

    assert jobs(slots, "/*/is_processing") == 2
    assert jobs([], "/*/is_processing") == 0


def test_one_known_job_counts_although_another_pointer_finds_nothing() -> None:
    assert jobs({"running": [1]}, "/running", "/pending") == 1
    assert jobs({"running": []}, "/running", "/pending") is None


@pytest.mark.parametrize("body", [b"", b"busy", b"{", b'{"work": 1e999}', b'{"work": 1, "work": 0}', b"[" * 60_000])
def test_unusable_answer_does_not_mean_idle(body: bytes) -> None:
    found = busy_answers.parse_busy(BusyRoute("/q", ("/work",)), Answer(200, body=body))

    assert found.jobs is None
    assert found.error


def test_cut_off_json_is_unusable() -> None:
    assert busy_answers.parse_busy(BusyRoute("/q", ("/a",)), Answer(200, body=b'{"a": []}', is_cut=True)).jobs is None


def test_error_status_gives_unknown_jobs() -> None:
    found = busy_answers.parse_busy(BusyRoute("/q", ("/a",)), Answer(503, "Unavailable", body=b'{"a": [1]}'))

    assert (found.jobs, found.error) == (None, 'busy route answered 503 Unavailable: {"a": [1]}')


@pytest.mark.parametrize(
    ("names", "is_cut", "count"),
    [
        (("vllm:num_requests_running", "vllm:num_requests_waiting"), False, 3),
        (("vllm:num_requests_waiting",), False, 0),
        (("vllm:num_requests_waiting", "vllm:other"), False, None),
        (("vllm:num_requests_running", "vllm:other"), True, 3),
        (("vllm:nan",), False, None),
    ],
)
def test_metrics_are_added_over_their_labels(names: tuple[str, ...], is_cut: bool, count: int | None) -> None:
    assert (
        busy_answers.parse_busy(BusyRoute("/metrics", metrics=names), Answer(200, body=METRICS, is_cut=is_cut)).jobs
        == count
    )


@pytest.mark.parametrize(("body", "count"), [(b'a{e="0"} 0\na{e="1"} 5', None), (b'a{e="0"} 2\na{e="1"} 5', 2)])
def test_zero_is_unknown_if_further_labels_may_have_been_cut_off(body: bytes, count: int | None) -> None:
    assert busy_answers.parse_busy(BusyRoute("/q", metrics=("a",)), Answer(200, body=body, is_cut=True)).jobs == count


def test_cut_off_last_line_does_not_count() -> None:
    route = BusyRoute("/metrics", metrics=("a", "b"))

    assert busy_answers.parse_busy(route, Answer(200, body=b"a 0\nb 1", is_cut=True)).jobs is None
    assert busy_answers.parse_busy(route, Answer(200, body=b"a 0\nb 1")).jobs == 1


@given(st.binary(max_size=300), st.booleans())
def test_any_answer_is_accepted(body: bytes, is_cut: bool) -> None:
    route = BusyRoute("/q", ("/*/a", "/b"), metrics=("c",))

    found = busy_answers.parse_busy(route, Answer(200, body=body, is_cut=is_cut)).jobs

    assert found is None or 0 <= found <= busy_answers.MAX_JOBS


@pytest.mark.parametrize(
    ("body", "equals", "is_failure"),
    [
        (b'{"success": true}', None, False),
        (b'{"success": false}', None, True),
        (b'{"success": null}', None, True),
        (b'{"success": "no"}', "yes", True),
        (b'{"success": 0}', 1, True),
        (b'{"success": 1}', 1, False),
        (b'{"success": 7}', None, False),
        (b"{}", None, False),
        (b"restarting", None, False),
    ],
)
def test_success_pointer_reports_a_failed_route(body: bytes, equals: bool | str | int | None, is_failure: bool) -> None:
    route = Route("/unload", success="/success", success_equals=equals)

    message = answers.reported_failure(route, Answer(200, "OK", body=body))

    assert bool(message) == is_failure
    assert not message or message.startswith("answered 200, but reports a failure: {")


@pytest.mark.parametrize("name", ["a1111", "forge"])
@pytest.mark.parametrize(
    ("job", "count", "is_busy"), [("", 0, False), ("task(1)", -1, True), ("", 4, True), ("Batch 1 out of 2", 2, True)]
)
def test_web_ui_is_busy_from_the_begin_of_a_job_although_its_images_are_not_counted_yet(
    name: str, job: str, count: int, is_busy: bool
) -> None:
    pointers = tuple(preset(name).document.table["consumer"]["busy"]["pointers"])
    document = {"state": {"job": job, "job_count": count}}

    assert bool(jobs(document, *pointers)) is is_busy
