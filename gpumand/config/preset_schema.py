"""``[preset]`` in a preset's file, key by key."""

# ruff: noqa: RUF009 - key() is a field specifier, evaluated once for each class as it should be

from __future__ import annotations

import attrs

from gpumand.config import validators
from gpumand.config.table_schema import TableOf, key
from gpumand.config.value_types import Choice, Flag, ListOf, Text, Whole

CLASSES = ("full-rest", "unload-only", "sleep-wake", "restart", "unit-only")
"""What kinds of servers presets are for."""


@attrs.frozen
class Detect:
    """What a server looks like from outside.

    Attributes:
        units: patterns of the names that its unit is usually given, as of a shell.
        commands: patterns; one of them, with anything before and behind it, is found in its command line.
        ports: where it listens by its own default.
    """

    units: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


@attrs.frozen
class DetectTable:
    """``detect`` in a ``[preset]`` table."""

    units: tuple[str, ...] = key(ListOf(Text()), "Patterns of names of its unit.", default=())
    commands: tuple[str, ...] = key(ListOf(Text()), "Patterns found in its command line.", default=())
    ports: tuple[int, ...] = key(ListOf(Whole(1, validators.MAX_PORT)), "Its default ports.", default=())


@attrs.frozen
class PresetTable:
    """``[preset]`` in a preset's file: what it is for, and where its facts come from."""

    title: str = key(Text(), "The server's name, for people.")
    summary: str = key(Text(), "What the preset does, in a sentence.")
    class_: str = key(
        Choice(CLASSES),
        "full-rest loads and unloads by route; unload-only loads with the first request; sleep-wake parks weights; "
        "restart begins anew without or with its model; unit-only has no such route: its unit is stopped and started.",
    )
    async_unload: bool = key(Flag(), "Its unload route answers before the memory is free.", default=False)
    model: str = key(
        Choice(("required", "optional", "none")),
        "Whether its routes name a model; without an optional one the routes that need it are left out.",
        default="none",
    )
    needs: tuple[str, ...] = key(ListOf(Text()), "Flags and variables the server must be started with.", default=())
    detect: Detect = key(
        TableOf(DetectTable, Detect), "What it looks like on a host, for gpumanctl init.", default=Detect()
    )
    notes: tuple[str, ...] = key(ListOf(Text()), "What whoever runs it should know.", default=())
    sources: tuple[str, ...] = key(ListOf(Text()), "Where the facts were read.", default=())
