"""``gpumanctl init --undo`` on a booted system: services come back from behind the gateway, exactly as they were."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.known_services import COMMANDS, PORTS, add_to
from tests.e2e.machine import Machine, close

RECORD = "/var/lib/gpumand-setup"
GATEWAY = "gpumand-gateway.service"
CONFIG = "/etc/gpumand/gateway.toml"
DROP_IN = "/etc/systemd/system/{}.service.d/gpumand-gateway.conf"
LEASED = "comfyui"
MAX_KILLS = 40

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def host(own_machine: Machine, gateway_deb: Path) -> Machine:
    """A host with three configured services at their usual ports, and the gateway's package."""
    shutil.copy(gateway_deb, f"/proc/{own_machine.container.leader}/root/root/{gateway_deb.name}")
    dpkg = ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-unsafe-io", "--install"]
    add_to(own_machine)  # before the gateway, which starts the daemon
    own_machine.run([*dpkg, f"/root/{gateway_deb.name}"])
    own_machine.run(["gpumanctl", "setup", "--yes"], timeout=90)
    return own_machine


@pytest.fixture
def before(host: Machine) -> frozenset[str]:
    """The files of the administrator before the gateway came in front, and the services behind it now."""
    found = files(host)
    done = host.run(["gpumanctl", "setup", "--yes", "--gateway"], timeout=90)
    assert "Clients use the ports as before" in done.stdout
    assert {name: listener_of(host, port) for name, port in by_port().items()} == dict.fromkeys(COMMANDS, GATEWAY)
    return found


def by_port() -> dict[str, int]:
    return dict(zip(COMMANDS, PORTS, strict=True))


def files(machine: Machine) -> frozenset[str]:
    """Every file and folder of the administrator with its mode, owner and content."""
    script = (
        "find /etc/gpumand /etc/systemd/system /var/lib/gpumand-setup -printf '%p %y %m %U:%G\\n' 2>/dev/null; "
        "find /etc/gpumand /etc/systemd/system -type f -exec sha256sum {} +"
    )
    return frozenset(machine.run(["sh", "-c", script]).stdout.splitlines())


def listener_of(machine: Machine, port: int) -> str:
    """The unit of the process that listens at a port; "" without one."""
    found = machine.run(["ss", "-Hltnp", f"sport = :{port}"]).stdout
    pid = found.partition("pid=")[2].partition(",")[0]
    return machine.run(["ps", "-o", "unit=", "-p", pid]).stdout.strip() if pid else ""


def is_served_by(machine: Machine, port: int, unit: str) -> bool:
    return listener_of(machine, port) == unit


def undo(machine: Machine, *options: str) -> subprocess.CompletedProcess[str]:
    return machine.run(["gpumanctl", "init", "--undo", *options], check=False, timeout=90)


def assert_as_before(machine: Machine, before: frozenset[str]) -> None:
    """The files are as they were, the services listen at their old ports, and gpumand finds them there."""
    assert files(machine) == before
    assert {name: listener_of(machine, port) for name, port in by_port().items()} == {
        name: f"{name}.service" for name in COMMANDS
    }
    consumers = {one["name"]: one for one in Client(machine).status()["consumers"]}
    assert {name: one["endpoint"] for name, one in consumers.items()} == {
        name: f"http://127.0.0.1:{port}" for name, port in by_port().items()
    }
    assert machine.systemctl("is-active", GATEWAY).strip() == "active"


