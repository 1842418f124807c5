"""``gpumanctl setup``: gpumand from its wheel, in a virtual environment, on a host without its Debian package."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.container import REPOSITORY
from tests.e2e.debian import traces
from tests.e2e.host import TOTAL_MIB
from tests.e2e.known_services import MIB, add_to
from tests.e2e.machine import Machine
from tests.e2e.user_session import USER, UserMachine, UserSession

VENV = "/opt/gpumand"
CTL = f"{VENV}/bin/gpumanctl"
UNITS = ("gpumand.service", "gpumand.socket", "gpumand-containers.socket")
SOURCES = ("gpumand", "systemd", "dbus", "debian")
RULES = "/etc/polkit-1/rules.d/org.gpumand1.rules"
DROP_IN = "/etc/gpumand/conf.d/e2e.toml"
VRAM_DIR = "/run/gpumand-simulated"
PROGRAM = "#!{venv}/bin/python -I\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
PROGRAMS = {
    "gpumand": "gpumand.__main__",
    "gpumanctl": "gpumand.cli",
    "gpumand-gateway": "gpumand.gateway.service",
}
CHAT = '{"model": "qwen3:8b", "messages": [{"role": "user", "content": "hello"}], "stream": false}'
CONFIG = f"""
[gpu]
source = "simulated"
simulated_total_mib = [{TOTAL_MIB}]
[consumers.alpha]
unit = "alpha.service"
vram_resident_mib = 1000
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in a copy: a build leaves files in its folder."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    build = ["/usr/bin/python3", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(build, check=True, capture_output=True, env=environ)
    (found,) = (copy / "dist").glob("*.whl")
    return found


