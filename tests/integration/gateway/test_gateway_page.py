"""The web page of the gateway in a real browser: real daemon, gateway and consumer processes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.gateway.browser import browser_tab, needs_browser
from tests.integration.gateway.console import board
from tests.integration.gateway.console_stub import Invented, invented_console
from tests.integration.gateway.page_desk import (
    MIB,
    SIZES,
    Desk,
    desk,
    host_of_fleet,
    invented,
    is_resident,
    page_of_root,
    pictures,
)
from tests.integration.live import wait_until

pytestmark = needs_browser


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path, MIB) as made:
        yield made


async def test_busy_host_is_shown_without_sideways_scrolling_on_desktop_and_phone(
    running: Desk, tmp_path: Path
) -> None:
    tasks = [*await running.start_requests("llm", 2), *await running.start_requests("whisper")]
    await running.open()
    await running.tab.until_text("#services", "2 in flight")
    await running.control.acquire("tts", timeout_usec=("t", 20_000_000), reason=("s", "nightly audiobook"))
    tasks += await running.start_requests("comfyui")
    await running.tab.until_text("#queue", "comfyui")
    await running.tab.evaluate("document.querySelector('#plan-consumer').value = 'comfyui'")
    await running.tab.evaluate("document.querySelector('#plan-form').requestSubmit()")
    await running.tab.until_text("#plan", "comfyui")
    await running.tab.until_text("#history", "loaded")
    for name, (width, height, phone) in SIZES.items():
        for scheme in ("light", "dark"):
            await running.tab.look(width, height, dark=scheme == "dark", phone=phone)
            await running.tab.picture(pictures(tmp_path) / f"{name}-{scheme}.png")
            await running.tab.picture(pictures(tmp_path) / f"{name}-{scheme}-top.png", whole=False)
            wide = await running.tab.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert not wide, f"{name}: the page is wider than the window"
    await running.check()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_services_are_loaded_pinned_and_evicted_with_the_keyboard_alone(tmp_path: Path) -> None:
    async with desk(tmp_path, MIB) as made, page_of_root(tmp_path / "own.sock") as url:
        made.url = url
        await made.open()
        await made.tab.press_tab_until("Load llm")
        await made.tab.press("Enter")
        await wait_until("llm is loaded", is_resident, made.control, "llm")
        await made.tab.until_text("#messages", "llm is loaded.")
        await made.tab.until_text("#services", "resident")

        lease, _ = await made.control.acquire("llm", timeout_usec=("t", 20_000_000))
        await made.tab.evaluate("document.activeElement.blur()")
        await made.tab.press_tab_until("Evict llm")
        await made.tab.press(" ")
        await made.tab.until("document.querySelector('#force-dialog').open")
        assert await made.tab.focused() == "Cancel"
        assert lease[:6] in await made.tab.text("#force-text")
        await made.tab.press("Escape")
        assert await is_resident(made.control, "llm"), "nothing is evicted without a confirmation"

        await made.tab.press_tab_until("Evict llm")
        await made.tab.press("Enter")
        await made.tab.until("document.querySelector('#force-dialog').open")
        await made.tab.press("Tab")
        assert await made.tab.focused() == "Evict anyway"
        await made.tab.press("Enter")
        await wait_until("llm is evicted", is_resident, made.control, "llm", "unloaded")
        await made.tab.until_text("#history", "evicted")

        await made.tab.press_tab_until("Pin whisper")
        await made.tab.press("Enter")
        await made.tab.until_text("#services", "pinned")
        await made.tab.until("document.activeElement.innerText !== 'Pin'")
        await made.check()


async def test_request_is_cancelled_on_the_page_and_programs_without_a_right_have_no_such_button(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path, MIB) as made, page_of_root(tmp_path / "own.sock") as url:
        for name in ("llm", "whisper"):
            await made.control.acquire(name, timeout_usec=("t", 20_000_000))
        waiting = await made.start_requests("comfyui")
        await made.open()
        await made.tab.until_text("#requests", "place 1 of 1 in the queue")
        names = "[...document.querySelectorAll('td button')].map((one) => one.innerText).join()"
        assert set((await made.tab.evaluate(names)).split(",")) == {"Load"}

        await made.tab.open(url)
        await made.tab.until("document.querySelector('#requests button')?.innerText === 'Cancel'")
        await made.tab.evaluate("document.querySelector('#requests button').click()")
        assert await waiting[0] == 503
        await made.tab.until_text("#requests + .empty", "No request is in flight")
        assert await made.tab.evaluate("violations") == []


async def test_held_job_is_shown_on_the_page_and_its_lease_is_given_back_there(tmp_path: Path) -> None:
    async with (
        board(tmp_path, listener='preset = "comfyui"') as made,
        page_of_root(tmp_path / "own.sock") as url,
        browser_tab(tmp_path) as tab,
    ):
        async with made.front.session.post(f"{made.front.url}/prompt", json={}) as answer:
            assert answer.status == 200
        await tab.open(url)
        await tab.until_text("#requests", "held: fake reports 1 job")
        await tab.until_text("#services", "1 held")
        await tab.until("document.querySelector('#requests button')?.innerText === 'Release'")

        await tab.evaluate("document.querySelector('#requests button').click()")

        await tab.until_text("#messages", "Its work goes on in fake")
        await tab.until_text("#requests + .empty", "No request is in flight")
        assert made.front.service.jobs == 1
        assert await tab.evaluate("violations") == []


async def test_page_shows_restarts_of_gpumand_and_of_the_gateway_and_reconnects(running: Desk) -> None:
    await running.open()
    await running.control.acquire("tts", timeout_usec=("t", 20_000_000))
    await running.tab.until_text("#services", "in use")

    await running.host.end(signal.SIGKILL)
    await running.tab.until_text("#connection", "gpumand is away")
    await running.tab.until_text("#notice", "gpumand cannot be reached")
    assert "tts" in await running.tab.text("#services"), "the last known state stays"
    assert await running.tab.evaluate("[...document.querySelectorAll('td button')].every((one) => one.disabled)")
    await running.host.start()
    await running.tab.until_text("#connection", "Live")

    await running.gateway.end(signal.SIGKILL)
    await running.tab.until_text("#notice", "The gateway does not answer")
    await running.gateway.start()
    await running.tab.until_text("#connection", "Live")
    assert await running.tab.evaluate("document.querySelector('#notice').hidden")
    assert await running.tab.evaluate("[...document.querySelectorAll('td button')].every((one) => !one.disabled)")
    await running.check()


async def test_page_in_the_background_reads_nothing(running: Desk) -> None:
    await running.open()
    reads = "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/events')).length"
    hide = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
    event = "document.dispatchEvent(new Event('visibilitychange'))"

    await running.tab.evaluate(hide.format("true") + event)
    await running.control.acquire("tts", timeout_usec=("t", 20_000_000))
    await running.tab.until(f"{reads} === 1")
    assert "in use" not in await running.tab.text("#services")

    await running.tab.evaluate(hide.format("false") + event)
    await running.tab.until_text("#services", "in use")


async def test_plan_of_the_page_names_what_would_be_evicted(running: Desk) -> None:
    lease, _ = await running.control.acquire("llm", timeout_usec=("t", 20_000_000))
    await running.control.release(lease)
    await running.open()
    await running.tab.until("document.querySelectorAll('#plan-consumer option').length === 5")
    await running.tab.evaluate("document.querySelector('[name=vram_mib]').value = 15000")
    await running.tab.evaluate("document.querySelector('#plan-form button').click()")
    await running.tab.until_text("#plan", "would be served now")
    plan = await running.tab.text("#plan")
    assert "llm would be evicted" in plan
    assert "13.7 GiB" in plan
    await running.check()


LOST = (
    "comfyui.service failed (exit-code, status 1); last lines: Traceback (most recent call last): | "
    "torch.OutOfMemoryError: CUDA error: out of memory | "
    "could not load /srv/models/checkpoints/a-model-with-a-long-name-without-spaces.safetensors"
)


async def test_failed_load_is_shown_with_its_reason_and_the_time_of_the_next_one(tmp_path: Path) -> None:
    now = time.time_ns() // 1000
    failed = {"name": "comfyui", "residency": "failed", "device": "", "error": LOST, "vram_resident_mib": 9000}
    status = {"version": "1", "degraded": "", "devices": [], "leases": [], "stats": {}, "queue": []}
    source = Invented(status | {"consumers": [failed | {"retry_usec": now + 300_000_000}]})
    async with invented_console(source) as url, browser_tab(tmp_path) as tab:
        await tab.open(url)
        await tab.until_text("#services", "Next load possible in 5 min.")
        lines = await tab.evaluate("[...document.querySelectorAll('#services .log li')].map((one) => one.innerText)")
        assert lines[:2] == ["Traceback (most recent call last):", "torch.OutOfMemoryError: CUDA error: out of memory"]
        assert len(lines) == 3
        buttons = "[...document.querySelectorAll('#services button')].map((one) => one.ariaLabel)"
        assert "Load comfyui" in await tab.evaluate(buttons)
        for width, phone in ((1280, False), (380, True)):
            await tab.look(width, 700, phone=phone)
            await tab.picture(pictures(tmp_path) / f"failed-{width}.png")
            assert not await tab.evaluate("document.documentElement.scrollWidth > innerWidth")

        # The status of a consumer is kept, so that a time that has passed stays in it.
        source.status = status | {"consumers": [failed | {"retry_usec": now - 5_000_000}]}
        source.changed()
        await tab.until("!document.querySelector('#services').innerText.includes('Next load')")
        assert "out of memory" in await tab.text("#services")


async def test_hosts_of_the_fleet_are_shown_where_there_is_one(tmp_path: Path) -> None:
    source = invented()
    source.hosts = {
        "absence": "",
        "degraded": "",
        "hosts": [host_of_fleet("gpu1"), host_of_fleet("gpu2", "lost", why="gone")],
    }
    async with invented_console(source) as url, browser_tab(tmp_path) as tab:
        await tab.open(url)
        await tab.until_text("#hosts", "gpu2")
        first = (await tab.text("#hosts tbody tr:first-child")).split()
        assert [one for one in first if one in ("gpu1", "host", "up", "unknown")] == ["gpu1", "host", "up", "unknown"]
        words = await tab.text("#hosts")
        assert "llm, parked (parked)" in words
        assert "away" not in words
        assert "gone" in words
        await tab.picture(pictures(tmp_path) / "hosts.png")
        source.hosts = None
        await tab.until("document.querySelector('#fleet').hidden")
        assert tab.problems == []


async def test_policy_of_the_page_stops_a_script_that_got_into_it(running: Desk) -> None:
    await running.open()
    parse = "try { document.body.innerHTML = '<b>x</b>' } catch (error) { String(error) }"
    assert "TrustedHTML" in str(await running.tab.evaluate(parse))
    await running.tab.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x'}))"
    )
    await running.tab.until("violations.some((one) => one.startsWith('img-src'))")


async def test_every_control_and_bar_has_a_name_for_screen_readers(running: Desk) -> None:
    await running.start_requests("whisper")
    await running.open()
    # The bar shows a service once its memory has been read, which is later than its name in the legend.
    await running.tab.until("document.querySelector('#devices [aria-label*=\"whisper 2.9 GiB\"]') !== null")
    tree = (await running.tab.call("Accessibility.getFullAXTree"))["nodes"]
    roles = {"button", "combobox", "spinbutton", "textbox", "link", "image", "table", "region"}
    named = [
        (one["role"]["value"], one.get("name", {}).get("value", ""))
        for one in tree
        if not one.get("ignored") and one["role"]["value"] in roles
    ]
    assert [one for one in named if not one[1]] == []
    assert ("button", "Load llm") in named
    assert any(role == "image" and "whisper 2.9 GiB" in name for role, name in named)
    assert {name for role, name in named if role == "table"} >= {"Services", "Requests"}
    assert await running.tab.evaluate("document.documentElement.lang") == "en"
