"""The gateway's step of the setup: services that move behind it, and the way back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_setup import Places, Proposal
from gpumand.cli.render.gateway_setup import proposal_lines
from gpumand.cli.setup import gateway_step, port_wait
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.setup.port_wait import SystemctlState
from gpumand.cli.swap_undo.record import MovedService, read_record
from gpumand.discovery.port_swap import Swap


@pytest.fixture
def quiet() -> Dialog:
    return Dialog(is_asking=False)


@dataclass
class FakeSystem:
    """systemd and ports for the gateway's step.

    Attributes:
        active: units that run.
        ports: ports at which something listens.
        on_restart: ports after the units were restarted.
        failing: commands that fail, by their second word.
        commands: what was run.
    """

    active: set[str]
    ports: set[int]
    on_restart: set[int]
    failing: set[str] = field(default_factory=set)
    commands: list[str] = field(default_factory=list)

    def run_all(self, commands: list[tuple[str, ...]], dialog: Dialog) -> None:
        for command in commands:
            self.commands.append(" ".join(command[1:]))
            if command[1] in self.failing:
                raise Failure(ExitCode.FAILURE, f"{command[1]} failed")
            if command[1] == "try-restart" and "ollama.service" in command:
                self.ports = self.on_restart

    def state(self, unit: str) -> SystemctlState:
        return SystemctlState("active" if unit in self.active else "inactive")


@pytest.fixture
def swap(tmp_path: Path) -> Proposal:
    """ollama moves from port 11434 to 11435; one file is new, and one exists."""
    made = Proposal([Swap("ollama", "ollama.service", 11434, 11435, drop_in="[Service]\n")], [])
    tmp_path.joinpath("gateway.toml").write_text("# mine\n")
    made.files = {tmp_path / "ollama.service.d/gpumand-gateway.conf": "[Service]\n", tmp_path / "gateway.toml": "new\n"}
    return made


def place(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_step, "run_all", system.run_all)
    monkeypatch.setattr(gateway_step, "is_active", lambda unit, user: unit in system.active)
    monkeypatch.setattr(gateway_step, "unit_state", system.state)
    monkeypatch.setattr(port_wait, "unit_state", system.state)
    monkeypatch.setattr(port_wait, "listens", lambda port: port in system.ports)
    monkeypatch.setattr(port_wait, "LISTEN_SEC", 0.2)
    monkeypatch.setattr(port_wait, "POLL_SEC", 0.01)


def test_the_gateway_starts_after_the_services_have_moved(
    monkeypatch: pytest.MonkeyPatch, swap: Proposal, quiet: Dialog
) -> None:
    system = FakeSystem({"ollama.service", gateway_step.SOCKET}, {11434}, {11435})
    place(system, monkeypatch)
    gateway_step.carry_out(swap, quiet, lambda: system.commands.append("reload of gpumand"))
    assert system.commands == [
        "daemon-reload",
        "try-restart --no-block ollama.service",
        "reload of gpumand",
        f"enable {gateway_step.SOCKET} {gateway_step.SERVICE}",
        f"restart {gateway_step.SERVICE}",
    ]
    assert all(path.read_text() == text for path, text in swap.files.items())


def test_a_gateway_without_its_socket_is_stopped_before_the_socket_is_opened(
    monkeypatch: pytest.MonkeyPatch, quiet: Dialog
) -> None:
    system = FakeSystem({gateway_step.SERVICE}, set(), set())
    place(system, monkeypatch)
    gateway_step.start(quiet)
    assert system.commands[1:3] == [f"stop {gateway_step.SERVICE}", f"start {gateway_step.SOCKET}"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda system: setattr(system, "on_restart", {11434}), "ollama.service still listens at port 11434"),
        (lambda system: setattr(system, "on_restart", set()), "ollama.service did not listen at port 11435 within"),
        (lambda system: system.failing.add("daemon-reload"), "daemon-reload failed"),
        (lambda system: system.failing.add("enable"), "enable failed"),
    ],
)
def test_a_service_that_does_not_move_gets_its_port_back(
    monkeypatch: pytest.MonkeyPatch,
    swap: Proposal,
    quiet: Dialog,
    change: Callable[[FakeSystem], None],
    reason: str,
) -> None:
    system = FakeSystem({"ollama.service", gateway_step.SOCKET}, {11434}, {11435})
    change(system)
    place(system, monkeypatch)
    drop_in, settings = swap.files
    with pytest.raises(Failure, match=reason):
        gateway_step.carry_out(swap, quiet, lambda: None)
    assert not drop_in.parent.exists()
    assert settings.read_text() == "# mine\n"
    assert system.commands[-1] == "restart --no-block ollama.service"


@pytest.mark.parametrize("failing", [set(), {"enable"}])
def test_the_way_back_is_recorded_with_the_units_that_were_enabled_and_not_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, swap: Proposal, quiet: Dialog, tmp_path: Path, failing: set[str]
) -> None:
    system = FakeSystem({"ollama.service", gateway_step.SOCKET}, {11434}, {11435}, failing)
    place(system, monkeypatch)
    monkeypatch.setattr(gateway_step, "is_enabled", lambda unit: unit == gateway_step.SOCKET)
    swap.record = tmp_path / "state/swap.json"
    swap.moves = [MovedService("ollama", "ollama.service", 11434, 11435)]
    if failing:
        with pytest.raises(Failure):
            gateway_step.carry_out(swap, quiet, lambda: None)
        assert not swap.record.parent.exists()
        return
    gateway_step.carry_out(swap, quiet, lambda: None)
    record = read_record(swap.record)
    assert (list(record.services), record.enabled) == (["ollama"], (gateway_step.SERVICE,))


def test_each_service_has_the_whole_time_to_listen(monkeypatch: pytest.MonkeyPatch, quiet: Dialog) -> None:
    clock, ports = [0.0], {9001: 800.0, 9002: 1600.0}

    def sleep(_: float) -> None:
        clock[0] += 100.0

    monkeypatch.setattr(port_wait, "unit_state", lambda unit: SystemctlState("active"))
    monkeypatch.setattr(port_wait, "listens", lambda port: clock[0] >= ports.get(port, 1e9))
    monkeypatch.setattr(port_wait, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    slow = [Swap("a", "a.service", 8001, 9001, drop_in="x"), Swap("b", "b.service", 8002, 9002, drop_in="x")]
    port_wait.wait_for_ports(slow, quiet, [])
    assert clock[0] == 1600.0
    with pytest.raises(Failure, match=r"c.service did not listen at port 9003 within 900 s"):
        port_wait.wait_for_ports([Swap("c", "c.service", 8003, 9003, drop_in="x")], quiet, [])


def test_an_interrupt_ends_the_wait_and_moves_the_service_back(
    monkeypatch: pytest.MonkeyPatch, swap: Proposal, quiet: Dialog, capsys: pytest.CaptureFixture[str]
) -> None:
    system = FakeSystem({"ollama.service", gateway_step.SOCKET}, {11434}, set())
    place(system, monkeypatch)
    monkeypatch.setattr(port_wait, "LISTEN_SEC", 30.0)
    interrupt = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr(port_wait, "time", interrupt)
    with pytest.raises(Failure, match=r"interrupted, while ollama.service was starting"):
        gateway_step.carry_out(swap, quiet, lambda: None)
    assert system.commands[-1] == "restart --no-block ollama.service"
    assert "waiting until ollama.service listens at port 11435: 0 s …" in capsys.readouterr().out


def exposed(tmp_path: Path) -> Proposal:
    """Two services, one of which other hosts can reach."""
    swaps = [
        Swap("open", "open.service", 8001, 9001, drop_in="[Service]\n", is_narrowed=True),
        Swap("local", "local.service", 8002, 9002, drop_in="[Service]\n"),
    ]
    found = Proposal(swaps, [])
    found.files = {tmp_path / "gateway.toml": "both\n"}
    return found


def test_a_service_that_other_hosts_use_is_not_moved_without_a_question(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: Dialog, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Places(tmp_path / "gpumand.toml", tmp_path / "gateway.toml", tmp_path)
    (tmp_path / "gpumand.toml").write_text("")
    monkeypatch.setattr(gateway_step, "Places", lambda: places)
    found = exposed(tmp_path)
    gateway_step.explain(found, quiet)
    said = capsys.readouterr().out
    assert "open: other hosts and containers reach it now; afterwards only this host does." in said
    assert "systemctl edit gpumand-gateway, with [Service] and IPAddressAllow=172.16.0.0/12" in " ".join(said.split())

    kept = gateway_step.permitted(found, quiet)

    assert [one.consumer for one in kept.ready] == ["local"]
    assert set(kept.files) == {tmp_path / "local.service.d/gpumand-gateway.conf", tmp_path / "gateway.toml"}
    assert "open" not in kept.files[tmp_path / "gateway.toml"]
    assert "Left as it is: open." in capsys.readouterr().out


def test_a_person_may_let_other_hosts_lose_a_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: Dialog
) -> None:
    monkeypatch.setattr(quiet, "confirm", lambda question, default: "Move open, so that other hosts" in question)
    found = exposed(tmp_path)
    assert gateway_step.permitted(found, quiet) is found


def test_a_proposal_says_what_other_hosts_lose(tmp_path: Path) -> None:
    lines = proposal_lines(exposed(tmp_path), Places(gateway=tmp_path / "gateway.toml"), is_applied=False)
    assert [line.partition(":")[0] for line in lines if "other hosts and containers" in line] == ["open"]


def test_a_service_that_was_not_running_is_not_started(
    monkeypatch: pytest.MonkeyPatch, swap: Proposal, quiet: Dialog
) -> None:
    system = FakeSystem({gateway_step.SOCKET}, set(), set(), failing={"enable"})
    place(system, monkeypatch)
    with pytest.raises(Failure):
        gateway_step.carry_out(swap, quiet, lambda: None)
    assert "restart --no-block ollama.service" not in system.commands
