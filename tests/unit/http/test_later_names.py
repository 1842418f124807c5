"""Names of modules that are imported at their first use, and aiohttp as the long-running processes import it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gpumand.http.later_names import Later, imported_later

MODULE = "colorsys"
"""A small module that nothing else imports."""


@pytest.fixture(autouse=True)
def not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_a_name_is_imported_when_it_is_called_with_its_arguments_resolved() -> None:
    with imported_later({MODULE: ("rgb_to_hsv",), "json": ("loads",)}):
        from colorsys import rgb_to_hsv
    assert MODULE not in sys.modules
    assert rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1)
    assert MODULE in sys.modules
    assert Later("builtins", "dict")(key=Later("math", "pi"))["key"] > 3


def test_a_name_that_was_not_expected_comes_from_the_module_at_once() -> None:
    with imported_later({MODULE: ("rgb_to_hsv",)}):
        from colorsys import ONE_THIRD
    assert pytest.approx(1 / 3) == ONE_THIRD
    import colorsys

    assert colorsys.rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1), "it is the real module"


def test_attributes_of_a_module_come_from_it_at_their_first_use() -> None:
    with imported_later({MODULE: ()}):
        import colorsys as later
    assert MODULE not in sys.modules
    assert later.rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1)
    import colorsys as real

    assert later.hsv_to_rgb is real.hsv_to_rgb


def test_a_module_that_is_imported_already_is_left_alone() -> None:
    before = sys.modules["json"]
    with imported_later({"json": ("loads",)}):
        assert sys.modules["json"] is before
    assert sys.modules["json"] is before


def test_a_module_that_cannot_be_imported_leaves_no_stand_in() -> None:
    with pytest.raises(ValueError, match="stop"), imported_later({MODULE: ()}):
        raise ValueError("stop")
    assert MODULE not in sys.modules


AIOHTTP = """
from gpumand.http.aiohttp_import import import_aiohttp
import_aiohttp()
import json, os, sys, io
from aiohttp import helpers, web_protocol, payload, FormData, CookieJar
os.environ["http_proxy"] = "http://proxy:3128"
kind = helpers.parse_content_type("text/html; charset=latin-1; name=a")
import html, tempfile, urllib.request, email.policy, mimetypes, uuid
print(json.dumps({
    "type": [kind[0], dict(kind[1])],
    "proxies": [str(one.proxy) for one in helpers.proxies_from_env().values()],
    "bypass": urllib.request.proxy_bypass("localhost"),
    "escape": web_protocol.html_escape("<a>"),
    "unescape": html.unescape("&eacute;"),
    "guess": payload.guess_filename(io.BytesIO(b""), "x"),
    "mime": mimetypes.guess_type("a.png")[0],
    "form": bool(FormData({"a": "b"})()),
    "variable": os.environ.get("FROZENLIST_NO_EXTENSIONS"),
    "stand_ins": [name for name, one in sys.modules.items() if type(one).__name__ == "_StandIn"],
}))
"""


def test_aiohttp_works_as_if_it_had_imported_everything() -> None:
    done = subprocess.run([sys.executable, "-c", AIOHTTP], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {
        "type": ["text/html", {"charset": "latin-1", "name": "a"}],
        "proxies": ["http://proxy:3128"],
        "bypass": False,
        "escape": "&lt;a&gt;",
        "unescape": "\u00e9",
        "guess": "x",
        "mime": "image/png",
        "form": True,
        "variable": None,
        "stand_ins": [],
    }
