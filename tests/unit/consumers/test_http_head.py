from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import h11
import pytest

from gpumand.consumers.http_head import address_of, head_of
from gpumand.consumers.http_request import Request


def request(url: str, method: str = "GET", json: Any = None, headers: tuple[tuple[str, str], ...] = ()) -> Request:
    return Request("c", method, url, json, headers, 1.0)


def headers_of(head: h11.Request) -> dict[str, str]:
    return {name.decode().lower(): value.decode() for name, value in head.headers}


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("http://127.0.0.1:8188", "/", "127.0.0.1:8188"),
        ("http://llm:80/v1/models", "/v1/models", "llm"),
        ("https://llm:443/x?a=1&b=%20", "/x?a=1&b=%20", "llm"),
        ("http://[::1]:9000/a%2Fb#part", "/a%2Fb", "[::1]:9000"),
        ("http://llm/ä b?q=ü", "/%C3%A4%20b?q=%C3%BC", "llm"),
        ("http://bücher.example/", "/", "xn--bcher-kva.example"),
        ("http://user:p%40ss@llm:81/x", "/x", "llm:81"),
    ],
)
def test_target_and_host_of_a_url(url: str, target: str, host: str) -> None:
    head = head_of(request(url), b"")
    assert (head.target.decode(), headers_of(head)["host"]) == (target, host)


def test_credentials_in_the_url_become_a_header() -> None:
    assert headers_of(head_of(request("http://user:p%40ss@llm/"), b""))["authorization"] == "Basic dXNlcjpwQHNz"
    given = (("Authorization", "Bearer x"),)
    assert headers_of(head_of(request("http://user:p@llm/", headers=given), b""))["authorization"] == "Bearer x"


def test_headers_of_the_route_replace_default_ones_of_any_case() -> None:
    given = headers_of(head_of(request("http://llm/", headers=(("accept", "text/plain"), ("X-Key", "ä"))), b""))
    assert given["accept"] == "text/plain"
    assert given["x-key"] == "ä"
    assert given["accept-encoding"] == "identity"


@pytest.mark.parametrize(("method", "length"), [("GET", None), ("HEAD", None), ("POST", "0"), ("DELETE", "0")])
def test_request_without_a_body_has_a_length_only_where_servers_expect_one(method: str, length: str | None) -> None:
    given = headers_of(head_of(request("http://llm/", method), b""))
    assert given.get("content-length") == length
    assert "content-type" not in given


def test_json_body_has_type_and_length() -> None:
    given = headers_of(head_of(request("http://llm/", "POST", {"a": 1}), b'{"a": 1}'))
    assert (given["content-type"], given["content-length"]) == ("application/json", "8")


@pytest.mark.parametrize("bad", ["secret\r\nX-Evil: 1", "secret\nb", "secret\0b", "secret\x0bb", "secret\udc80"])
def test_header_that_http_does_not_allow_is_refused_without_its_value(bad: str) -> None:
    with pytest.raises(ValueError, match="the header 'X-Key' has characters that HTTP does not allow") as refused:
        head_of(request("http://llm/", headers=(("X-Key", bad),)), b"")
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("value", [" Bearer x", "Bearer x ", "Bearer x\n", "\tBearer x\r\n"])
def test_blanks_around_a_header_value_are_not_sent(value: str) -> None:
    given = headers_of(head_of(request("http://llm/", headers=(("Authorization", value),)), b""))
    assert given["authorization"] == "Bearer x"


def test_url_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="no host"):
        address_of(urlsplit("http:///x"))
