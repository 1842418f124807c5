"""The gpumanctl command group: help, lazy imports, placement of ``--``, error messages and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.cli.app import COMMANDS, gpumanctl
from gpumand.cli.commands.run import with_separator
from gpumand.cli.errors import ExitCode, Failure, Mismatch, NoBus, interpret
from gpumand.cli.options import GlobalOptions
from gpumand.host_setup import init_system
from gpumand.version import VERSION
from tests.unit.cli import samples


@pytest.mark.parametrize("args", [["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)])
def test_every_command_has_help(args: list[str]) -> None:
    result = CliRunner().invoke(gpumanctl, args)
    assert result.exit_code == 0
    assert result.output.startswith("Usage: gpumanctl")
    assert "--bus-address" in result.output


def test_help_lists_every_command_with_a_complete_line() -> None:
    text = CliRunner().invoke(gpumanctl, ["--help"]).output
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert "..." not in text.partition("Inspect:")[2]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["unload", "comfyui"], "has no command 'unload'. To unload a consumer: gpumanctl evict comfyui"),
        (
            ["stop", "comfyui", "--force"],
            "has no command 'stop'. To unload a consumer: gpumanctl evict comfyui --force",
        ),
        (["start", "my voice"], "has no command 'start'. To load a consumer: gpumanctl load 'my voice'"),
        (["--user", "start"], "has no command 'start'. To load a consumer: gpumanctl --user load CONSUMER"),
        (["help", "unload"], "has no command 'unload'. To unload a consumer: gpumanctl evict CONSUMER"),
    ],
)
def test_names_of_other_tools_lead_to_the_command(
    args: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpumanctl.main(args)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"gpumanctl: gpumanctl {line}\n"


@pytest.mark.parametrize("words", [[], ["evict"], ["preset"], ["preset", "show"], ["help"]])
def test_help_command_prints_the_help_of_a_command(words: list[str]) -> None:
    by_command = CliRunner().invoke(gpumanctl, ["help", *words], prog_name="gpumanctl")
    by_option = CliRunner().invoke(gpumanctl, [*words, "--help"], prog_name="gpumanctl")
    assert by_command.exit_code == by_option.exit_code == 0
    assert by_command.output == by_option.output


@pytest.mark.parametrize(
    ("words", "text"),
    [(["statsu"], "did you mean status?"), (["evict", "x"], "gpumanctl evict has no command x"), (["--", "-x"], "-x")],
)
def test_help_of_an_unknown_command_is_a_usage_error(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpumanctl.main(["help", *words])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("args", [["nothing"], ["--nothing"], ["status", "--nothing"], ["renew"], ["plan", "a", "b"]])
def test_wrong_usage_exits_2(args: list[str]) -> None:
    assert CliRunner().invoke(gpumanctl, args).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["voice", "ls", "-l"], ["voice", "--", "ls", "-l"]),
        (["voice", "--", "ls"], ["voice", "--", "ls"]),
        (["-q", "voice", "ls", "--", "x"], ["-q", "voice", "--", "ls", "--", "x"]),
        (["--priority", "5", "voice", "--priority=6", "ls"], ["--priority", "5", "voice", "--priority=6", "--", "ls"]),
        (["voice"], ["voice"]),
        ([], []),
    ],
)
def test_run_options_end_where_the_command_begins(arguments: list[str], expected: list[str]) -> None:
    assert with_separator(arguments, {"--priority"}) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--vram", "12G", "--", "ls", "-l"], ["--vram", "12G", "", "--", "ls", "-l"]),
        (["--vram=12G", "ls", "-l"], ["--vram=12G", "", "--", "ls", "-l"]),
        (["--all", "-q", "ls", "--", "x"], ["--all", "-q", "", "--", "ls", "--", "x"]),
        (["voice", "--vram", "12G", "--", "ls"], ["voice", "--vram", "12G", "--", "ls"]),
        (["voice", "ls", "--all"], ["voice", "--", "ls", "--all"]),
    ],
)
def test_run_needs_no_consumer_when_it_reserves_vram(arguments: list[str], expected: list[str]) -> None:
    assert with_separator(arguments, {"--vram"}, ("--vram", "--all")) == expected


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "voice", "--vram", "12G", "--", "true"], "CONSUMER and --vram exclude each other"),
        (["run", "--vram", "12G", "--all", "--", "true"], "--vram and --all exclude each other"),
        (["hold", "--vram", "12G", "--all"], "--vram and --all exclude each other"),
        (["hold", "--for", "0"], "--for must be more than 0"),
        (["plan"], "give a CONSUMER, or --vram SIZE or --all"),
        (["acquire", "--vram", "12X"], "'12X' is not an amount of VRAM; write, for example, 12G"),
        (["acquire", "--vram", "1G", "--lifetime", "connection"], "use: gpumanctl run --vram SIZE -- COMMAND"),
    ],
)
def test_wrong_usage_of_reservations_says_what_to_write(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpumanctl.main(args)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


ERROR_PREFIX = "org.gpumand1.Error."
BUS = "org.freedesktop.DBus.Error."
SYSTEM = GlobalOptions()
SESSION = GlobalOptions(user=True)
DENIED = "Permission denied: user alice may not acquire llama-server. Add alice to the gpumand group, or use sudo."


@pytest.mark.parametrize(
    ("error", "options", "code", "text"),
    [
        (BusError(BUS + "ServiceUnknown", "x"), SYSTEM, 3, "start it with: systemctl start gpumand"),
        (BusError(BUS + "NameHasNoOwner", "x"), SESSION, 3, "start it with: systemctl --user start gpumand"),
        (BusError(BUS + "Spawn.ChildExited", "exited 1"), SYSTEM, 3, "journalctl -u gpumand"),
        (BusError("org.freedesktop.systemd1.UnitMasked", "masked"), SYSTEM, 3, "could not be started: masked"),
        (
            BusError(ERROR_PREFIX + "NoSuchConsumer", "no consumer x"),
            SYSTEM,
            4,
            "no consumer x; list the configured consumers with: gpumanctl list",
        ),
        (BusError(ERROR_PREFIX + "Later", "something new"), SYSTEM, 1, "something new"),
        (BusError(BUS + "AccessDenied", "the caller has left the bus"), SYSTEM, 1, "permission denied: the caller"),
        (BusError(BUS + "AccessDenied", DENIED), SYSTEM, 1, DENIED),
        (
            BusError(BUS + "LimitsExceeded", "option 'reason' is longer than 1024 bytes"),
            SYSTEM,
            1,
            "--reason is longer than 1024 bytes",
        ),
        (
            BusError(ERROR_PREFIX + "Busy", "x is leased. Use the option 'force' to revoke its leases."),
            SYSTEM,
            1,
            "x is leased. Use --force to revoke its leases.",
        ),
        (
            BusError(BUS + "AccessDenied", "Rejected send message, 1 matched rules"),
            SYSTEM,
            1,
            "the D-Bus policy does not allow",
        ),
        (BusError(BUS + "UnknownMethod", "no Plan"), SYSTEM, 1, "systemctl restart gpumand"),
        (BusError(BUS + "NoReply", "recipient disconnected"), SYSTEM, 1, "left the bus during the call"),
        (BusError("com.example.Odd", "odd"), SYSTEM, 1, "odd (com.example.Odd)"),
        (BusTimeout("no answer to Plan within 10 s"), SYSTEM, 1, "did not answer in time"),
        (BusLost("the bus closed the connection"), SYSTEM, 1, "the connection to the bus was lost"),
        (NoBus("cannot connect"), SYSTEM, 1, "use the session bus with --user"),
        (Mismatch("its status has no leases"), SYSTEM, 1, "its status has no leases"),
        (Failure(ExitCode.NOT_FOUND, "no such\ncommand"), SYSTEM, 127, "no such command"),
    ],
)
def test_every_error_has_an_exit_code_and_one_line(
    error: Exception, options: GlobalOptions, code: int, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)  # a host with systemd
    monkeypatch.setattr(init_system, "ROOT", tmp_path)
    failure = interpret(error, options)
    assert failure is not None
    assert failure.code == code
    assert text in failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize("name", ["AccessDenied", "InteractiveAuthorizationRequired"])
@pytest.mark.parametrize("message", [DENIED, "Authentication required: user alice must authenticate. Use sudo."])
def test_advice_of_the_daemon_about_permissions_is_not_repeated(name: str, message: str) -> None:
    failure = interpret(BusError(BUS + name, message), SYSTEM)
    assert failure is not None
    assert failure.message == message


def test_a_bug_is_not_interpreted_as_a_known_error() -> None:
    assert interpret(KeyError("x"), SYSTEM) is None


NO_EVENT_LOOP = ["asyncio", "ssl", "dbus_fast", "rich", "aiohttp"]


@pytest.mark.parametrize(
    ("args", "without"),
    [
        (["--help"], ["dbus_fast", "rich", "aiohttp"]),
        (["config-check", "/nonexistent"], ["dbus_fast", "rich", "aiohttp"]),
        (["--bus-address", "unix:path=/nonexistent", "status"], NO_EVENT_LOOP),
        (["--bus-address", "unix:path=/nonexistent", "version"], NO_EVENT_LOOP),
        (["--bus-address", "unix:path=/nonexistent", "release", "x"], NO_EVENT_LOOP),
        (["--bus-address", "unix:path=/nonexistent", "pin", "x"], NO_EVENT_LOOP),
        (["--bus-address", "unix:path=/nonexistent", "plan", "x"], NO_EVENT_LOOP),
        (["--bus-address", "unix:path=/nonexistent", "show", "x"], NO_EVENT_LOOP),
        (["--bus-address", "unix:path=/nonexistent", "acquire", "x"], ["rich", "aiohttp"]),
    ],
)
def test_a_command_imports_only_the_libraries_it_needs(args: list[str], without: list[str]) -> None:
    script = (
        "import sys\nfrom gpumand.cli.app import gpumanctl\n"
        f"try:\n    gpumanctl.main({args!r})\nexcept SystemExit:\n    pass\n"
        f"sys.stdout = sys.stderr\nprint('loaded:', [name for name in {without!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "loaded: []"


ANSWERED = """
import sys
import click
with_click = set(sys.modules)
from gpumand.client.blocking_connection import BlockingConnection

