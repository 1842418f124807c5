"""``python -m benchmarks.compare TREE``: a resident consumer's lease in this tree, compared with one in another tree.

The daemon of each tree runs under cachegrind, which counts its instructions. The count depends less on other
load on the host than times do. It requires valgrind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dbus_fast import Variant

from benchmarks import environment
from benchmarks.environment import Client, announcement_folder, consumer_table, running_daemon, workspace
from benchmarks.table import Row, exit_status, show
from gpumand.testing.consumer_process import consumer_process

GOAL = 1.05
FEW, MANY = 50, 550
"""Leases in the two runs whose difference is counted: without the start of the daemon and the first leases."""

START_SEC = 120.0
"""The time that a daemon may take to start under valgrind."""

QUIET = "concurrent_leases = 0\nhealth_interval_sec = 600"
THIS_TREE = Path(__file__).resolve().parent.parent


async def measure(other: Path) -> list[Row]:
    """One row for each lifetime of a lease; the other tree is the reference."""
    environment.START_SEC = START_SEC
    rows = []
    for lifetime in ("ttl", "connection"):
        reference, ours = [await _instructions(tree, lifetime) for tree in (other, THIS_TREE)]
        what = f"Acquire + Release, resident ({lifetime}), instructions of the daemon"
        text, against, ratio = f"{ours / 1e6:.2f} M", f"other tree: {reference / 1e6:.2f} M", ours / reference
        rows.append(Row(what, text, against, ratio, f"≤ {GOAL:g} times", ratio <= GOAL))
    return rows


async def _instructions(tree: Path, lifetime: str) -> float:
    """Instructions for one lease."""
    few, many = [await _run(tree, lifetime, leases) for leases in (FEW, MANY)]
    return (many - few) / (MANY - FEW)


async def _run(tree: Path, lifetime: str, leases: int) -> int:
    with workspace() as folder:
        flags = (announcement_folder(folder), "--loaded-at-start")
        async with consumer_process("tts", 1024, *flags) as consumer:
            with _counted_python(tree, folder):
                daemon = running_daemon(folder, consumer_table(consumer, 1024), QUIET)
                running = await daemon.__aenter__()
            try:
                await _lease(running.client, lifetime, leases)
            finally:
                await daemon.__aexit__(None, None, None)
        found = re.search(r"I\s+refs:\s+([\d,]+)", (folder / "instructions").read_text())
        assert found is not None, "valgrind has counted nothing"
        return int(found[1].replace(",", ""))


@contextlib.contextmanager
def _counted_python(tree: Path, folder: Path) -> Iterator[None]:
    """Let the daemon that is started now run from this tree and under cachegrind."""
    wrapper, python = folder / "python", sys.executable
    wrapper.write_text(
        "#!/bin/sh\n"
        f"exec valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null "
        f'--log-file={folder / "instructions"} {python} "$@"\n'
    )
    wrapper.chmod(0o755)
    former, sys.executable = dict(os.environ), str(wrapper)
    # PYTHONSAFEPATH: otherwise ``python -m`` imports from the current folder first.
    os.environ.update(PYTHONPATH=str(tree), PYTHONSAFEPATH="1", PYTHONHASHSEED="1")
    try:
        yield
    finally:
        sys.executable = python
        os.environ.clear()
        os.environ.update(former)


async def _lease(client: Client, lifetime: str, leases: int) -> None:
    for _ in range(leases):
        await client.release(await client.acquire("tts", lifetime=Variant("s", lifetime)))


def main() -> None:
    """Print the table; the exit status is 1 if a lease costs more than the goal allows."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    flags.add_argument("tree", type=Path, help="a checkout of the version to compare with")
    rows = asyncio.run(measure(flags.parse_args().tree.resolve()))
    show(rows)
    raise SystemExit(exit_status(rows))


if __name__ == "__main__":
    main()
