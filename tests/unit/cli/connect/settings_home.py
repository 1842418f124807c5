"""Home directories with settings files as users have them, and ``gpumanctl`` for their users."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GATEWAY = "http://127.0.0.1:8770"
CODEX = """# my settings
model = "gpt-5"   # the big one
model_provider = "openai" # default

[model_providers.azure]
name = "Azure"
base_url = "https://example.org/openai"

[tui]
theme = "dark"
"""
AIDER = """# my settings
dark-mode: true
openai-api-base: https://example.org/v1  # work
read:
- CONVENTIONS.md
# end
"""
CONTINUE = """name: My Config
version: 1.0.0
schema: v1
models:
  # for chat
  - name: Llama
    provider: ollama
    model: llama3.1:8b
    roles:
      - chat
rules:
  - Be brief
"""
WEBUI = """# Open WebUI
export WEBUI_NAME="ours"
OLLAMA_BASE_URL='http://localhost:11434'
OPENAI_API_BASE_URLS=https://example.org/v1;https://example.com/v1
OPENAI_API_KEYS=a;b
SCARF_NO_ANALYTICS=true
"""
BASHRC = "case $- in *i*) ;; *) ;; esac\nexport OPENAI_BASE_URL=https://example.org/v1\nexport EDITOR=vi\n"


@dataclass(frozen=True, slots=True)
class Done:
    """How gpumanctl ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Home:
    """A home directory, and gpumanctl for its user."""

    path: Path

    def ctl(self, *arguments: str, folder: str = ".", **environ: str) -> Done:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SUDO_", "XDG_"))}
        environ = {"HOME": str(self.path), "SHELL": "/bin/bash", "PATH": "/usr/bin:/bin", **environ}
        command = [sys.executable, "-m", "gpumand.cli", *arguments]
        done = subprocess.run(
            command,
            env=kept | environ,
            cwd=self.path / folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, text: str, mode: int = 0o640) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        path.chmod(mode)
        return path

    def files(self) -> dict[str, bytes]:
        return {str(one.relative_to(self.path)): one.read_bytes() for one in self.path.rglob("*") if one.is_file()}


FILES = {
    "codex": (".codex/config.toml", CODEX),
    "aider": (".aider.conf.yml", AIDER),
    "continue": (".continue/config.yaml", CONTINUE),
    "open-webui": ("open-webui/.env", WEBUI),
    "shell": (".bashrc", BASHRC),
}
