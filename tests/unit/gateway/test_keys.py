"""API keys: how clients present them, what they permit, and which requests need one."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from multidict import CIMultiDict

from gpumand.cli.connect import programs
from gpumand.config.gateway_keys import GatewayKey, hash_of
from gpumand.gateway import cors
from gpumand.gateway.keys import PLACEHOLDER, find, presented
from gpumand.gateway.refusals import Refused
from gpumand.gateway.requests import Client
from tests.unit.gateway.test_access import FakeConnection, FakeRequest, admit, refusal

KEYS = (
    GatewayKey(name="webui", sha256=hash_of("secret-1"), priority=10, interactive=True),
    GatewayKey(name="batch", sha256=hash_of("secret-2"), consumers=frozenset({"llama"}), evict=True),
)
REMOTE = FakeConnection("10.0.0.9", is_loopback=False)
LOCAL = {"Host": "localhost"}


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({}, ""),
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "bearer  abc "}, "abc"),
        ({"Authorization": "Bearer"}, ""),
        ({"x-api-key": " abc "}, "abc"),
        ({"Authorization": basic("user:a:b")}, "a:b"),
        ({"Authorization": basic(":abc")}, "abc"),
        ({"Authorization": "Basic %%%"}, ""),
        ({"Authorization": "Basic /w=="}, ""),
        ({"Authorization": "Digest abc", "X-Api-Key": "def"}, "def"),
        ({"Authorization": "Bearer " + "x" * 10_000}, "x" * 512),
    ],
)
def test_key_that_a_request_presents(headers: dict[str, str], secret: str) -> None:
    assert presented(CIMultiDict(headers)) == secret


@pytest.mark.parametrize(
    "secret", ["", "secret", "secret-3", hash_of("secret-1"), "\udcff".encode("utf-8", "replace").decode()]
)
def test_unknown_key_is_none(secret: str) -> None:
    assert find(KEYS, secret) is None


def test_key_names_the_client_and_its_rights() -> None:
    webui, _ = admit(LOCAL | {"Authorization": "Bearer secret-1"}, keys=KEYS)
    batch, _ = admit({"X-Api-Key": "secret-2"}, REMOTE, keys=KEYS)

    assert webui == Client("webui", 10, is_local=True, is_interactive=True, has_key=True)
    assert batch == Client("batch", consumers=frozenset({"llama"}), may_evict=True, has_key=True)


def test_programs_of_this_host_need_no_key_unless_one_is_required() -> None:
    assert admit(LOCAL, keys=KEYS)[0].has_key is False
    assert refusal(LOCAL, keys=KEYS, require_key=True) == 401


def test_administrator_on_a_unix_socket_needs_no_key() -> None:
    root = FakeConnection("uid 0", is_loopback=False, is_unix=True)
    user = FakeConnection("uid 12345", is_loopback=False, is_unix=True)

    assert admit({}, root, keys=KEYS, require_key=True)[0].may_evict
    with pytest.raises(Refused):
        admit({}, user, keys=KEYS, require_key=True)


@pytest.mark.parametrize("require_key", [True, False])
def test_wrong_key_is_refused_everywhere(require_key: bool) -> None:
    assert refusal(LOCAL | {"Authorization": "Bearer wrong"}, keys=KEYS, require_key=require_key) == 401
    assert refusal(LOCAL | {"X-Api-Key": "wrong"}, keys=KEYS, require_key=require_key) == 401


def test_other_hosts_need_a_key_also_through_a_trusted_proxy() -> None:
    with pytest.raises(Refused) as raised:
        admit(LOCAL, REMOTE, keys=KEYS)
    assert raised.value.refusal.status == 401
    forwarded = LOCAL | {"X-Forwarded-For": "10.0.0.7"}
    assert refusal(forwarded, keys=KEYS, trusted_proxies=("127.0.0.1",)) == 401


def test_the_text_that_connected_programs_send_for_a_key_counts_as_no_key() -> None:
    sent = LOCAL | {"Authorization": f"Bearer {PLACEHOLDER}"}
    assert PLACEHOLDER == programs.NAME
    assert admit(sent, keys=KEYS)[0] == admit(LOCAL, keys=KEYS)[0]
    assert admit(LOCAL | {"X-Api-Key": PLACEHOLDER}, keys=KEYS)[0].has_key is False
    assert refusal(sent, keys=KEYS, require_key=True) == 401
    with pytest.raises(Refused):
        admit(sent, REMOTE, keys=KEYS)
    own = (GatewayKey(name="own", sha256=hash_of(PLACEHOLDER)),)
    assert admit(sent, keys=own)[0].name == "own"


def test_open_connection_of_another_host_is_refused_when_the_keys_have_gone() -> None:
    with pytest.raises(Refused) as raised:
        admit(LOCAL, REMOTE)
    assert raised.value.refusal.status == 401
    with pytest.raises(Refused):
        admit(LOCAL | {"Authorization": "Bearer secret-1"}, REMOTE)


def test_without_keys_the_header_is_for_the_service() -> None:
    assert admit(LOCAL | {"Authorization": "Bearer anything"})[0].has_key is False


# -- CORS --------------------------------------------------------------------------------------------------------------

ORIGINS = ("http://ui.lan:3000",)
PREFLIGHT = {
    "Origin": "http://ui.lan:3000",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}


class Preflight(FakeRequest):
    method = "OPTIONS"


def asked(headers: dict[str, str], origins: tuple[str, ...] = ORIGINS) -> dict[str, str] | None:
    request: Any = Preflight(CIMultiDict(headers))
    answer = cors.preflight(request, origins)
    return None if answer is None else dict(answer.headers)


def test_preflight_of_a_listed_origin_names_exactly_that_origin() -> None:
    found = asked(PREFLIGHT)

    assert found is not None
    assert found["Access-Control-Allow-Origin"] == "http://ui.lan:3000"
    assert found["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert found["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in found


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://ui.lan:3001"},
        {"Access-Control-Request-Method": ""},
        {"Access-Control-Request-Method": "PO ST"},
    ],
)
def test_other_preflights_get_no_permission(changed: dict[str, str]) -> None:
    assert asked(PREFLIGHT | changed) is None
    assert asked(PREFLIGHT, ()) is None


def test_unusual_names_of_headers_are_not_echoed() -> None:
    found = asked(PREFLIGHT | {"Access-Control-Request-Headers": "a: b"})

    assert found is not None
    assert "Access-Control-Allow-Headers" not in found
