"""The last event of a load or unload answer decides, whatever format a server sends and however long it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.consumers import answers
from gpumand.consumers.answer_events import last_event
from gpumand.consumers.answers import Answer
from gpumand.domain.consumer import Route

ROUTE = Route("/load", success="/status", success_equals="finished", error="/error/message")


def _last(body: bytes, tail: bytes = b"") -> bytes:
    return last_event(body, tail, lambda text: answers.parse(text) is not answers.UNUSABLE).data


def _failure(body: bytes, route: Route = ROUTE, *, tail: bytes = b"", cut: bool = False, load: bool = True) -> str:
    answer = Answer(200, body=body, tail=tail, is_cut=cut or bool(tail))
    return answers.reported_failure(route, answer, needs_proof=load)


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (b'{\n  "a": 1\n}\n', b'{\n  "a": 1\n}\n'),
        (b'{"a": 1}\n{"a": 2}\n', b'{"a": 2}'),
        (b'{"a": 1}\r\n\r\n{"a": 2}\r\n\r\n', b'{"a": 2}'),
        (b'\x1e{"a": 1}\n\x1e{"a": 2}\n', b'{"a": 2}'),
        (b"data: 1\n\ndata: 2\n\n", b"2"),
        (b"data: 1\r\rdata: 2\r\r", b"2"),
        (b"data:1\r\n\r\ndata:2\r\n\r\n", b"2"),
        (b"\xef\xbb\xbfdata: 1\n\n", b"1"),
        (b": ping\n\ndata: 1\n\n: ping\n\n", b"1"),
        (b"\n\nid: 7\nretry: 5\ndata: 1\n\n", b"1"),
        (b"event: progress\ndata: {\ndata: }\n\n", b"{\n}"),
        (b"data: 1\n\ndata: [DONE]\n\n", b"1"),
        (b"data: 1\n\ndata: 2", b"2"),
        (b"data\n\ndata: 1\n\nevent: end\n\n", b"1"),
        (b"data: 1\nunknown: 2\n\n", b"1"),
        (b": ping\n\n", b""),
        (b"OK", b"OK"),
        (b"OK\nall loaded\n", b"OK\nall loaded\n"),
        (b'{"a": 1}\nbroken', b'{"a": 1}\nbroken'),
        (b"", b""),
    ],
)
def test_last_event_of_every_format(body: bytes, data: bytes) -> None:
    assert _last(body) == data


@pytest.mark.parametrize(
    ("tail", "data"),
    [
        (b'rest of an event"}\n\ndata: 2\n\n', b"2"),
        (b'"}\n\n: ping\n\ndata: 2\n\n: ping\n\n', b"2"),
        (b"x" * 500, b""),
    ],
)
def test_end_of_a_long_stream_begins_within_an_event(tail: bytes, data: bytes) -> None:
    assert _last(b"data: 1\n\n" * 9, tail) == data
    assert _last(b'{"a": 1}\n' * 9, b'alf": 1}\n{"a": 2}\n') == b'{"a": 2}'


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b'data: {"status": "finished"}\n\n', ""),
        (b'{"status": "finished"}', ""),
        (b'{"status": "finished", "error": null}', ""),
        (b'{"status": "finished", "error": {"message": ""}}', ""),
        (b'data: {"error": {"message": "out\\n of memory"}}\n\n', "reports a failure: out of memory"),
        (b'{"status": "finished", "error": {"message": "late"}}', "reports a failure: late"),
        (b'{"status": "failed"}', 'reports a failure: {"status": "failed"}'),
        (b"event: error\ndata: no such file\n\n", "reports a failure: no such file"),
        (b'data: {"status": "finished"}\n\ndata: {"step": 3}\n\n', "its last event has no usable value at /status: "),
        (b'{"ok": true}', "its answer has no usable value at /status: "),
        (b'{"status": "failed", "status": "finished"}', "its answer has no usable value at /status: "),
        (b"<html>fine</html>", "its answer has no usable value at /status: <html>fine</html>"),
        (b"", "its answer has no usable value at /status: it is empty"),
    ],
)
def test_load_succeeds_only_if_its_answer_says_so(body: bytes, failure: str) -> None:
    found = _failure(body)
    assert found.startswith(f"answered 200, but {failure}" if failure else "")
    assert bool(found) == bool(failure)


def test_unload_in_one_piece_fails_only_if_its_answer_says_so() -> None:
    # VRAM readings verify an unload, but nothing verifies a stream that broke off before its result.
    assert _failure(b'{"ok": true}', load=False) == _failure(b"", load=False) == ""
    assert "reports a failure" in _failure(b'{"status": "failed"}', load=False)
    assert "no usable value" in _failure(b'data: 1\n\ndata: {"step": 3}\n\n', load=False)


def test_cut_answer_is_no_success_where_the_route_has_pointers() -> None:
    for load in (True, False):
        assert _failure(b'{"status": "finished"}', cut=True, load=load) == (
            "answered 200, but the answer is too long to be read to its end"
        )
        assert _failure(b'{"status": "finished"}', Route("/x"), cut=True, load=load) == ""
    assert _failure(b"data: 1\n\n", tail=b'\ndata: {"status": "finished"}\n\n') == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (False, ""),
        (0, ""),
        ("", ""),
        ([], ""),
        ({}, ""),
        ("no memory", "no memory"),
        (True, "true"),
        (3, "3"),
        (["a"], '["a"]'),
        ({"message": "no memory", "code": 5}, "no memory"),
        ({"code": 5}, '{"code": 5}'),
        ("\ud800", "?"),
    ],
)
def test_any_error_value_that_is_not_empty_is_a_failure(value: object, text: str) -> None:
    found = _failure(json.dumps({"error": value}).encode(), Route("/load", error="/error"))
    assert found == (f"answered 200, but reports a failure: {text}" if text else "")


def test_without_pointers_the_status_decides() -> None:
    for body in (b"", b"null", b'{"status": "failed"}', b'data: {"error": 1}\n\n'):
        assert _failure(body, Route("/x")) == ""


_PARTS = st.sampled_from(
    [b"data", b"event", b":", b" ", b"\n", b"\r", b"\r\n", b"{}", b'{"status":', b'"finished"', b"}"]
)


@given(st.lists(_PARTS | st.binary(max_size=5), max_size=40).map(b"".join), st.binary(max_size=50))
def test_any_bytes_are_accepted(body: bytes, tail: bytes) -> None:
    for failure in (_failure(body), _failure(body, tail=tail), _failure(body, load=False)):
        assert failure == "" or (failure.isprintable() and len(failure) < 300)
    assert _last(body, tail) in body + tail or b"\n" in _last(body, tail)


@pytest.mark.parametrize(
    ("body", "fails"),
    [
        (b'{"success": false, "message": "no such model"}', True),
        (b'{"error": "CUDA out of memory"}', True),
        (b'{"error": {"code": 500, "message": "no such model"}}', True),
        (b'{"success": true, "error": null}', False),
        (b'{"error": ""}', False),
        (b'{"status": "ok"}', False),
        (b'["error"]', False),
        (b"OK", False),
        (b"", False),
    ],
)
def test_plain_failure_of_a_load_is_recognised_without_positions(body: bytes, fails: bool) -> None:
    answer = Answer(200, "OK", body=body)
    assert bool(answers.reported_failure(Route("/load"), answer, needs_proof=True)) is fails
    assert answers.reported_failure(Route("/unload"), answer) == "", "readings verify an unload"