@pytest.fixture
def bare(wheel: Path) -> Iterator[Machine]:
    """A machine with gpumand in a virtual environment of root, and nothing else of it."""
    machine = Machine()
    machine.boot()
    try:
        machine.remove("/usr/sbin/policy-rc.d")
        machine.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", "--without-pip", VENV])
        site = machine.run([f"{VENV}/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(f"/proc/{machine.container.leader}/root{site.stdout.strip()}")
        for name, module in PROGRAMS.items():
            machine.write_file(f"{VENV}/bin/{name}", PROGRAM.format(venv=VENV, module=module), mode="0755")
        machine.run(["chown", "-R", "root:root", VENV])
        machine.run(["chmod", "-R", "go-w,go+rX", VENV])
        yield machine
    finally:
        machine.kill()


def configure(machine: Machine) -> None:
    holder = f"/usr/bin/env PYTHONPATH={REPOSITORY} /usr/bin/python3 -m gpumand.testing.consumer"
    options = f"--name=alpha --simulator-dir={VRAM_DIR} --mib=1000 --loaded-at-start"
    machine.write_file("/etc/systemd/system/alpha.service", f"[Service]\nType=exec\nExecStart={holder} {options}\n")
    machine.write_file(DROP_IN, CONFIG)
    machine.systemctl("daemon-reload")
    machine.run([CTL, "reload"])


def files(machine: Machine) -> set[str]:
    """Files below /etc, /usr and /var, without the configuration, state and accounts, which setup keeps.

    Other folders may change below the machine, which is a layer over this host. Empty folders of /usr/local may stay.
    """
    kept = ("/etc/gpumand", "/var/lib/gpumand", "/etc/systemd/system/alpha", "/etc/subgid", "/etc/subuid", "/var/mail")
    lines = [line for line in traces(machine).files if not line.startswith("d ")]
    paths = {line: line.split(" ", 3)[3] for line in lines}
    return {
        line
        for line, path in paths.items()
        if path.startswith(("/etc/", "/usr/", "/var/")) and not path.startswith(kept)
    }


def test_demo_runs_from_the_wheel_before_any_setup(bare: Machine) -> None:
    said = bare.run([CTL, "demo"], user="nobody", timeout=120)
    assert said.stderr == ""
    assert "checks passed" in said.stdout
    assert f"More: {CTL} demo --faults" in said.stdout


def test_setup_installs_a_working_system_service_and_removes_it_again(bare: Machine) -> None:
    before = files(bare)
    planned = bare.run([CTL, "setup", "--files-only", "--dry-run"]).stdout
    assert files(bare) == before, "a dry run has changed something"

    done = bare.run([CTL, "setup", "--files-only"], timeout=60)
    assert done.stdout == planned
    assert done.stderr == ""
    assert bare.systemctl("is-active", *UNITS).split() == ["active"] * len(UNITS)
    assert bare.systemctl("is-enabled", *UNITS).split() == ["enabled"] * len(UNITS)
    assert bare.show("gpumand.service", "User") == "_gpumand"

    configure(bare)
    bare.run(["useradd", "--groups", "gpumand", "alice"])
    lease = bare.run([CTL, "acquire", "alpha", "--ttl=5min"], user="alice").stdout.strip()
    assert bare.show("alpha.service", "ActiveState") == "active", "polkit lets the daemon start this unit"
    refused = bare.run([CTL, "reload"], user="alice", check=False)
    assert refused.returncode != 0, "polkit knows the actions"
    report = bare.run([CTL, "doctor"], check=False).stdout
    assert "missing" not in report, report

    again = bare.run([CTL, "setup", "--files-only"], timeout=60).stdout
    words = {line.split()[0] for line in again.splitlines()}
    assert words == {"unchanged", "run"}, again
    assert list(Client(bare).leases()) == [lease], "a repeated setup ended a lease"

    bare.systemctl("stop", "alpha.service")
    bare.run([CTL, "setup", "--remove"], timeout=60)
    assert files(bare) - before == set()
    assert before - files(bare) == set()
    assert bare.systemctl("list-units", "--all", "--plain", "--no-legend", "gpumand*").strip() == ""
    assert bare.run(["cat", DROP_IN]).stdout == CONFIG
    assert "records no files" in bare.run([CTL, "setup", "--remove"]).stdout


def test_setup_keeps_the_files_of_the_administrator(bare: Machine) -> None:
    own = "// rules of this host\n"
    bare.write_file(RULES, own)
    bare.run(["ln", "-s", "/dev/null", "/etc/systemd/system/gpumand-containers.socket"])
    done = bare.run([CTL, "setup", "--files-only"], check=False, timeout=60)
    assert f"keep      {RULES} (it was not written by setup" in done.stdout
    bare.run([CTL, "setup", "--remove"], check=False, timeout=60)
    assert bare.run(["cat", RULES]).stdout == own
    assert bare.run(["readlink", "/etc/systemd/system/gpumand-containers.socket"]).stdout == "/dev/null\n"


def test_setup_refuses_what_root_should_not_run(bare: Machine) -> None:
    bare.run(["useradd", "alice"])
    by_user = bare.run([CTL, "setup", "--files-only"], user="alice", check=False)
    line = f"only root can set up the system's gpumand. Run: sudo {CTL} setup --files-only"
    assert (by_user.returncode, line in by_user.stderr) == (1, True)
    bare.run(["chown", "alice", f"{VENV}/bin/gpumand"])
    changeable = bare.run([CTL, "setup", "--files-only"], check=False)
    assert changeable.returncode == 1
    assert f"{VENV}/bin/gpumand can be changed by users other than root. Install gpumand for" in changeable.stderr
    bare.run(["chown", "root", f"{VENV}/bin/gpumand"])
    bare.write_file("/usr/lib/systemd/system/gpumand.service", "[Service]\nExecStart=/bin/true\n")
    packaged = bare.run([CTL, "setup", "--files-only"], check=False)
    assert (packaged.returncode, "a package of the distribution has installed gpumand" in packaged.stderr) == (1, True)


def test_setup_of_a_user_starts_a_gpumand_of_its_own_and_removes_it_again(bare: Machine) -> None:
    session = UserSession.begin(bare)
    user: UserMachine = session.machine
    before = user.run(["find", f"/home/{USER}"]).stdout.split()
    session.configure()
    done = user.run([CTL, "--user", "setup", "--files-only"], timeout=60)
    assert done.stderr == ""
    assert user.systemctl("is-active", *UNITS).split() == ["active"] * len(UNITS)
    assert session.client.status()["consumers"] == []

    user.run([CTL, "--user", "setup", "--remove"], timeout=60)
    assert user.systemctl("list-units", "--all", "--plain", "--no-legend", "gpumand*").strip() == ""
    left = set(user.run(["find", f"/home/{USER}", "-type", "f"]).stdout.split()) - set(before)
    assert not [path for path in left if "gpumand" in path and "/.config/gpumand/" not in path and "state" not in path]


def test_the_wizard_leads_from_the_wheel_to_services_behind_the_gateway(bare: Machine) -> None:
    add_to(bare)
    done = bare.run([CTL, "setup", "--yes", "--gateway"], timeout=120)
    assert "gpumand works." in done.stdout, done.stdout + done.stderr
    assert {one["name"] for one in Client(bare).status()["consumers"]} == set(MIB)
    curl = ["curl", "-fsS", "-H", "Content-Type: application/json", "-d", CHAT]
    assert "hello from ollama" in bare.run([*curl, "http://127.0.0.1:11434/api/chat"], timeout=60).stdout

    again = bare.run([CTL, "setup", "--yes"], timeout=120).stdout
    assert "The system files are complete, and gpumand runs." in again
    assert "already configured: comfyui, llama-server, ollama" in again


def test_the_wizard_sets_up_the_gpumand_of_a_user(bare: Machine) -> None:
    session = UserSession.begin(bare)
    session.configure()
    session.holder("alpha", 1000)
    done = session.machine.run([CTL, "--user", "setup", "--yes"], timeout=90)
    assert "alpha was leased on GPU 0 and released again. gpumand works." in done.stdout
    assert "Gateway" not in done.stdout
    assert session.machine.systemctl("is-active", *UNITS).split() == ["active"] * len(UNITS)
