"""Defines the keys of the ``[preset]`` table in a preset's file."""

# ruff: noqa: RUF009 - key() is a field specifier, evaluated once for each class as it should be

from __future__ import annotations

from dataclasses import dataclass

from gpumand.config import validators
from gpumand.config.table_schema import TableOf, key, keys_table
from gpumand.config.value_types import Boolean, Choice, Integer, ListOf, Text

CLASSES = ("full-rest", "unload-only", "sleep-wake", "restart", "unit-only")
"""Classes of servers; ``PresetTable.class_`` describes them."""


@dataclass(frozen=True, slots=True)
class Detect:
    """Signs by which discovery recognises a server on a host.

    Attributes:
        units: shell patterns of the usual names of its unit.
        commands: shell patterns; one of them matches a part of its command line.
        ports: the TCP ports on which it listens by default.
        images: shell patterns of its container images in lower case, without registry, with or without tag.
    """

    units: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    images: tuple[str, ...] = ()


@keys_table
class DetectTable:
    """``detect`` in the ``[preset]`` table."""

    units: tuple[str, ...] = key(ListOf(Text()), "Shell patterns of the unit's name.", default=())
    commands: tuple[str, ...] = key(ListOf(Text()), "Shell patterns of a part of the command line.", default=())
    ports: tuple[int, ...] = key(
        ListOf(Integer(1, validators.MAX_PORT)), "Default TCP ports of the server.", default=()
    )
    images: tuple[str, ...] = key(
        ListOf(Text()), "Shell patterns of container images, in lower case and without registry.", default=()
    )


@dataclass(frozen=True, slots=True)
class ModelList:
    """A question for the names of a server's models, and which of them are in memory.

    Attributes:
        path: path of the question.
        names: JSON pointer to the names; ``*`` stands for every element of a list.
        loaded: JSON pointer to the state of each model, in the same order; "" when the answer has none.
        loaded_equals: the state that means "in memory"; "" for any value that is not empty.
        in_memory: the server lists only models in memory.
        without: entries that are no models.
    """

    path: str
    names: str
    loaded: str = ""
    loaded_equals: str = ""
    in_memory: bool = False
    without: tuple[str, ...] = ()


@keys_table
class ModelListTable:
    """An entry of ``models`` in the ``[preset]`` table."""

    path: str = key(Text("URL path", validators.route_path), "Path and query of the question.")
    names: str = key(Text("JSON pointer", validators.pointer), "JSON pointer to the names; * stands for each element.")
    loaded: str = key(
        Text("JSON pointer", validators.pointer),
        "JSON pointer to the state of each model, in the order of the names.",
        default="",
    )
    loaded_equals: str = key(
        Text(), "State that means that the model is in memory. Without it, any value that is not empty.", default=""
    )
    in_memory: bool = key(Boolean(), "List of the models in memory only.", default=False)
    without: tuple[str, ...] = key(ListOf(Text()), "Entries of the list that are no models.", default=())


@dataclass(frozen=True, slots=True)
class Role:
    """A request that distinguishes a server from another one with the same program.

    Attributes:
        path: path of the question.
        value: JSON pointer to the role.
        equals: the role that another preset is for.
        preset: name of that preset.
        unless_flags: shell patterns of flags; without any of them in its command line, the server probably has that
            role.
    """

    path: str
    value: str
    equals: str
    preset: str
    unless_flags: tuple[str, ...] = ()


@keys_table
class RoleTable:
    """``role`` in the ``[preset]`` table."""

    path: str = key(Text("URL path", validators.route_path), "Path and query of the question.")
    value: str = key(Text("JSON pointer", validators.pointer), "JSON pointer to the role in the answer.")
    equals: str = key(Text(), "Role that the other preset is for.")
    preset: str = key(Text(), "Name of the other preset.")
    unless_flags: tuple[str, ...] = key(
        ListOf(Text()),
        "Shell patterns of flags. A command line without any of them means that role, if the server does not answer.",
        default=(),
    )


@dataclass(frozen=True, slots=True)
class PresetTable:
    """``[preset]`` in a preset's file: which server it is for, and the sources of its facts."""

    title: str = key(Text(), "Display name of the server.")
    summary: str = key(Text(), "Summary of the preset, in one sentence.")
    homepage: str = key(Text("URL"), "Web page of the server's project.")
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
    port_variable: str = key(
        Text(),
        "Environment variable that sets where the server listens, as NAME=VALUE with {port}.",
        default="",
    )
    port_arguments: tuple[str, ...] = key(
        ListOf(Text()),
        "Command line arguments that set where the server listens, with {port}.",
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
    models: tuple[ModelList, ...] = key(
        ListOf(TableOf(ModelListTable, ModelList)),
        "Questions for the names of the models, for gpumanctl init; the first with an answer counts. They neither load "
        "nor wake a model.",
        default=(),
    )
    role: Role | None = key(
        TableOf(RoleTable, Role),
        "Request that determines whether another preset fits the server, for gpumanctl init.",
        default=None,
    )
    notes: tuple[str, ...] = key(ListOf(Text()), "Notes for the administrator of the server.", default=())
    sources: tuple[str, ...] = key(ListOf(Text()), "Sources of the facts in this preset.", default=())
