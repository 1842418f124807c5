"""The units of gpumand-notify: hooks of the system in its sandbox, hooks of a user, and wrong configurations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.host import DAEMON, Host
from tests.e2e.machine import Machine
from tests.e2e.user_session import HOME, USER, UserSession

UNIT = "gpumand-notify.service"
CONFIG = "/etc/gpumand/notify.toml"
RECEIVED = "/run/e2e-webhook"
PORT = 9377
TAG = "e2e-hook"
HOOKS = f"""
[hooks.command]
events = ["load", "eviction"]
command = ["/bin/sh", "-c", 'echo "$GPUMAND_TEXT" | logger --tag {TAG} -e; logger --tag {TAG} "user $(id -un)"']
min_interval_sec = 0
max_per_hour = 3600
[hooks.web]
events = ["load", "eviction"]
webhook = "http://127.0.0.1:{PORT}/hook"
headers = {{ Authorization = "Bearer e2e-secret" }}
min_interval_sec = 0
max_per_hour = 3600
"""
USER_HOOK = f"""
[hooks.desktop]
events = ["load"]
command = ["/bin/sh", "-c", 'echo "$GPUMAND_TEXT" >> {HOME}/notices']
min_interval_sec = 0
"""
RECEIVER = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("{RECEIVED}", "ab") as file:
            file.write(self.headers["Authorization"].encode() + b" " + body + b"\\n")
        self.send_response(204)
        self.end_headers()
HTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def notifying(host: Host) -> Iterator[Host]:
    """A host with a consumer, whose notifications are not started yet; a web server notes what it receives."""
    host.holder("llm", 4000)
    host.start()
    machine = host.machine
    machine.write_file("/root/receiver.py", RECEIVER)
    machine.run(["systemd-run", "--quiet", "--unit=e2e-webhook", "/usr/bin/python3", "/root/receiver.py"])
    yield host
    machine.systemctl("stop", UNIT, "e2e-webhook.service", check=False)
    machine.systemctl("reset-failed", UNIT, check=False)
    machine.remove(CONFIG, RECEIVED, "/root/receiver.py")


def configure(machine: Machine, text: str) -> None:
    # The file of an administrator: it has the key of a webhook, and only root may read it.
    machine.write_file(CONFIG, text, mode="0600")


def load_and_evict(machine: Machine) -> None:
    machine.run(["gpumanctl", "load", "llm"])
    machine.run(["gpumanctl", "evict", "llm"])


def until_noticed(machine: Machine, seen: Callable[[], str], words: str) -> None:
    """Load and evict until the notice arrives: what happened before the start of the process is not reported."""

    def arrived() -> bool:
        load_and_evict(machine)
        return words in seen()

    machine.wait_until(arrived, f"a notice with {words!r}", deadline_sec=60)


def logged(machine: Machine) -> str:
    """What the command of the hook has logged."""
    return machine.run(["journalctl", "--no-pager", "--output=cat", f"--identifier={TAG}"]).stdout


def received(machine: Machine) -> str:
    """What the web server has received."""
    return machine.run(["cat", RECEIVED], check=False).stdout


def test_hooks_of_the_system_run_in_the_sandbox_of_the_unit(notifying: Host) -> None:
    machine = notifying.machine
    configure(machine, HOOKS)
    machine.systemctl("start", UNIT)
    until_noticed(machine, lambda: logged(machine), "llm was evicted")
    until_noticed(machine, lambda: received(machine), "llm was loaded")

    users = {line for line in logged(machine).splitlines() if line.startswith("user ")}
    assert users == {"user _gpumand-notify"}
    key, _, body = received(machine).splitlines()[0].partition(" {")
    assert key == "Bearer e2e-secret"
    assert {one["consumer"] for one in json.loads("{" + body)["events"]} == {"llm"}
    assert "e2e-secret" not in machine.journal(UNIT)

    # A restart of the daemon neither ends the process nor silences it.
    before = machine.main_pid(UNIT)
    machine.systemctl("restart", DAEMON)
    machine.run(["journalctl", "--rotate", "--vacuum-time=1s"])
    until_noticed(machine, lambda: logged(machine), "llm was loaded")
    assert machine.main_pid(UNIT) == before

    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"


def test_a_wrong_configuration_ends_the_unit_once_with_the_reason(notifying: Host) -> None:
    machine = notifying.machine
    configure(machine, '[hooks.web]\nwebhook = "ftp://host/"\n')
    machine.systemctl("start", UNIT, check=False)
    machine.wait_until(lambda: machine.show(UNIT, "ActiveState") == "failed", "the unit has given up")
    assert machine.show(UNIT, "ExecMainStatus") == "78"
    assert machine.show(UNIT, "NRestarts") == "0"
    assert "notify.toml:2" in machine.journal(UNIT)

    configure(machine, HOOKS)
    machine.systemctl("restart", UNIT)
    until_noticed(machine, lambda: logged(machine), "llm was loaded")


def test_without_a_configuration_the_unit_is_skipped(notifying: Host) -> None:
    machine = notifying.machine
    machine.systemctl("start", UNIT)
    assert machine.show(UNIT, "ConditionResult") == "no"
    assert machine.show(UNIT, "ActiveState") == "inactive"


def test_a_hook_of_a_user_runs_as_the_user(own_machine: Machine) -> None:
    own = Host(own_machine, Client(own_machine))
    own.holder("llm", 4000)
    own.start()
    session = UserSession.begin(own_machine)
    session.machine.run(["mkdir", "--parents", f"{HOME}/.config/gpumand"])
    session.machine.write_file(f"{HOME}/.config/gpumand/notify.toml", USER_HOOK)
    session.machine.systemctl("enable", "--now", UNIT)

    def seen() -> str:
        return session.machine.run(["cat", f"{HOME}/notices"], check=False).stdout

    until_noticed(own_machine, seen, "llm was loaded")
    owner = own_machine.run(["stat", "--format=%U", f"{HOME}/notices"]).stdout.strip()
    assert owner == USER
    session.machine.systemctl("stop", UNIT)
    assert session.machine.show(UNIT, "Result") == "success"
