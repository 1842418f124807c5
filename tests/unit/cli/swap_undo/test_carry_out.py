"""The steps of ``gpumanctl init --undo``: their order, services taken into use meanwhile, failures and kills."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gpumand.cli import gateway_setup
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_setup import Places, Proposal, apply
from gpumand.cli.gateway_sockets import socket_units
from gpumand.cli.setup import port_wait
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.setup.port_wait import SystemctlState
from gpumand.cli.swap_undo import carry_out
from gpumand.cli.swap_undo.carry_out import GATEWAY, REPEAT, Undo
from gpumand.cli.swap_undo.plan import plan_undo
from gpumand.cli.swap_undo.record import MovedService, SwapRecord, read_record, write_record
from gpumand.cli.swap_undo.work_check import DAEMON
from gpumand.discovery.host import Listener
from gpumand.discovery.port_swap import Swap
from gpumand.gateway import config as gateway_config
from gpumand.host_setup.services import CommandFailed

OLD_PORTS = {"ollama": 11434, "comfyui": 8188}
GATEWAY_PID = 7
EVERY_STEP = range(40)


class Killed(BaseException):
    """The process ends here, as by SIGKILL."""


@dataclass
class FakeHost:
    """systemd, the gateway and the services behind it.

    Attributes:
        places: where the files are.
        ports: port of each running service.
        open: listeners of the gateway by name.
        steps: commands and files, in order.
        kill_at: number of the step at which the undo is killed; -1 = never.
        failing: commands that fail, by their verb.
        stuck: services that do not come back.
        units: states of the gateway and of gpumand.
    """

    places: Places
    ports: dict[str, int]
    open: set[str]
    steps: list[str] = field(default_factory=list)
    kill_at: int = -1
    failing: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)
    units: dict[str, str] = field(default_factory=lambda: {GATEWAY: "active", DAEMON: "active"})

    def step(self, what: str) -> None:
        if len(self.steps) == self.kill_at:
            self.kill_at = -1
            raise Killed
        self.steps.append(what)

    def run_all(self, commands: Iterable[tuple[str, ...]], _dialog: Dialog, advice: str) -> None:
        for _, verb, *names in commands:
            self.step(" ".join([verb, *names]))
            if verb in self.failing:
                raise Failure(ExitCode.FAILURE, f"{verb} failed. {advice}")
            if names == [GATEWAY]:
                self.open = set(gateway_config.load(self.places.gateway).listeners)
            if verb == "try-restart":
                self._restart(names[1:])

    def replace_file(self, path: Path, text: str) -> None:
        self.step(path.name)
        gateway_setup.replace_file(path, text)

    def _restart(self, units: Iterable[str]) -> None:
        for unit in units:
            name = unit.removesuffix(".service")
            is_moved = (self.places.units / f"{unit}.d").exists()
            if name in self.stuck:
                self.ports[name] = 0
            else:
                # The port is taken as long as the gateway listens at it.
                assert is_moved or name not in self.open, "restarted before the gateway has closed the port"
                self.ports[name] = OLD_PORTS[name] + is_moved

    def listeners(self) -> tuple[list[Listener], bool]:
        services = [Listener("127.0.0.1", port, 100) for port in self.ports.values()]
        return [
            *services,
            *(Listener("127.0.0.1", OLD_PORTS.get(name, 8080), GATEWAY_PID) for name in self.open),
        ], False

    def state(self, unit: str) -> SystemctlState:
        is_running = unit in self.units or unit.removesuffix(".service") in self.ports
        return SystemctlState(self.units.get(unit, "active") if is_running else "inactive")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Two services that run behind the gateway."""
    units = tmp_path / "units"
    units.mkdir()
    config = tmp_path / "gpumand.toml"
    config.write_text("".join(_consumer(name, port) for name, port in OLD_PORTS.items()))
    places = Places(config, tmp_path / "gateway.toml", units, tmp_path / "state/swap.json")
    places.gateway.write_text("# mine\n")
    swaps = [Swap(name, f"{name}.service", port, port + 1, drop_in="[Service]\n") for name, port in OLD_PORTS.items()]
    apply(gateway_setup.without(Proposal(swaps, []), [], places))
    made = FakeHost(places, {name: port + 1 for name, port in OLD_PORTS.items()}, set(OLD_PORTS))
    for module in (carry_out, port_wait):
        monkeypatch.setattr(module, "unit_state", made.state)
    monkeypatch.setattr(carry_out, "run_all", made.run_all)
    monkeypatch.setattr(carry_out, "listeners", made.listeners)
    monkeypatch.setattr(carry_out, "_gateway_pid", lambda: GATEWAY_PID)
    monkeypatch.setattr(carry_out, "CLOSE_SEC", 0.1)
    monkeypatch.setattr(port_wait, "listens", lambda port: port in made.ports.values())
    monkeypatch.setattr(port_wait, "LISTEN_SEC", 0.2)
    monkeypatch.setattr(port_wait, "POLL_SEC", 0.01)
    monkeypatch.setattr(carry_out, "replace_file", made.replace_file)
    return made


