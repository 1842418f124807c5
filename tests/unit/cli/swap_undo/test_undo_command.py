"""``gpumanctl init --undo`` as a command: options that do not fit, rights, and what is said and asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpumand.cli import gateway_setup
from gpumand.cli.app import gpumanctl
from gpumand.cli.errors import Failure
from gpumand.cli.gateway_setup import Places, Proposal, apply
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.swap_undo import carry_out, command
from gpumand.cli.swap_undo.carry_out import GATEWAY
from gpumand.cli.swap_undo.lock import alone
from gpumand.cli.swap_undo.record import SwapRecord, read_record, write_record
from gpumand.discovery.port_swap import Swap


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Services in use, to be filled by the test."""
    found: dict[str, str] = {}
    monkeypatch.setattr(command, "services_in_use", lambda bus, services, gateway: found)
    return found


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: dict[str, str]) -> Places:
    """A host on which ollama was moved, and where the files that it had are known."""
    config = tmp_path / "gpumand.toml"
    config.write_text('[consumers.ollama]\nurl = "http://127.0.0.1:11434"\nvram_resident_mib = 1\n')
    tmp_path.joinpath("units").mkdir()
    files = (tmp_path / name for name in ("gateway.toml", "units", "state/swap.json", "lock"))
    made = Places(config, *files)
    swap = Swap("ollama", "ollama.service", 11434, 11435, drop_in="[Service]\n")
    apply(gateway_setup.without(Proposal([swap], []), [], made))
    monkeypatch.setattr(command, "RECORD", made.record)
    monkeypatch.setattr(command, "Places", lambda: made)
    monkeypatch.setattr(command, "LOCK", made.lock)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def run(*args: str) -> Result:
    return CliRunner().invoke(gpumanctl, ["init", *args])


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--undo", "--gateway"), "--gateway and --undo do not go together"),
        (("--undo", "--user"), "--undo does not go with --user"),
        (("--undo", "--json"), "--undo does not go with --json"),
        (("--yes",), "--yes needs --gateway or --undo"),
        (("--dry-run",), "--dry-run needs --gateway or --undo"),
    ],
)
def test_options_that_do_not_fit_are_refused(args: tuple[str, ...], reason: str) -> None:
    done = run(*args)
    assert (done.exit_code, reason in done.output) == (2, True), done.output


def test_a_user_gets_the_command_for_root(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = run("--undo", "--yes")
    assert (done.exit_code, "Run: sudo gpumanctl init --undo" in done.output) == (1, True)


def test_without_moved_services_there_is_nothing_to_do(places: Places) -> None:
    places.record.unlink()
    (places.units / "ollama.service.d/gpumand-gateway.conf").unlink()
    done = run("--undo", "--yes")
    assert (done.exit_code, done.output) == (0, "Nothing to undo: no service was moved behind the gateway.\n")


def test_a_preview_names_every_file_and_changes_none(places: Places) -> None:
    before = {path: path.read_text() for path in places.gateway.parent.rglob("*") if path.is_file()}
    done = run("--undo", "--dry-run")
    assert done.exit_code == 0
    drop_in = places.units / "ollama.service.d/gpumand-gateway.conf"
    for line in (f"remove {drop_in}", f"restore {places.config}", f"remove {places.gateway}", "Nothing was changed."):
        assert line in done.output
    assert {path: path.read_text() for path in before} == before


def test_without_a_terminal_it_needs_yes(places: Places) -> None:
    done = run("--undo")
    assert (done.exit_code, "gpumanctl init --undo --yes" in done.output) == (2, True)
    assert read_record(places.record).services


def test_a_service_in_use_stays_and_the_command_says_what_to_do(places: Places, busy: dict[str, str]) -> None:
    busy["ollama"] = "leased to alice (lease 38a640, a film)"
    done = run("--undo", "--yes")
    assert done.exit_code == 1
    assert "ollama: leased to alice (lease 38a640, a film). Repeat this command later" in done.output
    assert "sudo gpumanctl init --undo --force" in done.output
    assert read_record(places.record).services


def test_force_goes_without_the_question_for_uses(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_be_asked(*_: object) -> dict[str, str]:
        raise AssertionError

    monkeypatch.setattr(command, "services_in_use", must_not_be_asked)
    done = run("--undo", "--dry-run", "--force")
    assert done.exit_code == 0, done.output
    assert "ollama goes back from port 11435 to 11434" in done.output


def test_a_second_run_at_the_same_time_is_refused(places: Places) -> None:
    with alone(places.lock, "other"):
        assert places.lock.stat().st_mode & 0o077 == 0, "every user could keep the lock"
        done = run("--undo", "--dry-run")
    assert (done.exit_code, "another gpumanctl moves services behind the gateway, or back" in done.output) == (1, True)
    assert run("--undo", "--dry-run").exit_code == 0


def test_services_are_not_moved_behind_the_gateway_during_an_undo(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_setup, "Places", lambda: places)
    monkeypatch.setattr(gateway_setup, "propose", lambda *_: pytest.fail("the files were read without the lock"))
    with alone(places.lock, "other"):
        done = run("--gateway", "--yes")
    assert (done.exit_code, "repeat: sudo gpumanctl init --gateway --yes" in done.output) == (1, True), done.output


def test_a_user_who_cannot_open_the_lock_gets_the_command_for_root(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Failure, match=r"Permission denied\. Run it as root: sudo x"), alone(places.lock, "sudo x"):
        pytest.fail("not locked")


def test_an_error_of_the_locked_command_is_not_taken_for_one_of_the_lock(places: Places) -> None:
    with pytest.raises(BlockingIOError), alone(places.lock, "x"):
        raise BlockingIOError(11, "fork: Resource temporarily unavailable")


def test_units_that_a_former_run_could_not_disable_are_disabled_by_the_next_one(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(places.record, SwapRecord({}, (GATEWAY,)))
    (places.units / "ollama.service.d/gpumand-gateway.conf").unlink()
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(carry_out, "run", commands.append)
    monkeypatch.setattr(carry_out, "_other_listeners", list)
    preview = run("--undo", "--dry-run")
    assert (preview.exit_code, commands) == (0, [])
    assert f"All services are back. To be undone:\n  disable {GATEWAY}" in preview.output
    done = run("--undo", "--yes")
    assert (done.exit_code, commands) == (0, [("systemctl", "disable", "--now", GATEWAY)]), done.output
    assert f"disabled {GATEWAY}" in done.output
    assert "Nothing to undo" in run("--undo", "--yes").output


def test_a_preview_asks_nothing(places: Places, busy: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    busy["ollama"] = "leased to alice"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[bool] = []

    def make(*, is_asking: bool) -> Dialog:
        asked.append(is_asking)
        return Dialog(is_asking=is_asking)

    monkeypatch.setattr(command, "Dialog", make)
    assert run("--undo", "--dry-run").exit_code == 0
    assert asked == [False]


def test_a_url_in_a_file_that_was_renamed_since_is_named(places: Places) -> None:
    (service,) = read_record(places.record).services.values()
    assert command._at_new_urls([service]) == [service]
    assert places.config is not None
    places.config.write_text(places.config.read_text().replace("11435", "11434"))
    assert command._at_new_urls([service]) == []
