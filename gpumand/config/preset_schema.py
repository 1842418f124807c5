"""Defines the keys of the ``[preset]`` table in a preset's file."""

# ruff: noqa: RUF009 - key() is a field specifier, evaluated once for each class as it should be

from __future__ import annotations

import attrs

from gpumand.config import validators
from gpumand.config.table_schema import TableOf, key
from gpumand.config.value_types import Boolean, Choice, Integer, ListOf, Text

CLASSES = ("full-rest", "unload-only", "sleep-wake", "restart", "unit-only")
"""Classes of servers; ``PresetTable.class_`` describes them."""


@attrs.frozen
class Detect:
    """Signs by which discovery recognises a server on a host.

    Attributes:
        units: shell patterns of the usual names of its unit.
        commands: shell patterns; one of them matches a part of its command line.
        ports: the TCP ports on which it listens by default.
    """

    units: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


@attrs.frozen
class DetectTable:
    """``detect`` in the ``[preset]`` table."""

    units: tuple[str, ...] = key(ListOf(Text()), "Shell patterns of the unit's name.", default=())
    commands: tuple[str, ...] = key(ListOf(Text()), "Shell patterns of a part of the command line.", default=())
    ports: tuple[int, ...] = key(
        ListOf(Integer(1, validators.MAX_PORT)), "Default TCP ports of the server.", default=()
    )


@attrs.frozen
class PresetTable:
    """``[preset]`` in a preset's file: which server it is for, and the sources of its facts."""

    title: str = key(Text(), "Display name of the server.")
    summary: str = key(Text(), "Summary of the preset, in one sentence.")
    class_: str = key(
        Choice(CLASSES),
        "Class of the server. full-rest has a load and an unload route; unload-only loads with the first request; "
        "sleep-wake parks its weights in host RAM; restart restarts itself without or with its model; unit-only has no "
        "such routes, so gpumand stops and starts its unit.",
    )
    async_unload: bool = key(
        Boolean(), "Asynchronous unload: the unload route responds before the memory is free.", default=False
    )
    model: str = key(
        Choice(("required", "optional", "none")),
        "Use of the consumer's model key by the routes. Without an optional model, the routes that contain {model} are "
        "left out.",
        default="none",
    )
    side_effects: tuple[str, ...] = key(
        ListOf(Choice(("health", "busy"))),
        "Questions that the server counts as work: asking them wakes a model that sleeps, or keeps it awake. All other "
        "questions of a preset are free of side effects.",
        default=(),
    )
    needs: tuple[str, ...] = key(
        ListOf(Text()),
        "Requirements: flags and environment variables that the server must be started with.",
        default=(),
    )
    detect: Detect = key(
        TableOf(DetectTable, Detect), "Signs by which gpumanctl init recognises the server.", default=Detect()
    )
    notes: tuple[str, ...] = key(ListOf(Text()), "Notes for the administrator of the server.", default=())
    sources: tuple[str, ...] = key(ListOf(Text()), "Sources of the facts in this preset.", default=())
