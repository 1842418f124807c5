"""The URL of a route is always on the consumer's own host, whatever its path is."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.consumers.answers import NoAnswer
from gpumand.consumers.routes import route_url


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("http://127.0.0.1:8188", "/free", "http://127.0.0.1:8188/free"),
        ("http://127.0.0.1:8188/", "/free", "http://127.0.0.1:8188/free"),
        ("https://host/comfy/", "/free?x=1&y=%2F", "https://host/comfy/free?x=1&y=%2F"),
        ("http://host/a/b", "sleep", "http://host/a/b/sleep"),
        ("http://host?old=1#part", "/x", "http://host/x"),
        ("http://[::1]:80/p", "//other.example/x", "http://[::1]:80/p//other.example/x"),
        ("http://host", "@other.example/x", "http://host/@other.example/x"),
    ],
)
def test_path_is_appended_to_the_base_url(base: str, path: str, url: str) -> None:
    assert route_url(base, path) == url


@pytest.mark.parametrize(
    "base", ["", "host:80", "ftp://host", "file:///etc/passwd", "http://", "http://[", "http://h:x"]
)
def test_url_without_http_scheme_or_host_is_refused(base: str) -> None:
    with pytest.raises(NoAnswer, match="not a usable http or https URL"):
        route_url(base, "/")


@given(st.text())
def test_no_path_changes_the_host(path: str) -> None:
    assert route_url("http://127.0.0.1:8188", path).startswith("http://127.0.0.1:8188/")
    assert urlsplit(route_url("http://127.0.0.1:8188", path)).netloc == "127.0.0.1:8188"
