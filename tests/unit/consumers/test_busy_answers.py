"""How much work a consumer has, from what it answers; unknown is not zero."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    return busy_answers.work(BusyRoute("/q", pointers, equals), Answer(200, body=json.dumps(document).encode())).jobs


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
        (10**19, busy_answers.MOST_JOBS),
    ],
)
def test_what_a_value_counts(value: object, count: int) -> None:
    assert jobs({"work": value}, "/work") == count


@pytest.mark.parametrize(
    ("value", "equals", "count"),
    [(1, 1, 1), (2, 1, 0), (True, 1, None), ("busy", "busy", 1), (0, 0, 1), (None, 1, None)],
)
def test_a_value_that_means_busy_counts_one(value: object, equals: bool | str | int, count: int | None) -> None:
    assert jobs({"state": value}, "/state", equals=equals) == count


def test_places_count_together() -> None:
    assert jobs({"running": [1], "pending": [2, 3]}, "/running", "/pending") == 3


def test_slots_count_those_that_work() -> None:
    slots = [{"is_processing": True}, {"is_processing": False}, {"is_processing": True}]

    assert jobs(slots, "/*/is_processing") == 2
    assert jobs([], "/*/is_processing") == 0


def test_what_one_place_says_counts_although_another_says_nothing() -> None:
    assert jobs({"running": [1]}, "/running", "/pending") == 1
    assert jobs({"running": []}, "/running", "/pending") is None


@pytest.mark.parametrize("body", [b"", b"busy", b"{", b'{"work": 1e999}', b'{"work": 1, "work": 0}', b"[" * 60_000])
def test_an_answer_that_says_nothing_usable_is_not_taken_for_idle(body: bytes) -> None:
    found = busy_answers.work(BusyRoute("/q", ("/work",)), Answer(200, body=body))

    assert found.jobs is None
    assert found.error


def test_a_long_answer_is_no_document_any_more() -> None:
    assert busy_answers.work(BusyRoute("/q", ("/a",)), Answer(200, body=b'{"a": []}', is_cut=True)).jobs is None


def test_an_error_is_no_answer() -> None:
    found = busy_answers.work(BusyRoute("/q", ("/a",)), Answer(503, "Unavailable", body=b'{"a": [1]}'))

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
def test_metrics_are_added_up_over_their_labels(names: tuple[str, ...], is_cut: bool, count: int | None) -> None:
    assert (
        busy_answers.work(BusyRoute("/metrics", metrics=names), Answer(200, body=METRICS, is_cut=is_cut)).jobs == count
    )


@pytest.mark.parametrize(("body", "count"), [(b'a{e="0"} 0\na{e="1"} 5', None), (b'a{e="0"} 2\na{e="1"} 5', 2)])
def test_a_metric_of_which_labels_may_have_been_cut_off_does_not_say_that_nobody_works(
    body: bytes, count: int | None
) -> None:
    assert busy_answers.work(BusyRoute("/q", metrics=("a",)), Answer(200, body=body, is_cut=True)).jobs == count


def test_the_line_in_which_an_answer_was_cut_off_does_not_count() -> None:
    route = BusyRoute("/metrics", metrics=("a", "b"))

    assert busy_answers.work(route, Answer(200, body=b"a 0\nb 1", is_cut=True)).jobs is None
    assert busy_answers.work(route, Answer(200, body=b"a 0\nb 1")).jobs == 1


@given(st.binary(max_size=300), st.booleans())
def test_no_answer_does_harm(body: bytes, is_cut: bool) -> None:
    route = BusyRoute("/q", ("/*/a", "/b"), metrics=("c",))

    found = busy_answers.work(route, Answer(200, body=body, is_cut=is_cut)).jobs

    assert found is None or 0 <= found <= busy_answers.MOST_JOBS


@pytest.mark.parametrize(
    ("body", "equals", "is_denied"),
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
def test_a_route_that_says_that_it_did_nothing_has_failed(
    body: bytes, equals: bool | str | int | None, is_denied: bool
) -> None:
    route = Route("/unload", success="/success", success_equals=equals)

    said = answers.denial(route, Answer(200, "OK", body=body))

    assert bool(said) == is_denied
    assert not said or said.startswith("answered 200, but says that it was not done: {")
