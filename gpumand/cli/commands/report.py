"""``gpumanctl report``: writes what the developers need for an issue, without names, paths or prompts."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json

if TYPE_CHECKING:
    from gpumand.cli.doctor.facts import Entry, Facts
    from gpumand.cli.issue_report.sections import Section

STDOUT = "-"
HISTORY = {
    "kinds": ("as", ["load", "load-failed", "eviction", "eviction-failed", "eviction-deferred"]),
    "limit": ("u", 1000),
}


@click.command(cls=Command)
@click.option("-o", "--output", metavar="FILE", default=STDOUT, help="Output file, which must not exist. Default: -.")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="PATH", help="Configuration to read. Default: as doctor."
)
@click.pass_context
def report(ctx: click.Context, output: str, config: Path | None) -> int:
    """Write a report to attach to an issue.

    It has versions, drivers, devices, measured load and eviction times, kinds of units and containers, and the last
    failures. It has no names of consumers, users, units or hosts, no paths, addresses, prompts or log lines: consumers
    are numbered, and error messages are replaced by their kind. The command changes nothing and sends nothing.
    """
    options = global_options(ctx)
    logging.getLogger("gpumand").addHandler(logging.NullHandler())  # failed reads are part of the report
    found = asyncio.run(_collect(options, config))
    if options.json:
        print_json({section.title: dict(section.rows) for section in found})
        return ExitCode.OK
    text = report_text(found)
    if output == STDOUT:
        click.echo(text, nl=False)
    else:
        _write(output, text)
    return ExitCode.OK


async def _collect(options: GlobalOptions, config: Path | None) -> list[Section]:
    from gpumand.cli.doctor.checks import examine
    from gpumand.cli.doctor.collect import collect_facts
    from gpumand.cli.issue_report.host import host_versions
    from gpumand.cli.issue_report.sections import sections

    facts = await collect_facts(options, config)
    versions = await asyncio.to_thread(host_versions)
    history = await _history(options, facts)
    return sections(facts, versions, history, examine(facts), time.time_ns() // 1000)


async def _history(options: GlobalOptions, facts: Facts) -> list[Entry]:
    """The last loads and evictions; none where the daemon does not run, since a call would start it."""
    from gpumand.bus.connection_errors import BusError
    from gpumand.cli.errors import NoBus
    from gpumand.cli.session import connected

    if facts.status is None:
        return []
    try:
        async with connected(options) as client:
            return list(await client.history(HISTORY))
    except (BusError, NoBus):
        return []


def report_text(found: list[Section]) -> str:
    """The report as text: a heading for each section, and a line for each value."""
    lines = ["gpumand report: no names, paths, addresses, prompts or log lines are in it", ""]
    for section in found:
        lines += [section.title, *(f"  {name}: {value}" for name, value in section.rows), ""]
    return "\n".join(lines)


def _write(output: str, text: str) -> None:
    """Write a new file that other users cannot read. Raises Failure if it exists or cannot be written."""
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        message = f"cannot write {output}: {error.strerror}. Name another file with --output"
        raise Failure(ExitCode.FAILURE, message) from error
