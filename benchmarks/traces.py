"""Converters: request traces of real services, as demand that ``gpumanctl simulate`` replays.

The traces are not part of gpumand and keep their licences:

- Azure LLM inference 2023 (``AzureLLMInferenceTrace_code.csv`` and ``…_conv.csv``), CC-BY 4.0,
  github.com/Azure/AzurePublicDataset;
- Mooncake, FAST 2025 (``mooncake_conversation_trace.jsonl``), Apache-2.0, github.com/kvcache-ai/Mooncake.

Each is the load of a whole cluster, so a part of it, chosen by a seed, is put on one device. One use takes as long as
reading its context and generating its answer does: context tokens / 3000 + generated tokens / 80 seconds.

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

from gpumand.simulation.demand import OpenDemand, Use, written
from gpumand.simulation.generate import SIX, Scene, host_of

PART = 60
"""One request in so many is for this device."""

AZURE = {"AzureLLMInferenceTrace_code.csv": "llm32", "AzureLLMInferenceTrace_conv.csv": "llm8"}
"""The two services, as a large and a small model that do not fit together."""

MOONCAKE = "mooncake_conversation_trace.jsonl"
SHARED_IDS = 1
"""All requests begin with the same block (a system prompt); the next one tells conversations apart."""


def hold_sec(context: float, generated: float) -> float:
    """How long one device is busy with it."""
    return context / 3000.0 + generated / 80.0


def azure(folder: Path, seed: int, part: int = PART) -> Scene:
    """The two streams, each thinned at random. Raises OSError."""
    uses: list[Use] = []
    for name, consumer in AZURE.items():
        random = Random(f"azure {seed} {name}")
        with (folder / name).open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        for row in rows:
            if random.random() * part < 1.0:
                seconds = hold_sec(float(row["ContextTokens"]), float(row["GeneratedTokens"]))
                uses.append(Use(_moment(row["TIMESTAMP"]), consumer, seconds, consumer))
    return Scene(host_of(tuple(AZURE.values())), OpenDemand(_from_zero(uses)))


def _moment(text: str) -> float:
    """Seconds; the trace has seven digits of them, datetime takes six."""
    return datetime.fromisoformat(text[:26] + "+00:00").timestamp()


def mooncake(folder: Path, seed: int, part: int = PART, consumers: Sequence[str] = SIX) -> Scene:
    """Conversations, each as a whole kept or left out, and each with one consumer. Raises OSError."""
    uses = []
    with (folder / MOONCAKE).open() as lines:
        for row in map(json.loads, lines):
            conversation = (row["hash_ids"][SHARED_IDS:] or row["hash_ids"])[0]
            digest = int.from_bytes(hashlib.sha256(f"{seed} {conversation}".encode()).digest()[:8], "big")
            if digest % part == 0:
                name = consumers[digest // part % len(consumers)]
                seconds = hold_sec(row["input_length"], row["output_length"])
                uses.append(Use(row["timestamp"] / 1e3, name, seconds, str(conversation)))
    return Scene(host_of(tuple(consumers)), OpenDemand(_from_zero(uses)))


def _from_zero(uses: list[Use]) -> list[Use]:
    uses.sort(key=lambda use: use.t)
    return [Use(use.t - uses[0].t, use.consumer, use.hold_sec, use.client) for use in uses]


TRACES = {"azure": azure, "mooncake": mooncake}


def main() -> None:
    """Write demand to stdout."""
    parser = argparse.ArgumentParser(description="Write a trace as demand, one JSON object a line.")
    parser.add_argument("trace", choices=sorted(TRACES))
    parser.add_argument("folder", type=Path, help="where the trace's files are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, default=PART, help="one request in so many is kept (default %(default)s)")
    chosen = parser.parse_args()
    scene = TRACES[chosen.trace](chosen.folder, chosen.seed, chosen.part)
    sys.stdout.writelines(written(scene.demand.first()))


if __name__ == "__main__":
    main()