class Answers:
    async def call(self, destination, path, interface, member, *arguments, **limits):
        return {answers!r}[member]

    async def close_shielded(self):
        pass

BlockingConnection.connect = classmethod(lambda cls, bus: Answers())
from gpumand.cli.app import gpumanctl
try:
    gpumanctl.main([{command!r}])
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(set(sys.modules) - with_click), file=sys.stderr)
"""
SLOW = {
    *("aiohttp", "argparse", "asyncio", "concurrent", "dbus_fast", "difflib", "email", "http", "importlib.metadata"),
    *("importlib.resources", "json", "logging", "multiprocessing", "rich", "shlex", "shutil", "sqlite3", "ssl"),
    *("subprocess", "tempfile", "xml", "zoneinfo"),
}
"""Modules that take a part of the time of a command that only prints one answer."""


@pytest.mark.parametrize(
    ("command", "slow", "domain"),
    [
        ("version", SLOW | {"dataclasses"}, {"errors"}),
        ("status", SLOW, {"errors", "cuda_context", "short_ids"}),
    ],
)
def test_an_answered_command_imports_no_slow_module(command: str, slow: set[str], domain: set[str]) -> None:
    """The modules of the whole command, with its connection and its answer, beyond those of click."""
    answers = {"Get": (VERSION,), "GetStatus": (samples.status(),)}
    script = ANSWERED.format(answers=answers, command=command)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"gpumand {VERSION}" in done.stdout
    imported = set(done.stderr.splitlines()[-1].split())
    assert imported >= {"jeepney", "gpumand.client.calls"}
    assert imported & slow == set()
    prefix = "gpumand.domain."
    assert {name.removeprefix(prefix) for name in imported if name.startswith(prefix)} <= domain


def test_a_command_ends_without_a_search_for_unused_objects() -> None:
    """Python searches all objects as it ends, which takes a tenth of the time of a short command."""
    script = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 10_000)); "
    script += "sys.argv = ['gpumanctl', '--version']; from gpumand.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"gpumanctl {VERSION}", "True"]


def test_status_is_rendered_without_the_rules_of_the_domain() -> None:
    """They take as long to import as click, and the status of the daemon is plain dictionaries."""
    script = "import sys, gpumand.cli.commands.status, gpumand.cli.render.status"
    script += "\nsys.exit(any(f'gpumand.domain.{name}' in sys.modules for name in ('view', 'consumer', 'lease')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_version_option_works_without_a_bus(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpumanctl.main(["--bus-address", "unix:path=/nonexistent", "--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gpumanctl {VERSION}\n"


def test_a_missing_bus_is_explained_by_a_missing_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(init_system, "ROOT", tmp_path)
    failure = interpret(NoBus("cannot connect"), GlobalOptions())
    assert failure is not None
    assert "dbus.socket" not in failure.message
    assert failure.message.startswith("cannot connect; systemd does not run here")
    assert failure.message.endswith("To see gpumand at work without systemd: gpumanctl demo")


@pytest.mark.parametrize("words", [["fleet"], ["gpu"], ["gateway", "key"], ["--json", "fleet"], ["fleet", "--quiet"]])
def test_a_group_without_a_command_is_a_usage_error_of_one_sentence(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpumanctl.main(words)
    group = " ".join(one for one in words if not one.startswith("-"))
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert shown.err == f"gpumanctl: Missing command. (see gpumanctl {group} --help)\n"
