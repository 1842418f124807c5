"""Builds Settings from parsed documents: merges files and checks everything that spans several tables or files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from gpumand.config.consumers import ParsedConsumer, list_element_place, read_consumer
from gpumand.config.problems import Document, Place, ProblemList, quoted
from gpumand.config.schema import GpuTable, HistoryTable, HttpTable, SchedulerTable
from gpumand.config.table_schema import INVALID, read_keys, type_name, with_defaults
from gpumand.config.validators import is_loopback
from gpumand.domain.consumer import UNKNOWN_MIB, ConsumerSpec, SchedulerSettings, Settings
from gpumand.domain.gpu_settings import GpuSettings
from gpumand.domain.name_suggestions import nearest
from gpumand.domain.output_settings import HistorySettings, HttpSettings

_TABLES = ("scheduler", "gpu", "http", "history", "consumers")


MeasuredFootprint = Callable[[ConsumerSpec], int | None]
"""Returns the highest VRAM use in MiB measured for a consumer, or None if it has not been measured."""


def build(
    documents: Sequence[Document], problems: ProblemList, *, complete: bool, measured: MeasuredFootprint
) -> Settings:
    """Build Settings from the documents. If a problem is reported, the result must not be used.

    Args:
        documents: the parsed files in reading order.
        problems: receives every problem.
        complete: False if a file could not be read; a name that is unknown here may be defined in that file.
        measured: called for consumers without a configured footprint.
    """
    for document in documents:
        _check_table_names(document, problems)
    scheduler = _merge_table("scheduler", SchedulerTable, documents, problems)
    gpu = _merge_table("gpu", GpuTable, documents, problems)
    http = _merge_table("http", HttpTable, documents, problems)
    history = _merge_table("history", HistoryTable, documents, problems)
    consumers = _read_consumers(documents, problems)
    _check_remote_listen(http, documents, problems)
    if complete:
        _check_coexist_names(consumers, problems)
    _check_footprints_fit(consumers, gpu, problems)
    specs = [_with_footprint(spec, measured) for one in consumers.values() if (spec := one.spec())]
    by_name = {spec.name: spec for spec in specs}
    return Settings(
        SchedulerSettings(**scheduler), GpuSettings(**gpu), by_name, HttpSettings(**http), HistorySettings(**history)
    )


def _with_footprint(spec: ConsumerSpec, measured: MeasuredFootprint) -> ConsumerSpec:
    """Fill in the measured footprint of a consumer that declares none."""
    # Without a measurement the footprint stays UNKNOWN_MIB: this consumer cannot be leased, all others can.
    if spec.vram_resident_mib != UNKNOWN_MIB:
        return spec
    return replace(spec, vram_resident_mib=measured(spec) or UNKNOWN_MIB)


def _check_table_names(document: Document, problems: ProblemList) -> None:
    for name, value in document.table.items():
        if name not in _TABLES:
            entry = "table" if isinstance(value, dict) else "key"
            problems.add(Place(document).at(name), f"unknown {entry}", nearest(name, _TABLES))


def _merge_table(name: str, table: type[Any], documents: Sequence[Document], problems: ProblemList) -> dict[str, Any]:
    """Merge a table that several files may contribute to; no file may change a key that an earlier one set."""
    given: dict[str, Any] = {}
    first: dict[str, Place] = {}
    for place, raw in _tables(name, documents):
        for key, value in read_keys(table, raw, place, problems).items():
            if key in first:
                problems.add(place.at(key), f"is already set at {first[key]}: remove one of the two")
                continue
            first[key], given[key] = place.at(key), value
    return with_defaults(table, given)


def _tables(name: str, documents: Sequence[Document]) -> Iterator[tuple[Place, Any]]:
    return ((Place(one).at(name), one.table[name]) for one in documents if name in one.table)


def _read_consumers(documents: Sequence[Document], problems: ProblemList) -> dict[str, ParsedConsumer]:
    consumers: dict[str, ParsedConsumer] = {}
    for place, raw in _tables("consumers", documents):
        if not isinstance(raw, dict):
            problems.add(place, f"must be a table that contains one table per consumer, not {type_name(raw)}")
            continue
        for name, table in raw.items():
            parsed = read_consumer(name, table, place.at(name), problems)
            first = consumers.setdefault(name, parsed)
            if first is not parsed:
                problems.add(place.at(name), f"is already configured at {first.place}: remove one of the two")
    return consumers


def _check_remote_listen(http: dict[str, Any], documents: Sequence[Document], problems: ProblemList) -> None:
    """Refuse an address that other hosts can reach unless allow_remote is set."""
    # The status contains the names of processes, units and users, so exporting it must be an explicit decision.
    listen = http["listen"]
    if listen is INVALID or not listen or is_loopback(listen) or http["allow_remote"]:
        return
    for place, raw in _tables("http", documents):
        if isinstance(raw, dict) and "listen" in raw:
            problems.add(
                place.at("listen"),
                "is reachable from other hosts: set allow_remote = true to permit that, or use 127.0.0.1",
            )


def _check_coexist_names(consumers: dict[str, ParsedConsumer], problems: ProblemList) -> None:
    for one in consumers.values():
        others = one.keys.get("can_coexist_with", ())
        # Not a difference of sets, which would look at every configured consumer for each of them.
        for name in sorted(name for name in (() if others is INVALID else others) if name not in consumers):
            known = consumers.keys() - {one.name}
            place = list_element_place(one, "can_coexist_with", name)
            problems.add(place, f"no consumer {quoted(name)} is configured", nearest(name, known))


def _check_footprints_fit(consumers: dict[str, ParsedConsumer], gpu: dict[str, Any], problems: ProblemList) -> None:
    for one in consumers.values():
        need_mib, devices = one.keys.get("vram_resident_mib"), one.keys.get("device", ())
        count = one.keys.get("device_count") or len(() if devices is INVALID else devices) or 1
        if INVALID in (devices, count):
            continue
        limit_mib = _device_limit_mib(devices, count, gpu)
        if limit_mib == 0:
            problems.add(one.place.at("device_count"), f"is {count}, but simulated_total_mib lists fewer devices")
        elif isinstance(need_mib, int) and limit_mib is not None and need_mib > limit_mib:
            each = "its device" if count == 1 else f"each of its {count} devices"
            message = f"is {need_mib} MiB, more than the {limit_mib} MiB of {each}"
            problems.add(one.place.at("vram_resident_mib"), message)


def _device_limit_mib(devices: tuple[str, ...], count: int, gpu: dict[str, Any]) -> int | None:
    """Return the MiB that each of ``count`` devices has according to the configuration.

    Returns:
        The smallest size among the ``count`` largest eligible devices; 0 if there are too few simulated devices; None
        if the configuration does not determine the size.
    """
    if gpu["source"] == "simulated" or (isinstance(gpu["source"], tuple) and gpu["source"][0] == "simulated"):
        sizes = gpu["simulated_total_mib"]
        if sizes is INVALID:
            return None
        named = [int(sizes[int(one)]) for one in devices if one.isdigit() and int(one) < len(sizes)]
        largest = sorted(named if len(named) >= count else map(int, sizes), reverse=True)
        return largest[count - 1] if count <= len(largest) else 0
    total = gpu["total_mib"]
    return total if isinstance(total, int) and devices in {(), ("0",)} else None
