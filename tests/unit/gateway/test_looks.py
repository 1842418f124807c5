"""Which answers identical requests share, and which are kept for the time when a server is stopped."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gpumand.gateway.looks import Answer


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
    ],
)
def test_answers_for_one_client_are_not_shared(headers: dict[str, str], may_be_shared: bool, is_personal: bool) -> None:
    answer = Answer(200, "OK", CIMultiDictProxy(CIMultiDict(headers)), b"{}")

    assert (answer.may_be_shared, answer.is_personal) == (may_be_shared, is_personal)
