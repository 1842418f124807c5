"""The packaging files in contrib: dependencies, programs and versions like those of the wheel."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpumand.cli.gateway_setup import Places, Proposal, without
from gpumand.cli.swap_undo.lock import LOCK
from gpumand.discovery.port_swap import Swap
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


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """The folder into which contrib/install-files has installed. Manual pages and completions are stand-ins."""
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("contrib", "systemd", "dbus", "debian", "examples"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    shutil.copy(ROOT / "CHANGELOG.md", checkout)
    for name in (
        "man/gpumand.8",
        "completions/gpumanctl.bash",
        "completions/gpumanctl.zsh",
        "completions/gpumanctl.fish",
    ):
        (checkout / "build" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "build" / name).touch()
    readme = [sys.executable, str(ROOT / "scripts/packaged_readme.py"), "--without-html", "build/README.md"]
    subprocess.run(readme, cwd=checkout, check=True)
    subprocess.run(["contrib/install-files", tmp_path / "destination"], cwd=checkout, check=True)
    return tmp_path / "destination"


def test_every_file_of_the_debian_package_is_installed(destination: Path) -> None:
    installed = {path.name for path in destination.rglob("*") if path.is_file()}
    sources = [path for name in ("systemd", "dbus") for path in (ROOT / name).rglob("*") if path.is_file()]
    needed = {path.name for path in sources if path.suffix != ".sysusers"}
    needed |= {path.with_suffix(".conf").name for path in sources if path.suffix == ".sysusers"}
    needed |= {"gpumand.toml", "gateway.toml", "gpumand.json", "gpumand.rules.yml"}
    assert needed <= installed


def test_every_example_is_installed(destination: Path) -> None:
    installed = destination / "usr/share/doc/gpumand/examples"
    sources = [path for path in (ROOT / "examples").rglob("*.*") if path.is_file() and path.suffix != ".pyc"]
    assert [path for path in sources if not (installed / path.relative_to(ROOT / "examples")).exists()] == []


def test_every_link_of_the_installed_readme_exists(destination: Path) -> None:
    folder = destination / "usr/share/doc/gpumand"
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (folder / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("recipe", [SPEC, PKGBUILD], ids=["rpm", "arch"])
def test_everything_that_is_installed_is_generated_before(recipe: str) -> None:
    before = recipe.partition("contrib/install-files")[0]
    for script in (
        "man.py build/man",
        "completions.py build/completions",
        "packaged_readme.py --without-html build/README.md",
    ):
        assert f"scripts/{script}\n" in before


@pytest.mark.parametrize("moved", [True, False])
def test_the_removed_gateway_names_the_services_that_it_has_moved(tmp_path: Path, moved: bool) -> None:
    drop_in = tmp_path / "etc/systemd/system/ollama.service.d/gpumand-gateway.conf"
    drop_in.parent.mkdir(parents=True)
    if moved:
        swap = Swap("ollama", "ollama.service", 11434, 11435, drop_in="[Service]\n")
        places = Places(tmp_path / "none", tmp_path / "gateway.toml", drop_in.parents[1])
        proposal = without(Proposal([swap], []), (), places)
        drop_in.write_text(proposal.files[drop_in])
    script = ["sh", str(ROOT / "debian/gpumand-gateway.postrm"), "remove"]
    done = subprocess.run(
        script, env={"PATH": "/usr/bin:/bin", "DPKG_ROOT": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert (f"\n  {drop_in}\n" in done.stderr, "\n  sudo gpumanctl init --undo\n" in done.stderr) == (moved, moved)
    assert ('    in /etc/gpumand, [consumers.ollama]: url = "http://127.0.0.1:11434"\n' in done.stderr) is moved
    assert ("gpumanctl disconnect" in done.stderr) is moved
    assert drop_in.exists() is moved


@pytest.mark.parametrize("moved", [True, False])
def test_the_removed_daemon_prints_commands_that_work_without_it(tmp_path: Path, moved: bool) -> None:
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    drop_ins = [folder / f"{name}.service.d/gpumand-gateway.conf" for name in ("comfyui", "ollama")] if moved else []
    for drop_in in drop_ins:
        drop_in.parent.mkdir()
        drop_in.touch()
    script = ["sh", str(ROOT / "debian/gpumand.postrm"), "remove"]
    environ = {"PATH": "/usr/bin:/bin", "DPKG_ROOT": str(tmp_path)}
    done = subprocess.run(script, env=environ, capture_output=True, text=True, check=True)
    printed = [line for line in done.stderr.splitlines() if line.startswith("  ")]
    remove = f"  sudo rm {' '.join(map(str, drop_ins))}"
    restart = ["  sudo systemctl daemon-reload", "  sudo systemctl try-restart comfyui.service ollama.service"]
    assert printed == ([remove, *restart] if moved else [])


def test_the_removed_daemon_leaves_no_lock_of_moved_services(tmp_path: Path) -> None:
    lock = tmp_path / LOCK.relative_to("/")
    lock.parent.mkdir()
    lock.touch()
    script = ["sh", str(ROOT / "debian/gpumand.postrm"), "remove"]
    environ = {"PATH": "/usr/bin:/bin", "DPKG_ROOT": str(tmp_path)}
    subprocess.run(script, env=environ, capture_output=True, check=True)
    assert list(lock.parent.iterdir()) == []


def test_the_printed_commands_close_sockets_and_survive_escaped_names(tmp_path: Path) -> None:
    folder = tmp_path / "etc/systemd/system"
    drop_in = folder / r"my\x2dserver.service.d/gpumand-gateway.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.touch()
    socket = folder / "gpumand-gateway-llm.socket"
    socket.touch()
    script = ["sh", str(ROOT / "debian/gpumand.postrm"), "remove"]
    environ = {"PATH": "/usr/bin:/bin", "DPKG_ROOT": str(tmp_path)}
    done = subprocess.run(script, env=environ, capture_output=True, text=True, check=True)
    commands = [shlex.split(line) for line in done.stderr.splitlines() if line.startswith("  sudo ")]
    assert commands == [
        ["sudo", "systemctl", "disable", "--now", "gpumand-gateway-llm.socket"],
        ["sudo", "rm", str(drop_in), str(socket)],
        ["sudo", "systemctl", "daemon-reload"],
        ["sudo", "systemctl", "try-restart", r"my\x2dserver.service"],
    ]


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
