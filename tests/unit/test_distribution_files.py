"""The packaging files in contrib: dependencies, programs and versions like those of the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpumand.version import VERSION

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "contrib"
SPEC = (CONTRIB / "rpm/gpumand.spec").read_text(encoding="utf-8")
PKGBUILD = (CONTRIB / "arch/PKGBUILD").read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, Any] = tomllib.load(file)["project"]
    return found


def libraries() -> set[str]:
    return {re.split(r"[<>=]", one)[0] for one in project()["dependencies"]}


def test_versions_are_those_of_the_program() -> None:
    assert f"\nVersion:        {VERSION}\n" in SPEC
    assert f"\npkgver={VERSION}\n" in PKGBUILD


def test_every_library_is_a_dependency() -> None:
    required = set(re.findall(r"^Requires:\s+python3-([\w-]+)", SPEC, re.MULTILINE))
    built_with = set(re.findall(r"^BuildRequires:\s+python3-([\w-]+)", SPEC, re.MULTILINE))
    depends = re.search(r"^depends=\((.*)\)$", PKGBUILD, re.MULTILINE)
    assert depends is not None
    assert required == libraries()
    assert libraries() <= built_with
    assert {one.removeprefix("python-") for one in depends[1].split() if one.startswith("python-")} == libraries()


def test_every_program_is_in_the_rpm() -> None:
    listed = set(re.findall(r"^%\{_bindir\}/([\w-]+)$", SPEC, re.MULTILINE))
    assert listed == set(project()["scripts"])


def test_every_file_of_the_debian_package_is_installed(tmp_path: Path) -> None:
    """The wheel has the rest. Pages and completions are generated before; here they are stand-ins."""
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("contrib", "systemd", "dbus", "debian", "examples"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, checkout)
    for name in (
        "man/gpumand.8",
        "completions/gpumanctl.bash",
        "completions/gpumanctl.zsh",
        "completions/gpumanctl.fish",
    ):
        (checkout / "build" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "build" / name).touch()
    destination = tmp_path / "destination"
    subprocess.run(["contrib/install-files", destination], cwd=checkout, check=True)
    installed = {path.name for path in destination.rglob("*") if path.is_file()}
    sources = [path for name in ("systemd", "dbus") for path in (ROOT / name).rglob("*") if path.is_file()]
    needed = {path.name for path in sources if path.suffix != ".sysusers"}
    needed |= {path.with_suffix(".conf").name for path in sources if path.suffix == ".sysusers"}
    needed |= {"gpumand.toml", "gateway.toml"}
    assert needed <= installed


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_pkgbuild_is_valid_shell() -> None:
    script = (
        'set -eu; source "$0"; echo "$pkgname ${arch[0]} ${#depends[@]}"; declare -F prepare build package > /dev/null'
    )
    done = subprocess.run(["bash", "-c", script, CONTRIB / "arch/PKGBUILD"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gpumand any ")


@pytest.mark.skipif(shutil.which("rpmspec") is None, reason="needs rpmspec (package rpm)")
def test_the_spec_is_parsed_by_rpm() -> None:
    done = subprocess.run(
        ["rpmspec", "--parse", CONTRIB / "rpm/gpumand.spec"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "error:" in done.stderr) == (0, False), done.stderr


@pytest.mark.skipif(shutil.which("rpmlint") is None, reason="needs rpmlint")
def test_rpmlint_finds_no_errors() -> None:
    done = subprocess.run(["rpmlint", CONTRIB / "rpm/gpumand.spec"], capture_output=True, text=True, check=False)
    assert " 0 errors" in done.stdout, done.stdout
