"""``python -m benchmarks.speed``: one table of gpumand's costs, compared with references from the same run."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import (
    commands,
    concurrency,
    evictions,
    growth,
    idle,
    instructions,
    large_message,
    leases,
    load_growth,
    pauses,
    plans,
)
from benchmarks.environment import workspace
from benchmarks.table import Row, exit_status, show

PARTS: dict[str, Callable[[Path], Awaitable[list[Row]]]] = {
    "leases": leases.measure,
    "instructions": instructions.measure,
    "evictions": evictions.measure,
    "commands": commands.measure,
    "plans": plans.measure,
    "growth": growth.measure,
    "crowd": concurrency.measure,
    "load": load_growth.measure,
    "large_message": large_message.measure,
    "pauses": pauses.measure,
    "idle": idle.measure,
}


async def run(names: list[str]) -> list[Row]:
    """Measure the parts of these names, each with a daemon of its own."""
    rows: list[Row] = []
    for name in names:
        with workspace() as folder:
            rows += await PARTS[name](folder)
    return rows


def main() -> None:
    """Print the table; the exit status is 1 if a goal is missed by more than is documented."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    flags.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all by default")
    names = flags.parse_args().parts or list(PARTS)
    if unknown := set(names) - PARTS.keys():
        flags.error(f"unknown part: {min(unknown)}")
    logging.basicConfig(level=logging.WARNING)
    rows = asyncio.run(run(names))
    show(rows)
    raise SystemExit(exit_status(rows))


if __name__ == "__main__":
    main()
