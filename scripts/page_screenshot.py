#!/usr/bin/env python3
"""Write docs/gateway.png, the picture of the web page in the README and in the guide of the gateway.

The services of the demonstration run behind a real gateway, and a headless Chromium opens its page.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpumand.client import Client, lease  # noqa: E402 - imports follow the change of sys.path
from gpumand.demo.environment import DemoEnvironment  # noqa: E402
from gpumand.demo.example_services import IMAGE, LANGUAGE, VOICE  # noqa: E402
from tests.integration.gateway.browser import browser_tab  # noqa: E402
from tests.integration.live import wait_until  # noqa: E402

TARGET = ROOT / "docs" / "gateway.png"
WIDTH, HEIGHT = 1180, 832
WORK_SEC = 60


def main() -> None:
    """Read the command line and take the picture."""
    parser = argparse.ArgumentParser(description="Take the picture of the web page.")
    parser.add_argument("file", nargs="?", type=Path, default=TARGET, help="where to write it")
    parser.add_argument("--history", type=float, default=12, metavar="SEC", help="length of the curve of the memory")
    options = parser.parse_args()
    asyncio.run(take_picture(options.file, options.history))
    print(options.file)


async def take_picture(file: Path, history_sec: float) -> None:
    """Start everything, send requests, and take the picture.

    Args:
        file: the file that is written.
        history_sec: how long the page collects readings for its curve of the memory.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = await stack.enter_async_context(DemoEnvironment(has_gateway=True))
        client = await stack.enter_async_context(Client(environment.address))
        tab = await stack.enter_async_context(browser_tab(folder))
        await tab.look(WIDTH, HEIGHT)
        await tab.call("Emulation.setScrollbarsHidden", hidden=True)
        await tab.open(f"{environment.gateway_url}/gateway/")
        await stack.enter_async_context(lease(VOICE.name, reason="audiobook", bus=environment.address))
        requests = [asyncio.create_task(work(environment, IMAGE.name)) for _ in range(2)]
        await wait_until("the image model is loaded", lambda: is_resident(client, IMAGE.name))
        requests.append(asyncio.create_task(work(environment, LANGUAGE.name)))
        await tab.until_text("body", "place 1 of 1")
        await asyncio.sleep(history_sec)
        await tab.picture(file, whole=False)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)


async def work(environment: DemoEnvironment, service: str) -> None:
    """Send a request to a service through the gateway."""
    url = f"{environment.gateway_url}/c/{service}/work"
    async with aiohttp.request("POST", url, json={"seconds": WORK_SEC}) as answer:
        await answer.read()


async def is_resident(client: Client, service: str) -> bool:
    """Whether gpumand reports a service as resident."""
    found = (await client.status()).consumer(service)
    return found is not None and found.residency == "resident"


if __name__ == "__main__":
    main()
