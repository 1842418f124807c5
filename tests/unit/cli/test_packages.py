"""Advice to install a package works where it is followed: with a repository, with a file, and without apt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpumand.cli import packages as module
from gpumand.cli.packages import Packages, install_command, library_advice, parse_policy, read_packages

FROM_FILE = """\
gpumand:
  Installed: 0.1.0-1
  Candidate: 0.1.0-1
  Version table:
 *** 0.1.0-1 100
        100 /var/lib/dpkg/status
     0.0.9-1 500
        500 http://packages.example.org/gpumand stable/main amd64 Packages
"""
FROM_REPOSITORY = """\
gpumand:
  Installed: 0.1.0-1
  Candidate: 0.1.0-1
  Version table:
 *** 0.1.0-1 500
        500 file:/srv/gpumand stable/main amd64 Packages
        100 /var/lib/dpkg/status
gpumand-gateway:
  Installed: (none)
  Candidate: 0.1.0-1
  Version table:
     0.1.0-1 500
        500 file:/srv/gpumand stable/main amd64 Packages
"""
REMOVED = """\
polkitd:
  Installed: (none)
  Candidate: (none)
  Version table:
     122-3 -1
        100 /var/lib/dpkg/status
"""


@pytest.mark.parametrize(
    ("policy", "package", "again", "expected"),
    [
        (FROM_FILE, "gpumand", True, "apt-get install --reinstall ./gpumand_0.1.0-1_all.deb   # no repository"),
        (FROM_FILE, "gpumand-gateway", False, "apt-get install ./gpumand-gateway_0.1.0-1_all.deb   # no repository"),
        (FROM_REPOSITORY, "gpumand", True, "apt-get install --reinstall gpumand"),
        (FROM_REPOSITORY, "gpumand-gateway", False, "apt-get install gpumand-gateway"),
        ("", "gpumand", False, "gpumanctl setup"),
        (REMOVED, "polkitd", False, "apt-get update && apt-get install polkitd"),
        ("", "libnvidia-ml1", False, "apt-get update && apt-get install libnvidia-ml1   # Debian has it in non-free"),
    ],
)
def test_command_names_only_what_a_repository_has(policy: str, package: str, again: bool, expected: str) -> None:
    command = install_command(package, parse_policy(policy), again=again)
    assert command.startswith(expected)
    assert ("#" in command) is ("#" in expected)


def test_both_ways_are_named_where_apt_did_not_answer() -> None:
    command = install_command("gpumand-gateway", Packages(), prefix="sudo ")
    assert command.startswith("sudo apt-get install gpumand-gateway   # without a repository, name its file")


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("gpumand", "sudo gpumanctl setup   # for a gpumand from pipx; else install gpumand with"),
        ("polkitd", "# install polkit with the package manager"),
        ("libnvidia-ml1", "# install the driver package with libnvidia-ml.so.1 with the package manager"),
    ],
)
def test_no_command_of_apt_is_named_where_there_is_none(package: str, expected: str) -> None:
    assert install_command(package, Packages(has_apt=False), prefix="sudo ").startswith(expected)


def place(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "apt-cache"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_apt_is_asked_in_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, monkeypatch, f'[ "$LC_ALL" = C ] && [ "$1" = policy ] && cat <<EOF\n{FROM_FILE}EOF')
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert read_packages() == Packages(installed={"gpumand": "0.1.0-1"}, downloadable=frozenset())


@pytest.mark.parametrize("body", ["exec sleep 60", "exit 100"])
def test_an_apt_that_hangs_or_fails_leaves_it_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    place(tmp_path, monkeypatch, body)
    monkeypatch.setattr(module, "POLICY_SEC", 0.3)
    assert read_packages() == Packages()


def test_a_host_without_apt_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "which", lambda _: None)
    assert not read_packages().has_apt


# -- Python libraries --------------------------------------------------------------------------------------------------


def test_library_goes_into_the_environment_that_gpumand_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "pipx/venvs/gpumand"
    prefix.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert library_advice("mcp>=2") == f"{prefix}/bin/python -m pip install 'mcp>=2'"
    (prefix / "pipx_metadata.json").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert library_advice("mcp>=2") == "pipx inject gpumand 'mcp>=2'"
    monkeypatch.setenv("HOME", "/root")
    assert library_advice("mcp>=2") == f"sudo PIPX_HOME={tmp_path}/pipx pipx inject gpumand 'mcp>=2'"


def test_library_of_a_gpumand_from_a_package_comes_from_a_package_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert library_advice("cryptography>=38", debian="python3-cryptography") == "sudo apt install python3-cryptography"
    # gpumand itself is not named to an index of packages: it need not be there.
    assert "pipx install ./gpumand-*.whl" in library_advice("mcp>=2")


def test_no_text_names_an_own_package_to_apt_without_a_look_at_its_index() -> None:
    """Texts of the program; the documentation says where the repository comes from."""
    root = Path(__file__).resolve().parents[3] / "gpumand"
    search = [
        "grep",
        "-rnE",
        r"apt(-get)? install [^.{]*gpumand|pip[x]? install '?gpumand",
        "--include=*.py",
        str(root),
    ]
    assert subprocess.run(search, capture_output=True, text=True, check=False).stdout == ""
