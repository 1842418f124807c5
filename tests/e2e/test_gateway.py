"""gpumand-gateway as its Debian package, in front of a real unit: start, restarts, reload, drain, kill, confinement.

It runs the commands of docs/guide/gateway.md.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.client import MANAGER, NAME, ROOT
from tests.e2e.container import REPOSITORY
from tests.e2e.host import CONFIG as GPUMAND_CONFIG
from tests.e2e.host import DAEMON, VRAM_DIR, Host, holding
from tests.e2e.installation import module_command
from tests.e2e.machine import Machine

GATEWAY, SOCKET = "gpumand-gateway.service", "gpumand-gateway.socket"
USER = "_gpumand-gateway"
CONFIG = "/etc/gpumand/gateway.toml"
PORT, SERVICE_PORT, OTHER_PORT = 21434, 21435, 21436
HEALTH = ["curl", "--silent", "--fail", "http://127.0.0.1:11434/health"]
MOST_EXPOSED = 1.5
TTL_SEC = 10
PROCESS = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}
SETTINGS = f"""
[gateway]
lease_ttl_sec = {TTL_SEC}
linger_sec = 0.5
drain_sec = 20
"""
LISTENER = f'[gateway.listeners.llm]\nlisten = "127.0.0.1:{PORT}"\n'
OTHER = f'[gateway.listeners.other]\nconsumer = "llm"\nlisten = "127.0.0.1:{OTHER_PORT}"\n'


@dataclass
class Front:
    """A host with a stopped service ``llm``, a consumer ``blocker`` that leaves no room for it, and the gateway."""

    host: Host

    @property
    def machine(self) -> Machine:
        return self.host.machine

    def configure(self, *tables: str) -> None:
        self.machine.write_file(CONFIG, "\n".join([SETTINGS, *tables]))

    def curl(self, path: str, body: str, port: int = PORT) -> list[str]:
        """The command of a client that was never changed."""
        common = ["curl", "--silent", "--show-error", "--fail", "--no-buffer", "--max-time", "60"]
        return [*common, "--data", body, f"http://127.0.0.1:{port}{path}"]

    def post(self, body: str, port: int = PORT) -> str:
        return self.machine.run(self.curl("/echo", body, port), timeout=60).stdout

    def stream(self, chunks: int, pause_sec: float = 0.1) -> list[str]:
        return self.curl("/stream", json.dumps({"chunks": chunks, "pause_sec": pause_sec}))

    def active(self, unit: str) -> str:
        return self.machine.show(unit, "ActiveState")

    def held_jobs(self) -> list[str]:
        """The held jobs as gpumanctl shows them; empty while the gateway starts."""
        done = self.machine.run(["gpumanctl", "gateway", "requests", "--json"], check=False)
        found = json.loads(done.stdout) if done.returncode == 0 else []
        return [f"{one['method']} {one['path']}" for one in found if one["state"] == "job"]

    def leases(self) -> dict[str, dict[str, Any]]:
        return self.host.client.leases()


@pytest.fixture
def front(installed: Machine, host: Host) -> Iterator[Front]:
    """A running gateway whose service is stopped."""
    serve = f"{module_command('tests.e2e.stream_service')} {SERVICE_PORT}"
    host.unit("llm", f"/bin/sh -c '{holding('llm', 14000)} & exec {serve}'")
    host.consumer("llm", 14000, f'url = "http://127.0.0.1:{SERVICE_PORT}"', 'health = { path = "/health" }')
    host.holder("blocker", 20000)
    host.start()
    one = Front(host)
    one.configure(LISTENER)
    installed.systemctl("restart", GATEWAY)
    yield one
    installed.systemctl("stop", SOCKET, GATEWAY)
    installed.remove("/etc/systemd/system/ollama.service.d")
    installed.systemctl("reset-failed", GATEWAY, check=False)


# -- the package -------------------------------------------------------------------------------------------------------


def test_installed_gateway_runs_without_any_configuration_of_ours(installed: Machine) -> None:
    assert installed.systemctl("is-enabled", GATEWAY, SOCKET).split() == ["enabled", "enabled"]
    assert installed.systemctl("is-active", GATEWAY, SOCKET, check=False).split() == ["active", "active"]
    assert installed.show(GATEWAY, "User") == USER
    installed.run(["gpumand-gateway", "--check"])
    for page in ("gpumand-gateway.8", "gateway.toml.5"):
        installed.run(["man", "--where", page])


def test_exposure_is_low_and_no_directive_is_unknown(front: Front, record_exposure: Callable[..., None]) -> None:
    said = front.machine.run(["systemd-analyze", "security", "--no-pager", GATEWAY]).stdout
    match = re.search(r"Overall exposure level for gpumand-gateway\.service: ([0-9.]+)", said)
    assert match, said
    record_exposure(match[1], GATEWAY)
    assert float(match[1]) <= MOST_EXPOSED, said
    for unit in (GATEWAY, SOCKET):
        fragment = front.machine.show(unit, "FragmentPath")
        assert front.machine.run(["systemd-analyze", "--man=no", "verify", fragment]).stderr == ""


def test_gateway_is_a_user_of_its_own_in_no_group_and_without_any_capability(front: Front) -> None:
    pid = front.machine.main_pid(GATEWAY)
    text = front.machine.run(["cat", f"/proc/{pid}/status"]).stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert {key: int(status[key], 16) for key in PROCESS} == PROCESS
    uid = front.machine.run(["id", "-u", USER]).stdout.strip()
    assert status["Uid"].split() == [uid] * 4
    assert front.machine.run(["id", "-nG", USER]).stdout.split() == [USER]
    modes = front.machine.run(["stat", "--format=%a %U", "/run/gpumand-gateway", "/var/lib/gpumand-gateway"]).stdout
    assert modes.splitlines() == [f"755 {USER}", f"700 {USER}"]


def test_gateways_user_may_acquire_and_nothing_else(front: Front) -> None:
    client = front.host.client
    (lease, _) = client.call("Acquire", "sa{sv}", "llm", "0", user=USER)
    client.call("Release", "s", lease, user=USER)
    refused = {
        "Evict": ("'llm'", "{}"),
        "Pin": ("'llm'",),
        "Reload": (),
        "ReleaseGpu": ("{}",),
    }
    for method, arguments in refused.items():
        name, _ = client.refusal(method, *arguments, user=USER)
        assert name.endswith((".AccessDenied", ".InteractiveAuthorizationRequired")), (method, name)
    theirs, _ = client.acquire("llm")
    assert client.refusal("Release", f"'{theirs}'", user=USER)[0].endswith(
        (".AccessDenied", ".InteractiveAuthorizationRequired")
    )


# -- at work -----------------------------------------------------------------------------------------------------------


def test_unmodified_client_of_a_stopped_unit_gets_its_answer(front: Front) -> None:
    assert front.active("llm.service") == "inactive"
    assert front.post("hello") == "hello"
    assert front.active("llm.service") == "active"
    (lease,) = front.leases().values() or [{}]
    assert lease["owner_uid"] == int(front.machine.run(["id", "-u", USER]).stdout)


def test_waiting_request_survives_a_restart_of_gpumand(front: Front) -> None:
    lease, _ = front.host.client.acquire("blocker")
    waiting = front.machine.start(front.curl("/echo", "patient"))
    front.machine.wait_until(lambda: front.host.client.status()["queue"], "the request waits")
    front.machine.systemctl("restart", DAEMON)
    front.machine.wait_until(lambda: front.host.client.status()["queue"], "it waits again")
    front.host.client.release(lease)
    assert waiting.communicate(timeout=30) == ("patient", "")


def test_stream_survives_a_kill_of_gpumand(front: Front) -> None:
    front.post("load")
    streaming = front.machine.start(front.stream(20))
    assert streaming.stdout is not None
    first = streaming.stdout.readline()
    front.machine.systemctl("kill", "--signal=KILL", DAEMON)
    rest, errors = streaming.communicate(timeout=30)
    assert errors == ""
    assert (first + rest).split() == [str(number) for number in range(20)]
    front.machine.wait_until(lambda: front.active(DAEMON) == "active", "gpumand is back")
    assert front.post("again") == "again"


def test_gpumanctl_shows_and_ends_a_request(front: Front) -> None:
    front.host.client.acquire("blocker")
    waiting = front.machine.start(front.curl("/echo", "patient"))

    def shown() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            front.machine.run(["gpumanctl", "gateway", "requests", "--json"]).stdout
        )
        return [one for one in found if one["waits_for"]]

    (one,) = front.machine.wait_until(shown, "the request waits")
    assert (one["consumer"], one["state"]) == ("llm", "waiting")
    status = front.machine.run(["gpumanctl", "gateway"], user="nobody").stdout
    assert "1 request in flight, 1 waiting" in status
    assert f"127.0.0.1:{PORT}" in front.machine.run(["gpumanctl", "gateway", "listeners"], user="nobody").stdout
    cancel = ["gpumanctl", "gateway", "cancel", str(one["number"])]
    refused = front.machine.run(cancel, user="nobody", check=False)
    assert (refused.returncode, "evict = true" in refused.stderr) == (1, True)
    front.machine.run(cancel)
    waiting.communicate(timeout=50)
    assert waiting.returncode != 0
    front.machine.wait_until(lambda: not front.host.client.status()["queue"], "nothing waits in gpumand's queue")


def test_requests_during_a_restart_of_the_gateway_wait_in_systemds_socket(front: Front) -> None:
    machine = front.machine
    machine.run(["gpumanctl", "gateway", "sockets", "--output", "/run/systemd/system"])
    unit = "gpumand-gateway-llm.socket"
    try:
        machine.systemctl("daemon-reload")
        machine.systemctl("stop", GATEWAY)
        machine.systemctl("start", unit)
        assert front.post("first") == "first"  # it also starts the gateway
        before = machine.main_pid(GATEWAY)
        restart = machine.start(["systemctl", "restart", GATEWAY])
        clients: list[Any] = []
        while restart.poll() is None and len(clients) < 40:
            clients.append(machine.start(front.curl("/echo", f"request {len(clients)}")))
        assert restart.communicate(timeout=30) == ("", "")
        answers = [one.communicate(timeout=60) for one in clients]
        assert answers == [(f"request {number}", "") for number in range(len(clients))]
        assert len(clients) > 1
        assert machine.main_pid(GATEWAY) not in (0, before)
    finally:
        machine.systemctl("stop", unit, GATEWAY)
        machine.remove(f"/run/systemd/system/{unit}")
        machine.systemctl("daemon-reload")


def test_reload_adds_a_listener_without_cutting_a_stream(front: Front) -> None:
    front.post("load")
    streaming = front.machine.start(front.stream(20))
    assert streaming.stdout is not None
    first = streaming.stdout.readline()
    before = front.machine.main_pid(GATEWAY)
    front.configure(LISTENER, OTHER)
    front.machine.run(["gpumanctl", "gateway", "reload"])
    client = front.curl("/echo", "new", OTHER_PORT)
    front.machine.wait_until(lambda: front.machine.run(client, check=False).stdout == "new", "the listener is there")
    rest, errors = streaming.communicate(timeout=30)
    assert errors == ""
    assert (first + rest).split() == [str(number) for number in range(20)]
    assert front.machine.main_pid(GATEWAY) == before


def test_reload_of_an_invalid_configuration_fails_and_changes_nothing(front: Front) -> None:
    front.configure(LISTENER, "[gateway.listeners.other]\nlisten = 3\n")
    done = front.machine.run(["systemctl", "reload", GATEWAY], check=False)
    assert done.returncode == 1
    assert "gateway.listeners.other.listen" in front.machine.journal(GATEWAY)
    told = front.machine.run(["gpumanctl", "gateway", "reload"], check=False)
    assert (told.returncode, "gateway.listeners.other.listen" in told.stderr) == (1, True)
    assert front.post("still there") == "still there"


def test_invalid_configuration_does_not_restart_the_gateway_in_a_loop(front: Front) -> None:
    front.configure("[gateway.listeners.other]\nlisten = 3\n")
    front.machine.systemctl("restart", GATEWAY, check=False)
    front.machine.wait_until(lambda: front.active(GATEWAY) == "failed", "it has failed")
    assert front.machine.show(GATEWAY, "ExecMainStatus") == "78"


def test_stop_lets_a_stream_end_and_releases_the_lease(front: Front) -> None:
    front.post("load")
    streaming = front.machine.start(front.stream(20))
    assert streaming.stdout is not None
    first = streaming.stdout.readline()
    front.machine.systemctl("stop", SOCKET, GATEWAY)
    rest, errors = streaming.communicate(timeout=30)
    assert errors == ""
    assert (first + rest).split() == [str(number) for number in range(20)]
    assert front.leases() == {}
    assert front.machine.show(GATEWAY, "Result") == "success"


def test_leases_of_a_killed_gateway_end_and_gpumand_is_unharmed(front: Front) -> None:
    streaming = front.machine.start(front.stream(600))
    front.machine.wait_until(front.leases, "a lease is held")
    (old,) = front.leases()
    daemon, before = front.machine.main_pid(DAEMON), front.machine.main_pid(GATEWAY)
    front.machine.systemctl("kill", "--signal=KILL", GATEWAY)
    streaming.communicate(timeout=30)
    assert streaming.returncode != 0
    front.machine.wait_until(lambda: front.machine.main_pid(GATEWAY) not in (0, before), "systemd restarts it")
    front.machine.wait_until(lambda: old not in front.leases(), "its lease ends", deadline_sec=TTL_SEC + 5)
    assert front.machine.main_pid(DAEMON) == daemon
    assert front.post("afterwards") == "afterwards"


def test_job_keeps_its_lease_over_a_restart_and_a_kill_of_the_gateway(front: Front) -> None:
    front.configure(f'{LISTENER}preset = "comfyui"\n')
    front.machine.systemctl("restart", GATEWAY)
    front.machine.run(front.curl("/prompt", "{}"), timeout=60)
    (lease,) = front.leases()
    front.machine.systemctl("restart", GATEWAY)
    front.machine.wait_until(lambda: front.held_jobs() == ["POST /prompt"], "the next process holds the job")
    before = front.machine.main_pid(GATEWAY)
    front.machine.systemctl("kill", "--signal=KILL", GATEWAY)
    front.machine.wait_until(lambda: front.machine.main_pid(GATEWAY) not in (0, before), "systemd restarts it")
    front.machine.wait_until(lambda: front.held_jobs() == ["POST /prompt"], "the next process holds the job")
    killed_at = time.monotonic()
    front.machine.wait_until(lambda: time.monotonic() > killed_at + TTL_SEC + 1, "a lease without renewals has ended")
    assert list(front.leases()) == [lease]
    front.machine.run(front.curl("/done", "", SERVICE_PORT))
    front.machine.wait_until(lambda: front.leases() == {}, "the job has ended")


def test_hanging_gateway_is_restarted_by_the_watchdog(front: Front) -> None:
    drop_in = f"/run/systemd/system/{GATEWAY}.d/e2e.conf"
    front.machine.write_file(drop_in, "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n")
    try:
        front.machine.systemctl("daemon-reload")
        front.machine.systemctl("restart", GATEWAY)
        before = front.machine.main_pid(GATEWAY)
        front.machine.systemctl("kill", "--signal=STOP", GATEWAY)
        front.machine.wait_until(
            lambda: front.machine.main_pid(GATEWAY) not in (0, before), "systemd restarts it", deadline_sec=20
        )
        front.machine.wait_until(lambda: front.active(GATEWAY) == "active", "it is ready")
        assert front.post("here") == "here"
    finally:
        front.machine.remove(drop_in)
        front.machine.systemctl("daemon-reload")


# -- the swap of ports -------------------------------------------------------------------------------------------------


def documented_commands() -> list[str]:
    """The commands of the section of the guide, as root types them, without the installation."""
    text = (REPOSITORY / "docs/guide/gateway.md").read_text(encoding="utf-8")
    section = text.partition("## Putting the gateway in front")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lines = [line.strip().removeprefix("sudo ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("apt ")]


def test_commands_of_the_guide_put_a_service_behind_the_gateway(front: Front) -> None:
    machine = front.machine
    serve = f"{module_command('gpumand.testing.consumer')} --name=ollama --mib=9000 --simulator-dir={VRAM_DIR}"
    front.host.unit("ollama", f"{serve} --loaded-at-start --port=11434")
    front.host.consumer("ollama", 9000, 'url = "http://127.0.0.1:11434"', 'health = { path = "/health" }')
    machine.run(["gpumanctl", "reload"])
    machine.systemctl("start", "ollama.service")
    machine.wait_until(lambda: machine.run(HEALTH, check=False).returncode == 0, "the service listens at its old port")
    before = machine.run(["cat", CONFIG, GPUMAND_CONFIG]).stdout

    commands = documented_commands()
    init = "gpumanctl init --gateway"
    assert [line for line in commands if "init" in line] == [init, f"{init} --yes"]
    said = machine.run(["gpumanctl", "init", "--gateway"]).stdout
    assert "ollama (ollama.service) moves from port 11434 to 11435; the gateway listens at 127.0.0.1:11434." in said
    assert "llm: nothing to do, because the gateway has a listener for it already." in said
    assert machine.run(["cat", CONFIG, GPUMAND_CONFIG]).stdout == before
    for line in commands:
        done = machine.run(["bash", "-c", line], timeout=60, check="doctor" not in line)
        if line.endswith("--yes"):
            printed = {one.strip() for one in done.stdout.splitlines()}
            assert {one for one in commands if one.startswith("systemctl")} <= printed

    pid = machine.main_pid("ollama.service")
    assert "--port=11435" in machine.run(["cat", f"/proc/{pid}/cmdline"]).stdout
    machine.systemctl("stop", "ollama.service")
    client = ["curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--json", '{"seconds": 0}']
    machine.run([*client, "http://127.0.0.1:11434/work"], timeout=60)
    assert front.active("ollama.service") == "active"
    report = json.loads(machine.run(["gpumanctl", "doctor", "--json"], check=False).stdout)
    assert [one for one in report["findings"] if "gateway" in one["check"]] == []
    again = machine.run(["gpumanctl", "init", "--gateway"]).stdout
    assert "ollama: nothing to do, because the gateway has a listener for it already." in again


def test_user_without_rights_gets_the_command_for_root(front: Front) -> None:
    front.host.server("chat", 9000, 21500)
    front.machine.run(["gpumanctl", "reload"])
    done = front.machine.run(["gpumanctl", "init", "--gateway", "--yes"], user="nobody", check=False)
    assert (done.returncode, "sudo gpumanctl init --gateway --yes" in done.stderr) == (1, True)
    assert front.machine.run(["ls", "/etc/systemd/system/chat.service.d"], check=False).returncode != 0


def test_bus_of_the_daemon_is_as_before(front: Front) -> None:
    # The gateway's package adds a user with one right. The daemon itself gets none.
    groups = front.machine.run(["id", "-nG", "_gpumand"]).stdout.split()
    assert groups == ["_gpumand"]
    assert "version" in front.machine.run(["busctl", "call", NAME, ROOT, MANAGER, "GetStatus"]).stdout