def _consumer(name: str, port: int) -> str:
    return f'[consumers.{name}]\nunit = "{name}.service"\nurl = "http://127.0.0.1:{port}"\nvram_resident_mib = 1\n'


def undo(host: FakeHost, *busy: str, left_out: Iterable[str] = ()) -> dict[str, str]:
    """One run; ``busy`` are services taken into use after the plan was made, ``left_out`` those in use before it."""
    record = read_record(host.places.record)

    def uses(services: Iterable[MovedService]) -> dict[str, str]:
        host.step("asks for uses")
        return {one.consumer: "leased" for one in services if one.consumer in busy}

    one = Undo(record, host.places.record, Dialog(is_asking=False), uses, lambda: host.step("reload of gpumand"))
    return one.carry_out(plan_undo(record, left_out, host.places.units))


def assert_is_back(host: FakeHost) -> None:
    assert host.ports == OLD_PORTS
    assert host.open == set()
    assert host.places.gateway.read_text() == "# mine\n"
    assert list(host.places.units.iterdir()) == []
    assert host.places.config is not None
    assert host.places.config.read_text() == "".join(_consumer(name, port) for name, port in OLD_PORTS.items())
    assert not host.places.record.exists()


def test_ports_are_free_before_anything_else_changes(host: FakeHost) -> None:
    assert undo(host) == {}
    assert_is_back(host)
    assert host.steps == [
        "gateway.toml",
        f"reload {GATEWAY}",
        "asks for uses",
        "gpumand.toml",
        "daemon-reload",
        "try-restart --no-block ollama.service comfyui.service",
        "reload of gpumand",
    ]


@pytest.mark.parametrize("step", EVERY_STEP)
def test_a_run_that_is_killed_at_any_step_is_completed_by_the_next_one(host: FakeHost, step: int) -> None:
    host.kill_at = step
    try:
        undo(host)
    except Killed:
        host.steps.clear()
        undo(host)
    assert_is_back(host)


def test_a_service_that_is_taken_into_use_meanwhile_stays_behind_the_gateway(host: FakeHost) -> None:
    assert undo(host, "ollama") == {"ollama": "leased"}
    assert host.ports == {"ollama": 11435, "comfyui": 8188}
    assert host.open == {"ollama"}
    assert set(read_record(host.places.record).services) == {"ollama"}
    assert undo(host) == {}
    assert_is_back(host)


def test_a_service_in_use_stays_also_if_another_one_is_taken_into_use_meanwhile(host: FakeHost) -> None:
    undo(host, "comfyui", left_out=["ollama"])
    assert host.ports == {"ollama": 11435, "comfyui": 8189}
    assert host.open == set(OLD_PORTS)
    assert not [one for one in host.steps if "restart" in one]


def test_services_that_are_taken_into_use_one_after_the_other_all_stay(host: FakeHost) -> None:
    record, answers = read_record(host.places.record), [{"ollama": "leased"}, {"comfyui": "leased"}]
    one = Undo(record, host.places.record, Dialog(is_asking=False), lambda _: answers.pop(0), lambda: None)
    assert one.carry_out(plan_undo(record, unit_folder=host.places.units)) == dict.fromkeys(OLD_PORTS, "leased")
    assert host.ports == {"ollama": 11435, "comfyui": 8189}
    assert host.open == set(OLD_PORTS)


