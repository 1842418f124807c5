"""Dividing a device's bar among the holders of its memory."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.render.bar import bar, cells, legend, shares
from gpumand.cli.render.status import unnamed_lines
from gpumand.cli.render.theme import Theme
from tests.unit.cli.samples import consumer, device

amounts = st.lists(st.integers(min_value=0, max_value=200_000), min_size=1, max_size=20)


@given(amounts, st.integers(min_value=1, max_value=200_000), st.integers(min_value=36, max_value=96))
def test_cells_never_exceed_the_bar_and_every_holder_gets_one(parts: list[int], total: int, width: int) -> None:
    given_cells = cells(parts, total, width)
    assert sum(given_cells) <= width
    assert all(count >= 1 for count, amount in zip(given_cells, parts, strict=True) if amount)
    assert all(count == 0 for count, amount in zip(given_cells, parts, strict=True) if not amount)


def test_cells_are_proportional_to_memory() -> None:
    assert cells([12000, 6000, 0], 24000, 40) == [20, 10, 0]


def test_memory_of_no_consumer_is_unattributed_when_foreign_memory_is_unknown() -> None:
    entry = device(used_mib=5000)
    del entry["foreign_mib"]
    found = shares(entry, [consumer("mvoice", "resident", used_mib=2867)])
    assert [(share.name, share.mib) for share in found] == [("mvoice", 2867), ("unattributed", 2133)]


def test_consumer_on_another_device_is_not_in_the_bar() -> None:
    found = shares(device(foreign_mib=0), [consumer("mvoice", "resident", used_mib=2867, device="1")])
    assert found == []


def test_consumer_on_several_devices_has_a_part_in_each_bar() -> None:
    wide = consumer("wide", "resident", used_mib=8000, device="0,1")

    for index in (0, 1):
        assert [(share.name, share.mib) for share in shares(device(index=index, foreign_mib=0), [wide])] == [
            ("wide", 4000)
        ]
    assert shares(device(index=10, foreign_mib=0), [wide]) == []


def test_unnamed_memory_has_a_part_of_its_own() -> None:
    entry = device(used_mib=19500, foreign_mib=0, foreign=[], unnamed_mib=19500)
    assert [(share.name, share.mib) for share in shares(entry, [])] == [("unnamed", 19500)]


def test_unnamed_memory_is_not_drawn_twice_for_a_consumer_that_is_drawn_by_its_footprint() -> None:
    held = {"name": "llm", "device": "0", "residency": "resident", "vram_resident_mib": 12000}
    entry = device(used_mib=19500, foreign_mib=0, foreign=[], unnamed_mib=19500)
    assert [(one.name, one.mib, one.estimated) for one in shares(entry, [held])] == [
        ("llm", 12000, True),
        ("unnamed", 7500, False),
    ]


def test_foreign_processes_are_drawn_beside_unnamed_memory() -> None:
    foreign = [{"pid": 1, "name": "game", "used_mib": 4000}]
    entry = device(used_mib=19500, foreign=foreign, unnamed_mib=15500)
    del entry["foreign_mib"]
    assert [(share.name, share.mib) for share in shares(entry, [], 4)] == [("game", 4000), ("unnamed", 15500)]


def test_rounding_is_not_drawn_as_unnamed_memory() -> None:
    assert shares(device(used_mib=3, foreign_mib=0, foreign=[], unnamed_mib=3), []) == []


LLM = {"name": "llm", "device": "0", "residency": "resident", "vram_resident_mib": 14000}
SERVER = {"pid": 7, "name": "python", "used_mib": 14000}
GAME = {"pid": 8, "name": "game", "used_mib": 5000}


def parts_of(entry: dict[str, Any], *consumers: dict[str, Any], named: int = 0) -> list[tuple[str, int]]:
    return [(one.name, one.mib) for one in shares(entry, consumers, named)]


def test_server_without_a_unit_is_not_drawn_twice_for_its_consumer() -> None:
    """Its process is a foreign one for the driver, and the bar was full while 10 of 24 GiB were free."""
    entry = device(used_mib=14000, foreign_mib=14000, foreign=[SERVER], unnamed_mib=0)
    assert parts_of(entry, LLM) == [("llm", 14000)]
    assert parts_of(entry, LLM, named=3) == [("python", 14000)], "what the driver names is certain"

    entry = device(used_mib=19000, foreign_mib=19000, foreign=[SERVER, GAME], unnamed_mib=0)
    assert parts_of(entry, LLM) == [("llm", 14000), ("foreign", 5000)]
    assert parts_of(entry, LLM, named=1) == [("llm", 5000), ("python", 14000)]


def test_foreign_memory_beside_measured_consumers_is_drawn_whole() -> None:
    entry = device(used_mib=18900, foreign_mib=5000, foreign=[GAME], unnamed_mib=0)
    assert parts_of(entry, LLM | {"used_mib": 14000}) == [("llm", 14000), ("foreign", 5000)]


def test_memory_of_a_device_that_cannot_be_read_is_not_drawn_as_free() -> None:
    entry = device(used_mib=None, free_mib=None, foreign_mib=None, error="gpu-lost: it has fallen off the bus")
    theme = Theme(width=80, color=False, unicode=False)
    assert set(bar(entry, [], theme).plain.strip()) == set("[?]")
    assert [line.plain for line in legend(entry, [], theme)] == ["  ? unknown"]

    declared = entry | {"unchecked": True}
    assert set(bar(declared, [], theme).plain.strip()) == set("[.]")


def test_host_ram_of_other_programs_is_not_called_memory_of_unnamed_processes() -> None:
    entry = device(used_mib=19500, foreign_mib=0, foreign=[], unnamed_mib=19500, pool="unified", source="nvml")
    assert parts_of(entry) == [("host RAM of other programs", 19500)]
    [line] = unnamed_lines(entry, Theme())
    assert line.plain.strip() == "host RAM: 19.0 GiB in use by other programs"
    # amdgpu counts what the GPU uses, also where that is host RAM.
    assert parts_of(entry | {"source": "amdgpu"}) == [("unnamed", 19500)]
