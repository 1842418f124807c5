"""Names of leases and requests for people: the consumer, or what is reserved without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import clean, mib

Entry = Mapping[str, Any]


def lease_label(entry: Entry) -> str:
    """What a lease, a grant or a waiting request is for: ``comfyui``, ``12.0 GiB``, ``whole GPU``."""
    if entry.get("consumer"):
        return clean(entry["consumer"])
    if entry.get("all"):
        return "whole GPU"
    return mib(int(entry["vram_mib"])) if entry.get("vram_mib") else "reservation"


def holder_label(lease: Entry) -> str:
    """The owner of a lease; for a reservation with the program and the VRAM that it holds."""
    owner = clean(lease.get("owner") or f"uid {lease['owner_uid']}")
    if lease.get("consumer"):
        return owner
    program = clean(lease.get("program") or "")
    held = f", holds {mib(int(lease['used_mib']))}" if lease.get("used_mib") is not None else ""
    return f"{program} ({owner}{held})" if program else f"{owner}{held}"
