"""Sample answers of the daemon, as plain values; each function takes the keys to change."""

from __future__ import annotations

from typing import Any

NOW = 1_700_000_000_000_000
MINUTE = 60_000_000


def device(**changes: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "uuid": "GPU-5f1c",
        "name": "NVIDIA GeForce RTX 4090",
        "source": "nvml",
        "total_mib": 24564,
        "used_mib": 16700,
        "free_mib": 7864,
        "reserved_mib": 0,
        "foreign_mib": 521,
        "sampled_usec": NOW,
        "error": "",
    } | changes


def consumer(name: str, residency: str = "unloaded", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "residency": residency,
        "device": "0",
        "vram_resident_mib": 2867,
        "used_mib": 0,
        "leases": 0,
        "last_used_usec": 0,
        "pinned": False,
        "vram_managed": False,
        "unit": f"{name}.service",
        "error": "",
        "doing": "",
        "since_usec": NOW,
    } | changes


def lease(**changes: Any) -> dict[str, Any]:
    return {
        "id": "f3b1c9a27e604d21",
        "consumer": "comfyui",
        "device": "0",
        "owner_uid": 1000,
        "owner": "render.service",
        "lifetime": "ttl",
        "granted_usec": NOW - 3 * MINUTE,
        "expires_usec": NOW + 12 * MINUTE,
        "reason": "poster",
    } | changes


def waiting(**changes: Any) -> dict[str, Any]:
    return {
        "consumer": "llm",
        "position": 1,
        "priority": 0,
        "waited_usec": 12_400_000,
        "waiting_for": "mvoice is leased",
        "owner_uid": 1000,
        "reason": "",
    } | changes


def status(**changes: Any) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "degraded": "",
        "devices": [device()],
        "consumers": [
            consumer("comfyui", "resident", vram_resident_mib=13312, used_mib=13312, leases=1, last_used_usec=NOW),
            consumer("mvoice", "resident", used_mib=2867, pinned=True, last_used_usec=NOW - 90 * MINUTE),
            consumer("llm", vram_resident_mib=14336),
        ],
        "leases": [lease()],
        "queue": [],
        "stats": {
            "evictions": 3,
            "eviction_failures": 0,
            "grants": 12,
            "refusals": 1,
            "loads": 4,
            "load_failures": 0,
            "wait_usec": 1,
            "load_usec": 32_800_000,
            "unload_usec": 1_800_000,
        },
    } | changes


def plan(**changes: Any) -> dict[str, Any]:
    return {
        "consumer": "llm",
        "verdict": "grant",
        "device": "0",
        "resident": False,
        "load": True,
        "need_mib": 14592,
        "free_mib": 8385,
        "evictions": [
            {"consumer": "comfyui", "expected_mib": 13312, "method": "http", "why": "used least recently: 3 min ago"}
        ],
        "spared": [{"consumer": "mvoice", "why": "not needed: without it there is room enough"}],
        "error": "",
        "message": "",
    } | changes
