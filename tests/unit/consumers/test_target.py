"""Routes stay on the consumer's own host, whatever the path says."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.consumers.answers import NoAnswer
from gpumand.consumers.routes import target


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
def test_the_path_is_appended(base: str, path: str, url: str) -> None:
    assert target(base, path) == url


@pytest.mark.parametrize(
    "base", ["", "host:80", "ftp://host", "file:///etc/passwd", "http://", "http://[", "http://h:x"]
)
def test_only_http_urls_with_a_host(base: str) -> None:
    with pytest.raises(NoAnswer, match="not a usable http or https URL"):
        target(base, "/")


@given(st.text())
def test_no_path_leaves_the_host(path: str) -> None:
    assert target("http://127.0.0.1:8188", path).startswith("http://127.0.0.1:8188/")
    assert urlsplit(target("http://127.0.0.1:8188", path)).netloc == "127.0.0.1:8188"
