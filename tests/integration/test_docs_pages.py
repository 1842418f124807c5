"""The built documentation in a headless browser, at the width of a desktop and of a phone."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.gateway.browser import Tab, browser_tab, needs_browser

ROOT = Path(__file__).resolve().parents[2]
BUILD_SEC = 240
PICTURES = os.environ.get("GPUMAND_PICTURES", "")
"""Folder for pictures of some pages, to look at; "" = none are made."""
SHOWN = ("index", "guide/recipes/ollama", "guide/sharing", "reference/configuration", "reference/presets/comfyui")
WIDTHS = {"desktop": 1280, "phone": 390}

OVERFLOWING = """
(() => {
    const found = [];
    // Code blocks scroll, and so do tables of measurements, which have many columns.
    const scrolls = (element) =>
        element.closest("pre") !== null || element.closest(".table-wrapper")?.querySelector("th:nth-child(6)");
    if (document.documentElement.scrollWidth > innerWidth + 1) {
        found.push("the page is " + document.documentElement.scrollWidth + " wide");
    }
    for (const element of document.querySelectorAll("article *")) {
        const box = element.getBoundingClientRect();
        if (box.width > 0 && box.right > innerWidth + 1 && !scrolls(element)) {
            found.push(element.tagName + " ends at " + Math.round(box.right) + ": " + element.textContent.slice(0, 60));
        }
    }
    return found.slice(0, 5);
})()
"""
BROKEN_IMAGES = "[...document.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src)"
HEADINGS = "document.querySelectorAll('article h1').length"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as HTML, built once for all workers of the test run."""
    base = tmp_path_factory.getbasetemp()
    # The parent belongs to this run only if the run has workers.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "documentation"
    folder.mkdir(exist_ok=True)
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            options = ["--quiet", "--fail-on-warning", "-d", str(folder / "doctrees")]
            build = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder / "html")]
            done = subprocess.run(build, capture_output=True, text=True, timeout=BUILD_SEC, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            (folder / "built").touch()
    return folder / "html"


def names(site: Path) -> list[str]:
    """The pages, without those that Sphinx makes of its own, such as the search."""
    own = {"genindex", "search", "py-modindex"}
    found = (str(file.relative_to(site).with_suffix("")) for file in site.rglob("*.html"))
    return sorted(name for name in found if name not in own and not name.startswith("_"))


@needs_browser
@pytest.mark.timeout(600)
async def test_no_page_is_wider_than_a_desktop_or_a_phone(site: Path, tmp_path: Path) -> None:
    pages, problems = names(site), list[str]()
    assert len(pages) > 60
    async with browser_tab(tmp_path) as tab:
        for name in pages:
            await _open(tab, site / f"{name}.html")
            for kind, width in WIDTHS.items():
                await tab.look(width, 900, phone=kind == "phone")
                found = [*await tab.evaluate(OVERFLOWING), *await tab.evaluate(BROKEN_IMAGES)]
                problems += [f"{name} at {width} px: {one}" for one in found]
                if PICTURES and name in SHOWN:
                    await tab.picture(Path(PICTURES) / f"{name.replace('/', '-')}-{kind}.png")
            if await tab.evaluate(HEADINGS) != 1:
                problems.append(f"{name} has not exactly one title")
        assert not problems, "\n".join(problems)
        assert tab.problems == []
        assert [one for one in tab.requests if not one.startswith(("file:", "data:"))] == []


async def _open(tab: Tab, file: Path) -> None:
    await tab.open(file.as_uri())
    await tab.until(f"location.href === '{file.as_uri()}' && document.readyState === 'complete'", within_sec=30)


EVIDENCE = {"reliability", "performance", "architecture", "decisions"}
"""Pages for people who want proof, or who work on gpumand."""
_NOT_TEXT = re.compile(r"<script.*?</script>|<[^>]+>", re.DOTALL)


def test_pages_for_users_outweigh_measurements_and_decisions_and_come_first(site: Path) -> None:
    words = {name: _words(site / f"{name}.html") for name in names(site)}
    evidence = sum(count for name, count in words.items() if name in EVIDENCE)
    assert sum(words.values()) - evidence > 1.5 * evidence
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^([a-z-]+(?:/[a-z-]+)*)$", index, re.MULTILINE)
    assert set(listed[-len(EVIDENCE) :]) == EVIDENCE


def _words(file: Path) -> int:
    match = re.search(r"<article.*?</article>", file.read_text(encoding="utf-8"), re.DOTALL)
    assert match, file
    return len(_NOT_TEXT.sub(" ", match[0]).split())
