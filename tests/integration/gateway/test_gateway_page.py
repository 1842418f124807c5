"""The web page of the gateway in a real browser: real daemon, gateway and consumer processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpumand.config.gateway_keys import hash_of
from gpumand.gateway.console.state_view import ShownListener
from tests.integration.gateway.browser import Tab, browser_tab, needs_browser
from tests.integration.gateway.console import board
from tests.integration.gateway.console_stub import Invented, invented_console
from tests.integration.gateway.live_gateway import LiveGateway, free_port, http, live_gateway, work
from tests.integration.live import Client, LiveHost, bare_host, table, wait_until

pytestmark = needs_browser

MIB = {"llm": 14000, "comfyui": 9000, "whisper": 3000, "tts": 2500}
KEY, WEAK = "gpumand-anna", "gpumand-script"
HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'


@dataclass
class Desk:
    """A host with four services, a gateway in front of them, and a browser.

    Attributes:
        url: address of the page.
    """

    host: LiveHost
    gateway: LiveGateway
    control: Client
    session: aiohttp.ClientSession
    tab: Tab
    url: str

    async def start_requests(self, consumer: str, count: int = 1, seconds: float = 60.0) -> list[asyncio.Task[int]]:
        """Start requests to a service."""
        url = self.gateway.url(consumer)
        return [asyncio.create_task(work(self.session, url, seconds)) for _ in range(count)]

    async def open(self) -> None:
        """Open the page and wait until it shows the state."""
        await self.tab.open(self.url)
        await self.tab.until_text("#connection", "Live")

    async def check(self) -> None:
        """Check that the page had no error, broke no rule of its policy, and loaded nothing from elsewhere."""
        assert self.tab.problems == []
        assert await self.tab.evaluate("violations") == []
        assert await self.tab.evaluate("window.hit") is None
        own = self.url.removesuffix("/gateway/")
        assert [one for one in self.tab.requests if not one.startswith((own, "about:"))] == []


@contextlib.asynccontextmanager
async def desk(folder: Path, consumers: dict[str, int], keys: str = "") -> AsyncIterator[Desk]:
    """A running desk."""
    async with bare_host(folder) as host, http() as session:
        tables = [table(await host.launch(name, mib), mib) for name, mib in consumers.items()]
        host.configure("".join(tables))
        await host.start()
        port = free_port()
        # Requests in flight need not end before the gateway is stopped.
        keys += "drain_sec = 0\n"
        own = f'listen = ["127.0.0.1:{port}", "unix:{folder / "own.sock"}"]\n'
        async with live_gateway(host, dict.fromkeys(consumers, ""), own + keys) as gateway, browser_tab(folder) as tab:
            control = await host.client()
            yield Desk(host, gateway, control, session, tab, f"http://127.0.0.1:{port}/gateway/")
            await control.close()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path, MIB) as made:
        yield made


def pictures(folder: Path) -> Path:
    """The folder of pictures: GPUMAND_PICTURES keeps them."""
    path = Path(os.environ.get("GPUMAND_PICTURES", folder / "pictures"))
    path.mkdir(parents=True, exist_ok=True)
    return path


SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}


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


@contextlib.asynccontextmanager
async def page_of_root(path: Path) -> AsyncIterator[str]:
    """The page over the Unix socket, where the kernel names the user root; yields its address for a browser."""

    async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other = await asyncio.open_unix_connection(path)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pipe(reader, other[1]), pipe(other[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/gateway/"
    finally:
        server.close()


async def is_resident(control: Client, consumer: str, wanted: str = "resident") -> bool:
    return bool((await control.consumer(consumer))["residency"] == wanted)


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


def invented() -> Invented:
    """A status, a history and a plan with markup in every text."""
    text = HOSTILE
    device = {
        "index": 0,
        "uuid": text,
        "name": text,
        "source": text,
        "total_mib": 24564,
        "used_mib": 20000,
        "free_mib": 4564,
        "reserved_mib": 100,
        "foreign_mib": 300,
        "unnamed_mib": 200,
        "error": text,
        "foreign": [{"pid": 1, "name": text, "unit": text, "user": text, "used_mib": 5, "container": text}],
        "utilization_percent": 71,
        "temperature_celsius": 64,
        "power_watts": 211.4,
        "history": {"used_mib": [1000, -1, 20000]},
    }
    unread = {"index": 1, "uuid": "u", "name": "Unread", "source": "none", "error": "cannot be read", "foreign": []}
    words = ("name", "residency", "device", "unit", "error", "doing", "endpoint", "preset", "unit_state")
    consumer = dict.fromkeys(words, text) | {"used_by_device": {"0": 9000}, "leases": 1, "pinned": True}
    odd = [
        consumer | {"name": name, "error": "", "residency": name} for name in ("constructor", "__proto__", "toString")
    ]
    waiting = {"consumer": text, "position": 1, "waited_usec": 5, "waiting_for": text, "reason": text, "priority": 3}
    status = {"version": text, "degraded": text, "devices": [device, unread], "leases": [], "stats": {}}
    status |= {"consumers": [consumer, *odd], "queue": [waiting], "driver_state": text}
    kinds = (text, "constructor", "load")
    entries = [{"at_usec": 5, "kind": kind, "consumer": text, "trigger": text, "detail": text} for kind in kinds]
    victim = {"consumer": text, "expected_mib": 5, "why": text, "parks": True}
    plan = {"consumer": text, "verdict": text, "device": text, "load": True, "message": text, "evictions": [victim]}
    return Invented(status, entries, plan | {"spared": [{"consumer": text, "why": text}]})


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


def host_of_fleet(name: str, state: str = "up", loaded: str = "llm", why: str = "") -> dict[str, Any]:
    """A host as gpumand-fleet shows it."""
    consumers = {loaded: {"r": "resident", "leases": 2}, "parked": {"r": "parked"}, "away": {"r": "unloaded"}}
    row = {"id": name, "name": name, "gpus": [{"uuid": "a", "total": 24564, "free": 1024}, {"uuid": "b"}]}
    return {"state": state, "local": name == "gpu1", "why": why, "row": row | {"consumers": consumers, "queue": 3}}


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
