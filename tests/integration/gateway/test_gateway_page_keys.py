"""The web page of the gateway with API keys, in a real browser."""

from __future__ import annotations

import signal
from pathlib import Path

from gpumand.config.gateway_keys import hash_of
from tests.integration.gateway.browser import browser_tab, needs_browser
from tests.integration.gateway.console import board
from tests.integration.gateway.page_desk import KEY, MIB, SIZES, WEAK, desk, is_resident, pictures
from tests.integration.live import wait_until

pytestmark = needs_browser


async def test_api_key_gives_the_right_to_evict_until_it_is_taken_back(tmp_path: Path) -> None:
    keys = f'[keys.anna]\nsha256 = "{hash_of(KEY)}"\nevict = true\n[keys.script]\nsha256 = "{hash_of(WEAK)}"\n'
    (tmp_path / "keys.toml").write_text(keys, encoding="utf-8")
    async with desk(tmp_path, MIB, f'keys_file = "{tmp_path / "keys.toml"}"\n') as made:
        await made.control.call("Load", "sa{sv}", "tts", {})
        await made.open()
        for key in ("gpumand-wrong", WEAK, KEY):
            await made.tab.press_tab_until("Sign in")
            await made.tab.press("Enter")
            await made.tab.until("document.querySelector('#key-dialog').open")
            await made.tab.type(key)
            await made.tab.press("Enter")
            if key != KEY:
                await made.tab.until("document.querySelector('#key-error').textContent")
                await made.tab.press("Escape")
                await made.tab.evaluate("document.querySelector('#key').value = ''")
        await made.tab.until_text("#client", "anna")
        assert await made.tab.evaluate("document.querySelector('#key').value") == "", "the key is not left in the page"

        await made.tab.press_tab_until("Evict tts")
        await made.tab.press("Enter")
        await wait_until("tts is evicted", is_resident, made.control, "tts", "unloaded")
        await made.open()
        await made.tab.until_text("#client", "anna")

        await made.tab.press_tab_until("Sign out")
        await made.tab.press("Enter")
        await made.tab.until("document.querySelector('#sign-in').innerText === 'Sign in'")
        names = "[...document.querySelectorAll('td button')].map((one) => one.innerText).join()"
        await made.tab.until(f"!{names}.includes('Pin')")
        assert KEY not in made.gateway.log
        await made.check()


async def test_browser_asks_for_the_key_where_one_is_required_and_the_page_works_with_it(tmp_path: Path) -> None:
    keys = f'[keys.anna]\nsha256 = "{hash_of(KEY)}"\nevict = true\n'
    (tmp_path / "keys.toml").write_text(keys, encoding="utf-8")
    required = f'keys_file = "{tmp_path / "keys.toml"}"\nrequire_key = true\n'
    async with desk(tmp_path, {"tts": 2500}, required) as made:
        await made.control.call("Load", "sa{sv}", "tts", {})
        await made.tab.answer_dialogs()

        await made.tab.open(made.url)  # "Cancel"
        await made.tab.until_text("body", "An API key is required")
        assert made.tab.asked == ["gpumand"]
        assert await made.tab.evaluate("document.querySelector('#devices')") is None

        made.tab.password = "gpumand-wrong"
        asked = len(made.tab.asked)
        await made.tab.open(made.url)

        async def asked_again() -> bool:
            return len(made.tab.asked) >= asked + 2

        await wait_until("the browser asks again after a wrong key", asked_again)
        made.tab.password = KEY

        await made.tab.until_text("#connection", "Live")
        await made.tab.until_text("#client", "anna")
        assert await made.tab.evaluate("document.querySelector('#sign-in').hidden")
        asked = len(made.tab.asked)
        await made.tab.press_tab_until("Evict tts")
        await made.tab.press("Enter")
        await wait_until("tts is evicted", is_resident, made.control, "tts", "unloaded")
        assert len(made.tab.asked) == asked, "the browser sends the key with the requests of the page by itself"
        assert KEY not in made.gateway.log
        # The browser's own view of the JSON document that refused it has pictures inside it.
        made.tab.requests = [one for one in made.tab.requests if not one.startswith("data:")]
        await made.check()


async def test_page_of_a_limited_key_offers_what_the_key_may_do_and_follows_a_change_of_its_rights(
    tmp_path: Path,
) -> None:
    file, limited = tmp_path / "keys.toml", 'consumers = ["fake"]\n'
    keys = f'[keys.anna]\nsha256 = "{hash_of(KEY)}"\n{limited}[keys.script]\nsha256 = "{hash_of(WEAK)}"\n'
    file.write_text(keys, encoding="utf-8")
    required = f'keys_file = "{file}"\nrequire_key = true\n'
    async with board(tmp_path, required, 'preset = "comfyui"') as made, browser_tab(tmp_path) as tab:
        for key in (KEY, WEAK):
            headers = {"Authorization": f"Bearer {key}"}
            async with made.front.session.post(f"{made.front.url}/prompt", json={}, headers=headers) as answer:
                assert answer.status == 200
        await tab.answer_dialogs()
        tab.password = KEY
        await tab.open(f"{made.url}/gateway/")
        await tab.until_text("#client", "anna")
        await tab.until_text("#services", "2 held")
        choices = "[...document.querySelector('#plan-consumer').options].map((one) => one.value).join()"
        await tab.until(f"{choices} === 'fake'")
        buttons = (
            "[...document.querySelectorAll('#requests button')].map((one) => one.getAttribute('aria-label')).join()"
        )
        assert await tab.evaluate(buttons) == "Release POST /prompt of anna"
        await tab.evaluate("document.querySelector('#plan-form').requestSubmit()")
        await tab.until_text("#plan", "fake")
        for width, height, phone in SIZES.values():
            await tab.look(width, height, phone=phone)
            await tab.picture(pictures(tmp_path) / f"limited-{width}.png")
            assert not await tab.evaluate("document.documentElement.scrollWidth > innerWidth")

        await tab.evaluate("document.querySelector('#requests button').click()")
        await tab.until_text("#messages", "Its work goes on in fake")
        await tab.until(f"{buttons} === ''")
        file.write_text(keys.replace(limited, ""), encoding="utf-8")
        assert made.front.gateway.process is not None
        made.front.gateway.process.send_signal(signal.SIGHUP)

        await tab.until(f"{choices} === ',fake,blocker' || {choices} === ',blocker,fake'")
        await tab.until_text("#services", "blocker")
        assert await tab.evaluate("violations") == []
