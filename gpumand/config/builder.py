"""From documents to Settings: merging files, and what can be judged only across tables and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import attrs

from gpumand.config.consumers import Written, place_in_list, read_consumer
from gpumand.config.problems import Document, Place, ProblemList, shown
from gpumand.config.schema import GpuTable, HistoryTable, HttpTable, SchedulerTable
from gpumand.config.table_schema import FAULTY, filled, kind_of, read_keys
from gpumand.config.validators import is_loopback
from gpumand.domain.consumer import (
    UNKNOWN_MIB,
    ConsumerSpec,
    GpuSettings,
    HistorySettings,
    HttpSettings,
    SchedulerSettings,
    Settings,
)
from gpumand.domain.name_suggestions import nearest

_TABLES = ("scheduler", "gpu", "http", "history", "consumers")


Measured = Callable[[ConsumerSpec], int | None]
"""The most MiB that a consumer was measured to hold; None where it was not."""


def build(documents: Sequence[Document], faults: ProblemList, *, complete: bool, measured: Measured) -> Settings:
    """Make Settings of what was read; where there are faults it is not to be used.

    Args:
        documents: the files in order.
        faults: where everything wrong is noted.
        complete: False when a file could not be read, so that names may be known that are not seen here.
        measured: asked of consumers whose footprint is nowhere written.
    """
    for document in documents:
        _note_unknown_tables(document, faults)
    scheduler = _merged("scheduler", SchedulerTable, documents, faults)
    gpu = _merged("gpu", GpuTable, documents, faults)
    http = _merged("http", HttpTable, documents, faults)
    history = _merged("history", HistoryTable, documents, faults)
    consumers = _consumers(documents, faults)
    _note_remote(http, documents, faults)
    if complete:
        _note_strangers(consumers, faults)
    _note_shared_units(consumers, faults)
    _note_giants(consumers, gpu, faults)
    specs = [_with_footprint(spec, measured) for one in consumers.values() if (spec := one.spec())]
    by_name = {spec.name: spec for spec in specs}
    return Settings(
        SchedulerSettings(**scheduler), GpuSettings(**gpu), by_name, HttpSettings(**http), HistorySettings(**history)
    )


def _with_footprint(spec: ConsumerSpec, measured: Measured) -> ConsumerSpec:
    """What was measured may be lost, or not be there yet: then it is not lent, and others are."""
    if spec.vram_resident_mib != UNKNOWN_MIB:
        return spec
    return replace(spec, vram_resident_mib=measured(spec) or UNKNOWN_MIB)


def _note_unknown_tables(document: Document, faults: ProblemList) -> None:
    for name, value in document.table.items():
        if name not in _TABLES:
            what = "table" if isinstance(value, dict) else "key"
            faults.add(Place(document).at(name), f"is no known {what}", nearest(name, _TABLES))


def _merged(
    name: str, table: type[attrs.AttrsInstance], documents: Sequence[Document], faults: ProblemList
) -> dict[str, Any]:
    """A table that several files may add to; none may change what an earlier one said."""
    given: dict[str, Any] = {}
    first: dict[str, Place] = {}
    for place, raw in _tables(name, documents):
        for key, value in read_keys(table, raw, place, faults).items():
            if key in first:
                faults.add(place.at(key), f"was set already at {first[key]}")
                continue
            first[key], given[key] = place.at(key), value
    return filled(table, given)


def _tables(name: str, documents: Sequence[Document]) -> Iterator[tuple[Place, Any]]:
    return ((Place(one).at(name), one.table[name]) for one in documents if name in one.table)


def _consumers(documents: Sequence[Document], faults: ProblemList) -> dict[str, Written]:
    consumers: dict[str, Written] = {}
    for place, raw in _tables("consumers", documents):
        if not isinstance(raw, dict):
            faults.add(place, f"must be a table with one table for each consumer, not {kind_of(raw)}")
            continue
        for name, table in raw.items():
            written = read_consumer(name, table, place.at(name), faults)
            first = consumers.setdefault(name, written)
            if first is not written:
                faults.add(place.at(name), f"is configured already at {first.place}")
    return consumers


def _note_remote(http: dict[str, Any], documents: Sequence[Document], faults: ProblemList) -> None:
    """The status names processes, units and users: it leaves the host only where somebody said so."""
    listen = http["listen"]
    if listen is FAULTY or not listen or is_loopback(listen) or http["allow_remote"]:
        return
    for place, raw in _tables("http", documents):
        if isinstance(raw, dict) and "listen" in raw:
            faults.add(place.at("listen"), "is reached from other hosts, which needs allow_remote = true")


def _note_strangers(consumers: dict[str, Written], faults: ProblemList) -> None:
    for one in consumers.values():
        others = one.keys.get("can_coexist_with", ())
        for name in sorted(set() if others is FAULTY else others - consumers.keys()):
            known = consumers.keys() - {one.name}
            place = place_in_list(one, "can_coexist_with", name)
            faults.add(place, f"{shown(name)} is no configured consumer", nearest(name, known))


def _note_shared_units(consumers: dict[str, Written], faults: ProblemList) -> None:
    """A process belongs to one consumer: were a unit two consumers', its memory would be either's."""
    first: dict[str, Written] = {}
    for one in consumers.values():
        unit = one.keys.get("unit")
        if not isinstance(unit, str):
            continue
        other = first.setdefault(unit, one)
        if other is not one:
            faults.add(one.place.at("unit"), f'is the unit of "{other.name}" already, at {other.place.at("unit")}')


def _note_giants(consumers: dict[str, Written], gpu: dict[str, Any], faults: ProblemList) -> None:
    for one in consumers.values():
        need, devices = one.keys.get("vram_resident_mib"), one.keys.get("device", ())
        count = one.keys.get("device_count") or len(() if devices is FAULTY else devices) or 1
        if FAULTY in (devices, count):
            continue
        limit = _limit_mib(devices, count, gpu)
        if limit == 0:
            faults.add(one.place.at("device_count"), f"is {count}, and there are fewer simulated devices")
        elif isinstance(need, int) and limit is not None and need > limit:
            each = "its device" if count == 1 else f"each of its {count} devices"
            faults.add(one.place.at("vram_resident_mib"), f"is {need} MiB, more than the {limit} MiB of {each}")


def _limit_mib(devices: tuple[str, ...], count: int, gpu: dict[str, Any]) -> int | None:
    """The most that each of so many devices can have by what is configured; None where that is not known."""
    if gpu["source"] == "simulated":
        sizes = gpu["simulated_total_mib"]
        if sizes is FAULTY:
            return None
        there = [int(sizes[int(one)]) for one in devices if one.isdigit() and int(one) < len(sizes)]
        largest = sorted(there if len(there) >= count else map(int, sizes), reverse=True)
        return largest[count - 1] if count <= len(largest) else 0
    total = gpu["total_mib"]
    return total if isinstance(total, int) and devices in {(), ("0",)} else None
