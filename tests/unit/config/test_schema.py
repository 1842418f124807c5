"""Every key of the schema exists in the domain and is documented."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gpumand.config.busy_schema import BusyTable
from gpumand.config.consumer_schema import ConsumerTable, HealthTable, RouteTable
from gpumand.config.preset_schema import Detect, DetectTable, PresetTable
from gpumand.config.schema import TABLES, GpuTable, HttpTable, SchedulerTable
from gpumand.config.table_schema import keys_of, with_defaults
from gpumand.domain.consumer import BusyRoute, ConsumerSpec, HealthRoute, Route, SchedulerSettings
from gpumand.domain.gpu_settings import GpuSettings
from gpumand.domain.output_settings import HttpSettings

PAIRS = [
    (SchedulerTable, SchedulerSettings, set()),
    (GpuTable, GpuSettings, set()),
    (HttpTable, HttpSettings, set()),
    (RouteTable, Route, set()),
    (HealthTable, HealthRoute, set()),
    (BusyTable, BusyRoute, set()),
    (ConsumerTable, ConsumerSpec, {"model", "key_file", "key_header", "vram_guess_mib", "device", "device_count"}),
]


DERIVED = {"name", "vram_auto", "devices", "device_count", "reservation"}
"""Fields of ConsumerSpec that are derived and have no key of the same name."""


@pytest.mark.parametrize(("table", "value", "extra"), PAIRS)
def test_keys_and_defaults_match_the_domain(table: type[Any], value: type, extra: set[str]) -> None:
    fields = {one.name: one.default for one in dataclasses.fields(value) if one.name not in DERIVED}
    keys = keys_of(table)

    assert keys.keys() - extra == fields.keys()
    for name, default in fields.items():
        assert keys[name].required == (default is dataclasses.MISSING) or name == "vram_resident_mib"
        assert default is dataclasses.MISSING or keys[name].required or keys[name].default == default


def test_detect_has_the_keys_of_its_table() -> None:
    assert keys_of(DetectTable).keys() == {one.name for one in dataclasses.fields(Detect)}


@pytest.mark.parametrize("table", [*TABLES.values(), PresetTable, DetectTable])
def test_every_key_is_documented(table: type[Any]) -> None:
    for name, one in keys_of(table).items():
        assert one.doc.endswith("."), name
        assert one.value_type.description, name
        assert one.unit == {"mib": "MiB", "sec": "s", "days": "d"}.get(name.rsplit("_", 1)[-1], ""), name


def test_defaults_of_the_tables_equal_those_of_the_domain() -> None:
    written = [with_defaults(table, {}) for table in (SchedulerTable, GpuTable)]

    assert written == [dataclasses.asdict(SchedulerSettings()), dataclasses.asdict(GpuSettings())]
