"""Texts of others on the web page of the gateway, in a real browser: they are shown and never run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from gpumand.gateway.console.state_view import ShownListener
from tests.integration.gateway.browser import browser_tab, needs_browser
from tests.integration.gateway.console_stub import invented_console
from tests.integration.gateway.page_desk import HOSTILE, desk, host_of_fleet, invented, page_of_root, pictures

pytestmark = needs_browser


async def test_texts_of_hostile_programs_are_shown_and_never_run(tmp_path: Path) -> None:
    async with desk(tmp_path, {"llm": 14000, "comfyui": 20000}) as made, page_of_root(tmp_path / "own.sock") as url:
        await made.control.acquire("llm", timeout_usec=("t", 20_000_000), reason=("s", HOSTILE))
        queued = made.control.start_acquire("comfyui", reason=("s", HOSTILE))
        waiting = asyncio.create_task(made.session.post(made.gateway.url("comfyui") + "/%3Cscript%3Ehit=1"))
        made.url = url
        await made.open()
        await made.tab.until_text("#queue", HOSTILE)
        await made.tab.until_text("#requests", "/%3Cscript%3E")
        assert HOSTILE[:24] in await made.tab.text("#queue td[data-label='Reason of the wait']")
        await made.tab.evaluate(f"document.querySelector('#key').value = {json.dumps(HOSTILE)}")
        await made.check()
        assert await made.tab.evaluate("document.querySelectorAll('main img, main script').length") == 0
        for task in (queued, waiting):
            task.cancel()
        await asyncio.gather(queued, waiting, return_exceptions=True)


async def test_markup_in_every_text_of_gpumand_is_shown_as_text(tmp_path: Path) -> None:
    listeners = (ShownListener(HOSTILE, HOSTILE, f"javascript:{HOSTILE}:8080"),)
    source = invented()
    source.hosts = {"hosts": [host_of_fleet(HOSTILE, HOSTILE, HOSTILE, HOSTILE)], "absence": "", "degraded": HOSTILE}
    async with invented_console(source, listeners) as url, browser_tab(tmp_path) as tab:
        await tab.open(url)
        await tab.until_text("#history", HOSTILE)
        await tab.evaluate("document.querySelector('#plan-form').requestSubmit()")
        await tab.until_text("#plan", HOSTILE)
        await tab.until_text("#hosts", HOSTILE)
        places = ("#hosts", "#fleet-notice", "#devices", "#services", "#queue", "#requests", "#plan", "#history")
        for place in (*places, "#notice", "#about"):
            assert HOSTILE in await tab.text(place), place
        kinds = "[...document.querySelectorAll('#history .badge')].map((one) => one.innerText)"
        assert await tab.evaluate(kinds) == [HOSTILE, "constructor", "loaded"]
        levels = "[...document.querySelectorAll('.badge')].map((one) => one.dataset.level)"
        assert set(await tab.evaluate(levels)) <= {"good", "wait", "bad", "off"}
        await tab.until_text("#devices .readings", "71 %")
        assert "64 °C" in await tab.text("#devices")
        assert "Unknown" in await tab.text("#devices > :nth-child(2) .legend"), "unknown memory is not free"
        links = await tab.evaluate("[...document.querySelectorAll('main a')].map((one) => one.href)")
        assert all(one.startswith("http://127.0.0.1:") for one in links)
        assert await tab.evaluate("document.querySelectorAll('main img, main script, footer img').length") == 0
        assert await tab.evaluate("window.hit") is None
        assert (tab.problems, await tab.evaluate("violations")) == ([], [])
        for width, phone in ((1280, False), (360, True)):
            await tab.look(width, 800, phone=phone)
            await tab.picture(pictures(tmp_path) / f"markup-{width}.png")
            wide = "document.documentElement.scrollWidth > innerWidth"
            assert not await tab.evaluate(wide), "long texts make the page wider than the window"
