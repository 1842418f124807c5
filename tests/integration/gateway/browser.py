"""A headless Chromium, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.live import wait_until

PROGRAM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (Debian: chromium)")

# Everything that would talk to other hosts is switched off. Root cannot use the sandbox.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)

WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""

KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    " ": ("Space", 32, " "),
    "ArrowDown": ("ArrowDown", 40, ""),
}


class Tab:
    """A tab of the browser.

    Attributes:
        problems: exceptions and errors of the page.
        requests: addresses that the page has requested.
        password: what a person would type into the browser's own dialog for user and password; None = "Cancel".
        asked: how often the browser has shown that dialog, with the realm of each.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.password: str | None = None
        self.asked: list[str] = []
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        self._answers[number] = future = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(30):
            answer = await future
        assert "error" not in answer, (method, answer)
        return dict(answer.get("result", {}))

    async def start(self) -> None:
        """Begin to record what the page does."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    async def answer_dialogs(self) -> None:
        """Answer the browser's dialog for user and password from now on; a headless one shows none by itself."""
        await self.call("Fetch.enable", handleAuthRequests=True)

    def _continue(self, seen: dict[str, Any]) -> None:
        self._later(self.call("Fetch.continueRequest", requestId=seen["requestId"]))

    def _answer_dialog(self, seen: dict[str, Any]) -> None:
        self.asked.append(seen["authChallenge"]["realm"])
        answer = {"response": "CancelAuth"}
        if self.password is not None:
            answer = {"response": "ProvideCredentials", "username": "anna", "password": self.password}
        self._later(self.call("Fetch.continueWithAuth", requestId=seen["requestId"], authChallengeResponse=answer))

    def _later(self, call: Coroutine[Any, Any, dict[str, Any]]) -> None:
        # Called while an answer is read, so the answer to this call cannot be awaited here.
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def look(self, width: int = 1280, height: int = 900, *, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window and the colour scheme."""
        scale = 2 if phone else 1
        sizes = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        await self.call("Emulation.setDeviceMetricsOverride", **sizes)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme, motion])

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        result = await self.call("Runtime.evaluate", **options)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    async def until(self, expression: str, within_sec: float = 40.0) -> None:
        """Wait until an expression is true in the page."""

        async def holds() -> bool:
            return bool(await self.evaluate(expression))

        await wait_until(expression, holds, within_sec=within_sec)

    async def text(self, selector: str = "body") -> str:
        """The visible text of an element."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def until_text(self, selector: str, text: str) -> None:
        """Wait until the text of an element contains a text."""
        await self.until(
            f"(document.querySelector({json.dumps(selector)})?.innerText ?? '').includes({json.dumps(text)})"
        )

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        code, number, text = KEYS[key]
        pressed = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
        kind = "keyDown" if text else "rawKeyDown"
        await self.call("Input.dispatchKeyEvent", type=kind, **pressed, **({"text": text} if text else {}))
        await self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def type(self, text: str) -> None:
        """Type a text into the element with the focus."""
        await self.call("Input.insertText", text=text)

    async def focused(self) -> str:
        """The name of the element with the focus."""
        label = "document.activeElement.getAttribute('aria-label')"
        return str(await self.evaluate(f"{label} || document.activeElement.innerText || document.activeElement.id"))

    async def press_tab_until(self, name: str, maximum: int = 60) -> None:
        """Press Tab until the element of this name has the focus."""
        for _ in range(maximum):
            await self.press("Tab")
            if await self.focused() == name:
                return
        raise AssertionError(f"{name} cannot be reached with Tab")

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save a picture of the page."""
        result = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(result["data"]))

    async def close(self) -> None:
        """End the connection."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    async def _read(self) -> None:
        handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "Runtime.exceptionThrown": lambda seen: self.problems.append(str(seen["exceptionDetails"])),
            "Log.entryAdded": self._note_entry,
            "Fetch.requestPaused": self._continue,
            "Fetch.authRequired": self._answer_dialog,
            "Network.requestWillBeSent": lambda seen: self.requests.append(seen["request"]["url"]),
        }
        async for message in self._socket:
            document = json.loads(message.data)
            if (waiting := self._answers.pop(document.get("id", 0), None)) is not None:
                waiting.set_result(document)
            elif (handler := handlers.get(document.get("method", ""))) is not None:
                handler(document["params"])

    def _note_entry(self, seen: dict[str, Any]) -> None:
        entry = seen["entry"]
        # Requests that fail are what some tests are about; the page shows them itself.
        if entry["level"] == "error" and entry["source"] != "network":
            self.problems.append(f"{entry['source']}: {entry['text']}")


@contextlib.asynccontextmanager
async def browser_tab(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a new browser, whose files are in a folder."""
    assert PROGRAM is not None
    profile = folder / "chromium"
    environ = os.environ | {"HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    with (folder / "chromium.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=log,
            stderr=log,
            env=environ,
            start_new_session=True,
        )
    try:
        async with aiohttp.ClientSession() as session:
            port = await _port(profile)
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [one for one in await answer.json() if one["type"] == "page"]
            tab = Tab(await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0))
            await tab.start()
            await tab.look()
            yield tab
            await tab.close()
    finally:
        # The browser has started processes of its own, which are in its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _port(profile: Path) -> int:
    file = profile / "DevToolsActivePort"

    async def is_written() -> bool:
        return file.exists() and bool(file.read_text(encoding="ascii").strip())

    await wait_until("the browser listens", is_written)
    return int(file.read_text(encoding="ascii").split()[0])
