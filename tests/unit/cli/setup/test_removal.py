"""``gpumanctl setup --remove``: what it says about services that the gateway has moved."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from gpumand.cli.errors import Failure
from gpumand.cli.gateway_setup import WAY_BACK
from gpumand.cli.setup import system_files
from gpumand.cli.swap_undo.lock import alone, forget
from gpumand.host_setup.plan import Action, Step


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of drop-ins, on a host on which setup has installed a file."""
    monkeypatch.setattr(system_files, "UNIT_FOLDER", tmp_path)
    monkeypatch.setattr(system_files, "removal_steps", lambda _manifest: [Step(Action.REMOVE, tmp_path / "file")])
    return tmp_path


def test_a_service_that_was_moved_is_named_with_its_way_back(units: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop_in = units / "ollama.service.d/gpumand-gateway.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(
        f'{WAY_BACK}in /etc/gpumand, [consumers.ollama]: url = "http://127.0.0.1:11434"\n[Service]\nEnvironment=A=1\n'
    )
    system_files.remove(user=False, dry_run=True)
    printed = capsys.readouterr().out
    assert f"    rm {drop_in}\n" in printed
    assert '    set in /etc/gpumand, [consumers.ollama]: url = "http://127.0.0.1:11434"\n' in printed
    assert "gpumanctl disconnect" in printed
    assert "systemctl try-restart ollama.service\n" in printed


def test_sockets_of_listeners_are_closed_before_the_restart(units: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop_in = units / r"my\x2dserver.service.d/gpumand-gateway.conf"
    drop_in.parent.mkdir()
    drop_in.touch()
    socket = units / "gpumand-gateway-llm.socket"
    socket.touch()
    system_files.remove(user=False, dry_run=True)
    lines = capsys.readouterr().out.partition("Without gpumanctl:\n")[2].splitlines()
    assert [line.strip() for line in lines[:3]] == [
        "systemctl disable --now gpumand-gateway-llm.socket",
        f"rm '{drop_in}' {socket}",
        r"systemctl daemon-reload; systemctl try-restart 'my\x2dserver.service'",
    ]


def test_nothing_is_said_about_other_drop_ins(units: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (units / "ollama.service.d").mkdir()
    (units / "ollama.service.d/override.conf").touch()
    system_files.remove(user=False, dry_run=True)
    assert "moved" not in capsys.readouterr().out


def test_the_lock_of_the_gateway_commands_goes_with_gpumand_unless_it_is_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = tmp_path / "swap.lock"
    monkeypatch.setattr(system_files, "LOCK", lock)
    monkeypatch.setattr(system_files, "removal_steps", lambda _manifest: [Step(Action.KEEP, tmp_path / "file")])
    monkeypatch.setattr(system_files, "_apply", lambda _steps, **_: None)
    monkeypatch.setattr(system_files, "_run", lambda _commands, **_: 0)
    with alone(lock, "gpumanctl init --undo"):
        system_files.remove(user=False, dry_run=False)
        assert lock.exists()
    system_files.remove(user=False, dry_run=True)
    system_files.remove(user=True, dry_run=False)
    assert lock.exists()
    system_files.remove(user=False, dry_run=False)
    assert not lock.exists()
    forget(lock)  # without the file, there is nothing to do


def test_a_lock_that_was_removed_after_its_opening_keeps_nothing_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = tmp_path / "swap.lock"
    flock = fcntl.flock

    def removed_before(descriptor: int, how: int) -> None:
        lock.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with pytest.raises(Failure, match="Wait until it has ended"), alone(lock, "gpumanctl init --undo"):
        pass
