#!/usr/bin/env python3
"""Write docs/top.svg, the picture in the README: ``gpumanctl top`` draws itself on a small simulated host."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.prefix != sys.base_prefix:
    # Processes are shown with their command lines: the interpreter of the host has a path that is the same everywhere.
    search_path = ":".join([str(ROOT), *filter(None, sys.path)])
    base = str(Path(sys.executable).resolve())
    os.execve(base, [base, *sys.argv], os.environ | {"PYTHONPATH": search_path})
sys.path.insert(0, str(ROOT))

from gpumand.client import Client, lease  # noqa: E402 - imports follow the change of sys.path
from gpumand.testing.daemon import PrivateGpumand  # noqa: E402

TARGET = ROOT / "docs" / "top.svg"
CONSUMERS = {"ollama": 6144, "comfyui": 13312, "whisper": 4521, "voice": 2867, "coder": 19800}
DESKTOP_MIB = 1480
TRIES = 200
TTL_SEC = {"ollama": 900, "comfyui": 25}
INTERVAL_SEC = 0.2
"""Between readings; the graphs show 60 of them."""


def main() -> None:
    """Start gpumand with a simulated GPU, create leases and waiting requests, and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        simulated = Path(folder, "simulated")
        simulated.mkdir()
        arbiter = PrivateGpumand(CONSUMERS, simulated_dir=simulated, sample_interval_sec=INTERVAL_SEC)
        with desktop(simulated), arbiter as gpumand:
            asyncio.run(work(gpumand))
    print(TARGET.relative_to(ROOT))


@contextmanager
def desktop(simulated: Path) -> Iterator[None]:
    """Run a foreign process, a browser, that holds simulated memory."""
    holds = [
        f"--mib={DESKTOP_MIB}",
        f"--simulator-dir={simulated}",
        "--loaded-at-start",
        "--anonymous",
    ]
    environ = os.environ | {"PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)])}
    command = ["/usr/lib/firefox/firefox", "-m", "gpumand.testing.consumer", "--name=firefox", *holds]
    with subprocess.Popen(command, executable=sys.executable, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the process has announced its memory
        try:
            yield
        finally:
            process.kill()


async def work(gpumand: PrivateGpumand) -> None:
    """Create two leases, one eviction and two waiting requests, then write the picture."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(gpumand.address))
        await asyncio.sleep(2.0)
        await client.load("coder", timeout_sec=60)
        await asyncio.sleep(3.0)
        for name, reason in (("ollama", "chat"), ("comfyui", "poster, 40 pictures")):
            await client.acquire(name, timeout_sec=60, reason=reason, ttl_sec=TTL_SEC[name])
            await asyncio.sleep(2.0)
        await client.load("voice", timeout_sec=60)
        await client.pin("voice")
        waiting = [asyncio.create_task(wait_for_lease(gpumand, name)) for name in ("whisper", "coder")]
        for _ in range(TRIES):
            queue = (await client.status()).queue
            if len(queue) == len(waiting) and not any("reading" in one.waiting_for for one in queue):
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(3.0)
        await take_picture(gpumand)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def wait_for_lease(gpumand: PrivateGpumand, name: str) -> None:
    """Request a consumer that does not fit at the moment."""
    async with lease(name, timeout_sec=60, reason="minutes of the meeting", bus=gpumand.address):
        pass


async def take_picture(gpumand: PrivateGpumand) -> None:
    """Write the picture with gpumanctl."""
    command = [sys.executable, "-m", "gpumand.cli", "--bus-address", gpumand.address, "top", "--svg", str(TARGET)]
    environ = os.environ | {"COLUMNS": "120", "LINES": "40", "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(*command, env=environ, cwd=ROOT)
    if await process.wait() != 0:
        raise SystemExit("gpumanctl top failed")


if __name__ == "__main__":
    main()
