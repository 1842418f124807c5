"""Headers of one connection are removed, forwarding headers are set, and invalid ones are refused."""

from __future__ import annotations

import pytest

from gpumand.gateway.headers import (
    BadHeader,
    Origin,
    check_headers,
    passed_gateway,
    request_headers,
    response_headers,
)

CLIENT = Origin("10.0.0.9", "ai.example:8188")
UPSTREAM = "http://127.0.0.1:8189"


def raw(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in pairs]


@pytest.mark.parametrize("name", [b"X-A ", b"", b"X A", b"X\x00", "ä".encode(), b"X:"])
def test_names_that_are_no_tokens_are_refused(name: bytes) -> None:
    with pytest.raises(BadHeader):
        check_headers([(name, b"a")])


@pytest.mark.parametrize("value", [b"a\r", b"a\nb", b"\x00", b"a\x7f"])
def test_values_with_control_characters_are_refused(value: bytes) -> None:
    with pytest.raises(BadHeader):
        check_headers([(b"X-A", value)])


def test_second_host_is_refused() -> None:
    with pytest.raises(BadHeader):
        check_headers(raw(("Host", "a"), ("host", "a")))


def test_hop_by_hop_headers_and_what_connection_names_are_removed() -> None:
    sent = raw(
        ("Connection", "keep-alive, X-Private"),
        ("connection", "Content-Length"),
        ("X-Private", "a"),
        ("Keep-Alive", "b"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Content-Length", "3"),
        ("Cookie", "c"),
        ("Cookie", "d"),
    )
    headers = request_headers(sent, CLIENT, UPSTREAM)

    assert {"connection", "x-private", "keep-alive", "transfer-encoding", "upgrade"}.isdisjoint(
        name.lower() for name in headers
    )
    assert headers["Content-Length"] == "3"
    assert headers.getall("Cookie") == ["c", "d"]
    assert headers.getall("Host") == ["127.0.0.1:8189"]


def test_forwarding_headers_of_the_client_are_replaced() -> None:
    sent = raw(("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Port", "1"), ("Forwarded", "for=x"), ("X-Real-IP", "y"))
    headers = request_headers(sent, CLIENT, UPSTREAM)

    assert headers.getall("X-Forwarded-For") == ["10.0.0.9"]
    assert headers["X-Forwarded-Host"] == "ai.example:8188"
    assert headers["X-Forwarded-Proto"] == "http"
    assert {"X-Forwarded-Port", "Forwarded", "X-Real-IP"}.isdisjoint(headers)


def test_origin_of_the_service_itself_becomes_its_own_and_others_stay() -> None:
    own = request_headers(raw(("Origin", "http://AI.example:8188")), CLIENT, UPSTREAM)
    page = request_headers(raw(("Referer", "http://ai.example:8188/x?y")), CLIENT, UPSTREAM)
    other = request_headers(raw(("Origin", "http://ai.example")), CLIENT, UPSTREAM)

    assert own["Origin"] == UPSTREAM
    assert page["Referer"] == f"{UPSTREAM}/x?y"
    assert other["Origin"] == "http://ai.example"


def test_user_headers_pass_only_on_request() -> None:
    sent = raw(("X-OpenWebUI-User-Name", "a"))

    assert "X-OpenWebUI-User-Name" not in request_headers(sent, CLIENT, UPSTREAM)
    assert request_headers(sent, CLIENT, UPSTREAM, forward_user=True)["X-OpenWebUI-User-Name"] == "a"


def test_location_of_the_service_becomes_that_of_the_client_and_others_stay() -> None:
    own = response_headers(raw(("Location", f"{UPSTREAM}/a?b"), ("Connection", "X-P"), ("X-P", "c")), CLIENT, UPSTREAM)
    other = response_headers(raw(("Location", "http://127.0.0.1:81890/a")), CLIENT, UPSTREAM)

    assert own["Location"] == "http://ai.example:8188/a?b"
    assert "X-P" not in own
    assert other["Location"] == "http://127.0.0.1:81890/a"


def test_request_that_passed_a_gateway_is_recognised() -> None:
    assert passed_gateway(raw(("Via", "1.1 gpumand")))
    assert not passed_gateway(raw(("Via", "1.1 nginx"), ("X", "gpumand")))


@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_For",
        "x-forwarded_host",
        "X_Real_IP",
        "Content_Length",
        "Transfer_Encoding",
        "X_OpenWebUI_User_Name",
    ],
)
def test_names_that_servers_take_for_forwarding_headers_do_not_pass_with_underscores(name: str) -> None:
    sent = request_headers(raw((name, "10.9.9.9"), ("X_Own", "a")), CLIENT, UPSTREAM)

    assert name not in sent
    assert sent["X_Own"] == "a"
