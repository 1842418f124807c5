"""Values in answers of consumers are used only if they are credible."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.consumers import answers
from gpumand.consumers.answers import Answer
from gpumand.domain.consumer import Health, HealthRoute

NOW_USEC = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000
SEC = 1_000_000


def _health(body: bytes, equals: bool | str | int | None = None, loaded: str = "/loaded", cut: bool = False) -> Health:
    route = HealthRoute("/health", loaded=loaded, loaded_equals=equals, last_used="/last_used")
    return answers.parse_health(route, Answer(200, "OK", "", body, cut), NOW_USEC)


@pytest.mark.parametrize(
    ("value", "equals", "loaded"),
    [
        (True, None, True),
        (False, None, False),
        (None, None, False),
        ([], None, False),
        ([1], None, True),
        ({}, None, False),
        ({"a": 1}, None, True),
        ("", None, False),
        ("llama", None, True),
        (1, None, None),
        (0.5, None, None),
        ("loaded", "loaded", True),
        ("sleeping", "loaded", False),
        (None, "loaded", False),
        (["loaded"], "loaded", None),
        (False, False, True),
        (True, False, False),
        (0, False, None),
        ("false", False, None),
        (2, 2, True),
        (2.0, 2, True),
        (1, 2, False),
        (True, 1, None),
        ("2", 2, None),
    ],
)
def test_loaded_depends_on_the_type_of_the_value(
    value: object, equals: bool | str | int | None, loaded: bool | None
) -> None:
    assert _health(json.dumps({"loaded": value}).encode(), equals).loaded is loaded


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"[" * 65536,
        b'{"loaded":' * 6000,
        b'{"loaded": true',
        b'{"loaded": \xff}',
        b'{"loaded": NaN}',
        b'{"loaded": Infinity}',
        b'{"loaded": ' + b"9" * 60000 + b"}",
        b'{"loaded": 1e999}',
        b'{"loaded": false, "loaded": true}',
        b'{"other": true}',
        b"[true]",
        b"true",
        b"null",
    ],
)
def test_unusable_answer_only_shows_that_the_consumer_is_reachable(body: bytes) -> None:
    assert _health(body) == Health(reachable=True, status=200)


@pytest.mark.parametrize("value", [b"NaN", b"9" * 5000, b"[]", b'"\\ud800"', b"1e999"])
def test_unusual_values_elsewhere_in_the_document_are_ignored(value: bytes) -> None:
    assert _health(b'{"x": ' + value + b', "d": 1, "d": 2, "loaded": true}').loaded is True


def test_byte_order_mark_is_ignored() -> None:
    assert _health(b'\xef\xbb\xbf{"loaded": true}').loaded is True


def test_cut_off_answer_is_not_used_even_if_it_parses() -> None:
    assert _health(b'{"loaded": true}  ', cut=True) == Health(reachable=True, status=200)


def test_selector_finds_the_configured_model() -> None:
    body = b'{"data": [{"id": "a", "status": {"value": "loaded"}}, {"id": "m/b", "status": {"value": "sleeping"}}]}'
    assert _health(body, "loaded", "/data/[id=a]/status/value").loaded is True
    assert _health(body, "loaded", "/data/[id=m~1b]/status/value").loaded is False
    assert _health(body, "loaded", "/data/[id=c]/status/value").loaded is False


def test_malformed_pointer_finds_nothing() -> None:
    assert _health(b'{"loaded": true}', loaded="loaded").loaded is None


def test_without_pointers_any_2xx_answer_means_reachable() -> None:
    assert answers.parse_health(HealthRoute("/"), Answer(204), NOW_USEC) == Health(reachable=True, status=204)


def test_body_of_an_error_answer_is_not_interpreted() -> None:
    health = answers.parse_health(HealthRoute("/", "/loaded"), Answer(503, "Busy", "", b'{"loaded": true}'), NOW_USEC)
    assert health == Health(reachable=False, error='health route answered 503 Busy: {"loaded": true}', status=503)


@pytest.mark.parametrize(
    ("value", "usec"),
    [
        (1_700_000_000, 1_700_000_000 * SEC),
        (1_700_000_000.25, 1_700_000_000 * SEC + 250_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * SEC),
        ("2023-11-14T22:13:20", 1_700_000_000 * SEC),
        ("2023-11-14 22:13:20", 1_700_000_000 * SEC),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000 * SEC),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000 * SEC + 123_456),
        ("2026-03-02T11:59:59Z", NOW_USEC + 86399 * SEC),
        ("2026-03-02T12:00:01Z", None),
        (1_700_000_000_000, None),
        (0, None),
        (-1, None),
        (946_684_799, None),
        (True, None),
        (None, None),
        ("", None),
        ("never", None),
        ("1700000000", None),
        ("20240101", None),
        ("9999-12-31T23:59:59.999999-23:59", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("2023-11-14T22:13:20Z" + " " * 100, None),
        ([1_700_000_000], None),
        ({}, None),
    ],
)
def test_last_used_is_a_credible_time_or_unknown(value: object, usec: int | None) -> None:
    assert _health(json.dumps({"last_used": value}).encode()).last_used_usec == usec


@pytest.mark.parametrize("digits", [b"1e308", b"-1e308", b"1e999", b"NaN", b"9" * 30, b"9" * 5000])
def test_absurd_numbers_are_not_times(digits: bytes) -> None:
    assert _health(b'{"loaded": true, "last_used": ' + digits + b"}") == Health(reachable=True, loaded=True, status=200)


@given(st.binary(max_size=200))
def test_any_bytes_are_accepted(body: bytes) -> None:
    assert _health(body).reachable


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@given(json_values, json_values, st.none() | st.booleans() | st.integers() | st.text(max_size=5))
def test_any_values_are_accepted(loaded: Any, last_used: Any, equals: bool | str | int | None) -> None:
    health = _health(json.dumps({"loaded": loaded, "last_used": last_used}).encode(), equals)
    assert health.loaded in (True, False, None)
    if health.last_used_usec is not None:
        assert answers.EARLIEST_USEC <= health.last_used_usec <= NOW_USEC + answers.FUTURE_USEC


@given(st.binary(max_size=4000))
def test_excerpt_is_one_printable_line(body: bytes) -> None:
    text = answers.excerpt(body)
    assert len(text) <= 200
    assert text == "" or text.isprintable()


def test_status_error_quotes_the_consumer_and_names_redirects() -> None:
    assert answers.status_error(Answer(200)) == answers.status_error(Answer(204, "No Content")) == ""
    assert answers.status_error(Answer(500, "Oops", "", b"CUDA\nout of\x1b[31m memory")) == (
        "answered 500 Oops: CUDA out of [31m memory"
    )
    assert answers.status_error(Answer(302, "Found", "http://elsewhere/", b"x")) == (
        "answered 302 Found, a redirect to http://elsewhere/; redirects are not followed"
    )
    assert answers.status_error(Answer(404, "")) == "answered 404"
    assert answers.status_error(Answer(101, "Switching Protocols")) == "answered 101 Switching Protocols"


ROUTER = HealthRoute(
    "/models",
    loaded="/data/[id=m]/status/value",
    loaded_equals="loaded",
    failed="/data/[id=m]/status/failed",
    sleeping="/data/[id=m]/status/value",
    sleeping_equals="sleeping",
)


def _router(status: object, http_status: int = 200) -> Health:
    body = json.dumps({"data": [{"id": "m", "status": status}]}).encode()
    return answers.parse_health(ROUTER, Answer(http_status, "x", body=body), NOW_USEC)


def test_health_reports_a_failed_load_with_its_cause() -> None:
    health = _router({"value": "unloaded", "failed": True, "exit_code": 1, "args": ["llama-server"]})
    assert (health.loaded, health.failed) == (False, "the server reports a failed load: exit_code 1")
    assert _router({"value": "unloaded", "failed": True}).failed == "the server reports a failed load"
    assert _router({"value": "unloaded", "failed": "no such file"}).failed.endswith("load: no such file")
    assert _router({"value": "loading"}).failed == _router({"value": "loading", "failed": False}).failed == ""
    assert _router({"value": "unloaded", "failed": True, "message": "a\nb\x1b"}).failed.isprintable()
    assert _router({"failed": True, "error": "no memory"}, 500).failed.endswith("load: no memory")


def test_value_that_means_failed_can_be_configured() -> None:
    route = HealthRoute("/", failed="/state", failed_equals="error")
    failed = answers.parse_health(route, Answer(200, body=b'{"state": "error", "message": "no memory"}'), NOW_USEC)
    assert failed.failed == "the server reports a failed load: no memory"
    assert answers.parse_health(route, Answer(200, body=b'{"state": "ready"}'), NOW_USEC).failed == ""


def test_sleeping_model_is_not_loaded() -> None:
    health = _router({"value": "sleeping"})
    assert (health.reachable, health.sleeping, health.loaded) == (True, True, False)
    assert not _router({"value": "loaded"}).sleeping
    asleep = answers.parse_health(
        HealthRoute("/", sleeping="/is_sleeping"), Answer(200, body=b'{"is_sleeping": true}'), 0
    )
    assert (asleep.sleeping, asleep.loaded) == (True, False)


def test_status_of_a_running_server_without_a_model_means_not_loaded() -> None:
    route = HealthRoute("/v1/model", loaded="/id", loaded_equals="m", unloaded_status=(503,))
    health = answers.parse_health(route, Answer(503, "Service Unavailable", body=b'{"detail": "no model"}'), NOW_USEC)
    assert (health.reachable, health.loaded, health.status) == (True, False, 503)
    assert health.answer == 'answered 503 Service Unavailable: {"detail": "no model"}'
    assert not answers.parse_health(route, Answer(500), NOW_USEC).reachable


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_status_of_every_answer_is_kept(status: int) -> None:
    health = answers.parse_health(HealthRoute("/"), Answer(status, "No"), NOW_USEC)
    assert (health.reachable, health.status, health.answer) == (False, status, f"health route answered {status} No")


def test_answer_says_what_was_found_at_the_pointer() -> None:
    assert _router({"value": "loading"}).answer == 'answered 200, /data/[id=m]/status/value is "loading"'
    listed = json.dumps({"m": [{"n": f"model{one}"} for one in range(7)]}).encode()
    names = "model0, model1, model2, model3, model4, …"
    assert _health(listed, loaded="/m/[n=M]").answer == f"answered 200, /m/[n=M] is null; the list has {names}"
    assert _health(b'{"m": []}', loaded="/m/[n=M]").answer == "answered 200, /m/[n=M] is null"
    assert _health(b"<html>").answer == "answered 200, without a value at /loaded: <html>"
    assert _health(b'{"loaded": true}', cut=True).answer == "answered 200, but the answer is too long to be read"
    assert answers.parse_health(HealthRoute("/"), Answer(200), 0).answer == "answered 200"


@given(json_values, json_values)
def test_any_value_at_the_pointers_for_failed_and_sleeping_is_accepted(failed: Any, value: Any) -> None:
    health = _router({"value": value, "failed": failed, "message": value, "exit_code": failed})
    assert health.failed.isprintable()
    assert health.answer.isprintable()
    assert len(health.failed) < 300
    assert len(health.answer) < 400


GIB = 2**30


@pytest.mark.parametrize(
    ("sizes", "percent"),
    [
        ({"size": 20 * GIB, "size_vram": 11 * GIB}, 55),
        ({"size": 20 * GIB, "size_vram": 0}, 0),
        ({"size": 20 * GIB, "size_vram": 20 * GIB}, None),
        ({"size": 1000 * GIB, "size_vram": 995 * GIB}, None),
        ({"size": 20 * GIB}, None),
        ({"size_vram": 1}, None),
        ({"size": "20", "size_vram": 1}, None),
        ({"size": 20 * GIB, "size_vram": True}, None),
        ({"size": 20 * GIB, "size_vram": -1}, None),
        ({"size": 1, "size_vram": 0}, None),
        ({"size": 11 * GIB, "size_vram": 20 * GIB}, None),
    ],
)
def test_part_of_a_model_in_vram_is_known_only_from_credible_sizes(sizes: dict[str, Any], percent: int | None) -> None:
    route = HealthRoute(
        "/api/ps", loaded="/models/[name=m]", size="/models/[name=m]/size", size_vram="/models/[name=m]/size_vram"
    )
    listed = {"models": [{"name": "other", "size": 20 * GIB, "size_vram": 1}, {"name": "m"} | sizes]}

    health = answers.parse_health(route, Answer(200, "OK", body=json.dumps(listed).encode()), NOW_USEC)

    assert (health.loaded, health.partial and health.partial.percent) == (True, percent)


def test_model_that_is_not_loaded_has_no_part_in_vram() -> None:
    route = HealthRoute("/api/ps", loaded="/loaded", size="/size", size_vram="/size_vram")
    body = json.dumps({"loaded": False, "size": 20 * GIB, "size_vram": 0}).encode()

    assert answers.parse_health(route, Answer(200, "OK", body=body), NOW_USEC).partial is None
