"""Web sites cannot reach the gateway through the browser of a user, and only trusted proxies name clients."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from multidict import CIMultiDict

from gpumand.config.gateway_keys import GatewayKey, hash_of
from gpumand.gateway.access import KeyedAccess, is_from_foreign_site
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.headers import Origin
from gpumand.gateway.refusals import Refused
from gpumand.gateway.requests import Client


@dataclass
class FakeRequest:
    headers: CIMultiDict[str]
    version: HttpVersion = HttpVersion11


@dataclass
class FakeConnection:
    peer: str = "127.0.0.1"
    is_loopback: bool = True
    is_unix: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def admit(headers: dict[str, str], connection: FakeConnection | None = None, **settings: Any) -> tuple[Client, Origin]:
    access = KeyedAccess(lambda: GatewaySettings(**settings))
    return access.admit(cast(Any, FakeRequest(CIMultiDict(headers))), cast(Any, connection or FakeConnection()))


def refusal(headers: dict[str, str], **settings: Any) -> int:
    with pytest.raises(Refused) as raised:
        admit(headers, **settings)
    return raised.value.refusal.status


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8188", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "x.localhost", "ai.lan:80", "localhost."],
)
def test_names_of_this_host_are_accepted(host: str) -> None:
    assert admit({"Host": host}, host_names=("ai.lan",))[1].host == host


@pytest.mark.parametrize(
    ("version", "headers", "is_admitted"),
    [
        (HttpVersion10, {}, True),
        (HttpVersion11, {}, False),
        (HttpVersion10, {"Host": ""}, False),
        (HttpVersion10, {"Host": "evil.example"}, False),
        (HttpVersion10, {"X-Forwarded-Host": "evil.example"}, False),
    ],
)
def test_host_may_be_missing_in_the_version_of_http_that_does_not_have_it(
    version: HttpVersion, headers: dict[str, str], is_admitted: bool
) -> None:
    access = KeyedAccess(GatewaySettings)
    request, connection = FakeRequest(CIMultiDict(headers), version), FakeConnection()
    if is_admitted:
        assert access.admit(cast(Any, request), cast(Any, connection))[0].name == "127.0.0.1"
        return
    with pytest.raises(Refused, match="names another host"):
        access.admit(cast(Any, request), cast(Any, connection))


def test_own_host_name_is_accepted() -> None:
    admit({"Host": socket.gethostname()})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil@localhost",
        "10.0.0.1",
        "a/localhost",
        "[",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    assert refusal({"Host": host}) == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:1", ""])
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert refusal({"Host": "localhost", "Origin": origin}) == 403


@pytest.mark.parametrize("origin", ["http://localhost", "http://LOCALHOST", "http://ui.lan:3000", "null"])
def test_own_pages_and_listed_origins_are_accepted(origin: str) -> None:
    admit({"Host": "localhost", "Origin": origin}, origins=("http://ui.lan:3000", "null"))


def test_unix_socket_has_no_host_check_and_no_address() -> None:
    client, origin = admit({"Host": "anything"}, FakeConnection("uid 1000", is_loopback=False, is_unix=True))

    assert client == Client("uid 1000", is_local=True)
    assert origin == Origin("", "anything")


def test_forwarded_headers_count_only_from_trusted_proxies() -> None:
    headers = {
        "Host": "localhost",
        "X-Forwarded-For": "6.6.6.6, 10.0.0.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "localhost:443",
    }

    assert admit(headers)[1] == Origin("127.0.0.1", "localhost")
    client, origin = admit(headers, trusted_proxies=("127.0.0.1",))
    assert origin == Origin("10.0.0.7", "localhost:443", "https")
    assert not client.is_local


def test_invalid_address_of_a_trusted_proxy_is_ignored() -> None:
    headers = {"Host": "localhost", "X-Forwarded-For": "<script>", "X-Forwarded-Proto": "gopher"}

    assert admit(headers, trusted_proxies=("127.0.0.1",))[1] == Origin("127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty", "Referer": "https://evil.example/a"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty", "Referer": "http://[::1"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image", "Referer": "https://ui.example/a"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty", "Origin": "https://ui.example"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, False),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "image"}, False),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"}, False),
        ({}, False),
    ],
)
def test_requests_of_other_web_sites_without_an_origin_are_recognised(
    headers: dict[str, str], is_foreign: bool
) -> None:
    assert is_from_foreign_site(CIMultiDict(headers), ("https://ui.example",)) is is_foreign


@pytest.mark.parametrize(
    ("own", "said", "expected"),
    [
        (None, None, None),
        (None, "llm", {"llm"}),
        (frozenset({"llm", "tts"}), "llm", {"llm"}),
        (frozenset({"tts"}), "llm", set()),
        (None, "", {""}),
    ],
)
def test_limit_of_another_gateway_takes_rights_away_and_gives_none(
    own: frozenset[str] | None, said: str | None, expected: set[str] | None
) -> None:
    keys = (GatewayKey(name="gpu2", sha256=hash_of("gpumand-gpu2"), consumers=own),)
    headers = {"Host": "localhost", "Authorization": "Bearer gpumand-gpu2"}

    client, _ = admit(headers | ({} if said is None else {"X-Gpumand-Limit": said}), keys=keys)

    assert client.consumers == expected
