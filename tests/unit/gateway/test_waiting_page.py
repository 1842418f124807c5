"""The waiting page shows what it waits for, and runs no foreign text as markup or script."""

from __future__ import annotations

import base64
import hashlib
import re

from gpumand.gateway.waiting_page import Waiting, html, waiting_page

FULL = Waiting("comfyui", "loading for 3 s", 2, 5, "llm's lease <b>", ("llm", "tts"), 41.6)


def test_facts_are_shown_and_escaped() -> None:
    page = html(FULL)

    for text in (
        "comfyui is being loaded",
        "loading for 3 s",
        "2 of 5",
        "llm&#x27;s lease &lt;b&gt;",
        "llm, tts",
        "42 s",
    ):
        assert text in page
    assert "<b>" not in page


def test_unknown_facts_are_left_out() -> None:
    page = html(Waiting("a"))

    assert "Usual load time" not in page
    assert "Place in the queue" not in page


def test_error_is_shown() -> None:
    page = html(Waiting("a", error="LoadFailed: exit code 1"))

    assert "a could not be loaded" in page
    assert "LoadFailed: exit code 1" in page


def test_policy_allows_exactly_the_script_and_style_of_the_page() -> None:
    response = waiting_page(FULL)
    policy = response.headers["Content-Security-Policy"]
    assert response.text is not None
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert (response.status, response.headers["x-gpumand"]) == (503, "waiting")


def test_redirect_of_the_page_that_has_come_up_is_left_to_the_browser() -> None:
    assert 'redirect: "manual"' in html(FULL)