@pytest.mark.parametrize("name", ["gpumand.toml", "gateway.toml"])
def test_a_file_that_was_edited_while_the_question_was_open_is_not_overwritten(host: FakeHost, name: str) -> None:
    record = read_record(host.places.record)
    plan = plan_undo(record, unit_folder=host.places.units)
    path = host.places.gateway.parent / name
    edited = path.read_text() + "# a note\n"
    path.write_text(edited)
    one = Undo(record, host.places.record, Dialog(is_asking=False), lambda _: {}, lambda: None)
    with pytest.raises(Failure, match=rf"{name} was changed meanwhile, and nothing was done"):
        one.carry_out(plan)
    assert path.read_text() == edited
    assert host.steps == []


def test_another_program_at_the_former_port_does_not_count_as_the_service(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = host.listeners
    other = Listener("192.168.1.5", OLD_PORTS["ollama"], 99)
    monkeypatch.setattr(carry_out, "listeners", lambda: ([*own()[0], other], False))
    undo(host)
    assert_is_back(host)


def test_if_all_are_taken_into_use_the_listeners_are_open_again(host: FakeHost) -> None:
    before = host.places.gateway.read_text()
    assert set(undo(host, *OLD_PORTS)) == set(OLD_PORTS)
    assert host.open == set(OLD_PORTS)
    assert host.places.gateway.read_text() == before
    assert "daemon-reload" not in host.steps


def test_services_that_do_not_run_are_not_started(host: FakeHost) -> None:
    host.ports.clear()
    undo(host)
    assert host.ports == {}
    assert not [one for one in host.steps if "restart" in one]
    assert not host.places.record.exists()


def test_a_service_that_was_never_restarted_at_its_new_port_goes_on(host: FakeHost) -> None:
    host.ports, host.open = dict(OLD_PORTS), set()
    undo(host)
    assert not [one for one in host.steps if "restart" in one]
    assert_is_back(host)


def test_a_gateway_that_refuses_the_reload_keeps_everything_as_it_is(host: FakeHost) -> None:
    before = host.places.gateway.read_text()
    host.failing.add("reload")
    with pytest.raises(Failure, match=rf"the gateway keeps its listeners: reload failed\. {REPEAT}"):
        undo(host)
    assert host.places.gateway.read_text() == before
    assert len(list(host.places.units.iterdir())) == 2
    host.failing.clear()
    undo(host)
    assert_is_back(host)


def test_a_service_that_does_not_come_back_stays_in_the_record(host: FakeHost) -> None:
    host.stuck.add("comfyui")
    with pytest.raises(Failure, match=r"comfyui\.service did not listen at port 8188 within .*repeat this command"):
        undo(host)
    assert "reload of gpumand" in host.steps
    assert "comfyui" in read_record(host.places.record).services
    host.stuck.clear()
    undo(host)
    assert_is_back(host)


def test_a_gateway_that_does_not_close_its_ports_is_an_error(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    stays = [Listener("127.0.0.1", 11434, GATEWAY_PID)]
    monkeypatch.setattr(carry_out, "listeners", lambda: (stays, False))
    with pytest.raises(Failure, match="the gateway still listens at port 11434"):
        undo(host)
    assert len(list(host.places.units.iterdir())) == 2


def test_units_that_were_enabled_for_it_are_disabled_after_the_last_service(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_out, "run", lambda command: host.step(" ".join(command[1:])))
    write_record(host.places.record, replace(read_record(host.places.record), enabled=(GATEWAY,)))
    undo(host, "ollama")
    assert f"disable --now {GATEWAY}" not in host.steps
    undo(host)
    assert host.steps[-1] == f"disable --now {GATEWAY}"
    assert_is_back(host)


def test_units_that_cannot_be_disabled_stay_in_the_record_and_the_next_run_disables_them(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(command: Iterable[str]) -> None:
        raise CommandFailed(f"{' '.join(command)}: Access denied")

    monkeypatch.setattr(carry_out, "run", fail)
    write_record(host.places.record, replace(read_record(host.places.record), enabled=(GATEWAY,)))
    with pytest.raises(Failure, match=rf"{GATEWAY} could not be disabled: systemctl .*: Access denied\. {REPEAT}"):
        undo(host)
    assert "disabled" not in capsys.readouterr().out
    assert read_record(host.places.record) == SwapRecord({}, (GATEWAY,))
    monkeypatch.setattr(carry_out, "run", lambda command: host.step(" ".join(command[1:])))
    undo(host)
    assert host.steps[-1] == f"disable --now {GATEWAY}"
    assert_is_back(host)


@pytest.mark.parametrize("stuck", [set(), {"comfyui"}])
def test_a_record_that_cannot_be_written_is_an_error_with_advice(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, stuck: set[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    host.stuck = stuck
    monkeypatch.setattr(carry_out, "write_record", fail)
    reason = r"comfyui\.service did not listen .*" if stuck else ""
    with pytest.raises(Failure, match=rf"^{reason}cannot write .*swap\.json.*: No space left on device\. {REPEAT}$"):
        undo(host)
    monkeypatch.setattr(carry_out, "write_record", write_record)
    host.stuck = set()
    undo(host)
    assert_is_back(host)


def test_listeners_that_cannot_be_opened_again_are_reported_with_the_commands(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(host.places.record)
    for text in socket_units(gateway_config.load(host.places.gateway)).items():
        host.places.units.joinpath(text[0]).write_text(text[1])

    def uses(services: Iterable[MovedService]) -> dict[str, str]:
        host.failing.add("enable")
        return {one.consumer: "leased" for one in services}

    one = Undo(record, host.places.record, Dialog(is_asking=False), uses, lambda: None)
    assert set(one.carry_out(plan_undo(record, (), host.places.units))) == set(OLD_PORTS)
    sockets = "gpumand-gateway-ollama.socket gpumand-gateway-comfyui.socket"
    assert (
        "The gateway does not listen at all former ports again: enable failed. Fix that, and run: "
        f"sudo systemctl enable --now {sockets}; sudo systemctl start {GATEWAY}\n"
    ) in capsys.readouterr().out


def test_the_process_of_the_gateway_is_not_taken_for_none_if_systemd_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(command: list[str], *, timeout: float, stdin: int, **_: object) -> None:
        assert stdin == subprocess.DEVNULL
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(Failure, match=rf"the process of the gateway is unknown: .*timed out after .*{REPEAT}"):
        carry_out._gateway_pid()


def test_a_gateway_with_other_listeners_goes_on(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(carry_out, "run", lambda command: host.step(" ".join(command[1:])))
    monkeypatch.setattr(gateway_config, "DEFAULT_FILE", host.places.gateway)
    write_record(host.places.record, replace(read_record(host.places.record), enabled=(GATEWAY,)))
    with host.places.gateway.open("a") as file:
        file.write('[gateway.listeners.tei]\nlisten = "127.0.0.1:8080"\n')
    undo(host)
    assert not [one for one in host.steps if one.startswith("disable")]
    assert (
        f"other listeners: tei. If you do not need it: sudo systemctl disable --now {GATEWAY}"
        in capsys.readouterr().out
    )
    assert not host.places.record.exists()


@pytest.mark.parametrize("state", ["active", "activating", "reloading", "deactivating"])
def test_units_that_are_starting_read_their_files_again(host: FakeHost, state: str) -> None:
    host.units |= {GATEWAY: state, DAEMON: state}
    undo(host)
    assert {f"reload {GATEWAY}", "reload of gpumand"} <= set(host.steps)
    assert_is_back(host)


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_units_that_are_stopped_stay_so(host: FakeHost, state: str) -> None:
    host.units |= {GATEWAY: state, DAEMON: state}
    host.open.clear()
    undo(host)
    assert not {f"reload {GATEWAY}", "reload of gpumand"} & set(host.steps)
    assert_is_back(host)
