"""The compose file of the recipe for Open WebUI, merged with the one of Open WebUI as Docker Compose does it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.blocks import blocks
from tests.integration.test_docs import ComposeLoader

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/guide/recipes/ollama.md"
OPEN_WEBUI = """
services:
  ollama:
    image: ollama/ollama:latest
    container_name: ollama
    volumes: ["ollama:/root/.ollama"]
  open-webui:
    image: ghcr.io/open-webui/open-webui:main
    container_name: open-webui
    depends_on: [ollama]
    ports: ["3000:8080"]
    environment: ["OLLAMA_BASE_URL=http://ollama:11434", "WEBUI_SECRET_KEY="]
    extra_hosts: ["host.docker.internal:host-gateway"]
volumes:
  ollama: {}
"""
"""The parts of its docker-compose.yaml that matter here."""


def override() -> str:
    (found,) = [one.text for one in blocks(ROOT) if one.language == "yaml" and "open-webui:" in one.text]
    return found


def without_what_is_reset(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (base | changes).items() if value is not None}


def test_open_webui_asks_the_gateway_of_the_recipe_and_needs_no_other_container() -> None:
    base, changes = yaml.safe_load(OPEN_WEBUI)["services"], yaml.load(override(), ComposeLoader)["services"]
    assert changes.keys() <= base.keys()
    merged = without_what_is_reset(base["open-webui"], changes["open-webui"])
    # Docker refuses published ports in the network of the host, and depends_on would start the Ollama that is left out.
    assert (merged["network_mode"], merged.keys() & {"ports", "depends_on", "extra_hosts"}) == ("host", set())
    assert changes["ollama"] == {"profiles": ["unused"]}
    variables = merged["environment"]
    listen = f'listen = "{urlsplit(variables["OLLAMA_BASE_URL"]).netloc}"'
    assert f"[gateway]\n{listen}\n" in PAGE.read_text(encoding="utf-8")
    # Variables of a container are text.
    assert {type(one) for one in variables.values()} == {str}


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    command = ["docker", "compose", "version"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="needs docker compose")
def test_docker_compose_accepts_the_two_files(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(OPEN_WEBUI)
    (tmp_path / "docker-compose.override.yml").write_text(override())
    command = ["docker", "compose", "config", "--services"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "open-webui\n"), done.stderr
