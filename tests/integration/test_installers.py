"""pipx and uv install the wheel for one user, with its dependencies; what they install works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumand.testing.bus import PrivateBus
from gpumand.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
PROGRAMS = {"gpumand", "gpumanctl", "gpumand-gateway", "gpumand-notify"}
LOCK = ROOT / "requirements.lock"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_OFFLINE": "1", "UV_NO_INDEX": "1"}

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True)
class Wheels:
    """A folder with the wheel of this checkout and all that it needs, in the locked versions."""

    folder: Path

    @property
    def gpumand(self) -> Path:
        (found,) = self.folder.glob("gpumand-*.whl")
        return found


def run(command: list[str | Path], **environ: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), env=kept | environ, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """Wheels from the index that the environment of the tests was made from; skipped where it is out of reach."""
    folder = tmp_path_factory.mktemp("wheels")
    source = tmp_path_factory.mktemp("source")
    for name in ("gpumand", "systemd", "dbus", "debian"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source])
    made = next(folder.glob("gpumand-*.whl"))
    # pipx needs pip, setuptools and wheel for the environment that it shares between its programs.
    wanted = [f"{made}[mcp]", "pip", "setuptools", "wheel"]
    # Not "download": one dependency has no wheel on PyPI, and without an index its source could not be built.
    command = [*pip, "wheel", "--quiet", "--wheel-dir", folder, "--constraint", LOCK, *wanted]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0 and any(word in done.stderr for word in ("Connection", "Temporary failure", "timed out")):
        pytest.skip("PyPI cannot be reached, so that pipx and uv have nothing to install from")
    assert done.returncode == 0, done.stderr
    return Wheels(folder)


def with_pipx(wheels: Wheels, home: Path, extra: str) -> Path:
    environ = OFFLINE | {
        "HOME": str(home),
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIP_FIND_LINKS": str(wheels.folder),
    }
    run(["pipx", "install", "--python", sys.executable, f"{wheels.gpumand}{extra}"], **environ)
    return home / "bin"


def with_uv(wheels: Wheels, home: Path, extra: str) -> Path:
    environ = OFFLINE | {
        "HOME": str(home),
        "UV_TOOL_DIR": str(home / "tools"),
        "UV_TOOL_BIN_DIR": str(home / "bin"),
        "UV_CACHE_DIR": str(home / "cache"),
        "UV_FIND_LINKS": str(wheels.folder),
        "UV_PYTHON": sys.executable,
    }
    run([UV, "tool", "install", f"gpumand{extra} @ file://{wheels.gpumand}"], **environ)
    return home / "bin"


INSTALLERS = [
    pytest.param(with_pipx, id="pipx", marks=pytest.mark.skipif(not shutil.which("pipx"), reason="needs pipx")),
    pytest.param(with_uv, id="uv"),
]


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with PrivateBus() as started:
        yield started


@pytest.mark.parametrize("install", INSTALLERS)
def test_an_installed_gpumand_runs_and_knows_its_files(
    install: Callable[[Wheels, Path, str], Path], wheels: Wheels, tmp_path: Path, bus: PrivateBus
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    programs = install(wheels, home, "")
    assert {one.name for one in programs.iterdir()} >= PROGRAMS
    ctl = programs / "gpumanctl"

    planned = run([ctl, "--user", "setup", "--files-only", "--dry-run"], HOME=str(home), XDG_DATA_HOME="")
    unit = home / ".local/share/systemd/user/gpumand.service"
    assert f"create    {unit}\n" in planned
    assert not unit.exists()
    assert "mcp is not installed" in failure([ctl, "mcp"])

    config = tmp_path / "gpumand.toml"
    config.write_text("[consumers.llm]\nunit = 'llm.service'\nvram_resident_mib = 1024\n[gpu]\nsource = 'none'\n")
    daemon = [programs / "gpumand", "--config", config, "--state-dir", tmp_path / "state", "--bus-address", bus.address]
    with subprocess.Popen(list(map(str, daemon)), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            wait = ["gdbus", "wait", "--address", bus.address, "--timeout", "30", "org.gpumand1"]
            run(list(wait))
            status = json.loads(run([ctl, "--bus-address", bus.address, "--json", "status"]))
        finally:
            running.terminate()
    assert (status["version"], [one["name"] for one in status["consumers"]]) == (VERSION, ["llm"])


def test_the_mcp_server_is_installed_on_request(wheels: Wheels, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    programs = with_uv(wheels, home, "[mcp]")
    # Without a client, the server ends at the end of its input.
    assert run(["sh", "-c", f"{programs / 'gpumanctl'} mcp < /dev/null"]) == ""


def failure(command: list[str | Path]) -> str:
    """The error of a command that fails."""
    done = subprocess.run(
        list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    return done.stderr
