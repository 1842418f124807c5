"""Which answers identical requests share, and which are kept for the time when a server is stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy

from gpumand.gateway.looks import Answer, Memory, key_of


@pytest.mark.parametrize(
    ("headers", "may_be_shared", "is_personal"),
    [
        ({}, True, False),
        ({"Cache-Control": "no-cache, max-age=0"}, True, False),
        ({"Cache-Control": "max-age=0, Private"}, False, True),
        ({"Cache-Control": 'private="x-a"'}, False, True),
        ({"Cache-Control": "no-store"}, False, False),
        ({"Set-Cookie": "session=1"}, False, True),
        ({"Vary": "*"}, False, False),
        ({"Vary": "Accept-Encoding"}, True, False),
        ({"Vary": "Accept, user-agent"}, False, False),
        ({"Vary": "Sec-CH-UA-Mobile"}, False, False),
        ({"X-Large": "a" * 600_000}, False, False),
    ],
)
def test_answers_for_one_client_are_not_shared(headers: dict[str, str], may_be_shared: bool, is_personal: bool) -> None:
    answer = Answer(200, "OK", CIMultiDictProxy(CIMultiDict(headers)), b"{}")

    assert (answer.may_be_shared, answer.is_personal) == (may_be_shared, is_personal)


def _exchange(headers: dict[str, str], path: str = "/queue") -> Any:
    rules = SimpleNamespace(remembers=lambda *_: True)
    return SimpleNamespace(
        request=make_mocked_request("GET", path, headers=headers),
        service=SimpleNamespace(consumer="comfyui", rules=rules),
        target=SimpleNamespace(raw=path, path=path),
    )


def _key(headers: dict[str, str]) -> object:
    return key_of(_exchange(headers))


def test_answers_with_large_heads_do_not_fill_the_memory() -> None:
    memory = Memory()
    for index, size in enumerate([600_000] + [500_000] * 100):
        headers = CIMultiDictProxy(CIMultiDict({"X-Large": "a" * size}))
        memory.keep(_exchange({}, f"/{index}"), Answer(200, "OK", headers, b"{}"))

    kept = [index for index in range(101) if memory.find(_exchange({}, f"/{index}")) is not None]
    assert kept == list(range(101 - len(kept), 101))
    assert 50 < len(kept) < 70


@pytest.mark.parametrize(
    ("name", "is_shared"),
    [
        ("Sec-Fetch-Site", False),
        ("X-Requested-With", False),
        ("Authorization", False),
        ("Cookie", False),
        ("X-Forwarded-User", False),
        ("User-Agent", True),
        ("Sec-CH-UA", True),
    ],
)
def test_answers_are_shared_only_among_requests_with_the_same_headers(name: str, is_shared: bool) -> None:
    assert (_key({name: "one"}) == _key({name: "other"})) is is_shared
    assert (_key({name: "one"}) == _key({})) is is_shared
