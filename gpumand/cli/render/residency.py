"""The state of a consumer for people: its residency, made consistent with the memory that it holds.

The bus reports a server that runs without its model as ``unloaded``, or as ``resident`` while VRAM is reserved for it.
Next to the memory of its CUDA context, or to no memory at all, either word would contradict the rest of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import clean, mib
from gpumand.domain.cuda_context import CONTEXT_MIB

Entry = Mapping[str, Any]

IDLE = "idle"
"""The state of a server that runs without its model. It is no residency of the D-Bus API."""

ON_FIRST_REQUEST = "loads on its first request"


def shown_state(consumer: Entry) -> str:
    """The state of a consumer in one word: its residency, or ``idle``.

    Args:
        consumer: a consumer entry of GetStatus.
    """
    is_idle = loads_on_first_request(consumer) or _left_mib(consumer) or _runs_unloaded(consumer)
    return IDLE if is_idle else clean(consumer["residency"])


def memory_note(consumer: Entry) -> str:
    """What explains the memory of a consumer in its state; "" when nothing needs an explanation."""
    left_mib = _left_mib(consumer)
    if left_mib and not (consumer.get("lazy") and left_mib <= CONTEXT_MIB):
        return f"still holds {mib(left_mib)}"
    if left_mib or loads_on_first_request(consumer) or (consumer.get("lazy") and _runs_unloaded(consumer)):
        return ON_FIRST_REQUEST
    return "no VRAM measured" if consumer["residency"] == "resident" and consumer.get("used_mib") == 0 else ""


def loads_on_first_request(consumer: Entry) -> bool:
    """Whether VRAM is reserved for a lazy consumer whose model is not loaded: its own first request loads it.

    Args:
        consumer: a consumer entry of GetStatus.
    """
    used_mib = consumer.get("used_mib")
    if not consumer.get("lazy") or consumer.get("residency") != "resident" or used_mib is None:
        return False
    # A running server holds a CUDA context without its model, so "nothing loaded" is a little more than 0 MiB.
    return bool(used_mib <= min(CONTEXT_MIB, (consumer.get("vram_resident_mib") or 0) // 4))


def _left_mib(consumer: Entry) -> int:
    """MiB that an unloaded consumer holds; 0 for any other."""
    return int(consumer.get("used_mib") or 0) if consumer["residency"] == "unloaded" else 0


def _runs_unloaded(consumer: Entry) -> bool:
    """Whether the unit of an unloaded consumer runs: its server needs no start, unlike one that is stopped."""
    return bool(consumer["residency"] == "unloaded" and consumer.get("unit_state") == "active")
