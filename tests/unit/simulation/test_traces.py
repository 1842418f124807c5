"""Converters of real traces, on a few lines in their formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import traces
from gpumand.simulation.demand import read, written

ROWS = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,3000,80\n2023-11-16 18:17:05.9799600,600,8\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in traces.AZURE:
        (tmp_path / name).write_text(ROWS)
    lines = [
        {"timestamp": 1000 * number, "input_length": 3000, "output_length": 160, "hash_ids": [0, number // 3, number]}
        for number in range(300)
    ]
    (tmp_path / traces.MOONCAKE).write_text("".join(json.dumps(one) + "\n" for one in lines))
    return tmp_path


def test_azure_is_two_streams_of_two_consumers_in_order_of_time(folder: Path) -> None:
    uses = traces.azure(folder, seed=0, part=1).demand.first()

    assert [round(use.t, 3) for use in uses] == [0.0, 0.0, 2.0, 2.0]
    assert {use.consumer for use in uses} == {"llm32", "llm8"}
    assert [round(use.hold_sec, 3) for use in uses[::2]] == [2.0, 0.3]


def test_a_conversation_is_kept_or_left_out_as_a_whole_and_stays_with_one_consumer(folder: Path) -> None:
    uses = traces.mooncake(folder, seed=0, part=4).demand.first()

    assert 30 < len(uses) < 150
    by_conversation: dict[str, list[str]] = {}
    for use in uses:
        by_conversation.setdefault(use.client, []).append(use.consumer)
    assert all(len(names) == 3 and len(set(names)) == 1 for names in by_conversation.values())
    assert len({names[0] for names in by_conversation.values()}) > 2


def test_seeds_choose_different_parts_and_the_same_seed_the_same(folder: Path) -> None:
    first, again, other = (traces.mooncake(folder, seed, part=4).demand.first() for seed in (1, 1, 2))

    assert first == again != other


def test_what_is_written_is_demand(folder: Path) -> None:
    uses = traces.mooncake(folder, 0, part=4).demand.first()

    assert len(read(written(uses))) == len(uses)
