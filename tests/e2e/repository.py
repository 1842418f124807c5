"""The signed apt repository of scripts/release, made with a key of the test and published in a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.debian import APT
from tests.e2e.machine import Machine

TOOLS = {"apt-ftparchive": "apt-utils", "gpg": "gpg", "gpg-agent": "gpg-agent", "pyproject-build": "python3-build"}
MISSING = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
"""Packages that make a repository but are not installed."""

WEB = "/srv/repository"
URL = "http://127.0.0.1:8099"
SOURCES = "/etc/apt/sources.list.d/gpumand.sources"


@dataclass(frozen=True, slots=True)
class Releases:
    """Runs scripts/release with a key made for the test."""

    gnupghome: Path

    def run(self, checkout: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [checkout / "scripts/release", *arguments]
        environment = dict(os.environ) | {"GNUPGHOME": str(self.gnupghome)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def add(self, checkout: Path, repository: Path) -> subprocess.CompletedProcess[str]:
        return self.run(checkout, "--key", "test archive", "--url", URL, repository)


@contextmanager
def with_key(home: Path) -> Iterator[Releases]:
    """A key in a new folder, and scripts/release that signs with it."""
    home.chmod(0o700)
    environment = dict(os.environ) | {"GNUPGHOME": str(home)}
    create = [
        "gpg",
        "--batch",
        "--quiet",
        "--passphrase",
        "",
        "--quick-generate-key",
        "test archive",
        "ed25519",
        "sign",
    ]
    subprocess.run(create, env=environment, check=True, capture_output=True)
    yield Releases(home)
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=environment, check=True)


def publish(machine: Machine, repository: Path) -> None:
    """Put the repository on the web server of the machine."""
    machine.remove(WEB)
    shutil.copytree(repository, f"/proc/{machine.container.leader}/root{WEB}")
    machine.run(["chmod", "-R", "go+rX", WEB])
    if machine.systemctl("is-active", "web.service", check=False).strip() != "active":
        server = ["/usr/bin/python3", "-m", "http.server", "--bind=127.0.0.1", "--directory=" + WEB, "8099"]
        machine.run(["systemd-run", "--quiet", "--unit=web", *server])
        machine.wait_until(lambda: machine.run(["curl", "-fsSo", "/dev/null", URL], check=False).returncode == 0, "web")


def apt(machine: Machine, *arguments: str, check: bool = True) -> str:
    done = machine.run([*APT, *arguments], timeout=180, check=check)
    return done.stdout + done.stderr
