"""Who plays: three services with their footprints, and the configuration that gpumand gets for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TOTAL_MIB = 24564
"""A card of 24 GiB."""


@dataclass(frozen=True, slots=True)
class Role:
    """One service.

    Attributes:
        name: its name as a consumer.
        what: what it is, for people.
        mib: its footprint.
        flags: for the process that plays it.
        keys: TOML of its table, but for the footprint and the url.
    """

    name: str
    what: str
    mib: int
    flags: tuple[str, ...]
    keys: str


ADMIN_ROUTES = """\
health = { path = "/health", loaded = "/model_loaded", last_used = "/last_used" }
load = { method = "POST", path = "/api/admin/load" }
unload = { method = "POST", path = "/api/admin/unload" }
"""

IMAGE = Role("comfyui", "images", 13312, ("--lazy", "--load-sec=1.6", "--unload-sec=0.8"), 'preset = "comfyui"\n')
VOICE = Role("mvoice", "speech", 2867, ("--load-sec=0.8", "--unload-sec=0.4"), ADMIN_ROUTES)
LANGUAGE = Role("llm", "a language model", 14336, ("--load-sec=2.4", "--unload-sec=0.8"), ADMIN_ROUTES)
CAST = (IMAGE, VOICE, LANGUAGE)

SETTINGS = """\
# Written by the gpumand demonstration.
[scheduler]
settle_timeout_sec = 4
health_interval_sec = 0.5
[gpu]
source = {source}
sample_interval_sec = 0.25
simulated_total_mib = {total}
simulated_dir = {folder}
"""


def configuration(urls: Mapping[str, str], simulator: Path, *, source: str) -> str:
    """The whole file.

    Args:
        urls: where the services listen, by name.
        simulator: the folder in which they announce their memory.
        source: "simulated", or "nvml" to look at a real device.
    """
    text = SETTINGS.format(source=json.dumps(source), total=TOTAL_MIB, folder=json.dumps(str(simulator)))
    for role in CAST:
        text += f"[consumers.{role.name}]\n{role.keys}"
        text += f"vram_resident_mib = {role.mib}\nurl = {json.dumps(urls[role.name])}\n"
    return text
