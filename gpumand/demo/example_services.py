"""The three services of the demonstration and the configuration of gpumand for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TOTAL_MIB = 24564
"""VRAM of the simulated GPU: a card with 24 GiB."""


@dataclass(frozen=True, slots=True)
class ExampleService:
    """One service.

    Attributes:
        name: its consumer name.
        description: what it does, for titles.
        mib: its footprint in MiB.
        flags: command line options of its process.
        keys: TOML of its consumer table, without the footprint and the URL.
    """

    name: str
    description: str
    mib: int
    flags: tuple[str, ...]
    keys: str


ADMIN_ROUTES = """\
health = { path = "/health", loaded = "/model_loaded", last_used = "/last_used" }
load = { method = "POST", path = "/api/admin/load" }
unload = { method = "POST", path = "/api/admin/unload" }
"""

IMAGE = ExampleService(
    "comfyui", "images", 13312, ("--lazy", "--load-sec=1.6", "--unload-sec=0.8"), 'preset = "comfyui"\n'
)
VOICE = ExampleService("mvoice", "speech", 2867, ("--load-sec=0.8", "--unload-sec=0.4"), ADMIN_ROUTES)
LANGUAGE = ExampleService("llm", "a language model", 14336, ("--load-sec=2.4", "--unload-sec=0.8"), ADMIN_ROUTES)
SERVICES = (IMAGE, VOICE, LANGUAGE)

QWEN = ExampleService("qwen3", "the OpenAI API", 14336, ("--load-sec=1.2", "--unload-sec=0.4"), ADMIN_ROUTES)
GEMMA = ExampleService("gemma3", "the API of Ollama", 12288, ("--load-sec=1.0", "--unload-sec=0.4"), ADMIN_ROUTES)
CHATS = (QWEN, GEMMA)
"""Two models of which only one fits, for programs that talk to the gateway."""

GATEWAY_PRESETS = {QWEN.name: "llama-server", GEMMA.name: "ollama", IMAGE.name: "comfyui"}
"""The routes that each service has, for the gateway."""

SHORT_SETTLE = "settle_timeout_sec = 4"
SETTINGS = """\
# Written by the gpumand demonstration.
[scheduler]
settle_timeout_sec = 4
min_turn_sec = 0
health_interval_sec = 0.5
[gpu]
source = "simulated"
sample_interval_sec = 0.25
simulated_total_mib = {total}
simulated_dir = {folder}
"""


def gateway_configuration(services: Sequence[ExampleService], port: int, ports: Mapping[str, int]) -> str:
    """The text of gateway.toml.

    Args:
        services: the services behind the gateway.
        port: port of the gateway's own address.
        ports: port of the listener of each service, by name.
    """
    text = f'[gateway]\nlisten = "127.0.0.1:{port}"\nlinger_sec = 1\n[gateway.models]\n'
    text += "".join(f"{json.dumps(one.name)} = {json.dumps(one.name)}\n" for one in services)
    for one in services:
        preset = GATEWAY_PRESETS.get(one.name)
        text += f'[gateway.listeners.{one.name}]\nlisten = "127.0.0.1:{ports[one.name]}"\n'
        text += f"preset = {json.dumps(preset)}\n" if preset else ""
    return text


def configuration(urls: Mapping[str, str], simulator: Path, *, services: Sequence[ExampleService] = SERVICES) -> str:
    """The text of gpumand.toml.

    Args:
        urls: URLs of the services, by name.
        simulator: the folder in which the services announce their memory.
        services: the services.
    """
    text = SETTINGS.format(total=TOTAL_MIB, folder=json.dumps(str(simulator)))
    for service in services:
        text += f"[consumers.{service.name}]\n{service.keys}"
        text += f"vram_resident_mib = {service.mib}\nurl = {json.dumps(urls[service.name])}\n"
    return text
