"""Converters for published traces, on a few lines of each format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import traces
from gpumand.simulation.demand import parse, to_json_lines

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


def test_azure_trace_yields_two_sorted_streams_of_two_consumers(folder: Path) -> None:
    uses = traces.azure(folder, seed=0, part=1).demand.initial_uses()

    assert [round(use.t, 3) for use in uses] == [0.0, 0.0, 2.0, 2.0]
    assert {use.consumer for use in uses} == {"llm32", "llm8"}
    assert [round(use.hold_sec, 3) for use in uses[::2]] == [2.0, 0.3]


def test_conversation_is_sampled_as_a_whole_and_uses_one_consumer(folder: Path) -> None:
    uses = traces.mooncake(folder, seed=0, part=4).demand.initial_uses()

    assert 30 < len(uses) < 150
    by_conversation: dict[str, list[str]] = {}
    for use in uses:
        by_conversation.setdefault(use.client, []).append(use.consumer)
    assert all(len(names) == 3 and len(set(names)) == 1 for names in by_conversation.values())
    assert len({names[0] for names in by_conversation.values()}) > 2


def test_seed_determines_the_sampled_part(folder: Path) -> None:
    first, again, other = (traces.mooncake(folder, seed, part=4).demand.initial_uses() for seed in (1, 1, 2))

    assert first == again != other


def test_formatted_trace_is_valid_demand(folder: Path) -> None:
    uses = traces.mooncake(folder, 0, part=4).demand.initial_uses()

    assert len(parse(to_json_lines(uses))) == len(uses)
