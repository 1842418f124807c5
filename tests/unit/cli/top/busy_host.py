"""A host at work as plain values: readings, consumers, leases, waiting requests, processes and evictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpumand.cli.top.model import Model
from gpumand.cli.top.processes import Facts
from tests.unit.cli import samples
from tests.unit.cli.samples import MINUTE, NOW

EVICTION = {
    "at_usec": NOW - MINUTE,
    "kind": "eviction",
    "consumer": "coder",
    "device": "0",
    "duration_usec": 800_000,
    "mib": 14336,
    "method": "http",
    "trigger": "comfyui",
    "detail": "used least recently",
}
FACTS = {
    4101: Facts("/opt/comfyui/venv/bin/python3 main.py --listen 127.0.0.1 --port 8188", 104.0, 5120),
    4187: Facts("/usr/bin/ollama runner --ctx-size 8192 --port 40001", 312.0, 1400),
    5001: Facts("python3 train.py --epochs 10", None, 3100),
}


def readings(value: Callable[[int], float]) -> list[int]:
    """A history of 60 readings."""
    return [int(value(place)) for place in range(60)]


def device(index: int = 0, **changes: Any) -> dict[str, Any]:
    busy = {
        "index": index,
        "used_mib": 21400,
        "free_mib": 3164,
        "foreign_mib": 1480,
        "utilization_percent": 87,
        "temperature_celsius": 71,
        "temperature_limit_celsius": 83,
        "power_watts": 312.4,
        "power_limit_watts": 450.0,
        "history": {
            "used_mib": readings(lambda place: 4000 + (17000 if place > 25 else place * 200)),
            "utilization_percent": readings(lambda place: 50 + 45 * math.sin(place / 5)),
            "temperature_celsius": readings(lambda place: 50 + place * 0.35),
            "power_watts": readings(lambda place: 200 + 100 * math.sin(place / 7)),
        },
        "processes": [
            process(4101, "python3", 13312, user="comfy", unit="comfyui.service", consumers=["comfyui"]),
            process(4187, "ollama", 6144, user="root", container="ollama", consumers=["ollama"]),
            process(5001, "python3", 800, lease="77aa2233445566778899"),
        ],
        "foreign": [process(3120, "firefox", 1100, unit="session-2.scope"), process(1201, "Xorg", 380, user="root")],
    }
    return samples.device(**(busy | changes))


def process(pid: int, name: str, used_mib: int, **changes: Any) -> dict[str, Any]:
    return {"pid": pid, "name": name, "unit": "", "uid": 1000, "user": "alice", "used_mib": used_mib} | changes


def consumers() -> list[dict[str, Any]]:
    comfyui = readings(lambda place: 13312 if place > 25 else place * 100)
    return [
        samples.consumer(
            "ollama",
            "resident",
            used_mib=6144,
            vram_resident_mib=6144,
            leases=1,
            unit="",
            container="ollama",
            used_mib_history=readings(lambda place: 6144 if place > 10 else 0),
        ),
        samples.consumer(
            "comfyui",
            "resident",
            used_mib=13312,
            vram_resident_mib=13312,
            leases=1,
            busy=True,
            used_mib_history=comfyui,
        ),
        samples.consumer("whisper", vram_resident_mib=4521, last_used_usec=NOW - 40 * MINUTE),
        samples.consumer("voice", "failed", pinned=True, error="voice.service failed: exit code 1"),
        samples.consumer("coder", vram_resident_mib=19800, last_used_usec=NOW - 3 * MINUTE),
    ]


def leases() -> list[dict[str, Any]]:
    train = {"consumer": "", "vram_mib": 2048, "program": "train.py", "used_mib": 800, "lifetime": "connection"}
    return [
        samples.lease(
            id="38a640f1c2d3e4f5a6b7",
            consumer="ollama",
            owner="open-webui.service",
            owner_user="alice",
            owner_program="open-webui",
            reason="chat",
        ),
        samples.lease(
            id="91bb12aa33445566aa00",
            owner="pid 8123",
            owner_user="bob",
            owner_program="python3",
            granted_usec=NOW - 14 * MINUTE,
            expires_usec=NOW + MINUTE,
            reason="poster, 40 pictures",
        ),
        samples.lease(id="77aa2233445566778899", owner="pid 5001", owner_user="alice", expires_usec=0, **train),
    ]


def queue() -> list[dict[str, Any]]:
    why = "comfyui is leased (lease 91bb12, user bob, python3, ends in 1 min); gpumanctl release 91bb12 releases it"
    return [
        samples.waiting(
            id="c0ffee00112233445566", consumer="coder", owner_user="carol", owner_program="aider", waiting_for=why
        ),
        samples.waiting(id="c1ffee00112233445566", consumer="whisper", position=2, waiting_for="coder is ahead"),
    ]


def status(**changes: Any) -> dict[str, Any]:
    values = {"devices": [device()], "consumers": consumers(), "leases": leases(), "queue": queue()}
    return samples.status(**(values | changes))


def model(**changes: Any) -> Model:
    """The screen of the host; the changes are those of its status."""
    recent = tuple(EVICTION | {"at_usec": NOW - place * MINUTE} for place in range(1, 20))
    return replace(Model(facts=FACTS).with_status(status(**changes)), recent=recent)
