"""``python -m benchmarks.speed``: one table of what gpumand costs, against yardsticks of the same run."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import commands, concurrency, evictions, idle, leases, plans
from benchmarks.table import Row, show
from benchmarks.world import workspace

PARTS: dict[str, Callable[[Path], Awaitable[list[Row]]]] = {
    "leases": leases.measure,
    "evictions": evictions.measure,
    "commands": commands.measure,
    "plans": plans.measure,
    "crowd": concurrency.measure,
    "idle": idle.measure,
}


async def run(names: list[str]) -> list[Row]:
    """Measure the parts of those names, each in a world of its own."""
    rows: list[Row] = []
    for name in names:
        with workspace() as folder:
            rows += await PARTS[name](folder)
    return rows


def main() -> None:
    """Print the table; the status is 1 when a goal is missed."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    flags.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when left out")
    names = flags.parse_args().parts or list(PARTS)
    if unknown := set(names) - PARTS.keys():
        flags.error(f"no such part: {min(unknown)}")
    logging.basicConfig(level=logging.WARNING)
    rows = asyncio.run(run(names))
    show(rows)
    raise SystemExit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
