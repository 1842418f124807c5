"""Many clients in separate processes, some of them killed; the storm test runs this and reads the last line.

The parent imports everything once and forks a child for each client, so that a hundred of them are cheap; a child that
was killed is replaced. Each child writes one line for each request to its own file: the request, then its result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gpumand.bus.connection import BusError
from tests.integration.live import Client


def main() -> None:
    """Start the clients, kill some, wait for all, and print a summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--consumers", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, int]:
    draw = random.Random(options.seed)
    until = time.monotonic() + options.seconds
    numbers = iter(range(10**6))
    living = {spawn(options, next(numbers), until) for _ in range(options.clients)}
    killed = 0
    while time.monotonic() < until:
        time.sleep(draw.uniform(0.1, 0.5))  # the interval between kills
        victim = draw.choice(sorted(living))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        killed += 1
        living.remove(victim)
        living.add(spawn(options, next(numbers), until))
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in living)
    return summary(options.folder) | {"killed": killed, "failed": failed}


def spawn(options: argparse.Namespace, number: int, until: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        asyncio.run(client(options, number, until))
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


async def client(options: argparse.Namespace, number: int, until: float) -> None:
    """Acquire, hold and release until the end time."""
    draw = random.Random(f"{options.seed}/{number}")
    bus = await Client.connect(options.address)
    names = options.consumers.split(",")
    with (options.folder / f"client-{number}").open("a", buffering=1) as notes:
        while time.monotonic() < until:
            name = draw.choice(names)
            notes.write("asked\n")
            wanted: dict[str, tuple[str, Any]] = {"timeout_usec": ("t", 300_000_000)}
            if draw.random() < 0.7:
                wanted["lifetime"] = ("s", "connection")
            try:
                lease, _ = await bus.acquire(name, **wanted)
            except BusError as error:
                notes.write(f"refused {error.name}\n")
                continue
            notes.write("granted\n")
            await asyncio.sleep(draw.uniform(0.0, 0.05))
            try:
                await bus.release(lease)
            except BusError as error:
                notes.write(f"lost {error.name}\n")
    await bus.close()


def summary(folder: Path) -> dict[str, int]:
    lines = [line for path in folder.glob("client-*") for line in path.read_text().splitlines()]
    counts: dict[str, int] = {}
    for line in lines:
        counts[line] = counts.get(line, 0) + 1
    return counts


if __name__ == "__main__":
    main()
