"""The steps of ``gpumanctl setup``: what counts as configured, new files, the wizard, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from gpumand.cli.app import gpumanctl
from gpumand.cli.errors import Failure
from gpumand.cli.gateway_setup import Proposal
from gpumand.cli.options import GlobalOptions
from gpumand.cli.packages import Packages
from gpumand.cli.setup import first_lease, gateway_step, new_services, system_files
from gpumand.cli.setup import wizard as wizard_module
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.setup.interrupts import uninterrupted
from gpumand.cli.setup.new_services import NewService, Survey, add, is_configured
from gpumand.cli.setup.wizard import Choices, Wizard
from gpumand.cli.swap_undo.lock import alone
from gpumand.discovery.containers import FoundContainer
from gpumand.discovery.host import Listener
from gpumand.discovery.matching import Candidate
from gpumand.discovery.port_swap import Swap
from gpumand.domain.consumer import ConsumerSpec
from gpumand.host_setup import init_system

TABLE = '[consumers.llm]\npreset = "ollama"\nunit = "ollama.service"\n'
SERVICE = NewService("llm", "Ollama", f"{TABLE}vram_resident_mib = 4096\n")


@pytest.fixture
def quiet() -> Dialog:
    return Dialog(is_asking=False)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The configuration of a user, without files."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "gpumand"


# -- services ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ConsumerSpec("llm", 1, unit="ollama.service"), True),
        (ConsumerSpec("llm", 1, unit="other.service"), False),
        (ConsumerSpec("llm", 1, url="http://localhost:11434"), True),
        (ConsumerSpec("llm", 1, url="http://127.0.0.1:11435"), False),
        (ConsumerSpec("llm", 1, url="http://gpu.example:11434"), False),
        (ConsumerSpec("llm", 1), False),
    ],
)
def test_a_service_is_configured_if_a_consumer_has_its_unit_or_its_address(spec: ConsumerSpec, expected: bool) -> None:
    found = Candidate("ollama.service", "", (), (Listener("127.0.0.1", 11434),))
    assert is_configured(found, {"llm": spec}) is expected
    assert is_configured(Candidate("", "", ()), {"llm": spec}) is False


def test_what_is_missing_is_named_and_not_guessed() -> None:
    assert SERVICE.missing == []
    unknown = NewService("llm", "Ollama", f"{TABLE}# vram_resident_mib = MIB  # unknown from the scan\n")
    assert unknown.missing == ["vram_resident_mib"]
    assert unknown.with_vram_mib(8192).missing == []
    assert NewService("tts", "TTS", "# [consumers.tts]\n# preset = 'tts'\n").missing != []


def test_each_run_writes_a_file_of_its_own(config: Path) -> None:
    first = add([SERVICE], user=True)
    assert first == config / "conf.d/setup.toml"
    assert first.stat().st_mode & 0o777 == 0o644
    text = first.read_text()
    other = NewService("tts", "TTS", "[consumers.tts]\nunit = 'tts.service'\nvram_resident_mib = 100\n")
    assert add([other], user=True) == config / "conf.d/setup-2.toml"
    assert first.read_text() == text
    assert set(new_services.current_settings(user=True).consumers) == {"llm", "tts"}


def test_a_file_that_does_not_fit_the_others_is_not_kept(config: Path) -> None:
    config.joinpath("conf.d").mkdir(parents=True)
    config.joinpath("conf.d/mine.toml").write_text(SERVICE.table)
    with pytest.raises(Failure, match=r"so that .*setup\.toml was not kept"):
        add([SERVICE], user=True)
    assert [one.name for one in config.joinpath("conf.d").iterdir()] == ["mine.toml"]


def test_no_folder_is_left_by_a_file_that_is_not_kept(config: Path) -> None:
    config.mkdir()
    config.joinpath("gpumand.toml").write_text(SERVICE.table)
    with pytest.raises(Failure):
        add([SERVICE], user=True)
    assert [one.name for one in config.iterdir()] == ["gpumand.toml"]


def test_a_broken_link_in_the_way_is_not_overwritten(config: Path) -> None:
    config.joinpath("conf.d").mkdir(parents=True)
    config.joinpath("conf.d/setup-2.toml").symlink_to(config / "nothing")
    config.joinpath("conf.d/setup.toml").write_text("")
    with pytest.raises(Failure):
        # The link is an error of the configuration, which setup neither hides nor replaces.
        add([SERVICE], user=True)
    assert sorted(one.name for one in config.joinpath("conf.d").iterdir()) == ["setup-2.toml", "setup.toml"]
    assert config.joinpath("conf.d/setup-2.toml").is_symlink()


# -- the wizard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--user",), ("--files-only",)])
def test_the_gateway_is_not_ignored_where_it_is_not_possible(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "gpumand.cli", "setup", "--gateway", *options, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, f"--gateway does not go with {options[0]}" in done.stderr) == (2, True), done


def test_only_the_size_of_a_service_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizeless = NewService("asr", "Whisper", "[consumers.asr]\npreset = 'comfyui'\nunit = 'asr.service'\n")
    unitless = NewService("tei", "TEI outside any service", "# [consumers.tei]\n# preset = 'tei'\n")
    found = Survey((sizeless, unitless), (), (), ())

    async def survey(_: GlobalOptions) -> Survey:
        return found

    monkeypatch.setattr(new_services, "survey", survey)
    monkeypatch.setattr(system_files, "count_of_changes", lambda **_: 3)
    Wizard(GlobalOptions(), Choices(changes=False), Dialog(is_asking=False)).run()
    shown = capsys.readouterr().out
    assert sizeless.missing == ["vram_resident_mib"]
    assert "ask for vram_resident_mib of asr, or leave it out;" in shown
    assert "leave out tei, of which a unit or a container that can be stopped is not known;" in shown


def test_a_packaged_gpumand_is_not_started_without_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(init_system, "ROOT", tmp_path)
    monkeypatch.setattr(system_files, "packaged_unit", lambda: tmp_path)
    with pytest.raises(Failure, match="systemd does not run here, and gpumand is a service of systemd"):
        Wizard(GlobalOptions(), Choices(), Dialog(is_asking=False))._install()


@pytest.mark.parametrize(("uid", "sudo_user", "prefix"), [(0, "", ""), (0, "alice", "sudo "), (1000, "", "sudo ")])
def test_the_first_command_of_a_user_has_sudo_only_where_sudo_is_used(
    monkeypatch: pytest.MonkeyPatch, uid: int, sudo_user: str, prefix: str
) -> None:
    monkeypatch.setenv("SUDO_USER", sudo_user)
    monkeypatch.delenv("GPUMAND_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    made = Wizard(GlobalOptions(), Choices(), Dialog(is_asking=False))
    assert made._try("llm") == f"{prefix}gpumanctl acquire llm --ttl 30s"


def wizard(monkeypatch: pytest.MonkeyPatch, *, gateway: bool | None) -> Wizard:
    """The wizard where one service is leased."""
    options = GlobalOptions(bus_address="unix:path=/nonexistent")
    made = Wizard(options, Choices(gateway), Dialog(is_asking=False))
    found = Proposal([Swap("ollama", "ollama.service", 11434, 11435, drop_in="x")], [])
    monkeypatch.setattr(gateway_step, "is_installed", lambda: True)
    monkeypatch.setattr(gateway_step, "proposal", lambda _: found)
    monkeypatch.setattr(made, "_leased", lambda _: ["ollama"])
    return made


@pytest.mark.parametrize(("wanted", "code"), [(True, 1), (None, 0), (False, 0)])
def test_a_gateway_that_was_asked_for_and_is_not_possible_now_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, wanted: bool | None, code: int
) -> None:
    made = wizard(monkeypatch, gateway=wanted)
    monkeypatch.setattr(wizard_module, "LOCK", tmp_path / "lock")
    assert made._put_gateway_in_front() == code
    assert ("Not now: ollama is leased" in capsys.readouterr().out) is (wanted is not False)
    monkeypatch.setattr(gateway_step, "is_installed", lambda: False)
    installed = Packages(installed={"gpumand": "1:0.1.0-1"}, downloadable=frozenset())
    monkeypatch.setattr(gateway_step, "read_packages", lambda: installed)
    assert made._put_gateway_in_front() == code
    assert ("sudo apt-get install ./gpumand-gateway_0.1.0-1_all.deb" in capsys.readouterr().out) is (
        wanted is not False
    )


def test_the_gateway_is_not_put_in_front_while_another_command_moves_services(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = wizard(monkeypatch, gateway=True)
    monkeypatch.setattr(wizard_module, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(gateway_step, "proposal", lambda _: pytest.fail("the files were read without the lock"))
    with alone(tmp_path / "lock", "other"), pytest.raises(Failure, match=r"repeat: sudo gpumanctl setup --gateway"):
        made._put_gateway_in_front()


def test_a_lease_that_would_unload_a_service_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def choose(_: str) -> SimpleNamespace:
        return SimpleNamespace(consumer="llm", unloads=("comfyui",), disturbs_nothing=False)

    monkeypatch.setattr(first_lease, "choose", choose)
    monkeypatch.setenv("SUDO_USER", "alice")
    wizard(monkeypatch, gateway=None)._take_first_lease()
    said = capsys.readouterr().out
    assert "Not taken, since it would unload comfyui. Try it yourself: sudo gpumanctl" in said
    assert "acquire llm --ttl 30s" in said


@pytest.mark.parametrize("is_in_group", [True, False])
@pytest.mark.parametrize("is_gateway_active", [True, False])
def test_only_steps_that_are_still_due_are_named_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_in_group: bool, is_gateway_active: bool
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    monkeypatch.setattr(wizard_module, "is_member", lambda user: is_in_group)
    monkeypatch.setattr(wizard_module, "is_active", lambda unit, user: is_gateway_active)
    wizard(monkeypatch, gateway=None)._say_what_is_next()
    said = capsys.readouterr().out
    line = "To let alice take leases: sudo gpasswd --add alice gpumand, then log in again."
    assert (line in said) is not is_in_group
    assert ("gpumanctl connect" in said) is is_gateway_active


def test_a_user_is_a_member_by_an_entry_or_by_the_primary_group(monkeypatch: pytest.MonkeyPatch) -> None:
    users = {"alice": 1000, "bob": 77, "eve": 1002}
    monkeypatch.setattr("grp.getgrnam", lambda name: SimpleNamespace(gr_mem=["alice"], gr_gid=77))
    monkeypatch.setattr("pwd.getpwnam", lambda name: SimpleNamespace(pw_gid=users[name]))
    assert [wizard_module.is_member(one) for one in (*users, "unknown")] == [True, True, False, False]


# -- dialog, interrupts, first lease -----------------------------------------------------------------------------------


def test_without_a_person_the_defaults_count(quiet: Dialog) -> None:
    assert quiet.confirm("Really?", default=True) is True
    assert quiet.confirm("Really?", default=False) is False
    assert quiet.text("Which?") == ""


def test_the_end_of_the_input_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(click.Abort):
            Dialog(is_asking=True).confirm("Really?", default=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_changes_that_belong_together_takes_effect_afterwards(number: signal.Signals) -> None:
    done: list[str] = []
    before = signal.getsignal(number)

    def change() -> None:
        with uninterrupted():
            os.kill(os.getpid(), number)
            done.extend(["first", "second"])

    with pytest.raises(KeyboardInterrupt):
        change()
    assert done == ["first", "second"]
    assert signal.getsignal(number) is before


def test_nothing_is_unloaded_for_a_first_lease_without_a_question() -> None:
    assert first_lease.Proposal("").disturbs_nothing is False


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ConsumerSpec("a", 1, container="webui"), True),
        (ConsumerSpec("a", 1, container="docker:webui"), True),
        (ConsumerSpec("a", 1, container="0123456789ab"), True),
        (ConsumerSpec("a", 1, cgroup="/system.slice/docker-0123456789ab.scope"), True),
        (ConsumerSpec("a", 1, container="other"), False),
        (ConsumerSpec("a", 1), False),
    ],
)
def test_a_container_is_configured_by_its_name_its_id_or_its_cgroup(spec: ConsumerSpec, expected: bool) -> None:
    path = "/system.slice/docker-0123456789ab.scope"
    found = Candidate("", "", (), container=FoundContainer("0123456789abcdef", "webui", "docker", path))
    assert is_configured(found, {"a": spec}) is expected


def test_a_run_that_is_stopped_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: Wizard) -> int:
        raise click.Abort

    monkeypatch.setattr(Wizard, "run", stopped)
    monkeypatch.setattr(system_files, "check_rights", lambda **_: None)
    monkeypatch.setenv("SUDO_USER", "alice")
    with pytest.raises(SystemExit) as ended:
        gpumanctl.main(["setup", "--yes"])
    assert ended.value.code == 130
    assert (
        "What was done before stays. To go on with the other steps: sudo gpumanctl setup\n" in capsys.readouterr().err
    )
