"""Converts request traces of real services to demand that ``gpumanctl simulate`` replays.

The traces are not part of gpumand and keep their own licences:

- Azure LLM inference 2023 (``AzureLLMInferenceTrace_code.csv`` and ``…_conv.csv``), CC-BY 4.0,
  github.com/Azure/AzurePublicDataset;
- Mooncake, FAST 2025 (``mooncake_conversation_trace.jsonl``), Apache-2.0, github.com/kvcache-ai/Mooncake.

Each is the load of a whole cluster, so that only a part of it, chosen by a seed, goes to one device. A use takes as
long as reading its context and generating its answer: context tokens / 3000 + generated tokens / 80 seconds.

    python -m benchmarks.traces azure FOLDER --seed 0 >demand.jsonl
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from random import Random

from gpumand.simulation.demand import OpenDemand, Use, to_json_lines
from gpumand.simulation.generate import SIX_CONSUMERS, Scenario, host_of

PART = 60
"""One in this many requests goes to the device."""

AZURE = {"AzureLLMInferenceTrace_code.csv": "llm32", "AzureLLMInferenceTrace_conv.csv": "llm8"}
"""The two services, as a large and a small model that do not fit together."""

MOONCAKE = "mooncake_conversation_trace.jsonl"
SHARED_IDS = 1
"""All requests begin with the same block (a system prompt); the next block identifies the conversation."""


def hold_sec(context: float, generated: float) -> float:
    """Seconds for which a request with these numbers of tokens keeps one device busy."""
    return context / 3000.0 + generated / 80.0


def azure(folder: Path, seed: int, part: int = PART) -> Scenario:
    """The Azure trace as a scenario: two streams, each reduced at random to one request in ``part``. Raises OSError."""
    uses: list[Use] = []
    for name, consumer in AZURE.items():
        random = Random(f"azure {seed} {name}")
        with (folder / name).open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        for row in rows:
            if random.random() * part < 1.0:
                seconds = hold_sec(float(row["ContextTokens"]), float(row["GeneratedTokens"]))
                uses.append(Use(_seconds_of(row["TIMESTAMP"]), consumer, seconds, consumer))
    return Scenario(host_of(tuple(AZURE.values())), OpenDemand(_shift_to_zero(uses)))


def _seconds_of(text: str) -> float:
    """Seconds since the epoch; the trace has seven fractional digits, datetime accepts six."""
    return datetime.fromisoformat(text[:26] + "+00:00").timestamp()


def mooncake(folder: Path, seed: int, part: int = PART, consumers: Sequence[str] = SIX_CONSUMERS) -> Scenario:
    """The Mooncake trace as a scenario; a conversation is kept or left out, and uses one consumer. Raises OSError."""
    uses = []
    with (folder / MOONCAKE).open() as lines:
        for row in map(json.loads, lines):
            conversation = (row["hash_ids"][SHARED_IDS:] or row["hash_ids"])[0]
            digest = int.from_bytes(hashlib.sha256(f"{seed} {conversation}".encode()).digest()[:8], "big")
            if digest % part == 0:
                name = consumers[digest // part % len(consumers)]
                seconds = hold_sec(row["input_length"], row["output_length"])
                uses.append(Use(row["timestamp"] / 1e3, name, seconds, str(conversation)))
    return Scenario(host_of(tuple(consumers)), OpenDemand(_shift_to_zero(uses)))


def _shift_to_zero(uses: list[Use]) -> list[Use]:
    uses.sort(key=lambda use: use.t)
    return [Use(use.t - uses[0].t, use.consumer, use.hold_sec, use.client) for use in uses]


TRACES = {"azure": azure, "mooncake": mooncake}


def main() -> None:
    """Write the demand of a trace to stdout."""
    parser = argparse.ArgumentParser(description="Convert a trace to demand, one JSON object per line.")
    parser.add_argument("trace", choices=sorted(TRACES))
    parser.add_argument("folder", type=Path, help="folder with the files of the trace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, default=PART, help="keep one in this many requests (default %(default)s)")
    chosen = parser.parse_args()
    scenario = TRACES[chosen.trace](chosen.folder, chosen.seed, chosen.part)
    sys.stdout.writelines(to_json_lines(scenario.demand.initial_uses()))


if __name__ == "__main__":
    main()