def test_services_come_back_and_a_leased_one_only_after_its_lease(host: Machine, before: frozenset[str]) -> None:
    behind = files(host)
    client = Client(host)
    planned = undo(host, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "ollama goes back from port 11435 to 11434; ollama.service is restarted if it runs" in planned.stdout
    assert "Nothing was changed." in planned.stdout
    without_terminal = undo(host)
    assert (without_terminal.returncode, "gpumanctl init --undo --yes" in without_terminal.stderr) == (2, True)
    host.run(["useradd", "alice"])
    refused = host.run(["gpumanctl", "init", "--undo", "--yes"], user="alice", check=False)
    assert (refused.returncode, "Run: sudo gpumanctl init --undo" in refused.stderr) == (1, True)
    assert files(host) == behind, "a run that only asks has changed something"

    lease = host.run(["gpumanctl", "acquire", LEASED, "--ttl", "10min", "--timeout", "1min"], timeout=90).stdout.strip()
    pid = host.main_pid(f"{LEASED}.service")
    asked = host.run(["script", "-qec", "gpumanctl init --undo", "/dev/null"], stdin="n\nn\n", timeout=60)
    assert f"{LEASED} is leased to " in asked.stdout
    assert "Undo this now?" in asked.stdout
    assert asked.stdout.rstrip().endswith("Nothing was changed.")
    assert files(host) == behind
    done = undo(host, "--yes")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{LEASED}: leased to " in done.stdout
    assert "Back at the former ports: " in done.stdout
    assert host.main_pid(f"{LEASED}.service") == pid
    assert list(client.leases()) == [lease]
    expected = {name: f"{name}.service" for name in COMMANDS} | {LEASED: GATEWAY}
    assert {name: listener_of(host, port) for name, port in by_port().items()} == expected

    host.run(["gpumanctl", "release", lease])
    done = undo(host, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as_before(host, before)
    again = undo(host, "--yes")
    assert (again.returncode, again.stdout) == (0, "Nothing to undo: no service was moved behind the gateway.\n")
    assert host.run(["gpumanctl", "doctor"], check=False).returncode == 0


def test_edited_files_stay_with_advice_and_other_lines_of_a_file_are_kept(
    host: Machine, before: frozenset[str]
) -> None:
    own = "[gateway.listeners.mine]\nconsumer = 'ollama'\nlisten = '127.0.0.1:21434'\n"
    host.write_file(CONFIG, f"{host.run(['cat', CONFIG]).stdout}\n{own}")
    drop_in = DROP_IN.format("llama-server")
    edited = f"{host.run(['cat', drop_in]).stdout}Nice=5\n"
    host.write_file(drop_in, edited)
    host.systemctl("daemon-reload")

    done = undo(host, "--yes")
    assert done.returncode == 1
    assert f"llama-server: {drop_in}: it was edited since. Move your own lines to another drop-in" in done.stdout
    assert host.run(["cat", drop_in]).stdout == edited
    config = host.run(["cat", CONFIG]).stdout
    assert own in config
    assert set(tomllib.loads(config)["gateway"]["listeners"]) == {"llama-server", "mine"}
    expected = {name: f"{name}.service" for name in COMMANDS} | {"llama-server": GATEWAY}
    assert {name: listener_of(host, port) for name, port in by_port().items()} == expected
    host.wait_until(lambda: listener_of(host, 21434) == GATEWAY, "the listener of the administrator stays open")

    host.remove(drop_in)
    assert undo(host, "--yes").returncode == 0
    assert listener_of(host, 8080) == "llama-server.service"
    host.write_file(CONFIG, host.run(["cat", CONFIG]).stdout.replace(f"\n{own}", ""))
    host.run(["gpumanctl", "gateway", "reload"])
    assert_as_before(host, before)


def test_an_undo_that_is_killed_at_any_step_is_completed_by_the_next_one(host: Machine, before: frozenset[str]) -> None:
    """Kills it at its first step, then at its second ..., until it comes to its end."""
    for step in range(1, MAX_KILLS):
        if _killed_at(host, step) is None:
            break
    else:
        pytest.fail(f"it did not end within {MAX_KILLS} steps")
    assert step > 3
    assert undo(host, "--yes").returncode == 0
    assert_as_before(host, before)


def _killed_at(machine: Machine, step: int) -> int | None:
    """Kill an undo after as many steps as it names. Returns its process id; None if it has ended by itself."""
    process = machine.start(["gpumanctl", "init", "--undo", "--yes"])
    assert process.stdout is not None
    steps = 0
    for line in process.stdout:
        steps += line.startswith(("  run: ", "  restored ", "  removed "))
        if steps == step:
            machine.run(["pkill", "--signal", "KILL", "--full", "gpumanctl init --undo"], check=False)
            close(process)
            return process.pid
    assert process.wait(timeout=30) == 0
    close(process)
    return None


def test_socket_units_of_listeners_are_removed_too(host: Machine, before: frozenset[str]) -> None:
    host.run(["gpumanctl", "gateway", "sockets", "--output", "/etc/systemd/system"])
    sockets = [f"gpumand-gateway-{name}.socket" for name in COMMANDS]
    host.systemctl("daemon-reload")
    host.systemctl("stop", GATEWAY)
    host.systemctl("enable", "--now", *sockets)
    host.systemctl("start", GATEWAY)
    done = undo(host, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as_before(host, before)


def test_removing_the_gateway_names_the_command_that_brings_the_services_back(
    host: Machine, before: frozenset[str]
) -> None:
    said = host.run(["apt-get", "-q", "-y", "remove", "gpumand-gateway"], timeout=60)
    assert "  sudo gpumanctl init --undo\n" in said.stderr + said.stdout
    done = undo(host, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: listener_of(host, port) for name, port in by_port().items()} == {
        name: f"{name}.service" for name in COMMANDS
    }
    kept = {line for line in before if "gpumand-gateway" not in line}
    assert {line for line in files(host) if "gpumand-gateway" not in line} == kept


def test_purging_everything_prints_commands_that_bring_the_services_back(host: Machine, before: frozenset[str]) -> None:
    del before  # the services are behind the gateway
    said = host.run(["apt-get", "-q", "-y", "purge", "gpumand-gateway", "gpumand"], timeout=90)
    printed = (said.stdout + said.stderr).partition("To move them back without gpumand:\n")[2]
    commands = [line.removeprefix("  sudo ") for line in printed.splitlines() if line.startswith("  sudo ")]
    assert [line.split()[0] for line in commands] == ["rm", "systemctl", "systemctl"]
    for line in commands:
        host.run(["sh", "-c", line], timeout=60)
    for name, port in by_port().items():
        host.wait_until(partial(is_served_by, host, port, f"{name}.service"), f"{name} is back at its port")
    assert host.run(["find", "/etc/systemd/system", "-name", "gpumand*", "-type", "f"]).stdout == ""
